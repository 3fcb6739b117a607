//! Disks that are full, that hang, that have forgotten what they had acknowledged.

use std::time::Duration;

use ractor_raft::{
    error::ProposeError,
    node::{Consistency, NodeEvent, Trouble},
    raft::Role,
    testing::Line,
};

use super::support::{ELECTION_TIMEOUT, cluster};

/// D05, on the leader.
///
/// Fails when: `LogStore::persist` calls a full disk failed (the node stops), or gives the write up (`TryAgain` without a
/// write: nothing is ever written again).
#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() {
    // Alone, so that nobody else can take the writes.
    let cluster = cluster(1, 505).await;
    let leader = cluster.leader().await;
    let before = cluster.write("before").await;
    cluster.memory(leader).set_full(true);
    let in_flight = cluster.writing(leader, "in flight");
    let node = cluster.node(leader).expect("it runs");
    cluster.until("it to be noticed", |_| (node.status().trouble == Some(Trouble::DiskFull)).then_some(())).await;
    let refused = cluster.propose_on(leader, Line::new("refused")).await;
    assert_eq!(refused, Err(ProposeError::DiskFull { node: leader }));
    assert_eq!(refused.expect_err("just seen").code().to_string(), "R016");
    let read = cluster.read_on(leader, Consistency::Linearizable, |ledger| ledger.len()).await;
    assert_eq!(read.expect("reads need no disk").0, 1);
    cluster.run_for(Duration::from_secs(3)).await;
    assert_eq!(node.status().role, Role::Leader, "it is alone");

    cluster.memory(leader).set_full(false);
    let written = in_flight.await.expect("no panic").expect("it has waited for the room");
    assert!(written.index > before);
    cluster.until("it to be over", |_| node.status().trouble.is_none().then_some(())).await;
    let after = cluster.write("after").await;
    assert!(after > written.index);
    let told = |full| cluster.events().contains(&(leader, NodeEvent::DiskFull { full }));
    assert!(told(true) && told(false));
    cluster.agree_on(&[(before, "before".to_owned()), (after, "after".to_owned())]).await;
}

/// D05, on a follower: the others do not need it, and it follows again when there is room.
///
/// Fails when: a follower acknowledges what found no room.
#[tokio::test(start_paused = true)]
async fn a_follower_without_room_is_behind_and_catches_up() {
    let cluster = cluster(3, 515).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let full = leader % 3 + 1;
    cluster.memory(full).set_full(true);
    let mut acknowledged = Vec::new();
    for count in 0..20 {
        let text = format!("write {count}");
        acknowledged.push((cluster.write(&text).await, text));
    }
    cluster.run_for(3 * ELECTION_TIMEOUT).await;
    assert_eq!(cluster.leader().await, leader, "nobody was disturbed");
    let of_full = cluster.status(leader).expect("it runs").peers.into_iter().find(|peer| peer.id == full);
    assert!(of_full.expect("a peer").match_index < acknowledged[0].0, "it cannot have written any of it");
    cluster.memory(full).set_full(false);
    cluster.agree_on(&acknowledged).await;
}
