//! Clusters that grow, shrink, lose disks and get new ones, while writers go on.

use std::{collections::BTreeSet, time::Duration};

use ractor_raft::{
    error::{ChangeError, NodeError},
    flow::Filter,
    node::{NodeEvent, Status, Trouble},
    raft::{Change, Membership, NodeId, Role},
    testing::{Cluster, Ledger},
};

use super::{
    load::Load,
    support::{ELECTION_TIMEOUT, Watched, cluster, ledgers},
};

fn status(cluster: &Cluster<Ledger>, id: NodeId) -> Status {
    cluster.status(id).expect("it runs")
}

fn voters(cluster: &Cluster<Ledger>, id: NodeId) -> BTreeSet<NodeId> {
    status(cluster, id).membership.voters.into_keys().collect()
}

async fn leads_with(cluster: &Cluster<Ledger>, expected: &[NodeId]) -> NodeId {
    let expected = BTreeSet::from_iter(expected.iter().copied());
    let what = format!("a leader of exactly {expected:?}");
    cluster
        .until(&what, |cluster| {
            let leader = cluster.known_leader()?;
            let membership = status(cluster, leader).membership;
            let voters: BTreeSet<_> = membership.voters.keys().copied().collect();
            (voters == expected && !membership.is_joint()).then_some(leader)
        })
        .await
}

/// M10. Fails when: `Change::Add` makes a voter at once: with one of the three down, nothing is committed until it has
/// caught up.
#[tokio::test(start_paused = true)]
async fn a_joiner_is_a_learner_until_it_has_caught_up_and_availability_never_drops() {
    let cluster = cluster(3, 610).await;
    let leader = cluster.leader().await;
    for count in 0..50 {
        cluster.write(&format!("before {count}")).await;
    }
    // Of four voters three are a majority: with one down, the joiner's vote would be needed at once.
    cluster.crash(leader % 3 + 1).await;
    let load = Load::start(&cluster, 3);
    load.goes_on(&cluster, 20).await;
    cluster.network().cut(leader, 4);
    let joined = cluster.join(4).await;
    let membership = status(&cluster, leader).membership;
    assert!(membership.learners.contains_key(&4) && membership.staged.contains(&4), "{membership}");
    load.goes_on(&cluster, 100).await;
    assert!(!voters(&cluster, leader).contains(&4), "it hears nothing, and cannot have caught up");

    cluster.network().heal();
    leads_with(&cluster, &[1, 2, 3, 4]).await;
    assert_eq!(joined.status().role, Role::Follower);
    load.goes_on(&cluster, 20).await;
    let (acknowledged, refused, slowest) = load.stop().await;
    assert!(refused.is_empty(), "refused: {refused:?}");
    assert!(slowest < ELECTION_TIMEOUT, "a write took {slowest:?}");
    cluster.restart(leader % 3 + 1).await;
    cluster.agree_on(&acknowledged).await;
}

/// Fails when: `follow_membership` starts no replicator for who is new, or an address is not taken from the log.
#[tokio::test(start_paused = true)]
async fn a_cluster_grows_from_one_to_five_and_shrinks_to_three_under_load() {
    let cluster = cluster(1, 611).await;
    cluster.leader().await;
    let load = Load::start(&cluster, 3);
    for id in 2..=5 {
        load.goes_on(&cluster, 30).await;
        cluster.join(id).await;
        // On a node that need not lead; it waits until the joiner votes.
        let node = cluster.node(id - 1).expect("it runs");
        node.add_server(id, cluster.address(id)).await.expect("it catches up");
        assert!(node.status().membership.voters.contains_key(&id));
    }
    leads_with(&cluster, &[1, 2, 3, 4, 5]).await;
    for id in [1, 2] {
        load.goes_on(&cluster, 30).await;
        let other = cluster.node(5).expect("it runs");
        other.remove_server(id).await.expect("four of five, then three of four, are there");
        cluster
            .until("it to know that it was removed", |cluster| {
                (status(cluster, id).trouble == Some(Trouble::Removed)).then_some(())
            })
            .await;
        cluster.stop(id).await.expect("it stops in order");
    }
    leads_with(&cluster, &[3, 4, 5]).await;
    load.goes_on(&cluster, 30).await;
    let (acknowledged, ..) = load.stop().await;
    cluster.agree_on(&acknowledged).await;
}

