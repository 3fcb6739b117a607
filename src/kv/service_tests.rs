use std::{net::TcpListener, time::Duration};

use pb::kv_client::KvClient;
use tokio::time::timeout;
use tonic::{Code, service::Routes, transport::Channel};
use tonic_types::StatusExt;

use super::*;
use crate::{
    flow::Filter,
    raft::{NodeId, Role},
    rpc::{Grpc, error::Told},
    storage::MemoryStorage,
};

/// Nothing here takes longer, or it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// Nodes over real gRPC, in memory.
async fn cluster(count: NodeId) -> Vec<Node<Kv>> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let listeners = (1..=count).map(bind).collect::<Vec<_>>();
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
    let members = (1..).zip(listeners.iter().map(address)).collect::<Vec<_>>();
    let mut nodes = Vec::new();
    for (id, listener) in (1..).zip(listeners) {
        let services = |node: crate::node::NodeRef| Routes::new(service(node.typed().expect("it is built with Kv")));
        let node = Node::builder(id, Kv::default)
            .cluster(members.clone())
            .storage(MemoryStorage::new())
            .transport(Grpc::with_listener(listener).services(services))
            .spawn();
        nodes.push(node.await.expect("it starts"));
    }
    nodes
}

async fn client(node: &Node<Kv>) -> KvClient<Channel> {
    let address = node.bound_address().expect("it listens");
    KvClient::connect(format!("http://{address}")).await.expect("it can be reached")
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), session: None }
}

fn get(key: &'static str) -> pb::GetRequest {
    pb::GetRequest { key: key.into(), ..Default::default() }
}

async fn shut_down(nodes: Vec<Node<Kv>>) {
    for node in nodes {
        node.shutdown().await.expect("nothing was wrong with it");
    }
}

