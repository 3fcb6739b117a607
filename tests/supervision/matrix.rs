//! The supervision matrix (SAFETY: C04, C05): every actor × every message that it handles × before and after × killed and by
//! a panic, under load. The cells come out of the vocabulary of the actors, so that a new message is struck or fails here.
//!
//! A cell is played in an act in which its message is said. Each runs on a cluster of its own in simulated time, on a
//! thread of its own beside the others. `SEEDS=50` plays so many more pairs; `CELL="applier: Kill After Apply"` those cells
//! alone, and prints what there is to see.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use ractor_raft::testing::vocabulary;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    acts::{ACTS, Act},
    checks,
    stage::Stage,
    strike::{Blow, Cell, Plan, Struck, cells},
};

/// Messages said in an act, and how often.
type Heard = BTreeMap<(&'static str, &'static str), usize>;

/// Which blows fall in which act.
#[derive(Clone, Debug)]
struct Trial {
    act: Act,
    blows: Vec<Blow>,
}

/// What became of a trial.
struct Outcome {
    struck: Vec<Option<Struck>>,
    heard: Heard,
    complaints: Vec<String>,
}

fn seed(act: Act) -> u64 {
    400 + ACTS.iter().position(|other| *other == act).expect("all are there") as u64
}

/// Plays an act from its beginning to its end, and looks at what is left.
async fn play(trial: &Trial) -> Outcome {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let plan = Plan::of(&trial.blows);
    let stage = Stage::set(plan.clone(), seed(trial.act)).await;
    let load = stage.begin();
    trial.act.play(&stage).await;
    let starts = plan.starts();
    plan.disarm();
    checks::serves(&stage).await;
    stage.end(load).await;
    checks::agree(&stage).await;
    let struck = plan.struck();
    for (blow, struck) in trial.blows.iter().zip(&struck) {
        match struck {
            Some(struck) if trial.blows.len() == 1 => {
                checks::is_told(&stage, trial.act, blow.cell, struck);
                checks::restarts(&stage, trial.act, blow.cell, struck, &starts);
            }
            None if trial.blows.len() == 1 => stage.complain("it never came to it".to_owned()),
            _ => {}
        }
    }
    checks::leaves_nothing(&stage, tasks).await;
    for stranger in plan.strangers() {
        stage.complain(format!("the vocabulary knows no {stranger}"));
    }
    Outcome { struck, heard: plan.heard(), complaints: stage.complaints() }
}

/// On a runtime of its own; a panic in it is one more complaint.
fn run(trial: &Trial) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O");
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(trial)))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "no text".to_owned());
        Outcome { struck: Vec::new(), heard: Heard::new(), complaints: vec![format!("panicked: {text}")] }
    })
}

/// All of them, on all cores.
fn run_all(trials: &[Trial]) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let at = next.fetch_add(1, SeqCst)
                    && let Some(trial) = trials.get(at)
                {
                    let outcome = run(trial);
                    outcomes.lock().expect("nobody panics while it holds this").insert(at, outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("nobody panicked").into_values().collect()
}

/// What is said in each act when nobody dies. It is the same with a blow, up to the moment when that falls.
fn rehearse() -> BTreeMap<Act, Heard> {
    let trials: Vec<_> = ACTS.into_iter().map(|act| Trial { act, blows: Vec::new() }).collect();
    let outcomes = run_all(&trials);
    let failed: Vec<_> = trials.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.complaints.is_empty()).collect();
    for (trial, outcome) in &failed {
        eprintln!("{:?}, though nobody died: {:#?}", trial.act, outcome.complaints);
    }
    assert!(failed.is_empty(), "the acts themselves must go well");
    trials.iter().zip(outcomes).map(|(trial, outcome)| (trial.act, outcome.heard)).collect()
}

/// One blow at a cell: the first time it comes up at all, or a drawn time in a drawn act.
fn trial_of(cell: Cell, heard: &BTreeMap<Act, Heard>, random: Option<&mut SmallRng>) -> Option<Trial> {
    let count = |act: &Act| heard[act].get(&(cell.actor, cell.word)).copied().unwrap_or(0);
    let acts: Vec<_> = ACTS.into_iter().filter(|act| count(act) > 0).collect();
    let act = *acts.first()?;
    let (act, nth) = match random {
        None => (act, 1),
        Some(random) => {
            let act = acts[random.random_range(0..acts.len())];
            (act, random.random_range(1..=count(&act)))
        }
    };
    Some(Trial { act, blows: vec![Blow { cell, nth, after: None }] })
}

/// Deaths that were asked for need not be printed, each with its backtrace.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
            if !text.contains("was told to crash") {
                loud(panic);
            }
        }));
    });
}

fn wanted(cell: &Cell) -> bool {
    std::env::var("CELL").map_or(true, |wanted| cell.to_string().contains(&wanted))
}

fn describe(trial: &Trial) -> String {
    let mut text = format!("{:?}", trial.act);
    for Blow { cell, nth, .. } in &trial.blows {
        let _ = write!(text, ", {cell} (time {nth})");
    }
    text
}

/// Plays them, prints what failed, and returns how many went well.
fn judge(name: &str, trials: &[Trial]) -> usize {
    let began = Instant::now();
    let outcomes = run_all(trials);
    let mut healed = 0;
    for (trial, outcome) in trials.iter().zip(&outcomes) {
        if outcome.complaints.is_empty() {
            healed += 1;
            continue;
        }
        eprintln!("{name}: {} struck {:?}", describe(trial), outcome.struck);
        outcome.complaints.iter().for_each(|complaint| eprintln!("    {complaint}"));
    }
    let struck: usize = outcomes.iter().map(|outcome| outcome.struck.iter().flatten().count()).sum();
    println!("{name}: {} trials, {struck} blows fell, {healed} healed, in {:?}", trials.len(), began.elapsed());
    healed
}

#[test]
fn every_actor_dies_at_every_message() {
    hush();
    let heard = rehearse();
    let cells: Vec<_> = cells().into_iter().filter(wanted).collect();
    let mut random = SmallRng::seed_from_u64(4);
    let (mut first, mut later, mut unreached) = (Vec::new(), Vec::new(), Vec::new());
    for cell in &cells {
        match trial_of(*cell, &heard, None) {
            Some(trial) => first.push(trial),
            None => unreached.push(cell.to_string()),
        }
        later.extend(trial_of(*cell, &heard, Some(&mut random)));
    }
    println!("{} cells, {} actors", cells.len(), vocabulary().len());
    let healed = [judge("the first time", &first), judge("some time", &later)];
    assert_eq!(unreached, [""; 0], "messages that no act makes be said: add one, or leave it out with the reason");
    assert_eq!(healed, [first.len(), later.len()], "print one with CELL=… cargo test --test supervision every_actor");
}
