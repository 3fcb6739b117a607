//! A snapshot on its way to a peer that has its own ideas, over real sockets and through the server's own handler.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, stream::BoxStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::{Response, Status, Streaming, service::Routes, transport::Server};

use super::*;
use crate::{
    raft::{LogPosition, Membership, SnapshotMetadata},
    rpc::{listener, server::install_snapshot, sockets::Tcp},
    storage::Identity,
    transport::Breach,
};

const OWN: Identity = Identity { cluster_id: 7, node_id: 1 };
const PEER: Identity = Identity { cluster_id: 7, node_id: 2 };
const LONG: Duration = Duration::from_secs(30);
const CHUNK: usize = 256 << 10;

/// What the peer does with the chunks it gets, apart from storing them.
#[derive(Clone)]
struct Behaviour {
    /// Whom it says it is.
    identity: Identity,
    /// Breaks the stream that brings chunk number so many, counted from 1 over all streams.
    breaks_at: usize,
    /// Stores that one, and none behind it, for ever.
    hangs_at: usize,
    /// What it stores takes so long.
    takes: Duration,
    /// Says to that chunk that the sender leads no more.
    deposes_at: usize,
}

const GOOD: Behaviour = Behaviour {
    identity: PEER,
    breaks_at: usize::MAX,
    hangs_at: usize::MAX,
    takes: Duration::ZERO,
    deposes_at: usize::MAX,
};

/// A peer, with what it has and what it saw.
struct Receiver {
    behaviour: Behaviour,
    stored: Mutex<Vec<u8>>,
    /// Where the messages with bytes began.
    offsets: Mutex<Vec<u64>>,
    chunks: AtomicUsize,
    streams: AtomicUsize,
    /// Fires when it hangs.
    hangs: Notify,
    /// Fires when nobody waits any more for one that hangs.
    given_up: Notify,
}

impl Receiver {
    async fn store(&self, request: InstallSnapshotRequest) -> Result<InstallSnapshotReply, Status> {
        let reply = |outcome| Ok(InstallSnapshotReply { term: request.term, outcome });
        let stored = || self.stored.lock().expect("no panic").len() as u64;
        if request.data.is_empty() && request.offset == 0 && request.snapshot.size > 0 {
            return reply(InstallOutcome::Stored { offset: stored() });
        }
        self.offsets.lock().expect("no panic").push(request.offset);
        let number = self.chunks.fetch_add(1, Relaxed) + 1;
        if number >= self.behaviour.hangs_at {
            let _waiting = Waiting(&self.given_up);
            self.hangs.notify_one();
            std::future::pending::<()>().await;
        }
        if number == self.behaviour.breaks_at {
            return Err(Status::unavailable("the peer fell"));
        }
        if number == self.behaviour.deposes_at {
            return Ok(InstallSnapshotReply { term: request.term + 1, outcome: InstallOutcome::Stale });
        }
        if !self.behaviour.takes.is_zero() {
            tokio::time::sleep(self.behaviour.takes).await;
        }
        if request.offset != stored() {
            return reply(InstallOutcome::Stored { offset: stored() });
        }
        self.stored.lock().expect("no panic").extend_from_slice(&request.data);
        match stored() == request.snapshot.size {
            true => reply(InstallOutcome::Installed { match_index: request.snapshot.last_included.index }),
            false => reply(InstallOutcome::Stored { offset: stored() }),
        }
    }
}

/// Someone waits for an answer until this is dropped.
struct Waiting<'a>(&'a Notify);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

struct Service(Arc<Receiver>);

#[tonic::async_trait]
impl pb::raft_server::Raft for Service {
    type AppendEntriesStream = BoxStream<'static, Result<pb::AppendEntriesReply, Status>>;

    async fn install_snapshot(
        &self,
        requests: tonic::Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        self.0.streams.fetch_add(1, Relaxed);
        let identity = &self.0.behaviour.identity;
        let check = |header: Option<pb::Header>| {
            let header = header.expect("every message has one");
            let reply = pb::Header { cluster_id: identity.cluster_id, from: identity.node_id, ..header };
            Ok((pb::Header { to: header.from, ..reply }, identity::caller(&header)))
        };
        let answer = install_snapshot::receive(requests.into_inner(), check, |_, request| self.0.store(request));
        answer.await.map(Response::new)
    }

