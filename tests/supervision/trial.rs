//! One act with its blows: played, looked at, and told.

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

use super::{
    acts::{ACTS, Act},
    checks,
    stage::Stage,
    strike::{Blow, Plan, Struck},
};

/// Messages said in an act, and how often.
pub type Heard = BTreeMap<(&'static str, &'static str), usize>;

/// Which blows fall in which act.
#[derive(Clone, Debug)]
pub struct Trial {
    pub act: Act,
    pub blows: Vec<Blow>,
}

/// What became of a trial.
pub struct Outcome {
    pub struck: Vec<Option<Struck>>,
    pub heard: Heard,
    pub complaints: Vec<String>,
}

pub fn seed(act: Act) -> u64 {
    400 + ACTS.iter().position(|other| *other == act).expect("all are there") as u64
}

/// Plays an act from its beginning to its end, and looks at what is left.
async fn play(trial: &Trial) -> Outcome {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let stage = Stage::set(Plan::of(&trial.blows), seed(trial.act)).await;
    play_on(stage, trial, tasks).await
}

/// As [`play`], on a stage that is set; so many tasks may be left in the end.
pub async fn play_on(stage: Stage, trial: &Trial, tasks: usize) -> Outcome {
    let plan = stage.plan.clone();
    let load = stage.begin();
    trial.act.play(&stage).await;
    plan.disarm();
    checks::serves(&stage).await;
    let starts = plan.starts();
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
pub fn rehearse() -> BTreeMap<Act, Heard> {
    let trials: Vec<_> = ACTS.into_iter().map(|act| Trial { act, blows: Vec::new() }).collect();
    let outcomes = run_all(&trials);
    let failed: Vec<_> = trials.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.complaints.is_empty()).collect();
    for (trial, outcome) in &failed {
        eprintln!("{:?}, though nobody died: {:#?}", trial.act, outcome.complaints);
    }
    assert!(failed.is_empty(), "the acts themselves must go well");
    trials.iter().zip(outcomes).map(|(trial, outcome)| (trial.act, outcome.heard)).collect()
}

/// Deaths that were asked for need not be printed, each with its backtrace.
pub fn hush() {
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

fn describe(trial: &Trial) -> String {
    let mut text = format!("{:?}", trial.act);
    for Blow { cell, nth, .. } in &trial.blows {
        let _ = write!(text, ", {cell} (time {nth})");
    }
    text
}

/// Plays them, prints what failed, and returns how many went well.
pub fn judge(name: &str, trials: &[Trial]) -> usize {
    let began = Instant::now();
    tell(name, trials, &run_all(trials), began)
}

/// Prints what failed, and returns how many went well.
pub fn tell(name: &str, trials: &[Trial], outcomes: &[Outcome], began: Instant) -> usize {
    let mut healed = 0;
    for (trial, outcome) in trials.iter().zip(outcomes) {
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
