//! Nodes that are not who they should be (SAFETY: M11).

use ractor_raft::rpc::pb::{Header, PreVoteRequest, RequestVoteRequest, raft_client::RaftClient};
use ractor_raft::rpc::{error::Told, reason};
use tonic::{Code, Status};

use crate::{
    client,
    cluster::Cluster,
    command_line::run,
    server::{free_address, raftkv},
    witness::Witness,
};

/// Fails when: the receiver does not compare the cluster, or says nothing of it, or its votes are counted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_gets_no_votes_and_is_told_why() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let witness = Witness::of(&cluster.addresses);
    // A third one, as its operator thinks, of a cluster that has another third one.
    let address = free_address();
    let members = format!("1={},2={},3={address}", cluster.addresses[&1], cluster.addresses[&2]);
    let mut stranger = raftkv();
    stranger.args(["serve", "--id", "3", "--listen", &address, "--cluster", &members]);
    stranger.arg("--data").arg(cluster.directory().join("stranger"));
    cluster.spawn(4, stranger);
    let stranger = cluster.servers.remove(&4).expect("it was just put there");
    assert!(stranger.says("R004").await, "it is told");
    assert!(stranger.says("belongs to cluster").await, "it is told");
    for id in [1, 2] {
        assert!(cluster.servers[&id].says("a request was refused: node").await, "and node {id} tells its own operator");
    }
    let status = client::status(&address).await.expect("it is up");
    assert_eq!((status.leader, status.commit), (0, 0), "nobody votes for it, and nobody sends it a log");
    let endpoints = format!("{},{address}", cluster.endpoints());
    let lines = run(&endpoints, &["status", "-o", "json"]).await.exits_with(0).json();
    let shown: Vec<_> = lines.iter().map(|line| (line["id"].as_u64(), line["stranger"].as_str())).collect();
    let expected = [(Some(1), None), (Some(2), None), (Some(3), None), (Some(3), Some("R004"))];
    assert_eq!(shown, expected, "it takes nobody's place");
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "nobody is disturbed");
    witness.finds_nothing_wrong();
}

/// Fails when: neither end compares who was meant with who is there, or one of them says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_addresses_are_swapped_say_so_and_elect_nobody() {
    let mut cluster = Cluster::new(&[]);
    for id in 1..=3 {
        let (one, other) = (id % 3 + 1, (id + 1) % 3 + 1);
        let mut command = cluster.serve(id);
        for (peer, at) in [(one, other), (other, one)] {
            command.args(["--peer", &format!("{peer}={}", cluster.addresses[&at])]);
        }
        cluster.spawn(id, command);
    }
    cluster.are_ready().await;
    for (id, server) in &cluster.servers {
        assert!(server.says("R005").await, "node {id} is told");
        assert!(server.says("another node answers").await, "node {id} has asked");
        assert!(server.says("a request was refused").await, "node {id} has refused");
        let status = client::status(&cluster.addresses[id]).await.expect("it is up");
        assert_eq!((status.term, status.leader, status.commit), (0, 0, 0), "no vote counts");
    }
    for id in 1..=3 {
        cluster.kill(id).await;
        cluster.restart(id).await;
    }
    cluster.leader().await;
    cluster.agree().await;
}

/// Fails when: a field of the header is not compared, or a malformed request reaches consensus.
#[tokio::test(flavor = "multi_thread")]
async fn requests_between_nodes_with_a_wrong_header_are_refused() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let mut client = RaftClient::new(client::channel(&cluster.addresses[&1]));
    let cluster_id = leader.cluster_id;
    let good = Header { cluster_id, from: 2, to: 1, session: 1, from_incarnation: 0, to_incarnation: 0 };
    let high_term = leader.term + 1_000_000;
    let candidate = RequestVoteRequest {
        header: None,
        term: high_term,
        candidate_id: 2,
        last_log_index: 1_000_000,
        last_log_term: high_term - 1,
        leadership_transfer: true,
    };
    let cases = [
        (None, Code::InvalidArgument, reason::MALFORMED),
        (Some(Header { cluster_id: 1, ..good }), Code::FailedPrecondition, reason::WRONG_CLUSTER),
        (Some(Header { to: 3, ..good }), Code::FailedPrecondition, reason::WRONG_NODE),
        (Some(Header { from: 1, ..good }), Code::FailedPrecondition, reason::WRONG_NODE),
        (Some(Header { from: 3, ..good }), Code::InvalidArgument, reason::MALFORMED),
        (Some(Header { to_incarnation: 1, ..good }), Code::FailedPrecondition, reason::PEER_WIPED),
    ];
    for (header, code, reason) in cases {
        let request = RequestVoteRequest { header, ..candidate };
        let status = client.request_vote(request).await.expect_err("it is not for this node");
        assert_eq!((status.code(), told(&status).reason.as_str()), (code, reason), "{header:?}: {status:?}");
    }
    let beyond = PreVoteRequest { header: Some(good), term: u64::MAX, candidate_id: 2, ..Default::default() };
    let status = client.pre_vote(beyond).await.expect_err("no term is so large");
    assert_eq!(told(&status).metadata["field"], "term");
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "no such request counts");
}

fn told(status: &Status) -> Told {
    Told::of(status).unwrap_or_else(|| panic!("the node says why: {status:?}"))
}
