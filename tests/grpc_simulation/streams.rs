//! Streams that break, and what was on them (SAFETY: N05).

use std::time::Duration;

use ractor_raft::{error::ProposeError, raft::NodeId, testing::Line};

use super::{
    cluster::{Cluster, Plan},
    half_open::{CONNECTED_WITHIN, NOTICED_WITHIN, SERVES_WITHIN},
    record::host,
};

/// So many commands are proposed at once.
const BURST: u64 = 40;

fn others(cluster: &Cluster, id: NodeId) -> Vec<NodeId> {
    cluster.ids().into_iter().filter(|other| *other != id).collect()
}

/// Proposes a burst at a node. How many were acknowledged.
fn burst(cluster: &mut Cluster, id: NodeId, name: &'static str) -> usize {
    cluster.on(id, Duration::from_secs(7), move |node| async move {
        let propose = |count| node.propose(Line::new(format!("{count} of {name}")));
        let answers = futures_util::future::join_all((0..BURST).map(propose)).await;
        answers.iter().filter(|answer| answer.is_ok()).count()
    })
}

// Fails when: a stream that broke is not opened again (`AppendStream::send` ignores `broken`).
#[test]
fn a_stream_that_is_reset_in_mid_flight_loses_nothing() {
    let mut cluster = Cluster::start(Plan::quiet(2));
    let leader = cluster.leader();
    let term = cluster.status(leader).expect("it runs").term;
    let peers = others(&cluster, leader);
    for (round, bytes) in [1, 100, 500, 900, 2000].into_iter().enumerate() {
        // One at a time: a leader that is cut off from both may have to go.
        cluster.breaks.break_after(&host(leader), &host(peers[round % 2]), bytes);
        assert_eq!(burst(&mut cluster, leader, "a burst"), BURST as usize, "broken after {bytes} bytes");
        cluster.run_for(Duration::from_millis(600));
    }
    assert!(cluster.breaks.broken() >= 5, "{} connections broke", cluster.breaks.broken());
    let status = cluster.status(leader).expect("it runs");
    assert_eq!(status.term, term, "a reset is no reason for an election");
    cluster.until_applied(status.commit_index, Duration::from_secs(1));
    let lines = cluster.lines(leader);
    assert_eq!(lines.len(), 5 * BURST as usize);
    for other in others(&cluster, leader) {
        assert_eq!(cluster.lines(other), lines);
    }
}

// Fails when: the replicator, or a channel, gives a peer up for good; or the server's port is not had again after a fall.
#[test]
fn a_bounced_server_is_reached_again() {
    let mut cluster = Cluster::start(Plan::quiet(3));
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    for round in 0..3 {
        match round {
            0 => cluster.crash(follower),
            1 => cluster.kill(follower),
            _ => cluster.stop(follower),
        }
        cluster.run_for(Duration::from_secs(4));
        let index = cluster.write(leader, "while one is away", Duration::from_secs(1));
        cluster.bounce(follower);
        let took = cluster.until_applied(index, CONNECTED_WITHIN + Duration::from_millis(300));
        println!("reached again after {took:?}");
    }
}

// Fails when: a forwarded command whose answer got lost is sent again (`forward::propose` tries twice).
#[test]
fn a_command_whose_forwarding_broke_is_not_forwarded_again() {
    let mut plan = Plan::quiet(4);
    plan.config.request_timeout = Duration::from_secs(2);
    let mut cluster = Cluster::start(plan);
    for round in 0..3 {
        let leader = cluster.leader();
        let follower = leader % 3 + 1;
        cluster.write(follower, "what opens the connection", Duration::from_secs(1));
        // The command arrives, its answer does not.
        cluster.cut_one_way(&host(leader), &host(follower));
        let outcome = cluster.on(follower, Duration::from_secs(4), move |node| async move {
            node.propose(Line::new(format!("command {round}"))).await
        });
        assert!(matches!(outcome, Err(ProposeError::Unknown { .. })), "{outcome:?}");
        cluster.mend();
        let index = cluster.write(follower, "after it", SERVES_WITHIN);
        cluster.until_applied(index, SERVES_WITHIN);
        let lines = cluster.lines(leader);
        let times = lines.iter().filter(|(_, text)| *text == format!("command {round}")).count();
        assert_eq!(times, 1, "{lines:?}");
    }
}

// Fails when: a transfer begins at byte 0 again (`Transfer::run` gives `messages` another offset than the peer's), or the
// receiver's chunks do not outlive the stream that brought them.
#[test]
fn a_snapshot_goes_on_where_its_stream_broke() {
    let mut plan = Plan::quiet(5);
    plan.config.snapshot_threshold = 100;
    plan.config.snapshot_trailing = 5;
    plan.config.snapshot_chunk_bytes = 512;
    plan.config.snapshot_timeout = Duration::from_secs(1);
    plan.breaks_one_transfer_of = 1;
    let mut cluster = Cluster::start(plan);
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    cluster.stop(follower);
    for _ in 0..8 {
        assert_eq!(burst(&mut cluster, leader, "what fills a snapshot and more than a chunk of it"), BURST as usize);
    }
    let index = cluster.write(leader, "the last", Duration::from_secs(1));
    cluster.bounce(follower);
    cluster.until_applied(index, NOTICED_WITHIN + 10 * CONNECTED_WITHIN);
    let notes = cluster.record.notes();
    assert!(notes.transfers.resumed > 0, "{} begun, none went on", notes.transfers.begun);
    assert_eq!(notes.transfers.finished, 1, "each byte is sent once");
    println!("{} transfers for one snapshot, {} went on", notes.transfers.begun, notes.transfers.resumed);
    drop(notes);
    let (leaders, followers): (Vec<_>, Vec<_>) = (cluster.lines(leader), cluster.lines(follower));
    assert_eq!(leaders, followers);
}

// Fails when: a command of a session waits for others behind a node that opens no session (`Driver::meanwhile` takes none
// in): it was told only after them.
#[test]
fn commands_of_a_session_are_told_in_time_that_nobody_serves() {
    let mut cluster = Cluster::start(Plan::quiet(6));
    let leader = cluster.leader();
    let ids = cluster.ids();
    for one in &ids {
        ids.iter().for_each(|other| cluster.cut(&host(*one), &host(*other)));
    }
    cluster.run_for(Duration::from_secs(1));
    let slowest = cluster.on(leader, Duration::from_secs(30), |node| async move {
        let address = node.listen_address().to_owned();
        let client = super::host::session_on("elsewhere", [address]).with_timeout(Duration::from_secs(1));
        let began = tokio::time::Instant::now();
        let propose = |_| async { client.propose(prost::Message::encode_to_vec(&Line::new("in vain")).into()).await };
        let answers = futures_util::future::join_all((0..10).map(propose)).await;
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        began.elapsed()
    });
    assert!(slowest < Duration::from_millis(1300), "told after {slowest:?}");
}
