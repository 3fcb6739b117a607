//! What must be true of every picture of a simulated run.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;
use ractor_raft::{
    Config,
    flow::Event,
    testing::Line,
    trace::{self, Sequence, What},
};

use crate::stage::{STORIES, Stage, recorded};

/// Fails when: a message that travels between nodes is not paired with its sending, or arrives before it.
#[tokio::test(start_paused = true)]
async fn every_arrow_arrives_after_it_left() {
    for story in STORIES {
        let sequence = Sequence::of(&recorded(story).await);
        let steps = sequence.steps();
        let mut arrows = 0;
        for (place, step) in steps.iter().enumerate() {
            if let Some(left) = step.left {
                arrows += 1;
                assert!(left < place && steps[left].sent <= step.sent && !step.clock, "{story}: {step:?}");
                assert!(steps[left].node != step.node && steps[left].arrived == Some(place), "{story}: {step:?}");
            }
            if let Some(cause) = step.cause {
                assert!(
                    cause < place && steps[cause].began <= step.sent && steps[cause].node == step.node,
                    "{story}: {step:?}"
                );
            }
        }
        assert!(arrows > 0 || story == "restart", "{story} shows no arrow");
    }
}

/// Fails when: clocks that a collector knows within an error only break the order, or are moved beyond the error.
#[tokio::test(start_paused = true)]
async fn arrows_arrive_after_they_left_whatever_the_clocks_say_within_their_errors() {
    let mut recordings = recorded("write").await;
    for (recording, wrong) in recordings.iter_mut().zip([2_900_000, -2_900_000, 1_000_000]) {
        recording.clock.epoch += wrong;
        recording.clock.error = Duration::from_millis(3);
    }
    let sequence = Sequence::of(&recordings);
    let steps = sequence.steps();
    let arrows: Vec<_> = steps.iter().filter_map(|step| Some((&steps[step.left?], step))).collect();
    assert!(arrows.len() >= 4);
    for (left, arrived) in arrows {
        assert!(left.sent <= arrived.sent && !arrived.clock, "{left:?} {arrived:?}");
    }
    for lane in sequence.lanes() {
        assert!(lane.shift.abs() <= 3_000_000 && lane.error < 3_000_000, "{lane:?}: it says more than it was told");
    }
    assert!(sequence.text(80).contains("the clocks of the nodes agree within"), "{}", sequence.text(80));
}

/// Fails when: any of the eight steps of a write (see the crate's own documentation) is missing on a node.
#[tokio::test(start_paused = true)]
async fn all_steps_of_a_write_are_there_on_three_nodes() {
    let recordings = recorded("write").await;
    let sequence = Sequence::of(&recordings);
    let leader = sequence.lanes().iter().find(|lane| lane.leads).expect("one leads").node;
    let seen = |node: u64, sender: &str, receiver: &str, message: &str| {
        let is = |event: &Event| &*event.sender == sender && &*event.receiver == receiver && event.message == message;
        assert!(
            sequence.steps().iter().any(|step| step.node == node && is(&step.event)),
            "node {node} has no {sender} → {receiver} {message}\n{}",
            sequence.text(120)
        );
    };
    seen(leader, "client", "consensus", "Propose");
    for peer in [1, 2, 3].into_iter().filter(|peer| *peer != leader) {
        let (replicator, door) = (format!("consensus/replicator {peer}"), format!("node {leader}"));
        seen(leader, "consensus", &replicator, "Deliver");
        seen(peer, &door, "consensus", "AppendEntries");
        seen(peer, "consensus", &door, "AppendEntriesReply");
        seen(leader, "transport", &replicator, "Answered");
        seen(leader, &replicator, "consensus", "Delivered");
    }
    for node in [1, 2, 3] {
        seen(node, "consensus", "log store", "Persist");
        seen(node, "log store", "consensus", "Persisted");
        seen(node, "consensus", "applier", "Apply");
        seen(node, "applier", "consensus", "Applied");
    }
    let traces: BTreeSet<_> = sequence.steps().iter().map(|step| step.event.trace).collect();
    assert_eq!(traces.len(), 1, "it is one trace on all nodes");
    // Nothing but two clients' calls begins on its own.
    let first = sequence.steps().iter().filter(|step| step.cause.is_none() && step.left.is_none());
    let first: BTreeSet<_> = first.map(|step| &*step.event.message).collect();
    // A follower learns of the commit index by the next heartbeat, which is of no trace.
    assert_eq!(first, BTreeSet::from(["Propose", "CallsWaiting", "Apply"]));
}

