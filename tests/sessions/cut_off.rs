//! A leader that is cut off from the others, and not from its clients.

use std::{collections::BTreeMap, net::TcpListener};

use ractor_raft::{
    config::Config,
    node::Node,
    raft::{NodeId, Role},
    rpc::Grpc,
    storage::MemoryStorage,
    testing::Ledger,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener as AsyncListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{Cluster, PATIENCE, client, eventually, line};

/// The ways from one node to another; dropping one cuts it.
type Ways = BTreeMap<(NodeId, NodeId), JoinSet<()>>;

/// Everything that comes in at its address goes to `to`, both ways, until it is dropped.
async fn way(to: String) -> (String, JoinSet<()>) {
    let listener = AsyncListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut way = JoinSet::new();
    way.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let to = to.clone();
            connections.spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    (address, way)
}

/// Three nodes that reach each other by ways which can be cut.
async fn cluster() -> (Cluster, Ways) {
    let listeners: Vec<_> = (1..=3).map(|id| (id, TcpListener::bind("127.0.0.1:0").expect("a port"))).collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
    let members: Vec<_> = listeners.iter().map(|(id, listener)| (*id, address(listener))).collect();
    let mut config = Config::default();
    config.election_timeout_min = std::time::Duration::from_millis(500);
    config.election_timeout_max = std::time::Duration::from_millis(1000);
    let (mut nodes, mut ways) = (Vec::new(), Ways::new());
    for (id, listener) in listeners {
        let mut builder = Node::builder(id, Ledger::default).cluster(members.clone()).cluster_name("cut off");
        for (peer, address) in members.iter().filter(|(peer, _)| *peer != id) {
            let (by, way) = way(address.clone()).await;
            ways.insert((id, *peer), way);
            builder = builder.peer_address(*peer, by);
        }
        let builder = builder.storage(MemoryStorage::new()).config(config.clone());
        nodes.push(builder.transport(Grpc::with_listener(listener)).spawn().await.expect("the node starts"));
    }
    (Cluster { nodes, members }, ways)
}

/// The leader takes the command into its log and never learns what becomes of it: it says nothing. The others have long
/// elected one of them.
///
/// Fails when: the client waits for an answer for as long as its stream is open (it has half a minute here, as had the one
/// that was seen to wait).
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_a_leader_without_followers_keeps_is_sent_to_another_one() {
    let (cluster, mut ways) = cluster().await;
    let cut = cluster.elected().await;
    let id = cluster.members[cut].0;
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(cut);
    let client = client(endpoints);
    client.propose(line("before")).await.expect("nothing is in its way");

    ways.retain(|(from, to), _| *from != id && *to != id);
    let written = timeout(PATIENCE / 2, client.propose(line("meanwhile"))).await;
    written.expect("it does not wait for the one that is cut off").expect("two of three are there");
    let other = cluster.nodes.iter().position(|node| node.status().role == Role::Leader && node.status().id != id);
    let lines = cluster.lines(other.expect("somebody took the command")).await;
    assert_eq!(lines, ["before", "meanwhile"], "once each");
    eventually("the old one to give up", async || cluster.nodes[cut].status().role != Role::Leader).await;
    cluster.shutdown().await;
}