/// M04. Fails when: `advance_membership` does not let a leader give way that is not in C_new: it goes on as before, with
/// its own disk counted.
#[tokio::test(start_paused = true)]
async fn a_leader_that_removes_itself_hands_over() {
    let cluster = cluster(3, 604).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let load = Load::start(&cluster, 3);
    load.goes_on(&cluster, 20).await;
    let began = tokio::time::Instant::now();
    cluster.node(leader).expect("it runs").remove_server(leader).await.expect("two are left");
    let next = leads_with(&cluster, &others).await;
    assert!(began.elapsed() < ELECTION_TIMEOUT, "nobody took over for {:?}", began.elapsed());
    assert_ne!(next, leader);
    cluster
        .until("the removed one to know", |cluster| {
            let events = cluster.events();
            let told = events.contains(&(leader, NodeEvent::Removed));
            (told && status(cluster, leader).trouble == Some(Trouble::Removed)).then_some(())
        })
        .await;
    let term = status(&cluster, next).term;
    cluster.run_for(10 * ELECTION_TIMEOUT).await;
    assert_eq!(status(&cluster, next).term, term, "it campaigns");
    load.goes_on(&cluster, 20).await;
    cluster.stop(leader).await.expect("it stops in order");
    let (acknowledged, ..) = load.stop().await;
    cluster.agree_on(&acknowledged).await;
}

/// M05. The removed one hears nothing of it while it happens.
///
/// Fails when: `Shared::admits` lets the votes of a removed server through (it is never told), or `Input::ToldRemoved` does
/// not keep it from campaigning.
#[tokio::test(start_paused = true)]
async fn a_removed_node_that_missed_it_is_told_and_disturbs_nobody() {
    let cluster = cluster(4, 605).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let removed = leader % 4 + 1;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != removed).collect();
    cluster.network().partition(&[removed], &others);
    cluster.node(leader).expect("it runs").remove_server(removed).await.expect("three are left");
    // Long enough that nobody tries to tell it any more.
    cluster.run_for(20 * ELECTION_TIMEOUT).await;
    let (leader, term) = (cluster.leader().await, status(&cluster, leader).term);
    cluster.network().heal();
    cluster
        .until("the removed one to be told", |cluster| {
            (status(cluster, removed).trouble == Some(Trouble::Removed)).then_some(())
        })
        .await;
    let told = cluster.events().into_iter().filter(|(id, event)| *id == removed && *event == NodeEvent::Removed);
    assert_eq!(told.count(), 1);
    let node = cluster.node(removed).expect("it runs");
    let said = || {
        let events = node.flow().events(&Filter::default());
        events.iter().filter(|event| event.message == "Deliver").count()
    };
    let before = said();
    cluster.run_for(20 * ELECTION_TIMEOUT).await;
    assert_eq!(said(), before, "it campaigns no more");
    assert_eq!(status(&cluster, leader).term, term, "nobody was disturbed");

    // Its id is gone for good.
    let node = cluster.node(leader).expect("it runs");
    let refused = node.add_server(removed, cluster.address(removed)).await;
    assert_eq!(refused, Err(ChangeError::Removed { id: removed }));
    cluster.wipe(removed).await;
    let refused = cluster.try_join(removed).await.err().expect("it was removed");
    assert!(matches!(&refused, NodeError::Join { cause: ChangeError::Removed { .. }, .. }), "{refused:?}");
    assert_eq!(refused.code().expect("it has one").to_string(), "R008");
}

