//! What a hundred open pages with slow readers cost the writes of a cluster: two figures of one run, beside each other.
//!
//! `cargo test --release --test pages -- --ignored --nocapture`
#![cfg(feature = "server")]

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor_raft::{
    http::{self, Options, Server},
    kv::{Command, Kv},
    node::Node,
    rpc::Grpc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

const PAGES: usize = 100;
const CLIENTS: u64 = 64;
const ROUNDS: usize = 6;
const SPELL: Duration = Duration::from_secs(2);

/// What a slow browser reads, and how seldom: a tenth of what it is sent.
const SIP: usize = 1024;
const PAUSE: Duration = Duration::from_millis(250);

/// Fails when: pages cost the node more than a tenth of its writes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it wants an idle machine and a release build"]
async fn a_hundred_slow_pages_cost_less_than_a_tenth_of_the_writes() {
    let directory = tempfile::tempdir().expect("there is room");
    let ports: Vec<_> = (1..=3).map(|id| (id, TcpListener::bind("127.0.0.1:0").expect("a port is free"))).collect();
    let members: Vec<_> =
        ports.iter().map(|(id, port)| (*id, port.local_addr().expect("it is open").to_string())).collect();
    let mut nodes = Vec::new();
    for (id, port) in ports {
        let builder = Node::builder(id, Kv::default).cluster(members.clone()).transport(Grpc::with_listener(port));
        nodes.push(builder.data_dir(directory.path().join(id.to_string())).spawn().await.expect("it starts"));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let leader = loop {
        if let Some(leader) = nodes.iter().find(|node| node.status().leader == Some(node.status().id)) {
            break leader.clone();
        }
        assert!(Instant::now() < deadline, "nobody was elected");
        sleep(Duration::from_millis(10)).await;
    };
    let listener = http::bind("127.0.0.1:0").await.expect("a port is free");
    let server = http::serve(leader.as_ref().clone(), listener, Options::default());

    let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(write(leader.clone(), client, written.clone(), stop.clone()));
    }
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    spell(&written).await;
    for _ in 0..ROUNDS {
        alone.push(spell(&written).await);
        let mut pages = open(&server).await;
        watched.push(spell(&written).await);
        pages.shutdown().await;
        close(&server).await;
    }
    stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    let (alone, watched) = (median(alone), median(watched));
    let ratio = watched / alone;
    println!("writes a second: {alone:.0} without a page, {watched:.0} with {PAGES} slow ones: {:.1} %", ratio * 100.0);
    assert!(ratio >= 0.9, "{ratio:.3}");
    drop(server);
    for node in nodes {
        node.shutdown().await.expect("in order");
    }
}

async fn write(node: Node<Kv>, client: u64, written: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut number = 0_u64;
    while !stop.load(Relaxed) {
        number += 1;
        if node.propose(Command::put(format!("{client}/{}", number % 1000), number.to_string())).await.is_ok() {
            written.fetch_add(1, Relaxed);
        }
    }
}

/// Writes a second, for a while.
async fn spell(written: &AtomicU64) -> f64 {
    let (before, begun) = (written.load(Relaxed), Instant::now());
    sleep(SPELL).await;
    (written.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

/// All of them, reading slowly.
async fn open(server: &Server) -> JoinSet<()> {
    let mut pages = JoinSet::new();
    for _ in 0..PAGES {
        pages.spawn(read(server.address()));
    }
    while server.pages() < PAGES {
        sleep(Duration::from_millis(10)).await;
    }
    // Its first look at the other nodes is no part of it.
    sleep(Duration::from_millis(500)).await;
    pages
}

/// Until nobody reads for them any more.
async fn close(server: &Server) {
    while server.pages() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(2500)).await;
}

async fn read(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut sip = [0; SIP];
    while stream.read(&mut sip).await.is_ok_and(|read| read > 0) {
        sleep(PAUSE).await;
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    (figures[(figures.len() - 1) / 2] + figures[figures.len() / 2]) / 2.0
}