    async fn append_entries(
        &self,
        _: tonic::Request<Streaming<pb::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn request_vote(
        &self,
        _: tonic::Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pre_vote(&self, _: tonic::Request<pb::PreVoteRequest>) -> Result<Response<pb::PreVoteReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn timeout_now(
        &self,
        _: tonic::Request<pb::TimeoutNowRequest>,
    ) -> Result<Response<pb::TimeoutNowReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read_index(
        &self,
        _: tonic::Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A sender and the receiver at its other end.
struct Pair {
    receiver: Arc<Receiver>,
    sender: SnapshotStream,
    heard: mpsc::UnboundedReceiver<Heard>,
    snapshot: Vec<u8>,
    /// How many of the snapshot's bytes were read so far.
    read: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

async fn pair(behaviour: Behaviour, size: usize) -> Pair {
    impatient_pair(behaviour, size, LONG).await
}

/// The sender gives up after so long without progress.
async fn impatient_pair(behaviour: Behaviour, size: usize, snapshot_timeout: Duration) -> Pair {
    let receiver = Arc::new(Receiver {
        behaviour,
        stored: Mutex::default(),
        offsets: Mutex::default(),
        chunks: AtomicUsize::default(),
        streams: AtomicUsize::default(),
        hangs: Notify::new(),
        given_up: Notify::new(),
    });
    let listener = listener::bind(&Tcp, "127.0.0.1:0").await.expect("a port");
    let address = listener.address.clone();
    let (stop, stopping) = listener::signal();
    let incoming = listener::connections(listener, stopping.clone());
    let routes = Routes::new(pb::raft_server::RaftServer::new(Service(receiver.clone())));
    let server = Server::builder()
        .initial_stream_window_size(channel::STREAM_WINDOW)
        .initial_connection_window_size(channel::CONNECTION_WINDOW);
    tokio::spawn(server.serve_with_incoming_shutdown(routes.prepare(), incoming, stopping.map(drop)));

    let (report, heard) = mpsc::unbounded_channel();
    let heard_by = Arc::new(move |event| drop(report.send(event)));
    let link = Arc::new(Link {
        from: OWN,
        to: PEER.node_id,
        address,
        from_incarnation: 11,
        to_incarnation: Arc::default(),
        snapshot_timeout,
        heard: heard_by,
    });
    let sender = SnapshotStream::new(link, Arc::new(Tcp));
    let snapshot = (0..size).map(|place| (place % 251) as u8).collect();
    Pair { receiver, sender, heard, snapshot, read: Arc::default(), _stop: stop }
}

impl Pair {
    fn metadata(&self) -> SnapshotMetadata {
        SnapshotMetadata {
            last_included: LogPosition { term: 1, index: 5 },
            membership: Membership::of_voters([(1, "a:1"), (2, "b:2")]).into(),
            size: self.snapshot.len() as u64,
            checksum: crc32fast::hash(&self.snapshot),
        }
    }

    fn chunks(&self) -> Chunks {
        let (snapshot, read) = (Bytes::copy_from_slice(&self.snapshot), self.read.clone());
        Box::new(move |offset| {
            let offset = offset as usize;
            let chunk = snapshot.slice(offset..snapshot.len().min(offset + CHUNK));
            read.fetch_add(chunk.len(), Relaxed);
            async move { Some(chunk) }.boxed()
        })
    }

    fn send(&mut self, session: u64) {
        let chunks = self.chunks();
        self.send_from(session, chunks);
    }

    fn send_from(&mut self, session: u64, chunks: Chunks) {
        let snapshot = self.metadata();
        let request = InstallSnapshotRequest { term: 3, leader_id: 1, snapshot, offset: 0, data: Bytes::new() };
        self.sender.send(session, request, chunks);
    }

    async fn next(&mut self) -> Heard {
        tokio::time::timeout(LONG, self.heard.recv()).await.expect("something is heard").expect("still open")
    }

    async fn answer(&mut self) -> (u64, InstallSnapshotReply) {
        match self.next().await {
            Heard::Answer { session, reply: Reply::InstallSnapshot(reply), .. } => (session, reply),
            other => panic!("expected an answer, heard {other:?}"),
        }
    }

    async fn is_installed(&mut self) {
        let (_, reply) = self.answer().await;
        assert_eq!(reply.outcome, InstallOutcome::Installed { match_index: 5 });
        assert!(*self.receiver.stored.lock().expect("no panic") == self.snapshot, "not the bytes that were sent");
    }

    async fn break_of(&mut self) -> String {
        match self.next().await {
            Heard::Broken { cause, why: Breach::Lost } => cause,
            other => panic!("expected a break, heard {other:?}"),
        }
    }

    fn read(&self) -> usize {
        self.read.load(Relaxed)
    }
}

#[tokio::test]
async fn a_snapshot_larger_than_any_message_arrives_whole() {
    let mut pair = pair(GOOD, (20 << 20) + 77).await;
    pair.send(4);
    pair.is_installed().await;
    assert_eq!(pair.receiver.streams.load(Relaxed), 2, "one asks, one brings");
    assert_eq!(pair.read(), pair.snapshot.len(), "each byte is read once");
}

#[tokio::test]
async fn a_snapshot_without_bytes_is_sent_too() {
    let mut pair = pair(GOOD, 0).await;
    pair.send(4);
    let (session, reply) = pair.answer().await;
    // The question itself brought all of it.
    assert_eq!((session, reply.outcome), (4, InstallOutcome::Installed { match_index: 5 }));
}

// Fails when: `run` begins at the request's own offset.
#[tokio::test]
async fn what_the_peer_has_already_is_not_sent_again() {
    let mut pair = pair(GOOD, 10 * CHUNK).await;
    let there = 7 * CHUNK + 5;
    pair.receiver.stored.lock().expect("no panic").extend_from_slice(&pair.snapshot[..there]);
    pair.send(4);
    pair.is_installed().await;
    assert_eq!(pair.receiver.offsets.lock().expect("no panic")[0], there as u64);
    assert_eq!(pair.read(), pair.snapshot.len() - there);
}

// N05. Fails when: `receive` passes a chunk on before the one before it is stored, or the sender does not ask.
#[tokio::test]
async fn after_a_break_at_each_chunk_only_the_rest_is_sent() {
    for breaks_at in 1..=6 {
        let mut pair = pair(Behaviour { breaks_at, ..GOOD }, 6 * CHUNK).await;
        pair.send(1);
        pair.break_of().await;
        pair.send(2);
        pair.is_installed().await;
        let offsets = pair.receiver.offsets.lock().expect("no panic").clone();
        let mut expected: Vec<u64> = (0..6).map(|chunk| chunk * CHUNK as u64).collect();
        // The one that broke is sent twice, and no other.
        expected.insert(breaks_at, expected[breaks_at - 1]);
        assert_eq!(offsets, expected);
    }
}

// Fails when: the chunks are queued without regard to what the connection takes: all 64 MiB are read.
#[tokio::test]
async fn no_more_than_a_window_is_read_ahead_of_a_slow_peer() {
    let mut pair = impatient_pair(Behaviour { hangs_at: 1, ..GOOD }, 64 << 20, Duration::from_secs(1)).await;
    pair.send(4);
    // By then all was read that ever will be.
    pair.break_of().await;
    let most = channel::STREAM_WINDOW as usize + (1 << 20) + 2 * CHUNK;
    assert!(pair.read() <= most, "{} bytes were read ahead, the window has {most}", pair.read());
    assert!(pair.read() >= CHUNK);
}

// Fails when: there is no timeout, or it does not end the stream.
#[tokio::test]
async fn a_peer_that_stores_nothing_any_more_is_given_up() {
    let mut pair = impatient_pair(Behaviour { hangs_at: 3, ..GOOD }, 64 << 20, Duration::from_millis(500)).await;
    pair.send(4);
    let cause = pair.break_of().await;
    assert!(cause.contains("no progress for 500ms"), "{cause}");
    tokio::time::timeout(LONG, pair.receiver.given_up.notified()).await.expect("the stream ends at the peer, too");
}

// Fails when: the timeout counts from the beginning.
#[tokio::test]
async fn a_slow_peer_that_goes_on_may_take_for_ever() {
    let takes = Duration::from_millis(60);
    // Its window opens by half: every four chunks.
    let mut pair = impatient_pair(Behaviour { takes, ..GOOD }, 80 * CHUNK, 25 * takes).await;
    pair.send(4);
    pair.is_installed().await;
}

// Fails when: `Pace::Making` has a deadline.
#[tokio::test]
async fn the_senders_own_slowness_is_no_reason_to_give_up() {
    let patience = Duration::from_millis(500);
    let mut pair = impatient_pair(GOOD, 3 * CHUNK, patience).await;
    let mut chunks = pair.chunks();
    let throttled: Chunks = Box::new(move |offset| {
        let chunk = chunks(offset);
        async move {
            if offset == CHUNK as u64 {
                tokio::time::sleep(2 * patience).await;
            }
            chunk.await
        }
        .boxed()
    });
    pair.send_from(4, throttled);
    pair.is_installed().await;
}

// Fails when: the first task is not ended.
#[tokio::test]
async fn a_second_snapshot_ends_the_first() {
    let mut pair = pair(Behaviour { hangs_at: 2, ..GOOD }, 4 * CHUNK).await;
    pair.send(1);
    tokio::time::timeout(LONG, pair.receiver.hangs.notified()).await.expect("the first one is on its way");
    pair.send(2);
    tokio::time::timeout(LONG, pair.receiver.given_up.notified()).await.expect("its stream ends");
    tokio::time::timeout(LONG, pair.receiver.hangs.notified()).await.expect("the second one is on its way");
    assert_eq!(*pair.receiver.offsets.lock().expect("no panic"), [0, CHUNK as u64, CHUNK as u64]);
    assert!(pair.heard.try_recv().is_err(), "nothing is said of the one that was ended");
}

#[tokio::test]
async fn an_answer_in_the_middle_is_the_end() {
    let mut pair = pair(Behaviour { deposes_at: 2, ..GOOD }, 64 << 20).await;
    pair.send(4);
    assert_eq!(pair.answer().await, (4, InstallSnapshotReply { term: 4, outcome: InstallOutcome::Stale }));
    assert!(pair.read() < 8 << 20, "the rest is not read any more");
}

// Fails when: the stream is ended in order: the peer would answer what it has, and that is taken for an answer.
#[tokio::test]
async fn a_snapshot_that_is_gone_is_a_break() {
    let mut pair = pair(GOOD, 4 * CHUNK).await;
    let mut chunks = pair.chunks();
    let vanishing: Chunks = Box::new(move |offset| {
        let chunk = chunks(offset);
        async move { if offset < CHUNK as u64 { chunk.await } else { None } }.boxed()
    });
    pair.send_from(4, vanishing);
    let cause = pair.break_of().await;
    assert!(cause.contains("not there any more"), "{cause}");
}

// Fails when: an empty chunk is sent: that is a question, and the next one, for ever.
#[tokio::test]
async fn a_snapshot_that_ends_too_soon_is_a_break() {
    let mut pair = pair(GOOD, 4 * CHUNK).await;
    let empty: Chunks = Box::new(|_| async { Some(Bytes::new()) }.boxed());
    pair.send_from(4, empty);
    let cause = pair.break_of().await;
    assert!(cause.contains("0 bytes where"), "{cause}");
}

// Fails when: `accept` does not check who answers.
#[tokio::test]
async fn an_answer_of_another_node_or_cluster_is_a_break() {
    for identity in [Identity { cluster_id: 8, ..PEER }, Identity { node_id: 3, ..PEER }] {
        let mut pair = pair(Behaviour { identity, ..GOOD }, CHUNK).await;
        pair.send(4);
        assert!(matches!(pair.next().await, Heard::Broken { why: Breach::WrongPeer, .. }));
        assert_eq!(pair.read(), 0, "nothing is sent to a stranger");
    }
}

// Fails when: `Task::drop` does not abort.
#[tokio::test]
async fn a_dropped_sender_leaves_no_task() {
    let mut pair = pair(Behaviour { hangs_at: 1, ..GOOD }, 64 << 20).await;
    let runtime = tokio::runtime::Handle::current().metrics();
    let before = runtime.num_alive_tasks();
    pair.send(4);
    tokio::time::timeout(LONG, pair.receiver.hangs.notified()).await.expect("it is on its way");
    assert!(runtime.num_alive_tasks() > before);
    let Pair { sender, .. } = pair;
    drop(sender);
    let gone = async {
        while runtime.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("every task ends, at both ends");
}