/// M06. A node whose disk was wiped asks its peers for the same votes again, and its peers ask it: it must give none, since
/// it may have given one already.
///
/// Fails when: `Shared::admits` does not compare disks; the wiped node then catches up as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_is_refused_until_it_is_replaced() {
    let cluster = cluster(3, 606).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    let before = cluster.write("before").await;
    cluster.until_applied(before).await;
    cluster.wipe(wiped).await;

    // As a first member, as its operator started it ever before.
    let node = cluster.restart(wiped).await;
    cluster
        .until("the wiped one to be told", |cluster| {
            let told = cluster.events().contains(&(wiped, NodeEvent::Wiped));
            (told && status(cluster, wiped).trouble == Some(Trouble::Wiped)).then_some(())
        })
        .await;
    cluster.run_for(10 * ELECTION_TIMEOUT).await;
    let status_of_wiped = node.status();
    assert_eq!((status_of_wiped.term, status_of_wiped.commit_index), (0, 0), "it takes part in nothing");
    assert_eq!(cluster.leader().await, leader, "nobody was disturbed");
    // With it, nobody can be elected: the third one alone is no majority.
    cluster.crash(leader).await;
    cluster.run_for(10 * ELECTION_TIMEOUT).await;
    let third = (leader + 1) % 3 + 1;
    assert_ne!(status(&cluster, third).role, Role::Leader, "a disk that may have forgotten a vote has given one");
    cluster.restart(leader).await;
    let leader = cluster.leader().await;

    // As one that joins, it is refused at once.
    cluster.wipe(wiped).await;
    let as_joiner = cluster.try_join(wiped).await.err().expect("its id has another disk");
    assert_eq!(as_joiner.code().expect("it has one").to_string(), "R007", "{as_joiner:?}");

    // The operator says that the disk is gone.
    let replaced = tokio::spawn({
        let (node, address) = (cluster.node(leader).expect("it runs"), cluster.address(wiped));
        async move { node.replace_server(wiped, address).await }
    });
    cluster
        .until("it to be a learner", |cluster| {
            let membership = status(cluster, leader).membership;
            (membership.learners.contains_key(&wiped) && !membership.is_joint()).then_some(())
        })
        .await;
    let node = cluster.join(wiped).await;
    replaced.await.expect("no panic").expect("it catches up");
    leads_with(&cluster, &[1, 2, 3]).await;
    cluster.acquainted().await;
    let known = status(&cluster, leader).membership.incarnations[&wiped];
    assert_eq!(known, node.incarnation());
    cluster.until_applied(before).await;
    cluster.agree_on(&[(before, "before".to_owned())]).await;
}

/// M06. A wiped node knows it when it has started, and need not be told by a request: who asks it for a vote first may not know
/// its former disk.
///
/// Fails when: `Builder::start` does not ask the others, or waits for all of them.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_asks_whether_it_was_wiped_before_it_votes() {
    let cluster = cluster(3, 616).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let (wiped, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.wipe(wiped).await;
    // The third one cannot answer: the leader's word is enough. Nobody else says anything to it before it has started.
    cluster.pause(third);
    let began = tokio::time::Instant::now();
    let node = cluster.restart(wiped).await;
    assert!(began.elapsed() < ELECTION_TIMEOUT / 4, "it waits for no more than it has to: {:?}", began.elapsed());
    cluster.network().partition(&[wiped], &[leader, third]);
    cluster.until("it to know", |_| (node.status().trouble == Some(Trouble::Wiped)).then_some(())).await;
    cluster.resume(third);
}

/// M06, where nobody can tell it in time: whoever knew its former disk hangs, and who asks for its vote has never heard of that
/// disk. What only those two had is not lost.
///
/// Fails when: `count_pre_votes` and `count_votes` ask `quorum::reached`.
#[tokio::test(start_paused = true)]
async fn the_vote_of_a_wiped_node_elects_nobody_that_never_heard_of_its_former_disk() {
    let cluster = cluster(3, 617).await;
    let late = 3;
    cluster.network().partition(&[late], &[1, 2]);
    let settled =
        |membership: &Membership, id| membership.incarnations.contains_key(&id) && !membership.unsettled.contains(&id);
    let both = "the disks of nodes 1 and 2 to be known to both";
    let begun = |cluster: &Cluster<Ledger>| [1, 2].iter().all(|id| settled(&status(cluster, *id).membership, *id));
    cluster.until(both, |cluster| begun(cluster).then_some(())).await;
    let leader = cluster.leader().await;
    let lags = 3 - leader;
    cluster.network().heal();
    cluster.network().partition(&[lags], &[leader, late]);
    let known = |cluster: &Cluster<Ledger>| settled(&status(cluster, leader).membership, late);
    cluster.until("the late one to be known", |cluster| known(cluster).then_some(())).await;
    let kept = cluster.write("kept").await;
    assert!(status(&cluster, lags).last_index < kept, "it was cut off");

    cluster.pause(leader);
    cluster.wipe(late).await;
    cluster.restart(late).await;
    cluster.network().heal();
    cluster.run_for(10 * ELECTION_TIMEOUT).await;
    assert_ne!(status(&cluster, lags).role, Role::Leader, "an empty disk has voted for a log that lacks what it had");
    cluster.resume(leader);
    let told = |cluster: &Cluster<Ledger>| status(cluster, late).trouble == Some(Trouble::Wiped);
    cluster.until("the wiped one to be told", |cluster| told(cluster).then_some(())).await;
    cluster.crash(late).await;
    cluster.agree_on(&[(kept, "kept".to_owned())]).await;
}

