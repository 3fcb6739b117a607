//! Clients that write as fast as they are answered, and remember what they were told.
//!
//! Each attempt writes a key and a value that nobody else ever writes, so that the end shows of each whether it was
//! applied. A client whose outcome is unknown leaves the attempt open and goes on with the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    error::ProposeError,
    kv::pb::{PutRequest, kv_client::KvClient},
    rpc::{NO_FORWARD, error::propose_error},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Request, Status, metadata::MetadataValue, transport::Channel};

use crate::{client, server::PATIENCE};

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a client that was refused leaves the servers alone.
const PAUSE: Duration = Duration::from_millis(5);

/// What a client was told.
#[derive(Clone, Debug)]
pub enum Outcome {
    Acknowledged {
        revision: u64,
    },
    /// It certainly was not applied.
    Refused,
    Unknown,
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Write {
    key: String,
    value: String,
    /// The newest revision that anyone had been told of before it was sent.
    after: u64,
    outcome: Outcome,
}

/// The clients.
pub struct Load {
    history: Arc<History>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

struct History {
    writes: Mutex<Vec<Write>>,
    acknowledged: watch::Sender<usize>,
    newest: AtomicU64,
}

impl Load {
    /// Half of the clients have their writes forwarded, the others follow the leader's hint.
    pub fn start(addresses: &BTreeMap<u64, String>, clients: usize) -> Load {
        let history = Arc::new(History {
            writes: Mutex::default(),
            acknowledged: watch::channel(0).0,
            newest: AtomicU64::new(0),
        });
        let stop = watch::channel(false).0;
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let addresses: Vec<_> = addresses.values().cloned().collect();
            let client = Client { number, forward: number % 2 == 0, target: number % addresses.len(), addresses };
            tasks.spawn(client.run(history.clone(), stop.subscribe()));
        }
        Load { history, stop, clients: tasks }
    }

    /// How many writes have been acknowledged.
    pub fn acknowledged(&self) -> usize {
        *self.history.acknowledged.borrow()
    }

    /// Waits until so many more have been.
    pub async fn goes_on(&self, more: usize) {
        let mut acknowledged = self.history.acknowledged.subscribe();
        let enough = *acknowledged.borrow_and_update() + more;
        let reached = timeout(PATIENCE, acknowledged.wait_for(|now| *now >= enough)).await;
        let reached = reached.unwrap_or_else(|_| panic!("only {} writes are acknowledged", self.acknowledged()));
        reached.expect("the history is ours");
    }

    /// Lets every client finish its last attempt.
    pub async fn stop(mut self) -> Vec<Write> {
        self.stop.send_replace(true);
        while let Some(client) = timeout(PATIENCE, self.clients.join_next()).await.expect("no client hangs") {
            client.expect("no client panics");
        }
        std::mem::take(&mut *self.history.writes.lock().expect("no client panics"))
    }
}

/// Asserts of each write that it came out as its client was told, given all that the nodes have.
pub fn assert_kept(writes: &[Write], state: &BTreeMap<Vec<u8>, (Vec<u8>, u64)>) {
    let mut revisions = BTreeSet::new();
    for Write { key, value, after, outcome } in writes {
        let found = state.get(key.as_bytes());
        if let Some((found, revision)) = found {
            assert!(found == value.as_bytes(), "{key} was applied in part, or is another's");
            assert!(revision > after, "{key} has revision {revision} and was sent when {after} was known already");
            assert!(revisions.insert(*revision), "two writes have revision {revision}");
        }
        match outcome {
            Outcome::Acknowledged { revision } => {
                let found = found.map(|(_, revision)| revision);
                assert_eq!(found, Some(revision), "{key} was acknowledged");
            }
            Outcome::Refused => assert!(found.is_none(), "{key} was refused, and is there"),
            Outcome::Unknown => {}
        }
    }
}

struct Client {
    number: usize,
    forward: bool,
    addresses: Vec<String>,
    target: usize,
}

impl Client {
    async fn run(mut self, history: Arc<History>, stop: watch::Receiver<bool>) {
        let connect = |address: &String| (address.clone(), client::kv(address));
        let mut connections: BTreeMap<String, KvClient<Channel>> = self.addresses.iter().map(connect).collect();
        let mut attempt = 0;
        while !*stop.borrow() {
            attempt += 1;
            let key = format!("{}/{attempt}", self.number);
            let value = format!("{key} ").repeat(10);
            let after = history.newest.load(SeqCst);
            let target = &self.addresses[self.target];
            let connection = connections.get_mut(target).expect("each address has one");
            let outcome = match self.put(connection, &key, &value).await {
                Ok(revision) => {
                    history.newest.fetch_max(revision, SeqCst);
                    Outcome::Acknowledged { revision }
                }
                Err(status) => self.refused(&status).await,
            };
            let is_acknowledged = matches!(outcome, Outcome::Acknowledged { .. });
            history.writes.lock().expect("no client panics").push(Write { key, value, after, outcome });
            if is_acknowledged {
                history.acknowledged.send_modify(|number| *number += 1);
            }
        }
    }

    async fn put(&self, connection: &mut KvClient<Channel>, key: &str, value: &str) -> Result<u64, Status> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let mut request = Request::new(PutRequest { key, value, session: None });
        if !self.forward {
            request.metadata_mut().insert(NO_FORWARD, MetadataValue::from_static("1"));
        }
        let answer = timeout(ANSWER, connection.put(request)).await;
        let reply = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
        Ok(reply.into_inner().revision)
    }

    /// Turns to another node: the one that is named, or the next.
    async fn refused(&mut self, status: &Status) -> Outcome {
        let error = propose_error(status, 0);
        let leader = match &error {
            ProposeError::NotLeader { address, .. } => self.addresses.iter().position(|known| known == address),
            _ => None,
        };
        if leader.is_none() {
            sleep(PAUSE).await;
        }
        self.target = leader.unwrap_or((self.target + 1) % self.addresses.len());
        if error.may_have_been_applied() { Outcome::Unknown } else { Outcome::Refused }
    }
}
