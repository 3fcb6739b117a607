//! Whole nodes over real gRPC, on ports that the system gives out.
#![cfg(all(feature = "grpc", feature = "testing"))]

use std::{
    io,
    net::TcpListener,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use ractor_raft::{
    config::Config,
    error::{NodeError, ProposeError},
    node::{Consistency, Crash, Node},
    raft::{LogIndex, NodeId, Role},
    rpc::{ClusterClient, Grpc, channel, error::Told, pb, reason},
    state_machine::{RestoreError, Snapshot, StateMachine},
    storage::MemoryStorage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status};

/// More than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Appends a text; the output is all of it.
#[derive(Clone, PartialEq, Message)]
struct Append {
    #[prost(bytes = "bytes", tag = "1")]
    text: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Length {
    #[prost(uint64, tag = "1")]
    bytes: u64,
}

#[derive(Default)]
struct Text(Vec<u8>);

struct Nothing;

impl Snapshot for Nothing {
    fn write(self, _: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

impl StateMachine for Text {
    type Command = Append;
    type Output = Length;

    fn apply(&mut self, _: LogIndex, command: Append) -> Length {
        self.0.extend_from_slice(&command.text);
        Length { bytes: self.0.len() as u64 }
    }

    fn snapshot(&self) -> impl Snapshot {
        Nothing
    }

    fn restore(&mut self, _: impl io::Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

fn command(text: &str) -> Bytes {
    Append { text: Bytes::copy_from_slice(text.as_bytes()) }.encode_to_vec().into()
}

/// Where the nodes of a cluster listen; the ports are theirs already.
struct Ports(Vec<(NodeId, String, TcpListener)>);

impl Ports {
    fn of(nodes: u64) -> Self {
        let port = |id| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            (id, listener.local_addr().expect("an address").to_string(), listener)
        };
        Ports((1..=nodes).map(port).collect())
    }

    fn members(&self) -> Vec<(NodeId, String)> {
        self.0.iter().map(|(id, address, _)| (*id, address.clone())).collect()
    }
}

/// Patient timeouts: on a loaded machine no election disturbs what is tested.
fn config() -> Config {
    let mut config = Config::default();
    config.election_timeout_min = Duration::from_millis(500);
    config.election_timeout_max = Duration::from_millis(1000);
    config
}

async fn spawn(
    id: NodeId,
    members: &[(NodeId, String)],
    listener: TcpListener,
    name: &str,
    config: Config,
) -> Result<Node<Text>, NodeError> {
    let builder = Node::builder(id, Text::default).cluster(members.to_vec()).cluster_name(name);
    let builder = builder.storage(MemoryStorage::new()).transport(Grpc::with_listener(listener)).config(config);
    // Port 0: what it was given counts, also when the server is started again.
    builder.listen("127.0.0.1:0").spawn().await
}

struct Cluster {
    nodes: Vec<Node<Text>>,
    members: Vec<(NodeId, String)>,
}

impl Cluster {
    /// `name` tells the clusters of this process apart.
    async fn of(nodes: u64, name: &str) -> Self {
        Cluster::with(nodes, name, config()).await
    }

    async fn with(count: u64, name: &str, config: Config) -> Self {
        let ports = Ports::of(count);
        let members = ports.members();
        let mut nodes = Vec::new();
        for (id, _, listener) in ports.0 {
            nodes.push(spawn(id, &members, listener, name, config.clone()).await.expect("the node starts"));
        }
        Cluster { nodes, members }
    }

    /// Waits until all nodes agree on a leader; returns it and one that follows.
    async fn elected(&self) -> (&Node<Text>, &Node<Text>) {
        eventually("a leader that all know", async || {
            let leaders: Vec<_> = self.nodes.iter().map(|node| node.status().leader).collect();
            let led = leaders[0].is_some() && leaders.iter().all(|leader| *leader == leaders[0]);
            led && self.nodes.iter().any(|node| node.status().role == Role::Leader)
        })
        .await;
        let leads = |node: &&Node<Text>| node.status().role == Role::Leader;
        let leader = self.nodes.iter().find(leads).expect("there is one");
        let follower = self.nodes.iter().find(|node| !leads(node)).expect("there is one");
        (leader, follower)
    }

    fn address(&self, node: &Node<Text>) -> &str {
        let id = node.status().id;
        &self.members.iter().find(|(member, _)| *member == id).expect("a member").1
    }

    fn client(&self, node: &Node<Text>) -> ClusterClient {
        ClusterClient::new(self.address(node), PATIENCE).expect("an address")
    }

    fn raft(&self, node: &Node<Text>) -> pb::raft_client::RaftClient<tonic::transport::Channel> {
        pb::raft_client::RaftClient::new(channel::lazy(self.address(node)).expect("an address"))
    }

    async fn shutdown(self) {
        for node in &self.nodes {
            let stopped = tokio::time::timeout(PATIENCE, node.shutdown()).await;
            stopped.expect("it stops in time").expect("it stops by order");
        }
    }
}

/// Looks again until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        ticks.tick().await;
    }
}

fn length(output: &Bytes) -> u64 {
    Length::decode(output.clone()).expect("an output").bytes
}

/// A header that is in order.
fn header(to: &Node<Text>, from: NodeId) -> pb::Header {
    let status = to.status();
    let (cluster_id, to) = (status.cluster_id, status.id);
    pb::Header { cluster_id, from, to, session: 1, from_incarnation: 0, to_incarnation: 0 }
}

#[tokio::test]
async fn three_nodes_elect_a_leader_and_replicate_what_a_follower_was_sent() {
    let cluster = Cluster::of(3, "replicate").await;
    let (_, follower) = cluster.elected().await;
    let applied = cluster.client(follower).propose(command("ada"), true, 7).await.expect("it is forwarded");
    assert_eq!(length(&applied.output), 3);
    for node in &cluster.nodes {
        let text = tokio::time::timeout(PATIENCE, node.read(Consistency::Linearizable, |text| text.0.clone())).await;
        assert_eq!(text.expect("in time").expect("any node serves reads"), b"ada");
        let status = cluster.client(node).status().await.expect("a status");
        assert_eq!((status.id, status.cluster_id), (node.status().id, node.status().cluster_id));
        assert!(status.applied_index >= applied.index);
    }
    cluster.shutdown().await;
}

// Fails when: `Cluster/ClientRequest` does not look at the metadata, or the status loses the leader's address.
#[tokio::test]
async fn a_client_that_does_not_want_forwarding_is_told_who_leads() {
    let cluster = Cluster::of(3, "redirect").await;
    let (leader, follower) = cluster.elected().await;
    let refused = cluster.client(follower).propose(command("ada"), false, 0).await;
    let expected = ProposeError::NotLeader {
        node: follower.status().id,
        leader: leader.status().id,
        address: cluster.address(leader).to_owned(),
    };
    assert_eq!(refused, Err(expected));

    // As any gRPC client sees it.
    let channel = channel::lazy(cluster.address(follower)).expect("an address");
    let mut request = Request::new(pb::ClientRequestRequest { command: command("ada"), session: None });
    request.metadata_mut().insert("raft-no-forward", "1".parse().expect("ASCII"));
    let status = pb::cluster_client::ClusterClient::new(channel).client_request(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let told = Told::of(&status).expect("our own details");
    assert_eq!(told.metadata["leader_addr"], cluster.address(leader));
    assert_eq!(told.metadata["leader_id"], leader.status().id.to_string());
    cluster.shutdown().await;
}

async fn refusal_of_vote(cluster: &Cluster, node: &Node<Text>, header: Option<pb::Header>) -> Status {
    let from = header.map_or(0, |header| header.from);
    let request = pb::RequestVoteRequest { header, term: 99, candidate_id: from, ..Default::default() };
    cluster.raft(node).request_vote(request).await.expect_err("refused")
}

async fn refusal_of_entries(cluster: &Cluster, node: &Node<Text>, request: pb::AppendEntriesRequest) -> Status {
    // A stream that stays open: the refusal ends it.
    let requests =
        futures_util::StreamExt::chain(futures_util::stream::iter([request]), futures_util::stream::pending());
    let mut replies = cluster.raft(node).append_entries(requests).await.expect("a stream").into_inner();
    replies.message().await.expect_err("refused")
}

// M11, at the receiver. Fails when: a handler does not check the header; the term 99 then shows up in the status.
#[tokio::test]
async fn a_request_of_another_cluster_or_for_another_node_is_refused() {
    let cluster = Cluster::of(1, "strangers").await;
    let node = &cluster.nodes[0];
    eventually("the only node leads", async || node.status().role == Role::Leader).await;
    let good = header(node, 2);
    for (header, expected) in [
        (pb::Header { cluster_id: !good.cluster_id, ..good }, (reason::WRONG_CLUSTER, "R004")),
        (pb::Header { to: 3, ..good }, (reason::WRONG_NODE, "R005")),
        (pb::Header { from: 1, ..good }, (reason::WRONG_NODE, "R005")),
    ] {
        let entries =
            pb::AppendEntriesRequest { header: Some(header), term: 99, leader_id: header.from, ..Default::default() };
        for status in
            [refusal_of_vote(&cluster, node, Some(header)).await, refusal_of_entries(&cluster, node, entries).await]
        {
            assert_eq!(status.code(), Code::FailedPrecondition);
            let told = Told::of(&status).expect("our own details");
            assert_eq!((told.reason.as_str(), told.code().unwrap_or("none")), expected);
        }
    }
    assert!(node.status().term < 99);
    cluster.shutdown().await;
}

// M11, whole: with the addresses swapped, each node dials itself. Fails when: neither end checks the header;
// each node then counts its own vote twice.
#[tokio::test]
async fn nodes_whose_addresses_were_swapped_refuse_and_elect_nobody() {
    let ports = Ports::of(2);
    let swapped: Vec<_> = ports.members();
    let swapped = vec![(1, swapped[1].1.clone()), (2, swapped[0].1.clone())];
    let mut nodes = Vec::new();
    for (id, _, listener) in ports.0 {
        nodes.push(spawn(id, &swapped, listener, "swapped", config()).await.expect("the node starts"));
    }
    let cluster = Cluster { nodes, members: swapped };
    let refused = cluster.client(&cluster.nodes[0]).propose(command("ada"), true, 0).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader { .. })), "{refused:?}");
    for node in &cluster.nodes {
        assert_eq!((node.status().role == Role::Leader, node.status().leader), (false, None));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_names_its_field() {
    let cluster = Cluster::of(1, "malformed").await;
    let node = &cluster.nodes[0];
    eventually("the only node leads", async || node.status().role == Role::Leader).await;
    let headless = refusal_of_vote(&cluster, node, None).await;
    assert_eq!((headless.code(), headless.message()), (Code::InvalidArgument, "header is missing"));

    let entry = pb::Entry { index: 1, term: 1, payload: None };
    let request = pb::AppendEntriesRequest {
        header: Some(header(node, 2)),
        term: 1,
        leader_id: 2,
        entries: vec![entry],
        ..Default::default()
    };
    let status = refusal_of_entries(&cluster, node, request).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(Told::of(&status).expect("our own details").metadata["field"], "entries[0].payload");

    // A command that the state machine cannot read.
    let rejected = cluster.client(node).propose(Bytes::from_static(b"\xff\xff\xff"), true, 0).await;
    assert!(matches!(rejected, Err(ProposeError::Rejected { .. })), "{rejected:?}");
    // And the node lives on.
    cluster.client(node).propose(command("ada"), true, 0).await.expect("it is applied");
    cluster.shutdown().await;
}

// L12. Fails when: the limits of messages are below what admission lets in, at the client's or the peers' side.
#[tokio::test]
async fn the_largest_command_is_replicated_and_a_larger_one_is_refused_with_the_limit() {
    let limit = 6 << 20;
    let mut config = config();
    config.max_entry_bytes = limit;
    config.max_batch_bytes = 1 << 20;
    let cluster = Cluster::with(3, "large", config).await;
    let (_, follower) = cluster.elected().await;
    let client = cluster.client(follower);
    let around = command("").len() + 5;
    let largest = command(&"x".repeat(limit - around));
    assert_eq!(largest.len(), limit);
    let applied = client.propose(largest, true, 0).await.expect("it is within the limit");
    assert_eq!(length(&applied.output), (limit - around) as u64);

    // One byte more is refused by admission; much more, before it is read.
    for size in [limit - around + 1, 4 * limit] {
        match client.propose(command(&"x".repeat(size)), true, 0).await {
            Err(ProposeError::TooLarge { size: told, limit: allowed }) => {
                assert!(told >= size);
                assert_eq!(allowed, limit);
            }
            other => panic!("{other:?}"),
        }
    }
    cluster.shutdown().await;
}

// Fails when: `Grpc` does not remember which port it had, or a replicator does not connect again.
#[tokio::test]
async fn a_server_that_is_killed_serves_its_port_again() {
    let cluster = Cluster::of(3, "server").await;
    let (leader, follower) = cluster.elected().await;
    cluster.client(leader).propose(command("a"), true, 0).await.expect("it is applied");
    for how in [Crash::Kill, Crash::Panic] {
        let restarts = follower.status().restarts;
        assert!(follower.as_ref().crash("server", how));
        eventually("the server is started again", async || follower.status().restarts > restarts).await;
        // The follower can only learn of it over the port that was closed.
        let applied = cluster.client(leader).propose(command("b"), true, 0).await.expect("it is applied");
        eventually("the stream is back", async || follower.status().applied_index >= applied.index).await;
        let status = cluster.client(follower).status().await.expect("the port is served");
        assert_eq!(status.id, follower.status().id);
    }
    cluster.shutdown().await;
}

/// A client that says hello and never listens again: the server has to cut it off.
async fn deaf_client(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.expect("it listens");
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it reads");
    let answered = tokio::time::timeout(PATIENCE, connection.read_u8()).await;
    answered.expect("in time").expect("it has accepted the connection");
    connection
}

// Fails when: a stream, a server or a client keeps a task after the node has stopped, or the node does not wait for the
// end of its server.
#[tokio::test]
async fn nodes_that_were_shut_down_leave_no_task() {
    let alive = tokio::runtime::Handle::current().metrics();
    let before = alive.num_alive_tasks();
    let cluster = Cluster::of(3, "tasks").await;
    let (_, follower) = cluster.elected().await;
    cluster.client(follower).propose(command("ada"), true, 0).await.expect("it is forwarded");
    let _deaf = deaf_client(cluster.address(follower)).await;
    let kept: Vec<_> = cluster.nodes.clone();
    cluster.shutdown().await;
    assert!(alive.num_alive_tasks() <= before, "{} tasks are left", alive.num_alive_tasks() - before);
    drop(kept);
}

#[tokio::test]
async fn a_node_that_was_stopped_refuses_connections() {
    let cluster = Cluster::of(1, "stopped").await;
    let node = &cluster.nodes[0];
    eventually("the only node leads", async || node.status().role == Role::Leader).await;
    let client = cluster.client(node);
    node.shutdown().await.expect("it stops by order");
    let refused = client.propose(command("ada"), true, 0).await;
    assert!(matches!(refused, Err(ProposeError::Unavailable { .. })), "{refused:?}");
}