/// M06, where the operator replaces it while it runs, started as ever before.
///
/// Fails when: `recognised_by` does not clear what it was told: it then votes no more for ever.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_that_runs_is_taken_in_when_it_is_replaced() {
    let cluster = cluster(3, 607).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.wipe(wiped).await;
    let node = cluster.restart(wiped).await;
    cluster.until("it to be told", |_| (node.status().trouble == Some(Trouble::Wiped)).then_some(())).await;
    let other = cluster.node((leader + 1) % 3 + 1).expect("it runs");
    other.replace_server(wiped, cluster.address(wiped)).await.expect("it is there, and catches up");
    cluster.until("it to be trusted again", |_| node.status().trouble.is_none().then_some(())).await;
    // Its vote counts again.
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    assert!(status(&cluster, next).membership.voters.contains_key(&wiped));
    cluster.check();
}

/// M08. The leader dies after each of the letters that a change takes, and whoever follows ends the change or has never
/// heard of it.
///
/// Fails when: `advance_membership` ends only what its own leader began (a term that is compared): the cluster then stays
/// joint for ever.
#[tokio::test(start_paused = true)]
async fn the_next_leader_ends_a_change_that_its_predecessor_began() {
    let (mut done, mut undone, mut half_done) = (0, 0, 0);
    for letters in 0..40 {
        let cluster = cluster(4, 608).await;
        cluster.acquainted().await;
        let leader = cluster.leader().await;
        let leaving = leader % 4 + 1;
        let change = tokio::spawn({
            let node = cluster.node(leader).expect("it runs");
            async move { node.change_membership(Change::Remove { id: leaving }).await }
        });
        let until = cluster.network().letters() + letters;
        while cluster.network().letters() < until && !change.is_finished() {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
        cluster.crash(leader).await;
        let _ = change.await;
        let statuses = cluster.ids().into_iter().filter_map(|id| cluster.status(id));
        half_done += u32::from(statuses.into_iter().any(|status| status.membership.is_joint()));
        let next = cluster
            .until("a leader of a whole configuration", |cluster| {
                let next = cluster.known_leader().filter(|next| *next != leader)?;
                let next_status = status(cluster, next);
                let settled = next_status.commit_index == next_status.last_index;
                (settled && !next_status.membership.is_joint()).then_some(next)
            })
            .await;
        if voters(&cluster, next).contains(&leaving) {
            undone += 1
        } else {
            done += 1
        }
        let written = cluster.write("after").await;
        cluster.restart(leader).await;
        cluster
            .until("all that belong to it to have applied it", |cluster| {
                let members = voters(cluster, cluster.known_leader()?);
                members.iter().all(|id| status(cluster, *id).applied_index >= written).then_some(())
            })
            .await;
        cluster.check();
    }
    let deaths = format!("{done} were ended, {undone} never begun; {half_done} were half done");
    assert!(done >= 5 && undone >= 1 && half_done >= 5, "the deaths miss the change: {deaths}");
}

/// M01, M03, M09 and R012 as an operator meets them.
///
/// Fails when: a refusal of the core is read as another one, or a change is given up that a moment later is possible.
#[tokio::test(start_paused = true)]
async fn changes_that_cannot_be_are_refused_with_their_numbers() {
    let cluster = cluster(3, 609).await;
    // At once after the election, also on a follower: it is waited for the no-op and for the notes on disks.
    let leader = cluster.leader().await;
    let follower = cluster.node(leader % 3 + 1).expect("it runs");
    follower.add_learner(7, "n7:1").await.expect("it need not run");
    let code = |refused: Result<_, ChangeError>| refused.expect_err("it cannot be").code().to_string();
    assert_eq!(code(follower.promote_server(7).await), "R010", "it has never been there");
    assert_eq!(code(follower.promote_server(9).await), "R020", "nobody knows it");
    assert_eq!(code(follower.add_learner(8, "n7:1").await), "R020", "the address is taken");
    assert_eq!(code(follower.add_learner(8, "0.0.0.0:1").await), "R012", "nobody can dial it");
    follower.add_learner(7, "n7:1").await.expect("it is so already");
    follower.remove_server(7).await.expect("a learner is no loss");
    follower.remove_server(7).await.expect("it is so already");
    assert_eq!(code(follower.add_learner(7, "n7:2").await), "R008", "an id is never used again");

    let third = (leader + 1) % 3 + 1;
    cluster.crash(third).await;
    cluster.run_for(2 * ELECTION_TIMEOUT).await;
    let refused = follower.remove_server(follower.status().id).await;
    assert_eq!(refused, Err(ChangeError::WouldStop { in_touch: 1, needed: 2 }), "the third one is down");
    follower.remove_server(third).await.expect("it is down, and the two others are there");
    let leader = cluster.leader().await;
    let rest = cluster.node(leader).expect("it runs");
    let other = voters(&cluster, leader).into_iter().find(|id| *id != leader).expect("there are two");
    rest.remove_server(other).await.expect("one alone is a majority of itself");
    let refused = rest.remove_server(leader).await;
    assert_eq!(refused, Err(ChangeError::WouldStop { in_touch: 0, needed: 0 }), "nobody would be left");
}

/// A node that belongs to its cluster starts again by itself: its store says which cluster, its log says who.
///
/// Fails when: `cluster_to_join` asks the members although there is a store.
#[tokio::test(start_paused = true)]
async fn a_joined_node_starts_again_while_nobody_answers() {
    let cluster = cluster(1, 612).await;
    cluster.join(2).await;
    leads_with(&cluster, &[1, 2]).await;
    let written = cluster.write("before").await;
    cluster.crash(1).await;
    cluster.crash(2).await;
    cluster.restart(2).await;
    cluster.restart(1).await;
    cluster.until_applied(written).await;
    assert_eq!(voters(&cluster, 2), BTreeSet::from([1, 2]));

    // And nobody at all can be joined.
    let alone: Watched = Watched {
        cluster: Cluster::builder(ledgers(&cluster.witness)).nodes(1).seed(613).start().await,
        witness: cluster.witness.clone(),
    };
    alone.crash(1).await;
    let refused = alone.try_join(2).await.err().expect("nobody answers");
    assert_eq!(refused.code().expect("it has one").to_string(), "R003", "{refused:?}");
}

/// A joiner does not depend on the member that it asks first: here on one that stands still.
///
/// Fails when: `be_added` gives a member all the time that it has, or asks whoever is named first and not who leads.
#[tokio::test(start_paused = true)]
async fn a_joiner_is_not_kept_by_a_member_that_stands_still() {
    let cluster = cluster(3, 614).await;
    cluster.pause(1);
    leads_with(&cluster, &[1, 2, 3]).await;
    let began = tokio::time::Instant::now();
    let joined = cluster.try_join(4).await;
    assert!(joined.is_ok(), "{:?}", joined.err());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "it waited for node 1: {took:?}");
    cluster.resume(1);
    leads_with(&cluster, &[1, 2, 3, 4]).await;
}

/// M05. Whoever was removed hears of no later leader. An order that is given to it is carried out all the same, since the one
/// that it takes for the leader says who leads now.
///
/// Fails when: `pass_on` does not ask the leader that the former one names: the order is refused when all its time is over,
/// and with it that of a joiner that asks such a node (storm 11908).
#[tokio::test(start_paused = true)]
async fn an_order_to_a_removed_node_finds_the_leader_that_came_after() {
    let cluster = cluster(4, 615).await;
    let leader = cluster.leader().await;
    let (removed, next) = (leader % 4 + 1, (leader + 1) % 4 + 1);
    let node = cluster.node(leader).expect("it runs");
    node.remove_server(removed).await.expect("three are left");
    cluster
        .until("the removed one to know it", |cluster| {
            status(cluster, removed).membership.removed.contains(&removed).then_some(())
        })
        .await;
    node.transfer_leadership(next).await.expect("it is up to date");
    assert_eq!(status(&cluster, removed).leader, Some(leader), "it has not heard of the next one");
    let ordered = cluster.node(removed).expect("it runs").add_learner(9, "n9:1").await;
    assert_eq!(ordered, Ok(()));
    cluster.until("the learner", |cluster| status(cluster, next).membership.contains(9).then_some(())).await;
}
