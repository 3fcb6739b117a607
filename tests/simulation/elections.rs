//! Elections in bad networks, and what a deposed leader must not say.

use std::time::Duration;

use ractor_raft::{
    config::Config,
    error::ReadError,
    node::{Consistency, Status},
    raft::{HardState, Role, Write},
    storage::{Bootstrap, Identity, Storage},
    testing::{Cluster, Ledger},
};

use super::support::{ELECTION_TIMEOUT, cluster};

/// E09. Fails when: `PreVote` is skipped (an election begins with `start_election`): the term rises with each try.
#[tokio::test(start_paused = true)]
async fn a_partitioned_node_that_returns_does_not_disturb_the_leader() {
    let cluster = cluster(3, 9).await;
    let leader = cluster.leader().await;
    cluster.write("before").await;
    let term = cluster.status(leader).expect("it runs").term;
    let lonely = leader % 3 + 1;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != lonely).collect();

    cluster.network().partition(&[lonely], &others);
    cluster.run_for(20 * ELECTION_TIMEOUT).await;
    assert_eq!(cluster.status(lonely).expect("it runs").term, term, "it raised its term while it was alone");
    let while_away = cluster.write("while one was away").await;
    cluster.network().heal();
    cluster.until_applied(while_away).await;
    cluster.run_for(10 * ELECTION_TIMEOUT).await;

    let status = cluster.status(leader).expect("it runs");
    assert_eq!((status.role, status.term), (Role::Leader, term), "the leader was disturbed");
    cluster.check();
}

/// E10. A node of a higher term and a shorter log is alone with one of a lower term and a longer log: only the second can
/// win, and only once it has heard of the term.
///
/// Fails when: `pre_vote` refuses without its own term in the answer.
#[tokio::test(start_paused = true)]
async fn a_refused_pre_vote_carries_the_term_that_is_needed_to_win() {
    let cluster = cluster(3, 10).await;
    let leader = cluster.leader().await;
    let (short, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.network().partition(&[short], &[leader, third]);
    let long_log = cluster.write("only two have it").await;
    cluster
        .until("two nodes to have applied it", |cluster| {
            let applied = |id| cluster.status(id).is_some_and(|status| status.applied_index >= long_log);
            (applied(leader) && applied(third)).then_some(())
        })
        .await;
    let Status { term, cluster_id, .. } = cluster.status(leader).expect("it runs");

    // The short log's node gets the higher term as nothing but a vote for the third node can give it: written to its disk.
    cluster.crash(leader).await;
    cluster.crash(short).await;
    raise_term(&cluster, cluster_id, short, term + 7);
    cluster.restart(short).await;
    cluster.network().heal();

    let elected = cluster
        .until_within(10 * ELECTION_TIMEOUT, "the node with the longer log to lead", |cluster| cluster.known_leader())
        .await;
    assert_eq!(elected, third);
    assert!(cluster.status(third).expect("it runs").term > term + 7);
    cluster.check();
}

/// Makes a node remember a later term, as if it had heard of an election there.
fn raise_term(cluster: &Cluster<Ledger>, cluster_id: u64, node: u64, term: u64) {
    let storage = cluster.memory(node);
    let recovered = storage.contents().expect("it was started");
    let bootstrap = Bootstrap {
        identity: Identity { cluster_id, node_id: node },
        incarnation: 0,
        membership: recovered.membership,
    };
    let (mut store, _) = storage.open(&bootstrap).expect("the node is down");
    let hard_state = HardState { current_term: term, voted_for: None };
    store.persist(&Write { hard_state: Some(hard_state), ..Write::default() }).expect("memory takes all");
}

/// E11. The leader reaches one follower only, and so do all others: that follower is the bridge between all of them, and the
/// only one that can lead. It hears the leader's heartbeats all the while.
///
/// Fails when: `heartbeat` does not step down without a quorum; the bridge then follows for ever.
#[tokio::test(start_paused = true)]
async fn a_leader_behind_a_bridge_steps_down_and_the_bridge_leads() {
    let cluster = cluster(5, 11).await;
    let leader = cluster.leader().await;
    cluster.write("before").await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let bridge = others[0];
    for one in cluster.ids() {
        let apart = cluster.ids().into_iter().filter(|other| *other != one && *other != bridge && one != bridge);
        cluster.network().partition(&[one], &apart.collect::<Vec<_>>());
    }

    cluster
        .until_within(10 * ELECTION_TIMEOUT, "the bridge to lead", |cluster| {
            (cluster.known_leader()? == bridge).then_some(())
        })
        .await;
    cluster.write("after").await;

    // And it stays so: those who cannot hear each other do not come between.
    let term = cluster.status(bridge).expect("it runs").term;
    cluster.run_for(30 * ELECTION_TIMEOUT).await;
    let status = cluster.status(bridge).expect("it runs");
    assert_eq!((status.role, status.term), (Role::Leader, term), "elections go on");
    cluster.check();
}

/// R02. Fails when: `confirm_reads` answers without a round that a majority confirmed.
#[tokio::test(start_paused = true)]
async fn a_deposed_leader_in_a_minority_answers_no_linearizable_read() {
    // A long timeout of requests, so that the read is not given up before the network heals.
    let mut config = Config::default();
    config.request_timeout = Duration::from_secs(60);
    let cluster = Cluster::builder(Ledger::default).nodes(5).seed(2).config(config).start().await;
    let leader = cluster.leader().await;
    let line = |text: &str| ractor_raft::testing::Line::new(text);
    cluster.propose(line("old")).await.expect("there is a leader");
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.network().partition(&[leader, others[0]], &others[1..]);

    // Asked while it still believes that it leads…
    assert_eq!(cluster.status(leader).expect("it runs").role, Role::Leader);
    let asked = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.read_on(leader, Consistency::Linearizable, |ledger| ledger.len()).await }
    });
    let next = cluster
        .until("a leader of the majority", |cluster| {
            let leads = |id: &&u64| cluster.status(**id).is_some_and(|status| status.role == Role::Leader);
            others[1..].iter().find(leads).copied()
        })
        .await;
    cluster.propose_on(next, line("new")).await.expect("it has a majority");
    // …and after the others have written.
    let old = cluster.read_on(leader, Consistency::Linearizable, |ledger| ledger.len()).await;
    assert!(matches!(old, Err(ReadError::NoLeader { .. } | ReadError::TimedOut { .. })), "it answered {old:?}");

    cluster.network().heal();
    match asked.await.expect("a read does not panic") {
        Ok((lines, _)) => assert_eq!(lines, 2, "it answered with what was true before it was deposed"),
        Err(ReadError::NoLeader { .. } | ReadError::TimedOut { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}
