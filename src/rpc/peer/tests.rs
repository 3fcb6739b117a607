//! A connection against a peer that is made to misbehave, over real sockets.

mod fake_peer;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tonic::{Response, Status, Streaming, transport::Server};

use super::*;
use crate::{
    raft::{AppendEntriesReply, AppendEntriesRequest, AppendOutcome, LogPosition, Reply, RequestVoteRequest},
    rpc::{convert, identity, pb},
    storage::Identity,
};

use fake_peer::{Behaviour, GOOD, start, start_at};

const OWN: Identity = Identity { cluster_id: 7, node_id: 1 };
const PEER: Identity = Identity { cluster_id: 7, node_id: 2 };
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENT: Deadlines = Deadlines { vote: PATIENCE, request: PATIENCE };

/// A connection, and what it heard.
struct Conversation {
    connection: Box<dyn Connection>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Conversation {
    fn with(address: &str) -> Self {
        Conversation::over(&Grpc::new(), address)
    }

    fn over(transport: &Grpc, address: &str) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let link = link(address, move |event| drop(sender.send(event)));
        Conversation { connection: transport.connect(link), heard }
    }

    fn append(&mut self, session: u64, prev_log_index: LogIndex) {
        let request = AppendEntriesRequest {
            term: 1,
            leader_id: 1,
            prev_log_index,
            prev_log_term: 1,
            entries: vec![],
            leader_commit: 0,
            read_round: 0,
            acknowledged: 0,
        };
        self.connection.send(session, Request::AppendEntries(request), vec![]);
    }

    fn vote(&mut self, session: u64) {
        let request = RequestVoteRequest {
            term: 1,
            candidate_id: 1,
            last_log: LogPosition::default(),
            leadership_transfer: false,
        };
        self.connection.send(session, Request::RequestVote(request), vec![(0, 77)]);
    }

    async fn next(&mut self) -> Heard {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("something is heard").expect("still open")
    }

    /// The match index of the next answer.
    async fn matched(&mut self) -> LogIndex {
        match self.next().await {
            Heard::Answer {
                reply: Reply::AppendEntries(AppendEntriesReply { outcome: AppendOutcome::Matched { match_index }, .. }),
                ..
            } => match_index,
            other => panic!("expected a match, heard {other:?}"),
        }
    }

    async fn breach(&mut self) -> Breach {
        match self.next().await {
            Heard::Broken { why, .. } => why,
            other => panic!("expected a break, heard {other:?}"),
        }
    }
}

fn link(address: &str, heard: impl Fn(Heard) + Send + Sync + 'static) -> Link {
    link_to_disk(0, address, heard)
}

/// To a peer that is known by this disk.
fn link_to_disk(disk: u64, address: &str, heard: impl Fn(Heard) + Send + Sync + 'static) -> Link {
    let (address, to_incarnation) = (address.to_owned(), Arc::new(AtomicU64::new(disk)));
    Link {
        from: OWN,
        to: PEER.node_id,
        address,
        from_incarnation: 11,
        to_incarnation,
        snapshot_timeout: Duration::from_secs(10),
        heard: Arc::new(heard),
    }
}

