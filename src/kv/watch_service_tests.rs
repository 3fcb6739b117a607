//! Over real gRPC. What the library's stream does by itself is in `watch_tests.rs`, what many nodes and restarts do to a
//! watch in `tests/watch.rs`.

use std::net::TcpListener;

use tokio::time::timeout;
use tonic::{
    Code, Streaming,
    service::Routes,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    kv::{
        Command, Outcome,
        pb::{self, kv_client::KvClient},
        service,
    },
    node::NodeRef,
    rpc::{Grpc, error::Told, reason},
    storage::MemoryStorage,
};

/// Nothing here takes longer, or it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a client takes before its program reads it.
const CLIENT_BUFFER_BYTES: u32 = 64 << 10;

async fn in_time<T>(story: impl Future<Output = T>) -> T {
    timeout(DEADLINE, story).await.expect("it does not hang")
}

/// One node over real gRPC that remembers so many changes.
async fn node(remembers: usize) -> (Node<Kv>, KvClient<Channel>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let services = |node: NodeRef| Routes::new(service(node.typed().expect("it is built with Kv")));
    let node = Node::builder(1, move || Kv::with_history(remembers, usize::MAX))
        .cluster([(1, address.clone())])
        .storage(MemoryStorage::new())
        .transport(Grpc::with_listener(listener).services(services))
        .spawn();
    let node = node.await.expect("it starts");
    // A client's own buffer is not what is measured here.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(CLIENT_BUFFER_BYTES);
    (node, KvClient::new(endpoint.connect().await.expect("it can be reached")))
}

async fn write(node: &Node<Kv>, command: Command) -> LogIndex {
    match node.propose(command).await.expect("applied").outcome.expect("it was an operation") {
        Outcome::Put(put) => put.revision,
        Outcome::Delete(delete) => delete.revision,
        Outcome::CompareAndSwap(swap) => swap.revision,
    }
}

async fn begin(kv: &mut KvClient<Channel>, prefix: &'static str, from: LogIndex) -> Streaming<pb::WatchResponse> {
    let request = pb::WatchRequest { prefix: prefix.into(), from };
    kv.watch(request).await.expect("the stream begins").into_inner()
}

async fn next(stream: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    stream.message().await.expect("no error").expect("the stream goes on")
}

/// Changes as they come, until everything up to `revision` has been told.
async fn until(stream: &mut Streaming<pb::WatchResponse>, revision: LogIndex) -> Vec<pb::Change> {
    let mut changes = Vec::new();
    loop {
        let response = next(stream).await;
        changes.extend(response.changes);
        if response.applied_index >= revision {
            return changes;
        }
    }
}

async fn end_of(stream: &mut Streaming<pb::WatchResponse>) -> (tonic::Status, Told) {
    loop {
        match stream.message().await {
            Ok(response) => assert!(response.is_some(), "it ended without an error"),
            Err(status) => {
                let told = Told::of(&status).unwrap_or_else(|| panic!("no node said that: {status:?}"));
                return (status, told);
            }
        }
    }
}

fn put(key: &'static str, value: &'static str, revision: LogIndex) -> pb::Change {
    pb::Change { key: key.into(), value: value.into(), revision, deleted: false }
}

// Fails when: the first response waits for a change, 0 means "from the beginning", the prefix or the revision is not
// looked at, or a deletion is told as an empty value.
#[tokio::test]
async fn a_watch_tells_at_once_where_it_begins_and_then_what_changes() {
    in_time(async {
        let (node, mut kv) = node(1000).await;
        let before = write(&node, Command::put("a/1", "before")).await;
        let mut from_now_on = begin(&mut kv, "a/", 0).await;
        let first = next(&mut from_now_on).await;
        assert_eq!(first.changes, []);
        assert!(first.applied_index >= before);

        write(&node, Command::put("b/1", "of no interest")).await;
        let empty = write(&node, Command::put("a/1", "")).await;
        let swapped = write(&node, Command::compare_and_swap("a/2", None, "new")).await;
        write(&node, Command::compare_and_swap("a/2", None, "not this")).await;
        let deleted = write(&node, Command::delete("a/1")).await;
        write(&node, Command::delete("a/1")).await;
        let deletion = pb::Change { key: "a/1".into(), value: "".into(), revision: deleted, deleted: true };
        let changes = [put("a/1", "", empty), put("a/2", "new", swapped), deletion];
        assert_eq!(until(&mut from_now_on, deleted).await, changes);

        assert_eq!(until(&mut begin(&mut kv, "a/", 1).await, deleted).await[0], put("a/1", "before", before));
        assert_eq!(until(&mut begin(&mut kv, "a/", empty + 1).await, deleted).await, changes[1..]);
        node.shutdown().await.expect("nothing was wrong with it");
    })
    .await;
}

