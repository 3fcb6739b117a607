//! An operator gives the id of a lost disk to another one, while messages of the lost one are still on their way, and
//! more often than once.

use ractor_raft::{
    node::Status,
    raft::{Change, NodeId},
    testing::{Cluster, Ledger},
};

use super::support::{ELECTION_TIMEOUT, cluster};

fn status(cluster: &Cluster<Ledger>, id: NodeId) -> Status {
    cluster.status(id).expect("it runs")
}

async fn votes(cluster: &Cluster<Ledger>, leader: NodeId, id: NodeId) {
    let voter = |cluster: &Cluster<Ledger>| {
        let membership = status(cluster, leader).membership;
        (membership.voters.contains_key(&id) && !membership.is_joint()).then_some(())
    };
    cluster.until("the new disk to vote", voter).await;
}

/// M06, L06. What the lost disk has answered arrives when another one is expected in its place already: that one is let in
/// all the same. (Found by a storm: seed 44043 of its day.)
///
/// Fails when: `Input::Met` is heard in any session (`Raft::is_current`): the number of the lost disk is written down again,
/// and the new one is refused (R007) until somebody replaces the id once more.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_lost_disk_does_not_keep_the_new_one_out() {
    let cluster = cluster(3, 644).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let lost = leader % 3 + 1;
    let one_way = ELECTION_TIMEOUT / 3;
    cluster.network().slow_down(leader, lost, one_way);
    cluster.run_for(2 * one_way).await;
    // From here on only answers are on their way.
    cluster.network().cut(leader, lost);
    cluster.run_for(one_way).await;
    cluster.wipe(lost).await;
    let operator = cluster.node(leader).expect("it runs");
    let replace = Change::Replace { id: lost, address: cluster.address(lost) };
    let index = operator.change_membership(replace).await.expect("the third one is there");
    cluster.run_for(one_way).await;
    cluster.network().heal();
    let node = cluster.try_join(lost).await.expect("its id was given to another disk");
    votes(&cluster, leader, lost).await;
    let membership = status(&cluster, leader).membership;
    assert_eq!(membership.incarnations[&lost], node.incarnation());
    assert!(index < status(&cluster, leader).commit_index);
    cluster.check();
}

/// M06. Whoever does not know whether a replacement was made gives the order again. Before the new disk was heard of that
/// changes nothing; afterwards it leaves the voters, and is taken in again as it is.
///
/// Fails when: `plan_replacement` makes a change where the disk is not known, or a disk whose id is replaced is not met again.
#[tokio::test(start_paused = true)]
async fn a_replacement_can_be_made_again() {
    let cluster = cluster(3, 645).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let lost = leader % 3 + 1;
    cluster.wipe(lost).await;
    let operator = cluster.node(leader).expect("it runs");
    let replace = || operator.change_membership(Change::Replace { id: lost, address: cluster.address(lost) });
    let made = replace().await.expect("the third one is there");
    assert_eq!(replace().await, Ok(made), "it is so already");
    let node = cluster.join(lost).await;
    votes(&cluster, leader, lost).await;

    let again = replace().await.expect("the third one is there");
    assert!(again > made);
    votes(&cluster, leader, lost).await;
    cluster.acquainted().await;
    let membership = status(&cluster, leader).membership;
    assert_eq!((membership.incarnations[&lost], node.status().trouble), (node.incarnation(), None));
    // Its vote counts again.
    cluster.crash(leader).await;
    cluster.leader().await;
    cluster.check();
}
