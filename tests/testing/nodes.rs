//! Nodes that stand still, and nodes whose clocks are wrong.

use std::time::Duration;

use ractor_raft::{
    Config,
    flow::Filter,
    node::{Consistency, NodeEvent},
    raft::{NodeId, Role},
    testing::{Cluster, Ledger, Line},
};

async fn cluster(seed: u64) -> Cluster<Ledger> {
    let cluster = Cluster::builder(Ledger::default).seed(seed).start().await;
    cluster.acquainted().await;
    cluster
}

/// How many messages the actors of a node have handled.
fn handled(cluster: &Cluster<Ledger>, id: NodeId) -> usize {
    let events = cluster.node(id).expect("it runs").flow().events(&Filter::default());
    events.iter().filter(|event| &*event.receiver != "server").count()
}

/// Fails when: any of the handlers in `flow/adapter.rs` does not wait to be awake, or what waited does not come.
#[tokio::test(start_paused = true)]
async fn a_paused_leader_does_nothing_and_is_deposed_and_hears_of_it_when_it_goes_on() {
    let cluster = cluster(1).await;
    let paused = cluster.leader().await;
    cluster.pause(paused);
    cluster.run_for(Duration::from_millis(1)).await;
    let (before, term) = (handled(&cluster, paused), cluster.status(paused).expect("it runs").term);
    let call = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.propose_on(paused, Line::new("to one that stands still")).await }
    });
    let next =
        cluster.until("another leader", |cluster| cluster.known_leader().filter(|leader| *leader != paused)).await;
    let written = cluster.propose_on(next, Line::new("meanwhile")).await.expect("two are a majority").index;
    cluster.run_for(Duration::from_secs(1)).await;
    assert!(cluster.is_paused(paused));
    assert_eq!(handled(&cluster, paused), before, "it handled something");
    let status = cluster.status(paused).expect("it runs");
    assert_eq!((status.role, status.term), (Role::Leader, term), "nobody told it");

    cluster.resume(paused);
    cluster.until_applied(written).await;
    let status = cluster.status(paused).expect("it runs");
    assert!(status.role == Role::Follower && status.term > term);
    call.await.expect("no panic").expect_err("nobody knows what became of it, or it was refused");
}

/// Others see silence: no letter of its own, no answer, and no break of a connection.
///
/// Fails when: the node is not held, or what waited for it is lost.
#[tokio::test(start_paused = true)]
async fn letters_to_a_paused_node_wait_and_come_at_once() {
    let cluster = cluster(2).await;
    let leader = cluster.leader().await;
    let paused = leader % 3 + 1;
    cluster.pause(paused);
    for count in 0..20 {
        cluster.propose_on(leader, Line::new(format!("line {count}"))).await.expect("two are a majority");
    }
    let unreachable = cluster.node(leader).expect("it runs").unreachable();
    assert!(!unreachable.contains_key(&paused), "{unreachable:?}");
    let last = cluster.status(leader).expect("it runs").last_index;
    assert!(cluster.status(paused).expect("it runs").applied_index < last);
    let began = tokio::time::Instant::now();
    cluster.resume(paused);
    cluster.until_applied(last).await;
    assert!(began.elapsed() < Duration::from_millis(100), "nothing had waited for it");
    assert_eq!(cluster.status(paused).expect("it runs").restarts, 0);
}

/// A leader that stood still for longer than its lease must look at the clock before it answers (R04).
///
/// Fails when: `TypedQuery` does not ask `lease_holds`, which is where the query waited.
#[tokio::test(start_paused = true)]
async fn a_lease_is_over_for_one_that_stood_still() {
    for seed in 0..10 {
        let cluster = cluster(seed).await;
        let paused = cluster.leader().await;
        cluster.propose(Line::new("before")).await.expect("there is a leader");
        let reads: Vec<_> = (0..20)
            .map(|_| {
                let cluster = cluster.clone();
                tokio::spawn(async move { cluster.read_on(paused, Consistency::Lease, Ledger::len).await })
            })
            .collect();
        cluster.run_for(Duration::from_micros(100 * seed)).await;
        cluster.pause(paused);
        let leader =
            cluster.until("another leader", |cluster| cluster.known_leader().filter(|leader| *leader != paused)).await;
        cluster.propose_on(leader, Line::new("after")).await.expect("two are a majority");
        let during = {
            let cluster = cluster.clone();
            tokio::spawn(async move { cluster.read_on(paused, Consistency::Lease, Ledger::len).await })
        };
        cluster.run_for(Duration::from_millis(10)).await;
        cluster.resume(paused);
        if let Ok((lines, _)) = during.await.expect("no panic") {
            assert_eq!(lines, 2, "seed {seed}: it had lost its lease by then");
        }
        for read in reads {
            let _ = read.await.expect("no panic");
        }
    }
}

