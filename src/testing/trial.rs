//! Tries a state machine: replicas of it live through random faults, from seeds, and must agree.

mod history;
mod machine;
mod run;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Display, Formatter},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use prost::Message;
use rand::{RngExt, rngs::SmallRng};

use self::{
    machine::{Show, Subject},
    run::Run,
};
use super::Fault;
use crate::{config::Config, state_machine::StateMachine};

/// Tries a state machine of yours: three replicas of it, or more, live through random [`Fault`]s in simulated time while
/// clients send commands and read, once for each seed.
///
/// Checked, besides your [`invariant`](Trial::invariant) after every command: all replicas give the same output to the same
/// command and have the same state at the same entry, also when it came from a snapshot; every command
/// that was answered is there, with that output; no command is applied twice; what clients saw is linearizable; and once
/// all is mended the cluster serves again.
///
/// To be run on a current-thread runtime whose time is paused; then a seed gives the same run each time.
pub struct Trial<M: StateMachine, S> {
    subject: Arc<Subject<M, S>>,
    command: MakeCommand<M>,
    nodes: u64,
    seeds: u64,
    steps: u64,
    faults: Option<Vec<Fault>>,
    config: Config,
}

/// Makes a command.
type MakeCommand<M> = Arc<dyn Fn(&mut Dice) -> <M as StateMachine>::Command + Send + Sync>;

/// Chance for making commands, from the seed.
pub struct Dice(SmallRng);

impl Dice {
    /// A number from 0 to `bound`, without it, each as likely.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound)
    }
}

/// What a [`Trial`] found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In the run of this seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// The faults before it was noticed, the last ones.
    pub faults: Vec<String>,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Failure { seed, what, faults } = self;
        writeln!(f, "seed {seed}: {what}")?;
        writeln!(f, "The last faults before it was noticed: {}", faults.join("; "))?;
        match std::thread::current().name() {
            Some(test) if test != "main" => write!(f, "Run this seed alone: SEED={seed} cargo test {test}"),
            _ => write!(f, "Run this seed alone: SEED={seed}, and the same command"),
        }
    }
}

impl std::error::Error for Failure {}

/// What a [`Trial`] went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many commands were applied.
    pub commands: u64,
    /// How many snapshots were restored.
    pub restored: u64,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<Fault, u64>,
    /// A hash of all letters between the nodes: one for the same seeds of the same machine.
    pub fingerprint: u64,
}

impl Display for Passed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Passed { seeds, commands, restored, faults, .. } = self;
        let faults: u64 = faults.iter().filter(|(fault, _)| !fault.mends()).map(|(_, count)| count).sum();
        write!(
            f,
            "{seeds} seeds, {faults} faults, {commands} commands, {restored} snapshots restored: all replicas agree"
        )
    }
}

impl<M, S> Trial<M, S>
where
    M: StateMachine,
    S: PartialEq + Debug + Send + 'static,
{
    /// `make` makes an empty machine, as [`Node::builder`](crate::node::Node::builder) is given it; `state` is what replicas
    /// are compared by, so it should be all there is; `command` makes a command of random numbers.
    pub fn new(
        make: impl Fn() -> M + Send + Sync + 'static,
        state: impl Fn(&M) -> S + Send + Sync + 'static,
        command: impl Fn(&mut Dice) -> M::Command + Send + Sync + 'static,
    ) -> Self
    where
        M::Command: Debug,
        M::Output: Debug,
    {
        let show: (Show, Show) = (show::<M::Command>, show::<M::Output>);
        let subject = Subject { make: Box::new(make), state: Box::new(state), invariant: Box::new(|_| Ok(())), show };
        let mut config = Config::default();
        // Often, and in more than one chunk.
        (config.snapshot_threshold, config.snapshot_trailing, config.snapshot_chunk_bytes) = (40, 10, 1 << 10);
        config.snapshot_timeout = Duration::from_secs(1);
        // A client whose answer got lost should not stand idle for long.
        config.request_timeout = Duration::from_millis(500);
        Trial {
            subject: Arc::new(subject),
            command: Arc::new(command),
            nodes: 3,
            seeds: 20,
            steps: 40,
            faults: None,
            config,
        }
    }

    /// What must hold of a replica after each command; `Err` says what does not.
    ///
    /// # Panics
    /// If the trial has been run.
    pub fn invariant(mut self, invariant: impl Fn(&M) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let subject = Arc::get_mut(&mut self.subject).expect("nothing has been started with it");
        subject.invariant = Box::new(invariant);
        self
    }

    /// How many replicas there are. 3 without this.
    pub fn nodes(mut self, nodes: u64) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many seeds are run, from 0 on. 20 without this. The environment's `SEEDS` overrides it, and `SEED` is one alone.
    pub fn seeds(mut self, seeds: u64) -> Self {
        self.seeds = seeds;
        self
    }

    /// How many faults a seed has, and times in which something is mended. 40 without this, which is about ten seconds.
    pub fn steps(mut self, steps: u64) -> Self {
        self.steps = steps;
        self
    }

    /// Does only these. Without it all of [`Fault::ALL`] may occur.
    pub fn faults(mut self, faults: &[Fault]) -> Self {
        self.faults = Some(faults.to_vec());
        self
    }

    /// Settings of the nodes. Without this a snapshot is taken every 40 entries.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Runs all seeds.
    ///
    /// # Panics
    /// If anything is wrong, with what, and how to see it again.
    pub async fn run(&self) -> Passed {
        self.try_run().await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Runs all seeds, up to the first in which something is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn try_run(&self) -> Result<Passed, Failure> {
        let mut passed = Passed::default();
        for seed in seeds(self.seeds) {
            self.run_seed(seed, &mut passed).await?;
        }
        Ok(passed)
    }

    async fn run_seed(&self, seed: u64, passed: &mut Passed) -> Result<(), Failure> {
        let run = Run::start(self, seed).await;
        let counts = run.through(self).await.map_err(|what| {
            let done = run.done();
            Failure { seed, what, faults: done[done.len().saturating_sub(5)..].to_vec() }
        })?;
        let (commands, restored) = run.findings.counts();
        passed.seeds += 1;
        passed.commands += commands;
        passed.restored += restored;
        passed.fingerprint = passed.fingerprint.rotate_left(1) ^ run.cluster.network().fingerprint();
        for (fault, count) in counts {
            *passed.faults.entry(fault).or_default() += count;
        }
        Ok(())
    }
}

fn show<T: Message + Default + Debug>(encoded: &[u8]) -> String {
    T::decode(encoded).map_or_else(|error| error.to_string(), |decoded| format!("{decoded:?}"))
}

fn seeds(default: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    }
}
