//! Prints what the flight recorder costs: nanoseconds a message with it on and off, and its parts alone.
//!
//! `cargo run --release --example recorder_cost`
//!
//! One actor is sent bursts of messages and handles each by doing nothing, so that all one sees is the way of a
//! message. Rounds with the recorder on and off take turns, and the quickest of each are compared: whatever else runs on the
//! machine only makes a round slower. A round is half a millisecond, so that some of them are not disturbed.

use std::{hint::black_box, sync::Arc, time::Instant};

use ractor::ActorProcessingErr;
use ractor_raft::flow::{Actor, Context, Flow, Mark, Message, Origin, Placement, spawn};
use tokio::sync::Notify;

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
    Ok(())
}
