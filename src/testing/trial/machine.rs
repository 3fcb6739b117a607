//! Stands around the machine that is tried, on every node, and compares what they all do.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message;

use crate::{
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
};

/// States are compared at every so manieth entry, besides where snapshots are.
const COMPARED: LogIndex = 8;

/// What is known of the machine that is tried.
pub(super) struct Subject<M, S> {
    pub make: Box<dyn Fn() -> M + Send + Sync>,
    pub state: Box<dyn Fn(&M) -> S + Send + Sync>,
    pub invariant: Invariant<M>,
    /// A command and an output in words.
    pub show: (Show, Show),
}

/// `Err` says what does not hold.
pub(super) type Invariant<M> = Box<dyn Fn(&M) -> Result<(), String> + Send + Sync>;

/// Says in words what is encoded.
pub(super) type Show = fn(&[u8]) -> String;

/// A command of the machine with a number that no other command has.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Numbered {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub command: Vec<u8>,
}

/// What it came to, and where.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Outcome {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub output: Vec<u8>,
}

/// What all nodes of one cluster have done, in all their lives. Clones are the same.
pub(super) struct Findings<S>(Arc<Mutex<Found<S>>>);

struct Found<S> {
    entries: BTreeMap<LogIndex, Applied>,
    /// Where each command stands.
    places: BTreeMap<u64, LogIndex>,
    states: BTreeMap<LogIndex, S>,
    restored: u64,
    wrong: Option<String>,
}

/// What was applied at an index.
#[derive(Clone)]
pub(super) struct Applied {
    pub number: u64,
    pub output: Vec<u8>,
}

impl<S> Clone for Findings<S> {
    fn clone(&self) -> Self {
        Findings(self.0.clone())
    }
}

impl<S: PartialEq + Debug> Findings<S> {
    pub fn new() -> Self {
        let (entries, places, states) = Default::default();
        Findings(Arc::new(Mutex::new(Found { entries, places, states, restored: 0, wrong: None })))
    }

    /// The first thing that was wrong.
    pub fn wrong(&self) -> Option<String> {
        self.found().wrong.clone()
    }

    pub fn at(&self, index: LogIndex) -> Option<Applied> {
        self.found().entries.get(&index).cloned()
    }

    /// How many commands were applied, and how many snapshots restored.
    pub fn counts(&self) -> (u64, u64) {
        let found = self.found();
        (found.entries.len() as u64, found.restored)
    }

    fn found(&self) -> MutexGuard<'_, Found<S>> {
        // A machine that panics does so elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, wrong: String) {
        self.found().wrong.get_or_insert(wrong);
    }

    fn applied(&self, previous: LogIndex, at: LogIndex, applied: Applied, command: &[u8], show: (Show, Show)) {
        let mut found = self.found();
        let skipped = found.entries.range(previous + 1..at.max(previous + 1)).next().map(|(index, _)| *index);
        let number = applied.number;
        let place = *found.places.entry(number).or_insert(at);
        let known = found.entries.entry(at).or_insert_with(|| applied.clone()).clone();
        let wrong = if at <= previous {
            format!("entry {at} was applied after entry {previous}")
        } else if let Some(skipped) = skipped {
            format!("entry {skipped} was skipped between {previous} and {at}")
        } else if known.number != number {
            format!("two nodes applied different commands at {at}")
        } else if place != at {
            format!("{} was applied at {place} and again at {at}", show.0(command))
        } else if known.output != applied.output {
            let (command, one, other) = (show.0(command), show.1(&known.output), show.1(&applied.output));
            format!(
                "the machine is not deterministic: {command} at {at} gave {one} on one node, and {other} on another"
            )
        } else {
            return;
        };
        found.wrong.get_or_insert(wrong);
    }

    fn reached(&self, at: LogIndex, state: S, how: &str) {
        let mut found = self.found();
        let wrong = match found.states.get(&at) {
            Some(known) if *known != state => {
                format!("two states at {at}: {known:?} on one node, and {state:?} on another, {how}")
            }
            Some(_) => return,
            None => return drop(found.states.insert(at, state)),
        };
        found.wrong.get_or_insert(wrong);
    }
}

/// The machine of one life of one node.
pub(super) struct OnTrial<M, S> {
    pub machine: M,
    /// The last entry that it has applied.
    pub at: LogIndex,
    subject: Arc<Subject<M, S>>,
    findings: Findings<S>,
}

impl<M, S> OnTrial<M, S> {
    pub fn new(subject: &Arc<Subject<M, S>>, findings: &Findings<S>) -> Self {
        OnTrial { machine: (subject.make)(), at: 0, subject: subject.clone(), findings: findings.clone() }
    }

    pub fn state(&self) -> S {
        (self.subject.state)(&self.machine)
    }
}

impl<M, S> StateMachine for OnTrial<M, S>
where
    M: StateMachine,
    S: PartialEq + Debug + Send + 'static,
{
    type Command = Numbered;
    type Output = Outcome;

    fn apply(&mut self, at: LogIndex, Numbered { number, command }: Numbered) -> Outcome {
        let decoded = M::Command::decode(&command[..]).expect("it was encoded from one");
        let output = self.machine.apply(at, decoded).encode_to_vec();
        let applied = Applied { number, output: output.clone() };
        self.findings.applied(self.at, at, applied, &command, self.subject.show);
        self.at = at;
        if let Err(broken) = (self.subject.invariant)(&self.machine) {
            self.findings.object(format!("the invariant does not hold after entry {at}: {broken}"));
        }
        if at.is_multiple_of(COMPARED) {
            self.findings.reached(at, self.state(), "which came there by other entries, or from a snapshot");
        }
        Outcome { index: at, output }
    }

    fn snapshot(&self) -> impl Snapshot {
        self.findings.reached(self.at, self.state(), "which takes a snapshot there");
        Marked { at: self.at, snapshot: self.machine.snapshot() }
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut at = [0; 8];
        bytes.read_exact(&mut at)?;
        self.machine.restore(bytes)?;
        self.at = LogIndex::from_le_bytes(at);
        self.findings.reached(self.at, self.state(), "which restored a snapshot of it");
        self.findings.found().restored += 1;
        Ok(())
    }
}

/// A snapshot that knows which entry it ends with.
struct Marked<T> {
    at: LogIndex,
    snapshot: T,
}

impl<T: Snapshot> Snapshot for Marked<T> {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.at.to_le_bytes())?;
        self.snapshot.write(to)
    }
}
