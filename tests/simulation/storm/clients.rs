//! Clients: a call at a time each, to any node, and what came of it is written down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::{
    Client,
    error::ProposeError,
    kv::{Command, Kv, Outcome, Output},
    node::{Consistency, Node},
    raft::LogIndex,
    testing::Cluster,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::plan::Plan;
use crate::linear::{Act, Call, Moment, Value};

/// So many calls at most have one key that is swapped: their order is searched for.
const SWAPS_PER_KEY: u64 = 40;
/// Keys that are only written and read.
const REGISTERS: u64 = 3;

/// What all clients did.
#[derive(Default)]
pub struct History {
    pub over: AtomicBool,
    /// Numbers beginnings and ends of calls.
    clock: AtomicU64,
    /// How many calls on keys that are swapped there were.
    swaps: AtomicU64,
    pub calls: Mutex<Vec<Told>>,
    /// Values of writes that are "not applied", as their clients were told.
    pub refused: Mutex<Vec<Value>>,
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// A call, and where in the log its answer says it stands.
#[derive(Clone, Debug)]
pub struct Told {
    pub key: String,
    pub call: Call,
    /// `None`: no answer, or one that does not say.
    pub index: Option<LogIndex>,
    /// Whether it promised to see what was answered before it began.
    pub fresh: bool,
    /// What it promised to see at least.
    pub at_least: LogIndex,
}

impl History {
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().expect("no client panics with it").entry(what).or_default() += 1;
    }

    fn now(&self) -> Moment {
        // 0 is before everything.
        self.clock.fetch_add(1, Relaxed) + 1
    }

    fn swap_key(&self) -> String {
        format!("s/{}", self.swaps.fetch_add(1, Relaxed) / SWAPS_PER_KEY)
    }

    fn tell(&self, told: Told) {
        self.calls.lock().expect("no client panics with it").push(told);
    }
}

pub struct Worker {
    cluster: Cluster<Kv>,
    history: Arc<History>,
    random: SmallRng,
    number: u64,
    count: u64,
    writes: u64,
    swaps: u64,
    thinking: std::ops::Range<u64>,
    /// With a session: of its own, through one node as long as that runs.
    session: Option<Option<Client<Kv>>>,
    patience: Duration,
    /// The highest index that it was told.
    seen: LogIndex,
}

/// What a read saw at its key.
struct Sight {
    value: Option<Value>,
    at: LogIndex,
}

impl Worker {
    pub fn new(plan: &Plan, cluster: &Cluster<Kv>, history: &Arc<History>, number: u64) -> Self {
        Worker {
            cluster: cluster.clone(),
            history: history.clone(),
            random: SmallRng::seed_from_u64(plan.seed.wrapping_mul(1000) + number),
            number,
            count: 0,
            writes: plan.writes,
            swaps: plan.swaps,
            thinking: plan.thinking.clone(),
            session: (number <= plan.sessions).then_some(None),
            patience: 3 * plan.config.request_timeout,
            seen: 0,
        }
    }

