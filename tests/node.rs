//! Whole supervision trees in one process: they elect, write, read, and heal when their actors die.
//!
//! Time is paused, so every wait is a step of simulated time, and every wait has a deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use prost::Message;
use ractor_raft::{
    error::{NodeError, ProposeError, ReadError},
    node::{Consistency, Crash, Node, NodeEvent, NodeRequest, RestartPolicy},
    raft::Role,
    storage::MemoryStorage,
    transport::{Fate, InProcess, Letter},
};
use stage::*;

#[path = "node/endings.rs"]
mod endings;
#[path = "node/overload.rs"]
mod overload;
#[path = "node/stage.rs"]
mod stage;
#[path = "node/verdicts.rs"]
mod verdicts;

#[tokio::test(start_paused = true)]
async fn a_single_node_elects_itself_writes_reads_and_stops() {
    let cluster = Cluster::new("single", 1);
    let node = cluster.start(1).await;
    assert_eq!(add(&node, 1).await, 1);
    assert_eq!(add(&node, 2).await, 3);
    assert_eq!(total(&node).await, 3);
    let (at, index) = soon("a read", node.read_at(Consistency::AtLeast(3), |sum| sum.total)).await.expect("it is read");
    assert!(at == 3 && index >= 3, "{at} as of {index}");
    assert_eq!(soon("a read", node.read(Consistency::Stale, |sum| sum.total)).await, Ok(3));
    let name = node.flow().name().to_owned();
    soon("the shutdown", node.shutdown()).await.expect("an orderly end");
    for path in ["node", "log store", "applier", "consensus", "consensus/election timer", "server"] {
        assert!(ractor::registry::where_is(format!("{name}/{path}")).is_none(), "{path} is gone");
    }
    assert!(matches!(node.propose(Add { amount: 1 }).await, Err(ProposeError::Unavailable { node: 1 })));
    assert!(matches!(total_now(&node).await, Err(ReadError::Unavailable { node: 1 })));

    // The same disk: what was written is there.
    let again = cluster.start(1).await;
    assert_eq!(total(&again).await, 3);
    shut_down(vec![again]).await;
}

async fn total_now(node: &Node<Sum>) -> Result<u64, ReadError> {
    soon("a read", node.read(Consistency::Linearizable, |sum| sum.total)).await
}

