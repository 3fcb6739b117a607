//! Clients that put, delete, compare-and-swap and read a few keys, all of them the same ones, and write down when they asked
//! what, when they were answered, and what.
//!
//! A client that gets no answer leaves its operation open for ever and goes on with the next. Keys are given up after
//! [`OPERATIONS_OF_A_KEY`] operations for new ones, so that the history of each can be checked by itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    error::ProposeError,
    kv::pb::{CompareAndSwapRequest, Consistency, DeleteRequest, GetRequest, PutRequest, kv_client::KvClient},
    rpc::error::propose_error,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, transport::Channel};

use crate::{client, server::PATIENCE};

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a client that was refused leaves the servers alone, and one that asks only one of them.
const PAUSE: Duration = Duration::from_millis(5);
const FAITHFUL_PAUSE: Duration = Duration::from_millis(50);

/// No more than the check of one key can keep in mind.
pub const OPERATIONS_OF_A_KEY: u64 = 50;

/// All keys of these clients begin with it.
pub const PREFIX: &str = "history/";

/// What was asked.
#[derive(Clone, Debug)]
pub enum Call {
    Put(String),
    Delete,
    Swap { expect: Option<String>, set: String },
    Get,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Put { revision: u64 },
    Deleted { previous: Option<String>, revision: u64 },
    Swapped { swapped: bool, current: Option<String>, revision: u64 },
    Got { value: Option<String>, revision: u64, applied_index: u64 },
    Refused,
    Unknown,
}

/// One call. `began` and `ended` are drawn from one counter.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub call: Call,
    pub began: u64,
    pub ended: u64,
    pub answer: Answer,
}

/// The clients.
pub struct Clients {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

struct Shared {
    operations: Mutex<Vec<Operation>>,
    answered: watch::Sender<usize>,
    clock: AtomicU64,
    /// How often each of the lanes was used: what the keys are named after.
    lanes: [AtomicU64; 3],
    /// What was last seen at a key, for swaps that may succeed.
    seen: Mutex<BTreeMap<String, Option<String>>>,
}

impl Clients {
    /// Each of them asks any of the addresses, whether anybody listens there or not. Besides, each address has so many
    /// faithful readers, who ask nobody else: who is cut off, or stands still, has questions waiting.
    pub fn start(addresses: &BTreeMap<u64, String>, clients: u64, readers: u64, seed: u64) -> Clients {
        let shared = Arc::new(Shared {
            operations: Mutex::default(),
            answered: watch::channel(0).0,
            clock: AtomicU64::new(0),
            lanes: Default::default(),
            seen: Mutex::default(),
        });
        let stop = watch::channel(false).0;
        let mut tasks = JoinSet::new();
        for number in 0..clients + readers * addresses.len() as u64 {
            let connections = addresses.values().map(|address| client::kv(address)).collect();
            let random = SmallRng::seed_from_u64(seed * 1000 + number);
            let (target, faithful) = (number as usize, number >= clients);
            let client = Client { number, attempts: 0, connections, target, faithful, random };
            tasks.spawn(client.run(shared.clone(), stop.subscribe()));
        }
        Clients { shared, stop, tasks }
    }

    /// Waits until so many more calls are answered.
    pub async fn go_on(&self, more: usize) {
        let mut answered = self.shared.answered.subscribe();
        let enough = *answered.borrow_and_update() + more;
        let reached = timeout(2 * PATIENCE, answered.wait_for(|now| *now >= enough)).await;
        reached.unwrap_or_else(|_| panic!("only {} calls are answered", *self.shared.answered.borrow())).expect("ours");
    }

