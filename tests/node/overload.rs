//! What a node takes in and what it refuses, and that its own messages never wait behind clients' calls.

use ractor_raft::{
    flow::Filter,
    raft::{LogPosition, PreVoteRequest, Request},
    transport::Caller,
};

use super::*;

/// So many calls consensus takes at once.
const SLICE: usize = 256;

// C02. Fails when: `SLICE` has no bound.
#[tokio::test(start_paused = true)]
async fn a_vote_waits_behind_one_slice_of_the_calls_at_most() {
    let cluster = Cluster::new("slices", 3);
    let nodes = cluster.start_all().await;
    let leads = leader(&nodes).await;
    let (leader, peer) = (&nodes[leads], nodes[(leads + 1) % 3].identity().node_id);
    let mut calls = Vec::new();
    for _ in 0..2 * SLICE + 100 {
        calls.push(begin(leader.propose(Add { amount: 1 })).await);
    }
    let ask = PreVoteRequest { term: 1, candidate_id: peer, last_log: LogPosition::default() };
    let caller = Caller { id: peer, incarnation: 0, knows: 0 };
    let reply = leader.deliver(caller, Request::PreVote(ask), Vec::new()).expect("it may ask");
    soon("the reply", reply).await.expect("it is answered");
    for call in calls {
        soon("the answer", call).await.expect("it is written");
    }
    let events = leader.flow().events(&Filter::default());
    let mut handled: Vec<_> = events.iter().filter(|event| &*event.receiver == "consensus").collect();
    handled.sort_by_key(|event| event.id);
    let vote = handled.iter().rposition(|event| event.message == "PreVote").expect("it was handled");
    let before = handled[..vote].iter().filter(|event| event.message == "Propose").count();
    let after = handled[vote..].iter().filter(|event| event.message == "Propose").count();
    assert_eq!((before, after), (SLICE, SLICE + 100));
    shut_down(nodes).await;
}

// C02, C07. Fails when: `forward` holds no permit.
#[tokio::test(start_paused = true)]
async fn forwarded_calls_count_and_are_waited_for_by_the_shutdown() {
    let wire = |letter: &Letter| match letter.name {
        "Propose" if letter.reply => Fate::Deliver { after: Duration::from_millis(500) },
        _ => Fate::Deliver { after: Duration::from_millis(1) },
    };
    let mut cluster = Cluster::new("forwards", 3);
    cluster.network = InProcess::with_wire(Arc::new(wire));
    cluster.config.max_pending = 2;
    let nodes = cluster.start_all().await;
    let leads = leader(&nodes).await;
    assert_eq!(add(&nodes[leads], 1).await, 1);
    acquainted(&nodes[leads]).await;
    let before = nodes[leads].status().applied_index;
    let follower = &nodes[(leads + 1) % 3];
    let waiting = [(); 2].map(|()| {
        let node = follower.clone();
        tokio::spawn(async move { node.propose(Add { amount: 1 }).await })
    });
    until("both to be applied", || nodes[leads].status().applied_index == before + 2).await;
    let refused = soon("the refusal", follower.propose(Add { amount: 1 })).await;
    assert!(matches!(refused, Err(ProposeError::Busy { .. })), "{refused:?}");
    soon("the shutdown", follower.shutdown()).await.expect("an orderly end");
    for waiting in waiting {
        assert!(waiting.is_finished(), "the shutdown did not wait for it");
        waiting.await.expect("no panic").expect("it is written");
    }
    shut_down(vec![nodes[leads].clone(), nodes[(leads + 2) % 3].clone()]).await;
}

// C02. Fails when: a linearizable read gives its permit back before the state machine has been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_counts_until_its_answer_is_there() {
    let mut cluster = Cluster::new("reads", 1);
    cluster.config.max_pending = 1;
    let node = cluster.start(1).await;
    add(&node, 1).await;
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let waiting = tokio::spawn({
        let node = node.clone();
        let query = move |sum: &Sum| {
            asked.send(()).expect("the test waits for it");
            may_go_on.recv_timeout(Duration::from_secs(60)).expect("the test lets it go on");
            sum.total
        };
        async move { node.read(Consistency::Linearizable, query).await }
    });
    soon("the question", is_asked).await.expect("it is asked");
    let refused = total_now(&node).await;
    go_on.send(()).expect("the query waits for it");
    assert!(matches!(refused, Err(ReadError::Busy { .. })), "{refused:?}");
    assert_eq!(soon("the answer", waiting).await.expect("no panic"), Ok(1));
    shut_down(vec![node]).await;
}

// C02. Fails when: `Consensus::propose` or `Consensus::read` takes a call up whose caller has gone.
#[tokio::test(start_paused = true)]
async fn calls_that_were_abandoned_in_the_queue_are_not_carried_out() {
    let mut cluster = Cluster::new("abandoned", 2);
    cluster.config.max_pending = 1;
    let nodes = cluster.start_all().await;
    let leads = leader(&nodes).await;
    let node = &nodes[leads];
    add(node, 1).await;
    drop(begin(node.propose(Add { amount: 2 })).await);
    // Until consensus has thrown it out, it has the only place.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(add(node, 4).await, 5);
    // Alone it can confirm no read: one that is taken up keeps its permit.
    soon("the shutdown", nodes[1 - leads].shutdown()).await.expect("an orderly end");
    drop(begin(node.read(Consistency::Linearizable, |sum| sum.total)).await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let last = node.status().last_index;
    let call = begin(node.propose(Add { amount: 8 })).await;
    until("the append", || node.status().last_index > last).await;
    drop(call);
    shut_down(vec![node.clone()]).await;
}