    pub async fn work(mut self) {
        while !self.history.over.load(Relaxed) {
            let kind = self.random.random_range(0..100);
            if kind < self.swaps {
                self.swap().await;
            } else if kind < self.swaps + self.writes {
                self.write().await;
            } else {
                self.read().await;
            }
            let pause = self.random.random_range(self.thinking.clone()).max(1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn value(&mut self) -> Value {
        self.count += 1;
        self.number << 32 | self.count
    }

    async fn write(&mut self) {
        let (key, value) = (format!("r/{}", self.random.random_range(0..REGISTERS)), self.value());
        let command = Command::put(key.clone(), bytes(value));
        self.change(key, value, command, |_| Some(Act::Write(value)), Act::Write(value)).await;
    }

    async fn swap(&mut self) {
        let (key, value) = (self.history.swap_key(), self.value());
        match self.random.random_range(0..4) {
            0 => {
                let command = Command::put(key.clone(), bytes(value));
                self.change(key, value, command, |_| Some(Act::Write(value)), Act::Write(value)).await;
            }
            1 => {
                let answered = |outcome: Outcome| match outcome {
                    Outcome::Delete(delete) => {
                        Some(Act::Delete { found: delete.existed.then(|| number(&delete.previous)) })
                    }
                    _ => None,
                };
                let command = Command::delete(key.clone());
                self.change(key, value, command, answered, Act::Delete { found: None }).await;
            }
            _ => {
                // What it finds, so that some succeed; as stale as it may be.
                let expect = self.look(&key, Consistency::Stale).await.and_then(|sight| sight.value);
                let answered = |outcome: Outcome| match outcome {
                    Outcome::CompareAndSwap(swap) => {
                        Some(Act::Swap { expect, set: value, found: swap.current.as_ref().map(number) })
                    }
                    _ => None,
                };
                let command = Command::compare_and_swap(key.clone(), expect.map(bytes), bytes(value));
                let unanswered = Act::Swap { expect, set: value, found: None };
                self.change(key, value, command, answered, unanswered).await;
                self.history.count("swaps");
            }
        }
    }

    /// Makes a change, and writes down what became of it.
    async fn change(
        &mut self,
        key: String,
        value: Value,
        command: Command,
        answered: impl FnOnce(Outcome) -> Option<Act>,
        unanswered: Act,
    ) {
        let begun = self.history.now();
        let outcome = self.propose(command).await;
        let ended = self.history.now();
        let told = match outcome {
            Ok((output, index)) => {
                let act = output.outcome.and_then(answered).expect("the answer is of the command's kind");
                self.seen = self.seen.max(index.unwrap_or(0));
                Told { key, call: Call { begun, ended: Some(ended), act }, index, fresh: true, at_least: 0 }
            }
            Err(error) if error.may_have_been_applied() => {
                self.history.count("unknown");
                Told { key, call: Call { begun, ended: None, act: unanswered }, index: None, fresh: true, at_least: 0 }
            }
            Err(_) => {
                self.history.count("refused");
                // Nobody is there, or nobody leads.
                tokio::time::sleep(Duration::from_millis(15)).await;
                return self.history.refused.lock().expect("no client panics with it").push(value);
            }
        };
        self.history.tell(told);
    }

    async fn propose(&mut self, command: Command) -> Result<(Output, Option<LogIndex>), ProposeError> {
        if self.session.is_none() {
            let node = self.node();
            let committed = self.cluster.propose_on(node, command).await?;
            return Ok((committed.output, Some(committed.index)));
        }
        let Some(client) = self.client() else { return Err(ProposeError::Unavailable { node: 0 }) };
        let answer = tokio::time::timeout(2 * self.patience, client.propose(command)).await;
        let answer = answer.unwrap_or_else(|_| panic!("a client with a session hangs\n{}", self.cluster.describe()));
        if matches!(answer, Err(ProposeError::Unavailable { .. } | ProposeError::Unknown { .. })) {
            // Its node has perhaps stopped.
            self.session = Some(None);
        }
        let output = answer?;
        self.history.count("session commands");
        let index = match &output.outcome {
            Some(Outcome::Put(put)) => Some(put.revision),
            Some(Outcome::Delete(delete)) => Some(delete.revision),
            Some(Outcome::CompareAndSwap(swap)) if swap.swapped => Some(swap.revision),
            _ => None,
        };
        Ok((output, index))
    }

    fn client(&mut self) -> Option<Client<Kv>> {
        if matches!(self.session, Some(None)) {
            let number = self.node();
            let node: Node<Kv> = self.cluster.node(number)?;
            self.session = Some(Some(node.client().with_timeout(self.patience)));
        }
        self.session.clone().flatten()
    }

    async fn read(&mut self) {
        let swapped = self.random.random_range(0..100) < self.swaps;
        let key =
            if swapped { self.history.swap_key() } else { format!("r/{}", self.random.random_range(0..REGISTERS)) };
        let (consistency, what) = match self.random.random_range(0..8) {
            0 => (Consistency::Stale, "stale reads"),
            1 => (Consistency::AtLeast(self.seen), "reads of an index"),
            2 | 3 => (Consistency::Lease, "lease reads"),
            _ => (Consistency::Linearizable, "reads"),
        };
        let begun = self.history.now();
        let sight = self.look(&key, consistency).await;
        let ended = Some(self.history.now());
        let Some(Sight { value, at }) = sight else { return };
        self.history.count(what);
        let fresh = matches!(consistency, Consistency::Linearizable | Consistency::Lease);
        let at_least = if let Consistency::AtLeast(index) = consistency { index } else { 0 };
        if fresh {
            self.seen = self.seen.max(at);
        }
        self.history.tell(Told {
            key,
            call: Call { begun, ended, act: Act::Read(value) },
            index: Some(at),
            fresh,
            at_least,
        });
    }

    async fn look(&mut self, key: &str, consistency: Consistency) -> Option<Sight> {
        let (node, key) = (self.node(), key.to_owned());
        let query = move |store: &Kv| store.get(key.as_bytes()).map(|value| number(&value.bytes));
        let (value, at) = self.cluster.read_on(node, consistency, query).await.ok()?;
        Some(Sight { value, at })
    }

    /// Any node, running or not: its client does not know.
    fn node(&mut self) -> u64 {
        let ids = self.cluster.ids();
        ids[self.random.random_range(0..ids.len())]
    }
}

fn bytes(value: Value) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// What a value says.
pub fn number(bytes: &Bytes) -> Value {
    Value::from_be_bytes(bytes[..].try_into().expect("every value is a number"))
}