// Fails when: a watch of what is not applied yet is refused, begins with what is applied, or says that it does.
#[tokio::test]
async fn a_watch_of_the_future_waits_for_it() {
    in_time(async {
        let (node, mut kv) = node(1000).await;
        let now = write(&node, Command::put("a", "0")).await;
        let mut stream = begin(&mut kv, "", now + 3).await;
        let first = next(&mut stream).await;
        assert_eq!(first, pb::WatchResponse { changes: Vec::new(), applied_index: now + 2 });
        for value in ["1", "2", "3"] {
            write(&node, Command::put("a", value)).await;
        }
        assert_eq!(until(&mut stream, now + 3).await, [put("a", "3", now + 3)]);
        node.shutdown().await.expect("nothing was wrong with it");
    })
    .await;
}

// Fails when: what is not remembered any more is passed over.
#[tokio::test]
async fn what_is_compacted_is_refused_and_the_oldest_revision_told() {
    in_time(async {
        let (node, mut kv) = node(2).await;
        let first = write(&node, Command::put("a", "1")).await;
        for value in ["2", "3"] {
            write(&node, Command::put("a", value)).await;
        }
        let (status, told) = end_of(&mut begin(&mut kv, "", first).await).await;
        assert_eq!((status.code(), told.reason.as_str()), (Code::OutOfRange, reason::REVISION_COMPACTED));
        assert_eq!((told.code(), &told.metadata["oldest"]), (Some("R022"), &(first + 1).to_string()));
        assert_eq!(until(&mut begin(&mut kv, "", first + 1).await, first + 2).await.len(), 2);
        node.shutdown().await.expect("nothing was wrong with it");
    })
    .await;
}

/// Everything that is kept for a watcher anywhere between the store and its program comes out when it reads at last.
// Fails when: a watch is given a queue of its own, or reads ahead of its client.
#[tokio::test]
async fn a_watcher_that_does_not_read_is_kept_little_for_and_then_told_so() {
    in_time(async {
        const WRITES: usize = 600;
        const VALUE_BYTES: usize = 64 << 10;
        let (node, mut kv) = node(10).await;
        let mut stream = begin(&mut kv, "", 0).await;
        next(&mut stream).await;
        let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
        for _ in 0..WRITES {
            write(&node, Command::put("a", value.clone())).await;
        }
        let (mut told, mut last) = (0, 0);
        let status = loop {
            match stream.message().await {
                Ok(response) => {
                    for change in response.expect("it ends with an error").changes {
                        assert!(last == 0 || change.revision == last + 1, "{} behind {last}", change.revision);
                        last = change.revision;
                        told += 1;
                    }
                }
                Err(status) => break status,
            }
        };
        let told_bytes = told * VALUE_BYTES;
        assert!(
            told_bytes <= 4 * MAX_PAGE_BYTES,
            "{told} changes were kept: {told_bytes} bytes of {}",
            WRITES * VALUE_BYTES
        );
        assert_eq!(Told::of(&status).expect("a node says so").reason, reason::REVISION_COMPACTED);
        node.shutdown().await.expect("nothing was wrong with it");
    })
    .await;
}

/// Awaits what the other end of a connection does.
async fn waiting_become(node: &Node<Kv>, count: usize) {
    while node.shared().applied_waiters.count() != count {
        tokio::task::yield_now().await;
    }
}

// Fails when: a watch runs in a task of its own that waits for news.
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    in_time(async {
        let (node, mut kv) = node(1000).await;
        write(&node, Command::put("a", "1")).await;
        let alive = tokio::runtime::Handle::current().metrics();
        let before = alive.num_alive_tasks();
        let mut stream = begin(&mut kv, "", 0).await;
        next(&mut stream).await;
        waiting_become(&node, 1).await;
        // One watch is given up, the connection stays.
        drop(stream);
        waiting_become(&node, 0).await;

        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = begin(&mut kv, "", 0).await;
            next(&mut stream).await;
            streams.push(stream);
        }
        waiting_become(&node, 10).await;
        // The connection breaks.
        drop((streams, kv));
        waiting_become(&node, 0).await;
        while alive.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
        node.shutdown().await.expect("nothing was wrong with it");
    })
    .await;
}

// Fails when: nobody wakes an idle watch at the end: its connection is then cut, and no node says why.
#[tokio::test]
async fn a_node_that_stops_ends_its_watches_and_says_so() {
    in_time(async {
        let (node, mut kv) = node(1000).await;
        let mut stream = begin(&mut kv, "", 0).await;
        next(&mut stream).await;
        waiting_become(&node, 1).await;
        let (stopped, (status, told)) = tokio::join!(node.shutdown(), end_of(&mut stream));
        stopped.expect("nothing was wrong with it");
        assert_eq!((status.code(), told.reason.as_str()), (Code::Unavailable, reason::UNAVAILABLE));
    })
    .await;
}