    /// Lets every client finish its last call.
    pub async fn stop(mut self) -> Vec<Operation> {
        self.stop.send_replace(true);
        while let Some(client) = timeout(PATIENCE, self.tasks.join_next()).await.expect("no client hangs") {
            client.expect("no client panics");
        }
        std::mem::take(&mut *self.shared.operations.lock().expect("no client panics"))
    }
}

struct Client {
    number: u64,
    attempts: u64,
    connections: Vec<KvClient<Channel>>,
    target: usize,
    faithful: bool,
    random: SmallRng,
}

impl Client {
    async fn run(mut self, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            self.attempts += 1;
            let key = self.draw_key(&shared);
            let call = self.draw_call(&shared, &key);
            let began = shared.clock.fetch_add(1, SeqCst);
            let asked = timeout(ANSWER, self.ask(&key, &call)).await;
            let answer = match asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
                Ok(answer) => answer,
                Err(status) => self.refused(&call, &status).await,
            };
            let ended = shared.clock.fetch_add(1, SeqCst);
            shared.note(Operation { key, call, began, ended, answer });
        }
    }

    fn draw_key(&mut self, shared: &Shared) -> String {
        let lane = self.random.random_range(0..shared.lanes.len());
        let used = shared.lanes[lane].fetch_add(1, SeqCst);
        format!("{PREFIX}{lane}/{}", used / OPERATIONS_OF_A_KEY)
    }

    fn draw_call(&mut self, shared: &Shared, key: &str) -> Call {
        // Nobody else ever writes it.
        let value = format!("{}/{}", self.number, self.attempts);
        match self.random.random_range(0..100) {
            _ if self.faithful => Call::Get,
            0..30 => Call::Put(value),
            30..35 => Call::Delete,
            35..65 => {
                let expect = shared.seen.lock().expect("no client panics").get(key).cloned().flatten();
                Call::Swap { expect, set: value }
            }
            _ => Call::Get,
        }
    }

    async fn ask(&mut self, key: &str, call: &Call) -> Result<Answer, Status> {
        let count = self.connections.len();
        let consistency = if self.random.random_bool(0.3) { Consistency::Lease } else { Consistency::Linearizable };
        let connection = &mut self.connections[self.target % count];
        let key = key.to_owned().into();
        Ok(match call {
            Call::Put(value) => {
                let request = PutRequest { key, value: value.clone().into(), session: None };
                Answer::Put { revision: connection.put(request).await?.into_inner().revision }
            }
            Call::Delete => {
                let reply = connection.delete(DeleteRequest { key, session: None }).await?.into_inner();
                let previous = reply.existed.then(|| text(&reply.previous));
                Answer::Deleted { previous, revision: reply.revision }
            }
            Call::Swap { expect, set } => {
                let expect = expect.clone().map(Into::into);
                let request = CompareAndSwapRequest { key, expect, set: set.clone().into(), session: None };
                let reply = connection.compare_and_swap(request).await?.into_inner();
                let current = reply.current.as_deref().map(text);
                Answer::Swapped { swapped: reply.swapped, current, revision: reply.revision }
            }
            Call::Get => {
                let request = GetRequest { key, consistency: consistency.into(), at_least: 0 };
                let reply = connection.get(request).await?.into_inner();
                let (value, revision) = (reply.found.then(|| text(&reply.value)), reply.revision);
                Answer::Got { value, revision, applied_index: reply.applied_index }
            }
        })
    }

    /// Turns to the next node.
    async fn refused(&mut self, call: &Call, status: &Status) -> Answer {
        if self.faithful {
            sleep(FAITHFUL_PAUSE).await;
        } else {
            self.target += 1;
            sleep(PAUSE).await;
        }
        let error: ProposeError = propose_error(status, 0);
        match call {
            Call::Get => Answer::Refused,
            _ if error.may_have_been_applied() => Answer::Unknown,
            _ => Answer::Refused,
        }
    }
}

impl Shared {
    fn note(&self, operation: Operation) {
        let now = match (&operation.call, &operation.answer) {
            (Call::Put(value), Answer::Put { .. }) => Some(Some(value.clone())),
            (_, Answer::Deleted { .. }) => Some(None),
            (Call::Swap { set, .. }, Answer::Swapped { swapped: true, .. }) => Some(Some(set.clone())),
            (_, Answer::Swapped { current, .. }) => Some(current.clone()),
            (_, Answer::Got { value, .. }) => Some(value.clone()),
            _ => None,
        };
        let is_answered = now.is_some();
        if let Some(now) = now {
            self.seen.lock().expect("no client panics").insert(operation.key.clone(), now);
        }
        self.operations.lock().expect("no client panics").push(operation);
        if is_answered {
            self.answered.send_modify(|number| *number += 1);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
