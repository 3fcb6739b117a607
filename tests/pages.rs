//! What a hundred open pages with slow readers cost the writes of a cluster: figures of one run, beside each other.
//!
//! Spells with and without pages take turns. Each with them is held against the two around it, and the median of those counts,
//! so that a machine that becomes slower or faster meanwhile says nothing.
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
const ROUNDS: usize = 8;
/// Between a client's writes where there are to be fewer than the machine can do: some 2,000 a second.
const PACE: Duration = Duration::from_millis(30);
const SPELL: Duration = Duration::from_secs(2);

/// What a slow browser reads, and how seldom: a tenth of what it is sent.
const SIP: usize = 1024;
const PAUSE: Duration = Duration::from_millis(250);

/// Fails when: pages cost the node more than a tenth of its writes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it wants an idle machine and a release build"]
async fn a_hundred_slow_pages_cost_less_than_a_tenth_of_the_writes() {
    let (alone, watched) = spells(Duration::ZERO).await;
    let ratio = told("writes a second", &alone, &watched, |spell| spell.writes);
    told("µs of processor a write", &alone, &watched, |spell| spell.busy / spell.writes * 1e6);
    assert!(ratio >= 0.9, "{ratio:.3}");
}

/// The same from the other side, on a machine that has other things to do as well: at a pace of writes that it keeps up with,
/// what do the pages take of the processor? The readers' share, which is the browsers' in truth, is counted with it.
///
/// Fails when: pages take more than a tenth of what the machine has.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it wants a release build"]
async fn a_hundred_slow_pages_take_less_than_a_tenth_of_the_processor() {
    let (alone, watched) = spells(PACE).await;
    told("writes a second", &alone, &watched, |spell| spell.writes);
    told("ms of processor a second", &alone, &watched, |spell| spell.busy * 1e3);
    let around = alone.windows(2).map(|around| (around[0].busy + around[1].busy) / 2.0);
    let taken = median(watched.iter().zip(around).map(|(watched, around)| watched.busy - around).collect());
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let share = taken / processors * 100.0;
    println!(
        "{PAGES} slow pages take {:.1} ms of processor a second: {share:.2} % of {processors} processors",
        taken * 1e3
    );
    assert!(share < 10.0, "{share:.2} %");
}

/// Spells of writing by many clients, each with a pause of `pace` after a write: without pages and with them, in turns.
async fn spells(pace: Duration) -> (Vec<Spell>, Vec<Spell>) {
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
        clients.spawn(write(leader.clone(), client, pace, written.clone(), stop.clone()));
    }
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    spell(&written).await;
    alone.push(spell(&written).await);
    for _ in 0..ROUNDS {
        let mut pages = open(&server).await;
        watched.push(spell(&written).await);
        pages.shutdown().await;
        close(&server).await;
        alone.push(spell(&written).await);
    }
    stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    drop(server);
    for node in nodes {
        node.shutdown().await.expect("in order");
    }
    (alone, watched)
}

async fn write(node: Node<Kv>, client: u64, pace: Duration, written: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut number = 0_u64;
    while !stop.load(Relaxed) {
        number += 1;
        if node.propose(Command::put(format!("{client}/{}", number % 1000), number.to_string())).await.is_ok() {
            written.fetch_add(1, Relaxed);
        }
        if !pace.is_zero() {
            sleep(pace).await;
        }
    }
}

/// What a spell amounts to.
struct Spell {
    /// A second.
    writes: f64,
    /// Seconds of processor a second. 0: it is not known.
    busy: f64,
}

async fn spell(written: &AtomicU64) -> Spell {
    let (before, begun, busy) = (written.load(Relaxed), Instant::now(), processor());
    sleep(SPELL).await;
    let seconds = begun.elapsed().as_secs_f64();
    Spell { writes: (written.load(Relaxed) - before) as f64 / seconds, busy: (processor() - busy) / seconds }
}

/// The seconds of processor time that this process took so far: its scheduler's own count. 0: it is not known.
fn processor() -> f64 {
    let of_thread = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    threads.filter_map(of_thread).sum::<u64>() as f64 / 1e9
}

/// Prints the medians, and returns the median ratio of each watched spell to the two around it.
fn told(what: &str, alone: &[Spell], watched: &[Spell], of: fn(&Spell) -> f64) -> f64 {
    let around = alone.windows(2).map(|around| (of(&around[0]) + of(&around[1])) / 2.0);
    let ratios: Vec<_> = watched.iter().map(of).zip(around).map(|(watched, around)| watched / around).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    let (alone, watched) = (median(alone.iter().map(of).collect()), median(watched.iter().map(of).collect()));
    let ratio = median(ratios);
    println!(
        "{what}: {alone:.1} without a page, {watched:.1} with {PAGES} slow ones: {:.1} % ({:.1} to {:.1})",
        ratio * 100.0,
        least * 100.0,
        most * 100.0
    );
    ratio
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
