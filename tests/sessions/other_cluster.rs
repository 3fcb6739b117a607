//! Another cluster at the addresses of the former one, as after the restoration of a backup: what was begun with the one
//! does not go on with the other (R004).

use std::net::TcpListener;

use bytes::Bytes;
use prost::Message as _;
use ractor_raft::{
    error::ProposeError,
    kv::{
        Command, Kv, WatchClient,
        pb::{GetRequest, PutRequest, ScanRequest, kv_client::KvClient},
        service,
    },
    node::{Consistency, Node, NodeRef},
    raft::SessionCommand,
    rpc::{ClusterClient, Grpc, SessionClient, channel, cluster, error::Told, reason},
    storage::MemoryStorage,
};
use tokio::time::timeout;
use tonic::{Request, Status, service::Routes};

use super::PATIENCE;

/// The only node of a cluster of this name.
async fn alone(cluster: &str, listener: TcpListener) -> Node<Kv> {
    let address = listener.local_addr().expect("it is bound").to_string();
    let services = |node: NodeRef| Routes::new(service(node.typed().expect("it is built with Kv")));
    Node::builder(1, Kv::default)
        .cluster([(1, address)])
        .cluster_name(cluster)
        .storage(MemoryStorage::new())
        .transport(Grpc::with_listener(listener).services(services))
        .spawn()
        .await
        .expect("it starts")
}

fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("the port is free")
}

/// The former session's number may be another client's there: without a word about the cluster, its answers would be ours.
///
/// Fails when: `Cluster.ClientStream` and `Kv.Watch` take whatever comes, `Driver::failed` keeps the session, or
/// `WatchClient` tries again.
#[tokio::test]
async fn a_session_and_a_watch_do_not_go_on_in_another_cluster() {
    timeout(PATIENCE, async {
        let listener = listen("127.0.0.1:0");
        let address = listener.local_addr().expect("it is bound").to_string();
        let former = alone("former", listener).await;
        let client = SessionClient::connect([address.clone()]).expect("an address");
        let mut watch = WatchClient::new([address.clone()], "", 0);
        watch.next().await.expect("it begins");
        let put = |key: &str| Bytes::from(Command::put(key.to_owned(), "x").encode_to_vec());
        let first = client.propose(put("in the former")).await.expect("it leads");
        former.shutdown().await.expect("nothing was wrong");

        let latter = alone("latter", listen(&address)).await;
        // Somebody else's session gets the number that ours had, and as many commands.
        let other = SessionClient::connect([address.clone()]).expect("an address");
        for key in ["of somebody else", "of somebody else, too"] {
            other.propose(put(key)).await.expect("it leads");
        }
        let second = client.propose(put("in the latter")).await.expect("in a session of its own");
        assert!(second.index > first.index, "{second:?} after {first:?}");
        let keys = latter.read(Consistency::Linearizable, |store: &Kv| {
            (store.get(b"in the latter").is_some(), store.get(b"in the former").is_some())
        });
        assert_eq!(keys.await, Ok((true, false)));

        let ended = loop {
            match watch.next().await {
                Ok(watched) => {
                    assert!(watched.changes.iter().all(|change| change.key == "in the former"), "{watched:?}")
                }
                Err(status) => break status,
            }
        };
        assert_eq!(Told::of(&ended).expect("it says why").reason, reason::WRONG_CLUSTER);
        latter.shutdown().await.expect("nothing was wrong");
    })
    .await
    .expect("it does not hang");
}

/// Without a session of its own kind behind it, a client still has what it read, and a session's number, from one cluster.
///
/// Fails when: an answer does not say its cluster, `ClusterClient` forgets it or says it to nobody, or a handler does not
/// compare.
#[tokio::test]
async fn a_client_stays_with_the_cluster_that_answered_first() {
    timeout(PATIENCE, async {
        let listener = listen("127.0.0.1:0");
        let address = listener.local_addr().expect("it is bound").to_string();
        let former = alone("former", listener).await;
        let client = ClusterClient::new(&address, PATIENCE).expect("an address");
        let asked = ClusterClient::new(&address, PATIENCE).expect("an address");
        let session = client.open_session().await.expect("it leads");
        let of_former = asked.status().await.expect("it answers").cluster_id;
        former.shutdown().await.expect("nothing was wrong");

        let latter = alone("latter", listen(&address)).await;
        let of_latter = latter.status().cluster_id;
        let put = || Bytes::from(Command::put("astray", "x").encode_to_vec());
        let refused = ProposeError::WrongCluster { node: 1, cluster: of_latter, found: of_former };
        let command = SessionCommand { session, sequence: 1, first_unanswered: 1, command: put() };
        assert_eq!(client.propose_in_session(command, true, 0).await, Err(refused.clone()));
        assert_eq!(client.open_session().await, Err(refused.clone()));
        assert_eq!(asked.propose(put(), true, 0).await, Err(refused), "its first answer was a status");
        let seen = latter.read(Consistency::Linearizable, |store: &Kv| store.get(b"astray").is_some());
        assert_eq!(seen.await, Ok(false));
        assert_eq!(client.status().await.expect("anybody may look").cluster_id, of_latter);
        client.of_cluster(0).propose(put(), true, 0).await.expect("it was told to begin anew");
        latter.shutdown().await.expect("nothing was wrong");
    })
    .await
    .expect("it does not hang");
}

/// Fails when: a call of the store does not compare, or does not say its cluster.
#[tokio::test]
async fn each_answer_of_the_store_says_its_cluster_and_each_call_for_another_is_refused() {
    timeout(PATIENCE, async {
        let listener = listen("127.0.0.1:0");
        let address = listener.local_addr().expect("it is bound").to_string();
        let node = alone("former", listener).await;
        let own = node.status().cluster_id;
        let kv = KvClient::new(channel::lazy(&address).expect("an address"));
        for (meant, is_served) in [(0, true), (own, true), (own + 1, false)] {
            let mut answers = Vec::new();
            let mut kv = kv.clone();
            let key = Bytes::from("key");
            let put = PutRequest { key: key.clone(), ..PutRequest::default() };
            answers.push(kv.put(meaning(meant, put)).await.map(|answer| cluster::read(answer.metadata())));
            let get = GetRequest { key, ..GetRequest::default() };
            answers.push(kv.get(meaning(meant, get)).await.map(|answer| cluster::read(answer.metadata())));
            let scan = meaning(meant, ScanRequest::default());
            answers.push(kv.scan(scan).await.map(|answer| cluster::read(answer.metadata())));
            for answer in answers {
                let reason = |status: Status| Told::of(&status).expect("it says why").reason;
                let expected = if is_served { Ok(own) } else { Err(reason::WRONG_CLUSTER.to_owned()) };
                assert_eq!(answer.map_err(reason), expected, "for {meant:016x}");
            }
        }
        node.shutdown().await.expect("nothing was wrong");
    })
    .await
    .expect("it does not hang");
}

/// A request for this cluster. 0: for any.
fn meaning<T>(cluster_id: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    cluster::write(cluster_id, request.metadata_mut());
    request
}
