//! Episodes out of recordings that are written by hand.

use std::time::Duration;

use ractor_raft::{flow::Mark, trace::Clock};

use super::*;

/// A message of node 1, 2 or 3: its number, the number of its cause, when it was sent in milliseconds, its receiver, its name
/// and its term.
fn event(id: u64, cause: u64, sent: u64, receiver: &str, message: &str, term: u64) -> Event {
    Event {
        id,
        cause,
        trace: 0,
        sender: "server".into(),
        sender_incarnation: 0,
        receiver: receiver.into(),
        receiver_incarnation: 1,
        message: message.to_owned().into(),
        mark: Mark { term, index: 0 },
        sent: Duration::from_millis(sent),
        waited: Duration::ZERO,
        handling: Duration::from_millis(1),
        outcome: Outcome::Handled,
    }
}

fn recording(node: u64, events: Vec<Event>) -> Recording {
    // Each node's clock began at another time.
    let clock = Clock { epoch: 1_000_000_000_000 - node as i64 * 500_000_000, error: Duration::ZERO };
    let late = Duration::from_millis(node * 500);
    let events = events.into_iter().map(|event| Event { sent: event.sent + late, ..event }).collect();
    Recording { node, events, missed: 0, clock }
}

fn names(episode: Option<Vec<Recording>>) -> Vec<(u64, Vec<u64>)> {
    let ids = |recording: &Recording| recording.events.iter().map(|event| event.id).collect();
    episode.unwrap_or_default().iter().map(|recording| (recording.node, ids(recording))).collect()
}

/// Fails when: elections are told apart by pauses alone: a request that was long on its way would be one of its own.
#[test]
fn an_election_is_that_of_its_term_however_late_a_request_arrives() {
    let recordings = [
        recording(
            1,
            vec![
                event(1, 0, 100, "consensus/election timer", "Woke", 0),
                event(2, 1, 101, "consensus", "Timeout", 0),
                event(3, 2, 102, "consensus/replicator 2", "Deliver", 4),
                event(4, 2, 102, "node", "RoleChanged", 4),
                event(5, 0, 9000, "consensus/election timer", "Woke", 0),
            ],
        ),
        recording(
            2,
            vec![
                event(1, 0, 50, "consensus", "RequestVote", 3),
                event(2, 0, 110, "consensus", "RequestVote", 4),
                event(3, 2, 111, "log store", "Persist", 4),
                event(4, 0, 700, "consensus", "AppendEntries", 4),
            ],
        ),
        recording(
            3,
            vec![
                event(1, 0, 8000, "consensus", "RequestVote", 4),
                // Somebody who asks whether it might, and never gets further.
                event(2, 0, 9500, "consensus", "PreVote", 5),
            ],
        ),
    ];
    let election = last(&recordings, Episode::Election);
    assert_eq!(names(election), [(1, vec![1, 2, 3, 4]), (2, vec![2, 3]), (3, vec![1])]);
    assert_eq!(last(&recordings, Episode::Restart), None);
    assert_eq!(names(last(&recordings[2..], Episode::Election)), [(3, vec![1])]);
}

/// Fails when: the message that an actor died of, or its next start, is left out, or what happened on another node is not.
#[test]
fn a_restart_is_the_fall_the_judgement_and_the_start() {
    let panicked = Event { outcome: Outcome::Panicked, ..event(2, 1, 5000, "applier", "Apply", 0) };
    let fell = Event { sender: "applier".into(), ..event(3, 0, 5002, "node", "ChildStopped", 0) };
    let recordings = [
        recording(
            1,
            vec![
                event(1, 0, 4999, "consensus", "Persisted", 0),
                panicked,
                fell,
                event(4, 0, 5010, "applier", "Start", 0),
                event(5, 0, 6000, "consensus", "AppendEntries", 0),
            ],
        ),
        recording(2, vec![event(1, 0, 5003, "consensus", "AppendEntries", 0)]),
    ];
    assert_eq!(names(last(&recordings, Episode::Restart)), [(1, vec![1, 2, 3, 4])]);
    let words = in_words(Episode::Restart, &last(&recordings, Episode::Restart).expect("it is there"));
    assert_eq!(words, "the last restart of an actor: 1970-01-01 00:16:44 UTC, for 12.0 ms on nodes 1");
}

/// Fails when: that the members are known after a start is called a change of them.
#[test]
fn a_change_of_the_members_begins_with_an_order() {
    let known = event(1, 0, 10, "node", "MembershipChanged", 0);
    let order = event(2, 0, 5000, "consensus", "ChangeMembership", 0);
    let changed = event(3, 2, 5010, "node", "MembershipChanged", 0);
    let later = event(4, 0, 9000, "node", "MembershipChanged", 0);
    assert_eq!(last(&[recording(1, vec![known.clone()])], Episode::Membership), None);
    let recordings = [recording(1, vec![known, order, changed, later])];
    assert_eq!(names(last(&recordings, Episode::Membership)), [(1, vec![2, 3])]);
}
