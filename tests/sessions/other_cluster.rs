//! Another cluster at the addresses of the former one, as after the restoration of a backup: what was begun with the one
//! does not go on with the other (R004).

use std::net::TcpListener;

use bytes::Bytes;
use prost::Message as _;
use ractor_raft::{
    kv::{Command, Kv, WatchClient, service},
    node::{Consistency, Node, NodeRef},
    rpc::{Grpc, SessionClient, error::Told, reason},
    storage::MemoryStorage,
};
use tokio::time::timeout;
use tonic::service::Routes;

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