#[tokio::test]
async fn requests_are_pipelined_and_arrive_in_order() {
    let peer = start(GOOD).await;
    let mut conversation = Conversation::with(&peer.address);
    for index in 1..=100 {
        conversation.append(9, index);
    }
    for index in 1..=100 {
        assert_eq!(conversation.matched().await, index);
    }
    assert_eq!(peer.peer.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_repeats_its_requests_session() {
    let peer = start(GOOD).await;
    let mut conversation = Conversation::with(&peer.address);
    conversation.append(41, 1);
    assert!(matches!(conversation.next().await, Heard::Answer { session: 41, .. }));
    conversation.vote(42);
    assert!(matches!(
        conversation.next().await,
        Heard::Answer { session: 42, incarnation: 22, reply: Reply::RequestVote(_) }
    ));
    assert_eq!(*peer.peer.traceparents.lock().expect("no panic"), [Some(77)]);
}

// Fails when: `accept` or `ask!` takes the reply without `check_reply`.
#[tokio::test]
async fn an_answer_of_another_node_or_cluster_is_a_break() {
    for identity in [Identity { cluster_id: 8, ..PEER }, Identity { node_id: 3, ..PEER }] {
        let peer = start(Behaviour { identity, ..GOOD }).await;
        let mut conversation = Conversation::with(&peer.address);
        conversation.append(1, 1);
        assert_eq!(conversation.breach().await, Breach::WrongPeer);
        conversation.vote(1);
        assert_eq!(conversation.breach().await, Breach::WrongPeer);
    }
}

#[tokio::test]
async fn a_refusal_for_being_another_node_is_told_as_such() {
    let wrong = identity::WrongPeer::Addressee { node: 3, found: 2 };
    let peer = start(Behaviour { refuses: Some(wrong), ..GOOD }).await;
    let mut conversation = Conversation::with(&peer.address);
    conversation.append(1, 1);
    assert_eq!(conversation.breach().await, Breach::WrongPeer);
}

#[tokio::test]
async fn each_break_is_told_once_and_the_next_request_opens_a_new_stream() {
    let peer = start(Behaviour { replies: 1, ..GOOD }).await;
    let mut conversation = Conversation::with(&peer.address);
    for round in 1..=50 {
        conversation.append(1, round);
        assert_eq!(conversation.matched().await, round);
        assert_eq!(conversation.breach().await, Breach::Lost);
    }
    assert!(conversation.heard.try_recv().is_err());
}

// Fails when: `broken` is not set before the break is reported: the request is queued to the stream that is gone, and
// nothing is ever heard of it. (The peer's answers are refused, since such a stream is still open at its other end.)
#[tokio::test]
async fn a_request_sent_at_the_moment_of_the_break_is_not_lost() {
    let peer = start(Behaviour { identity: Identity { node_id: 3, ..PEER }, ..GOOD }).await;
    let (sender, mut breaks) = mpsc::unbounded_channel();
    let conversation = Arc::new(Mutex::new(None::<Conversation>));
    let again = conversation.clone();
    let send_again = move |event: Heard| {
        let _ = sender.send(event);
        if let Some(conversation) = again.lock().expect("no panic").as_mut() {
            conversation.append(1, 1);
        }
    };
    let (_, unused) = mpsc::unbounded_channel();
    let connection = Grpc::new().connect(link(&peer.address, send_again));
    conversation.lock().expect("no panic").insert(Conversation { connection, heard: unused }).append(1, 1);
    for _ in 0..10 {
        let heard = tokio::time::timeout(PATIENCE, breaks.recv()).await.expect("each request's break is heard");
        assert!(matches!(heard, Some(Heard::Broken { why: Breach::WrongPeer, .. })));
    }
    conversation.lock().expect("no panic").take();
}

#[tokio::test]
async fn a_peer_that_comes_back_is_found_again() {
    let peer = start(GOOD).await;
    let address = peer.address.clone();
    let mut conversation = Conversation::with(&address);
    conversation.append(1, 1);
    assert_eq!(conversation.matched().await, 1);
    drop(peer);
    assert_eq!(conversation.breach().await, Breach::Lost);
    conversation.append(1, 2);
    assert_eq!(conversation.breach().await, Breach::Lost);

    let _peer = start_at(&address, GOOD).await;
    conversation.append(1, 3);
    assert_eq!(conversation.matched().await, 3);
}

// Fails when: a deadline that passed is reported as a break (the replicator then drops the connection with all that its
// stream has in flight), or the call is not given up.
#[tokio::test]
async fn a_vote_without_an_answer_in_time_is_lost_and_breaks_nothing() {
    let peer = start(Behaviour { mute: true, ..GOOD }).await;
    let transport = Grpc::new();
    *transport.0.deadlines.lock().expect("no panic") = Deadlines { vote: Duration::from_millis(50), ..PATIENT };
    let mut conversation = Conversation::over(&transport, &peer.address);
    for round in 1..=5 {
        conversation.vote(1);
        let given_up = tokio::time::timeout(PATIENCE, peer.peer.given_up.notified()).await;
        given_up.expect("it has a deadline");
        conversation.append(1, round);
        assert_eq!(conversation.matched().await, round);
    }
    assert!(conversation.heard.try_recv().is_err());
    assert_eq!(peer.peer.connections.load(Ordering::Relaxed), 2);
}

// Fails when: every failure of a call is taken for a missed deadline.
#[tokio::test]
async fn a_vote_whose_connection_breaks_is_a_break() {
    let peer = start(Behaviour { mute: true, ..GOOD }).await;
    let transport = Grpc::new();
    *transport.0.deadlines.lock().expect("no panic") = PATIENT;
    let mut conversation = Conversation::over(&transport, &peer.address);
    conversation.vote(1);
    tokio::time::timeout(PATIENCE, peer.peer.unanswered.notified()).await.expect("it arrives");
    drop(peer);
    assert_eq!(conversation.breach().await, Breach::Lost);
}

#[tokio::test]
async fn an_address_that_is_none_is_a_break() {
    let mut conversation = Conversation::with("no address");
    conversation.append(1, 1);
    assert_eq!(conversation.breach().await, Breach::Lost);
    conversation.vote(1);
    assert_eq!(conversation.breach().await, Breach::Lost);
}

// Fails when: a task is not ended by the drop (`Task::drop` without `abort`).
#[tokio::test]
async fn a_dropped_connection_leaves_no_task() {
    // Nobody answers: what waits, waits for ever.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let runtime = tokio::runtime::Handle::current().metrics();
    let before = runtime.num_alive_tasks();
    let mut conversation = Conversation::with(&address);
    conversation.append(1, 1);
    conversation.vote(1);
    let _accepted = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("it connects").expect("accepted");
    assert!(runtime.num_alive_tasks() > before);
    drop(conversation);
    let gone = async {
        while runtime.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    // Sooner than the keepalive would end them.
    tokio::time::timeout(Duration::from_secs(2), gone).await.expect("every task ends");
}

#[tokio::test]
async fn forwarded_commands_share_one_connection() {
    let peer = start(GOOD).await;
    let (transport, link) = (Grpc::new(), link(&peer.address, |_| {}));
    for byte in 0..10 {
        let command = Bytes::from(vec![byte]);
        let applied = transport.propose(&link, Payload::Command(command.clone()), 1).await;
        assert_eq!(applied, Ok(Applied { output: command, index: 5 }));
    }
    assert_eq!(peer.peer.connections.load(Ordering::Relaxed), 1);
}

// Fails when: `was_never_sent` does not look for the connector's error (then all is unknown), or takes every
// `UNAVAILABLE` for one (then a command that was sent is called "not applied").
#[tokio::test]
async fn a_forwarded_command_is_not_applied_if_it_was_never_sent_and_unknown_after_that() {
    let peer = start(Behaviour { mute: true, ..GOOD }).await;
    let (transport, link) = (Grpc::new(), link(&peer.address, |_| {}));
    let mut proposal = transport.propose(&link, Payload::Command(Bytes::from_static(b"x")), 1);
    tokio::select! {
        biased;
        _ = &mut proposal => panic!("a mute peer answers nothing"),
        arrived = tokio::time::timeout(PATIENCE, peer.peer.unanswered.notified()) => arrived.expect("it arrives"),
    }
    drop(peer);
    assert!(matches!(proposal.await, Err(ProposeError::Unknown { .. })));

    let refused = transport.propose(&link, Payload::Command(Bytes::from_static(b"x")), 1).await;
    assert_eq!(refused, Err(ProposeError::Unavailable { node: 2 }));
}

#[tokio::test]
async fn a_forwarded_command_without_an_answer_is_unknown() {
    let peer = start(Behaviour { mute: true, ..GOOD }).await;
    let transport = Grpc::new();
    *transport.0.deadlines.lock().expect("no panic") = Deadlines { vote: PATIENCE, request: Duration::from_millis(50) };
    let late = transport.propose(&link(&peer.address, |_| {}), Payload::Command(Bytes::from_static(b"x")), 1).await;
    assert!(matches!(late, Err(ProposeError::Unknown { .. })), "{late:?}");
}

// Fails when: `Link::check_answer` is not asked about the answers of a stream, or about those of calls.
#[tokio::test]
async fn an_answer_of_another_disk_counts_for_nothing() {
    let peer = start(GOOD).await;
    for (known, why) in [(22, None), (23, Some(Breach::PeerWiped))] {
        let (sender, heard) = mpsc::unbounded_channel();
        let link = link_to_disk(known, &peer.address, move |event| drop(sender.send(event)));
        let mut conversation = Conversation { connection: Grpc::new().connect(link), heard };
        for kind in 0..2 {
            if kind == 0 {
                conversation.append(1, 1)
            } else {
                conversation.vote(1)
            }
            match (why, conversation.next().await) {
                (None, Heard::Answer { incarnation: 22, .. }) => {}
                (Some(expected), Heard::Broken { why, cause }) => {
                    assert_eq!(why, expected);
                    assert!(cause.contains("R007") && cause.contains("member replace 2"), "{cause}");
                }
                (_, other) => panic!("known by {known}, heard {other:?}"),
            }
        }
    }
}