/// Fails when: the questions to the others that confirm a read, or their answers, do not carry its trace.
#[tokio::test(start_paused = true)]
async fn a_read_shows_who_confirmed_the_leader() {
    let sequence = Sequence::of(&recorded("read").await);
    let [read] = sequence.accounts() else { panic!("{:?}", sequence.accounts()) };
    assert_eq!(read.what, What::Read);
    assert!(read.acknowledged.iter().any(|one| one.counted), "{:?}", read.lines);
    assert_eq!(read.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), read.ended - read.began);
}

/// The write is proposed at a follower and passed on to the leader, which falls; the try after that is of the same trace.
///
/// Fails when: a try makes a trace of its own.
#[tokio::test(start_paused = true)]
async fn a_trace_survives_a_change_of_the_leader() {
    let stage = Stage::new(Config::default()).await;
    let node = stage.cluster.node(stage.follower()).expect("it runs");
    let session = node.as_ref().open_session().await.expect("there is a leader");
    let trace = node.as_ref().flow().new_trace();
    let command = ractor_raft::raft::SessionCommand {
        session,
        sequence: 1,
        first_unanswered: 1,
        command: Line::new("kept").encode_to_vec().into(),
    };
    let proposer = node.clone();
    let proposed = tokio::spawn(async move { proposer.as_ref().propose_in_session(command, true, trace).await });
    stage.cluster.run_for(Duration::from_millis(3)).await;
    stage.cluster.crash(stage.leader).await;
    let written = proposed.await.expect("it does not panic").expect("another node leads");
    stage.cluster.until_applied(written.index).await;
    let recordings = stage.recordings(|event| event.trace == trace);
    let took = |node: u64| {
        let recording = recordings.iter().find(|recording| recording.node == node).expect("it is there");
        recording.events.iter().any(|event| event.message == "ProposeInSession")
    };
    let next = stage.cluster.leader().await;
    assert!(took(stage.leader) && took(next), "both leaders saw it under its trace");
    let sequence = Sequence::of(&recordings);
    let [write] = sequence.accounts() else { panic!("{:?}", sequence.accounts()) };
    assert_eq!((write.index, write.node), (written.index, stage.follower()), "{}", sequence.text(120));
    assert_eq!(write.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), write.ended - write.began);
}

/// Fails when: a line is wider than it was asked to be.
#[tokio::test(start_paused = true)]
async fn no_line_of_a_picture_is_wider_than_asked() {
    for story in STORIES {
        let sequence = Sequence::of(&recorded(story).await);
        for width in [80, 120, 200] {
            let text = sequence.text(width);
            let table = text.lines().filter(|line| line.contains('│') || line.contains('▸'));
            for line in table {
                assert!(line.chars().count() <= width, "{story} at {width}:\n{line}");
            }
        }
        assert!(story != "write" || sequence.text(120).lines().count() <= 30, "a write fits one screen");
    }
}

/// Many writes at once travel together, and each message says one trace.
///
/// Fails when: a call whose entry went behind another's in the same message has lost its way to the disks and the others.
#[tokio::test(start_paused = true)]
async fn a_write_among_many_is_followed_all_the_way() {
    let stage = Stage::new(Config::default()).await;
    let node = stage.cluster.node(stage.leader).expect("it runs");
    let writes: Vec<_> = (0..20).map(|number| (node.clone(), node.as_ref().flow().new_trace(), number)).collect();
    let traces: Vec<_> = writes.iter().map(|(_, trace, _)| *trace).collect();
    let mut proposed = tokio::task::JoinSet::new();
    for (node, trace, number) in writes {
        let command = Line::new(format!("line {number}")).encode_to_vec().into();
        proposed
            .spawn(async move { node.as_ref().propose(command, true, trace).await.expect("there is a leader").index });
    }
    let indexes: BTreeSet<_> = proposed.join_all().await.into_iter().collect();
    assert_eq!(indexes.len(), 20);
    stage.cluster.run_for(Duration::from_millis(50)).await;
    let all = stage.recordings(|_| true);
    let together = Sequence::of(&all);
    assert_eq!((together.accounts().len(), together.untold()), (6, 14), "the first few are told, the others counted");
    assert!(together.text(120).contains("not summed up: 14 more writes and reads"), "{}", together.text(120));
    for trace in traces {
        let sequence = Sequence::of(&trace::of_call(&all, trace));
        let [write] = sequence.accounts() else { panic!("{:?}\n{}", sequence.accounts(), sequence.text(120)) };
        assert!(indexes.contains(&write.index), "{:?}", write.lines);
        assert!(
            !write.parts.is_empty() && write.acknowledged.iter().all(|one| one.at.is_some()),
            "{}",
            sequence.text(120)
        );
        let persisted: BTreeSet<_> =
            sequence.steps().iter().filter(|step| step.event.message == "Persist").map(|step| step.node).collect();
        assert_eq!(persisted, BTreeSet::from([1, 2, 3]), "{}", sequence.text(120));
    }
}
