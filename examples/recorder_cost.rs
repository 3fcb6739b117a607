//! Prints what the flight recorder costs: nanoseconds a message with it on and off, its parts alone, and what it takes of the
//! writes of a cluster.
//!
//! `cargo run --release --example recorder_cost`
//!
//! One actor is sent bursts of messages and handles each by doing nothing, so that all one sees is the way of a
//! message. Rounds with the recorder on and off take turns, and the quickest of each are compared: whatever else runs on the
//! machine only makes a round slower. A round is half a millisecond, so that some of them are not disturbed.
//!
//! Then three nodes with SQLite and gRPC in this process are given writes by 256 clients, and the recorder is turned on and off
//! every 100 ms while they go on. So both have the same nodes, leader, disk and neighbours. The clients are calls of the library;
//! over gRPC a write costs more, and the recorder's part of it is smaller.

use std::{
    hint::black_box,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ractor::ActorProcessingErr;
use ractor_raft::{
    Node,
    flow::{Actor, Context, Flow, Mark, Message, Origin, Placement, spawn},
    kv::{Command, Kv},
    node::Consistency,
    raft::Role,
};
use tokio::sync::Notify;

const CLIENTS: usize = 256;
const SLICE: Duration = Duration::from_millis(100);
/// An even number.
const SLICES: usize = 160;

const BURST: u32 = 256;
const MESSAGES: u32 = 4 * BURST;
const ROUNDS: usize = 2001;

enum Word {
    Nothing(u64),
    Done(Arc<Notify>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for Word {}

impl Message for Word {
    fn name(&self) -> &'static str {
        match self {
            Word::Nothing(_) => "Nothing",
            Word::Done(_) => "Done",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            Word::Nothing(index) => Mark { term: 1, index: *index },
            Word::Done(_) => Mark::default(),
        }
    }
}

struct Idler;

impl Actor for Idler {
    type Message = Word;
    type Arguments = ();

    async fn start(_: (), _: &mut Context<Word>) -> Result<Self, ActorProcessingErr> {
        Ok(Idler)
    }

    async fn handle(&mut self, word: Word, _: &mut Context<Word>) -> Result<(), ActorProcessingErr> {
        match word {
            Word::Nothing(index) => drop(black_box(index)),
            Word::Done(done) => done.notify_one(),
        }
        Ok(())
    }
}

/// Nanoseconds a time, in the quickest of several rounds.
fn alone(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let began = Instant::now();
        for _ in 0..MESSAGES {
            work();
        }
        began.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

async fn run(runtime: &str) -> Result<(), ractor::SpawnErr> {
    let flow = Flow::new(format!("raft/recorder-cost-{runtime}/1"));
    let (address, handle) = spawn::<Idler>(&flow, "idler", Placement::Runtime, (), None).await?;
    let done = Arc::new(Notify::new());
    let (mut on, mut off) = (f64::INFINITY, f64::INFINITY);
    for round in 0..2 * ROUNDS {
        let recording = round % 2 == 0;
        flow.set_recording(recording);
        let began = Instant::now();
        for _ in 0..MESSAGES / BURST {
            for index in 1..BURST {
                let _ = address.send(Origin::default(), Word::Nothing(index.into()));
            }
            let _ = address.send(Origin::default(), Word::Done(done.clone()));
            done.notified().await;
        }
        let each = began.elapsed().as_nanos() as f64 / f64::from(MESSAGES);
        let quickest = if recording { &mut on } else { &mut off };
        *quickest = quickest.min(each);
    }
    println!("{runtime:<15} message: {on:>6.1} ns on, {off:>6.1} ns off, {:>6.1} ns for the recorder", on - off);
    println!(
        "{runtime:<15} recorder: {} events, {} lost, {} KiB of memory, {} KiB at most",
        flow.recorded_events(),
        flow.lost_events(),
        flow.recorder_bytes() / 1024,
        flow.recorder_limit() / 1024
    );
    address.actor().stop(None);
    let _ = handle.await;
    Ok(())
}

/// Writes, events and CPU seconds of the slices in which the recorder was on, or off.
#[derive(Default)]
struct Spent {
    writes: u64,
    events: u64,
    seconds: f64,
    cpu: f64,
}

/// CPU time of all threads of this process so far, in seconds. 0 where the system does not tell.
fn cpu() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(of_thread).sum::<f64>() / 1e9
}

async fn writes() -> Result<(), Box<dyn std::error::Error>> {
    let data = tempfile::tempdir()?;
    let free = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = free.iter().map(|port| Ok(port.local_addr()?.to_string())).collect::<std::io::Result<Vec<_>>>()?;
    drop(free);
    let members = (1..).zip(addresses).collect::<Vec<(u64, String)>>();
    let mut nodes = Vec::new();
    for (id, _) in &members {
        let node = Node::builder(*id, Kv::default).cluster(members.clone()).data_dir(data.path().join(id.to_string()));
        nodes.push(node.spawn().await?);
    }
    for node in &nodes {
        node.read(Consistency::Linearizable, |_| ()).await?;
    }
    let leader = nodes.iter().find(|node| node.status().role == Role::Leader).ok_or("nobody leads")?.clone();
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let client = |client: usize| {
        let (node, done, stop) = (leader.clone(), done.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                if node.propose(Command::put(format!("{client}"), vec![7; 64])).await.is_ok() {
                    done.fetch_add(1, Relaxed);
                }
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let mut spent = [Spent::default(), Spent::default()];
    for slice in 0..SLICES + 10 {
        // In turns, and neither always first of a pair: off on on off.
        let on = matches!(slice % 4, 1 | 2);
        nodes.iter().for_each(|node| node.flow().set_recording(on));
        let events = || nodes.iter().map(|node| node.flow().recorded_events()).sum::<u64>();
        let before = (done.load(Relaxed), events(), cpu(), Instant::now());
        tokio::time::sleep(SLICE).await;
        // The first ones warm up.
        if slice >= 10 {
            let spent = &mut spent[usize::from(on)];
            spent.writes += done.load(Relaxed) - before.0;
            spent.events += events() - before.1;
            spent.cpu += cpu() - before.2;
            spent.seconds += before.3.elapsed().as_secs_f64();
        }
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.await?;
    }
    for node in nodes {
        node.shutdown().await?;
    }
    let [off, on] = spent;
    let each = |spent: &Spent| (spent.writes as f64 / spent.seconds, spent.cpu * 1e6 / spent.writes as f64);
    let ((on_speed, on_cpu), (off_speed, off_cpu)) = (each(&on), each(&off));
    println!(
        "{CLIENTS} clients, 3 nodes: {on_speed:.0} writes/s on, {off_speed:.0} off: {:+.1} %; CPU a write: {on_cpu:.1} µs on, \
         {off_cpu:.1} µs off: {:+.1} %; {:.1} events a write",
        100.0 * (on_speed / off_speed - 1.0),
        100.0 * (on_cpu / off_cpu - 1.0),
        on.events as f64 / on.writes as f64
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flow = Flow::new("raft/recorder-cost/1".into());
    let server = flow.actor("server");
    let clock = alone(|| {
        black_box(tokio::time::Instant::now());
    });
    let note = alone(|| {
        black_box(flow.note(server, Origin::default(), "Note", Mark::default()));
    });
    println!("reading the clock: {clock:.1} ns (a message reads it three times); writing a note: {note:.1} ns");
    tokio::runtime::Builder::new_current_thread().build()?.block_on(run("current-thread"))?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?.block_on(run("multi-thread"))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(writes())
}