#[tokio::test(start_paused = true)]
async fn three_nodes_elect_write_and_read_on_any_of_them() {
    let cluster = Cluster::new("three", 3);
    let nodes = cluster.start_all().await;
    leader(&nodes).await;
    for (round, node) in nodes.iter().enumerate() {
        assert_eq!(add(node, 1).await, round as u64 + 1);
    }
    for node in &nodes {
        assert_eq!(total(node).await, 3);
    }
    shut_down(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_on_a_runtime_of_many_threads() {
    let cluster = Cluster::new("threads", 3);
    let nodes = cluster.start_all().await;
    let writers = (0..8u64).map(|writer| {
        let node = nodes[writer as usize % 3].clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                add(&node, 1).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("it writes");
    }
    for node in &nodes {
        assert_eq!(total(node).await, 400);
    }
    shut_down(nodes).await;
}

// Fails when: the node that was cut off never connects again, or its calls are not answered.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_replaced_and_catches_up() {
    for lost in [Fate::Drop, Fate::Break] {
        let cut = Arc::new(AtomicU64::new(0));
        let wire = {
            let cut = cut.clone();
            move |letter: &Letter| match cut.load(SeqCst) {
                cut if cut == letter.from || cut == letter.to => lost,
                _ => Fate::Deliver { after: Duration::from_millis(1) },
            }
        };
        let mut cluster = Cluster::new("cut", 3);
        cluster.network = InProcess::with_wire(Arc::new(wire));
        let nodes = cluster.start_all().await;
        let first = leader(&nodes).await;
        assert_eq!(add(&nodes[first], 1).await, 1);
        cut.store(nodes[first].identity().node_id, SeqCst);
        let others: Vec<_> = (0..3).filter(|node| *node != first).map(|node| nodes[node].clone()).collect();
        leader(&others).await;
        assert_eq!(add(&others[0], 1).await, 2);
        until("the step down", || nodes[first].status().role != Role::Leader).await;
        let answer = soon("the answer", nodes[first].propose(Add { amount: 1 })).await;
        assert!(matches!(answer, Err(ProposeError::NoLeader { needed: 2, voters: 3, .. })), "{answer:?}");
        cut.store(0, SeqCst);
        until("the reunion", || nodes[first].status().applied_index == others[0].status().applied_index).await;
        assert_eq!(add(&nodes[first], 1).await, 3);
        assert_eq!(total(&nodes[first]).await, 3);
        shut_down(nodes).await;
    }
}

// C04, in small. Fails when: a parent does not start its child again.
#[tokio::test(start_paused = true)]
async fn every_actor_may_die_and_the_tree_heals() {
    let cluster = Cluster::new("heals", 3);
    let nodes = cluster.start_all().await;
    let mut written = 0;
    let places = ["log store", "applier", "consensus", "consensus/election timer", "consensus/replicator {}", "server"];
    for how in [Crash::Panic, Crash::Kill] {
        for place in places {
            let leader = leader(&nodes).await;
            let peer = nodes[(leader + 1) % 3].identity().node_id;
            let path = place.replace("{}", &peer.to_string());
            let before = nodes[leader].status().restarts;
            assert!(nodes[leader].crash(&path, how), "{path} lives");
            until(&format!("the restart of {path}"), || nodes[leader].status().restarts > before).await;
            written += 1;
            assert_eq!(add(&nodes[leader], 1).await, written, "after {how:?} of {path}");
            assert_eq!(total(&nodes[(leader + 2) % 3]).await, written);
        }
    }
    shut_down(nodes).await;
}

// C05. Fails when: a port that is dropped does not answer.
#[tokio::test(start_paused = true)]
async fn whoever_waits_when_the_keepers_fall_gets_an_answer() {
    let mut cluster = Cluster::new("answers", 3);
    cluster.config.request_timeout = Duration::from_secs(3600);
    let alone = cluster.start(1).await;
    let two = cluster.start(2).await;
    let leads = leader(&[alone.clone(), two.clone()]).await;
    let (leader, other) = if leads == 0 { (alone, two) } else { (two, alone) };
    assert_eq!(add(&leader, 1).await, 1);
    // Without its only peer the leader can commit nothing: these wait.
    soon("the shutdown", other.shutdown()).await.expect("an orderly end");
    let waiting = tokio::spawn({
        let leader = leader.clone();
        async move { leader.propose(Add { amount: 1 }).await }
    });
    let last = leader.status().last_index;
    until("the append", || leader.status().last_index > last).await;
    assert!(leader.crash("consensus", Crash::Panic));
    let answer = soon("the answer", waiting).await.expect("no panic");
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    shut_down(vec![leader]).await;
}

// C05. Fails when: nobody tells the next consensus that calls wait.
#[tokio::test(start_paused = true)]
async fn calls_that_were_not_taken_up_are_served_by_the_next_consensus() {
    let cluster = Cluster::new("intake", 1);
    let node = cluster.start(1).await;
    assert_eq!(add(&node, 1).await, 1);
    // Both stand behind the crash, and fall with the mailbox; what they are about stands in the admission queue.
    assert!(node.crash("consensus", Crash::Panic));
    let (sum, written) = tokio::join!(total(&node), add(&node, 1));
    assert!((1..=2).contains(&sum), "{sum}");
    assert_eq!((written, node.status().restarts), (2, 1));
    shut_down(vec![node]).await;
}

// C02. Fails when: `admit` does not look at the limit.
#[tokio::test(start_paused = true)]
async fn past_the_limit_a_call_is_refused_at_once() {
    let mut cluster = Cluster::new("busy", 3);
    cluster.config.max_pending = 2;
    let nodes = cluster.start_all().await;
    let leader = leader(&nodes).await;
    add(&nodes[leader], 1).await;
    for node in nodes.iter().enumerate().filter(|(index, _)| *index != leader).map(|(_, node)| node) {
        soon("the shutdown", node.shutdown()).await.expect("an orderly end");
    }
    let waiting = [(); 2].map(|()| {
        let node = nodes[leader].clone();
        tokio::spawn(async move { node.propose(Add { amount: 1 }).await })
    });
    let last = nodes[leader].status().last_index;
    until("both are in", || nodes[leader].status().last_index == last + 2).await;
    let refused = soon("the refusal", nodes[leader].propose(Add { amount: 1 })).await;
    assert!(matches!(refused, Err(ProposeError::Busy { .. })), "{refused:?}");
    for waiting in waiting {
        let answer = soon("the answer", waiting).await.expect("no panic");
        assert!(answer.is_err_and(|error| error.may_have_been_applied()));
    }
    shut_down(vec![nodes[leader].clone()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_query_is_its_askers_and_not_the_nodes() {
    let cluster = Cluster::new("query", 1);
    let node = cluster.start(1).await;
    add(&node, 1).await;
    let asking = tokio::spawn({
        let node = node.clone();
        async move { node.read(Consistency::Linearizable, |_| -> u64 { panic!("a bad question") }).await }
    });
    assert!(soon("the panic", asking).await.is_err_and(|error| error.is_panic()));
    assert_eq!((total(&node).await, node.status().restarts), (1, 0));
    shut_down(vec![node]).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_says_why() {
    let cluster = Cluster::new("starts", 1);
    let stranger = Node::builder(9, Sum::default)
        .cluster([(1, "a")])
        .storage(MemoryStorage::new())
        .transport(cluster.network.clone());
    let told = soon("the refusal", stranger.spawn()).await.err().expect("it is no member");
    assert!(matches!(&told, NodeError::Config { key: "cluster", .. }), "{told:?}");

    let node = cluster.start(1).await;
    let told = soon("the refusal", cluster.builder(1).spawn()).await.err().expect("it runs already");
    assert!(matches!(&told, NodeError::Start { cause, .. } if cause.contains("already")), "{told:?}");
    assert_eq!(add(&node, 1).await, 1);
    shut_down(vec![node]).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_nothing_behind() {
    let cluster = Cluster::new("fails", 2);
    let node = cluster.start(1).await;
    // Another node's address.
    let squatter = cluster.builder(2).listen("fails/1");
    let told = soon("the refusal", squatter.spawn()).await.err().expect("the address is taken");
    assert!(matches!(&told, NodeError::Start { what, .. } if what.contains("fails/1")), "{told:?}");
    // Another cluster's disk.
    let foreign = cluster.builder(2).cluster_name("another").storage(cluster.disks[0].clone());
    let told = soon("the refusal", foreign.spawn()).await.err().expect("the disk is another's");
    assert!(matches!(&told, NodeError::Storage(_)), "{told:?}");

    let other = cluster.start(2).await;
    assert_eq!(add(&other, 1).await, 1);
    shut_down(vec![node, other]).await;
}

// Fails when: `Root` has no `Drop` (the call is then answered by its timeout alone), or its verdict there is `Ok`.
#[tokio::test(start_paused = true)]
async fn a_node_whose_supervisor_stops_is_gone_and_can_be_started_again() {
    let mut cluster = Cluster::new("orphan", 2);
    cluster.config.request_timeout = Duration::from_secs(3600);
    let (application, _heard) = verdicts::application().await;
    let started = cluster.builder(1).spawn_linked(application.get_cell());
    let node = soon("the start", started).await.expect("it starts");
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { node.read(Consistency::AtLeast(100), |sum| sum.total).await }
    });
    tokio::task::yield_now().await;
    application.stop(None);
    let told = soon("the end", node.stopped()).await;
    let killed = matches!(&told, Err(NodeError::Start { what, cause }) if what == "node 1" && cause.contains("killed"));
    assert!(killed, "{told:?}");
    let answer = soon("the answer", waiting).await.expect("no panic");
    assert!(matches!(answer, Err(ReadError::Unavailable { .. })), "{answer:?}");
    let answer = soon("the answer", node.propose(Add { amount: 1 })).await;
    assert!(matches!(answer, Err(ProposeError::Unavailable { .. })), "{answer:?}");

    let nodes = cluster.start_all().await;
    assert_eq!(add(&nodes[0], 1).await, 1);
    shut_down(nodes).await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_proposes_without_the_handle() {
    let cluster = Cluster::new("typed", 1);
    let node = cluster.start(1).await;
    add(&node, 1).await;
    let actor = node.actor().expect("it runs");
    let proposal = ractor::call!(actor, |port: ractor::RpcReplyPort<_>| {
        let command = Add { amount: 4 }.encode_to_vec().into();
        NodeRequest::Propose { command, port: port.into() }
    });
    let applied = proposal.expect("it is heard").expect("it is written");
    assert_eq!(Total::decode(applied.output), Ok(Total { total: 5 }));
    shut_down(vec![node]).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_none_is_rejected_and_does_no_harm() {
    let cluster = Cluster::new("garbage", 1);
    let node = cluster.start(1).await;
    let garbage = node.as_ref().propose(vec![0xff; 3].into(), true, 0);
    let answer = soon("the answer", garbage).await;
    assert!(matches!(answer, Err(ProposeError::Rejected { .. })), "{answer:?}");
    assert_eq!(add(&node, 1).await, 1);
    shut_down(vec![node]).await;
}