#[tokio::test]
async fn each_call_answers_what_the_store_says() {
    let story = async {
        let nodes = cluster(1).await;
        let mut kv = client(&nodes[0]).await;
        let first = kv.put(put("a", "1")).await.expect("applied").into_inner().revision;
        let found = kv.get(get("a")).await.expect("read").into_inner();
        assert_eq!((found.found, &found.value[..], found.revision), (true, &b"1"[..], first));
        assert!(found.applied_index >= first);

        let swap = |expect: Option<&'static str>, set: &'static str| pb::CompareAndSwapRequest {
            key: "a".into(),
            expect: expect.map(Into::into),
            set: set.into(),
            session: None,
        };
        let failed = kv.compare_and_swap(swap(None, "2")).await.expect("applied").into_inner();
        assert_eq!(failed, pb::CompareAndSwapResponse { swapped: false, current: Some("1".into()), revision: first });
        let swapped = kv.compare_and_swap(swap(Some("1"), "2")).await.expect("applied").into_inner();
        assert_eq!((swapped.swapped, swapped.current), (true, Some("1".into())));

        let delete = pb::DeleteRequest { key: "a".into(), session: None };
        let deleted = kv.delete(delete.clone()).await.expect("applied").into_inner();
        assert_eq!((deleted.existed, &deleted.previous[..]), (true, &b"2"[..]));
        let again = kv.delete(delete).await.expect("applied").into_inner();
        assert!(!again.existed && again.revision > deleted.revision);
        let absent = kv.get(get("a")).await.expect("read").into_inner();
        assert_eq!((absent.found, absent.revision), (false, 0));

        let hash = kv.hash(pb::HashRequest {}).await.expect("read").into_inner();
        assert_eq!((&hash.hash[..], hash.applied_index), (&[0; 16][..], again.revision));
        shut_down(nodes).await;
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}

#[tokio::test]
async fn a_scan_comes_in_pages() {
    let story = async {
        let nodes = cluster(1).await;
        let mut kv = client(&nodes[0]).await;
        for key in ["a/1", "a/2", "a/3", "b/1"] {
            kv.put(put(key, "x")).await.expect("applied");
        }
        let mut request = pb::ScanRequest { prefix: "a/".into(), limit: 2, ..Default::default() };
        let first = kv.scan(request.clone()).await.expect("read").into_inner();
        request.from = first.next.clone();
        let second = kv.scan(request).await.expect("read").into_inner();
        let keys = |page: &pb::ScanResponse| page.pairs.iter().map(|pair| pair.key.clone()).collect::<Vec<_>>();
        assert_eq!((keys(&first), keys(&second)), (vec!["a/1".into(), "a/2".into()], vec![Bytes::from("a/3")]));
        assert!(second.next.is_empty());

        let range = pb::ScanRequest { start: "a/2".into(), end: "b/1".into(), ..Default::default() };
        let range = kv.scan(range).await.expect("read").into_inner();
        assert_eq!(keys(&range), ["a/2", "a/3"]);
        shut_down(nodes).await;
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}

/// Fails when: the key is not checked, the session is ignored, or the enum's unknown numbers mean linearizable.
#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_name() {
    let story = async {
        let nodes = cluster(1).await;
        let mut kv = client(&nodes[0]).await;
        let field = |status: &Status| {
            let request = status.get_details_bad_request().expect("it names the field");
            request.field_violations[0].field.clone()
        };
        let refused = kv.put(put("", "1")).await.expect_err("no key");
        assert_eq!((refused.code(), field(&refused)), (Code::InvalidArgument, "key".to_owned()));
        let refused = kv.get(pb::GetRequest { key: "a".into(), consistency: 9, at_least: 0 }).await;
        let refused = refused.expect_err("no such consistency");
        assert_eq!((refused.code(), field(&refused)), (Code::InvalidArgument, "consistency".to_owned()));
        let both = pb::ScanRequest { prefix: "a".into(), end: "b".into(), ..Default::default() };
        let refused = kv.scan(both).await.expect_err("prefix and range");
        assert_eq!((refused.code(), field(&refused)), (Code::InvalidArgument, "prefix".to_owned()));
        let session = Some(pb::Session { id: 7, sequence: 0, first_unanswered: 0 });
        let refused = kv.put(pb::PutRequest { session, ..put("a", "1") }).await.expect_err("sequences begin at 1");
        assert_eq!((refused.code(), field(&refused)), (Code::InvalidArgument, "session.sequence".to_owned()));
        let limit = nodes[0].config().max_entry_bytes;
        for size in [limit, 3 * limit] {
            let large = pb::PutRequest { value: vec![0; size].into(), ..put("a", "") };
            let refused = kv.put(large).await.expect_err("too large");
            assert_eq!(Told::of(&refused).and_then(|told| told.code().map(str::to_owned)).as_deref(), Some("R018"));
        }
        assert_eq!(
            kv.hash(pb::HashRequest {}).await.expect("read").into_inner().hash,
            [0; 16][..],
            "nothing was applied"
        );
        shut_down(nodes).await;
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}

/// Fails when: `raft-no-forward` or `traceparent` is not read.
#[tokio::test]
async fn a_follower_forwards_a_write_and_its_trace_unless_told_not_to() {
    let story = async {
        let nodes = cluster(3).await;
        client(&nodes[0]).await.put(put("a", "1")).await.expect("applied");
        let leads = |node: &&Node<Kv>| node.status().role == Role::Leader;
        let leader = nodes.iter().find(leads).expect("somebody applied the write");
        let follower = nodes.iter().find(|node| !leads(node)).expect("two follow");
        let mut kv = client(follower).await;

        let trace = 0xa3ce_929d_0e0e_4736;
        let mut request = Request::new(put("a", "2"));
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
        let revision = kv.put(request).await.expect("applied").into_inner().revision;
        assert!(!leader.flow().events(&Filter::of_trace(trace)).is_empty(), "the leader saw the client's trace");

        let at_least = pb::Consistency::AtLeast.into();
        let read = kv.get(pb::GetRequest { consistency: at_least, at_least: revision, ..get("a") }).await;
        assert_eq!(
            &read.expect("read").into_inner().value[..],
            b"2",
            "the follower waits until it has applied so much"
        );

        let mut request = Request::new(put("a", "3"));
        request.metadata_mut().insert("raft-no-forward", "1".parse().expect("ASCII"));
        let refused = kv.put(request).await.expect_err("it does not lead");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let told = Told::of(&refused).expect("a node says so");
        assert_eq!(told.metadata.get("leader_id"), Some(&leader.status().id.to_string()));
        assert_eq!(told.metadata.get("leader_addr"), Some(&leader.status().address));
        assert_eq!(&kv.get(get("a")).await.expect("read").into_inner().value[..], b"2");
        shut_down(nodes).await;
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}

/// Fails when: the session is not passed on; the table forgets an answer or a refusal; a command below `first_unanswered` is
/// applied.
#[tokio::test]
async fn a_repeated_write_of_a_session_gets_the_first_answer_at_any_node() {
    let story = async {
        let nodes = cluster(3).await;
        let node = |turn: usize| &nodes[turn % nodes.len()];
        let id = nodes[0].open_session().await.expect("there is a leader");
        let session = |sequence| Some(pb::Session { id, sequence, first_unanswered: 0 });
        let mut first = Vec::new();
        for turn in 0..6 {
            let write = pb::PutRequest { session: session(1), value: format!("{turn}").into(), key: "a".into() };
            first.push(client(node(turn)).await.put(write).await.expect("applied").into_inner().revision);
        }
        assert!(first.iter().all(|revision| *revision == first[0]), "one write, one revision: {first:?}");
        assert_eq!(&client(node(1)).await.get(get("a")).await.expect("read").into_inner().value[..], b"0");

        // The swap happened once; whoever asks again hears what it found then.
        let swap = || pb::CompareAndSwapRequest {
            key: "a".into(),
            expect: Some("0".into()),
            set: "swapped".into(),
            session: session(2),
        };
        let swapped = client(node(0)).await.compare_and_swap(swap()).await.expect("applied").into_inner();
        assert_eq!(client(node(2)).await.compare_and_swap(swap()).await.expect("applied").into_inner(), swapped);
        assert!(swapped.swapped);
        let delete = || pb::DeleteRequest { key: "a".into(), session: session(3) };
        let deleted = client(node(1)).await.delete(delete()).await.expect("applied").into_inner();
        assert!(deleted.existed);
        assert_eq!(client(node(0)).await.delete(delete()).await.expect("applied").into_inner(), deleted);

        // What the client says it has is not kept.
        let third = Some(pb::Session { id, sequence: 4, first_unanswered: 4 });
        let mut kv = client(node(0)).await;
        kv.put(pb::PutRequest { session: third, ..put("b", "1") }).await.expect("applied");
        let refused = kv.delete(delete()).await.expect_err("its client has the answer");
        let told = Told::of(&refused).expect("a node says so");
        assert_eq!((&told.reason[..], told.code()), ("ANSWERED_LONG_AGO", Some("R014")));

        // Nobody opened this one. (The log cannot even carry the second.)
        for id in [id + 1, 0, u64::MAX] {
            let session = Some(pb::Session { id, sequence: 1, first_unanswered: 0 });
            let refused = kv.put(pb::PutRequest { session, ..put("c", "1") }).await.expect_err("no such session");
            let told = Told::of(&refused).expect("a node says so");
            assert_eq!((refused.code(), &told.reason[..]), (Code::FailedPrecondition, "SESSION_EXPIRED"));
            assert_eq!(told.code(), Some("R021"));
        }
        assert!(!kv.get(get("c")).await.expect("read").into_inner().found, "it was applied");
        shut_down(nodes).await;
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}