/// Fails when: a crash leaves held what waits for the node: the leader then never reaches its next life.
#[tokio::test(start_paused = true)]
async fn a_paused_node_that_crashes_starts_awake() {
    let cluster = cluster(3).await;
    let paused = cluster.leader().await % 3 + 1;
    cluster.pause(paused);
    cluster.run_for(Duration::from_secs(1)).await;
    cluster.crash(paused).await;
    cluster.restart(paused).await;
    assert!(!cluster.is_paused(paused));
    let last = cluster.propose(Line::new("after")).await.expect("there is a leader").index;
    cluster.until_applied(last).await;
    assert!(!cluster.events().iter().any(|(_, event)| matches!(event, NodeEvent::ActorRestarted { .. })));
}

/// Fails when: `Clock::now` does not know its rate.
#[tokio::test(start_paused = true)]
async fn clocks_run_at_their_own_rates() {
    let rates = |id| if id == 1 { 0.5 } else { 2.0 };
    let mut config = Config::default();
    // In a node's own time. One that hurries is always the first to stand.
    (config.election_timeout_min, config.election_timeout_max) = (Duration::from_secs(1), Duration::from_millis(1100));
    let mut quickest = Duration::MAX;
    for seed in 0..10 {
        let builder = Cluster::builder(Ledger::default).seed(seed).config(config.clone());
        let cluster = builder.clock_rates(rates).start().await;
        let began = tokio::time::Instant::now();
        let leader = cluster.leader().await;
        assert!(leader != 1, "seed {seed}: its clock is slow");
        assert!(began.elapsed() < Duration::from_secs(2), "seed {seed}: {:?}", began.elapsed());
        quickest = quickest.min(began.elapsed());
    }
    // Where both that hurry stand at once there is a second election.
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
}

/// The slow leader believes in its lease for longest, and the quick others elect soonest: with a tenth between them no read
/// is stale.
///
/// Fails when: a lease lasts a whole election timeout instead of nine tenths of it (`confirm_reads`).
#[tokio::test(start_paused = true)]
async fn leases_hold_while_clocks_differ_by_a_tenth() {
    let mut config = Config::default();
    config.election_timeout_max = config.election_timeout_min + Duration::from_millis(5);
    config.heartbeat_interval = Duration::from_millis(50);
    let (mut by_lease, mut elections) = (0, 0);
    for seed in 0..60 {
        let slow = seed % 3 + 1;
        let rates = move |id| if id == slow { 0.95 } else { 1.045 };
        let builder = Cluster::builder(Ledger::default).seed(seed).config(config.clone());
        let cluster = builder.clock_rates(rates).start().await;
        cluster.acquainted().await;
        let node = cluster.node(slow).expect("it runs");
        for _ in 0..20 {
            if cluster.leader().await != slow {
                let _ = node.transfer_leadership(Some(slow)).await;
            }
        }
        if cluster.leader().await != slow {
            continue;
        }
        cluster.propose_on(slow, Line::new("before")).await.expect("it leads");
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != slow).collect();
        // Just renewed.
        cluster.read_on(slow, Consistency::Lease, Ledger::len).await.expect("it leads");
        cluster.network().partition(&[slow], &others);
        let began = tokio::time::Instant::now();
        let mut written = false;
        let mut writing = None;
        while began.elapsed() < Duration::from_millis(400) {
            let leads = |id: &NodeId| cluster.status(*id).is_some_and(|status| status.role == Role::Leader);
            if let (None, Some(leader)) = (&writing, others.iter().copied().find(leads)) {
                elections += 1;
                let cluster = cluster.clone();
                writing = Some(tokio::spawn(async move { cluster.propose_on(leader, Line::new("after")).await }));
            }
            written = written || writing.as_ref().is_some_and(|writing| writing.is_finished());
            let reading = cluster.read_on(slow, Consistency::Lease, Ledger::len);
            if let Ok(Ok((lines, _))) = tokio::time::timeout(Duration::from_micros(100), reading).await {
                by_lease += 1;
                assert!(!written || lines == 2, "seed {seed}: stale after {:?}", began.elapsed());
            }
            cluster.run_for(Duration::from_millis(1)).await;
        }
    }
    assert!(by_lease > 1000 && elections > 20, "{by_lease} reads by lease, {elections} elections");
}
