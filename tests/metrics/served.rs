//! What Prometheus gets from a node's port.

use std::time::Duration;

use ractor_raft::{Node, http, kv::Kv, metrics, storage::MemoryStorage, transport::InProcess};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::parse;

/// Longer than this may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Fails when: the path is not there, answers something else, or says that it is something else.
#[tokio::test]
async fn a_node_serves_its_figures() {
    let node = Node::builder(1, Kv::default).cluster([(1, "served")]);
    let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await.expect("it starts");
    let listener = http::bind("127.0.0.1:0").await.expect("there is a port");
    let server = http::serve((*node).clone(), listener, http::Options::default());
    let ask = async {
        let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.address());
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    };
    let answer = timeout(DEADLINE, ask).await.expect("in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-type: {}", metrics::CONTENT_TYPE)), "{head}");
    assert_eq!(parse(body).value("raft_voters", &[]), 1.0);
    node.shutdown().await.expect("it stops");
}
