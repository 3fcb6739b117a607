//! Clients with sessions that write as fast as they are answered, and whose every write must count once.
//!
//! Each adds to a counter of its own by compare-and-swap: a step that was applied twice, or whose first answer got lost, finds
//! a number there that it does not expect. Beside it, on the same stream, it writes keys that nobody else writes: one that is
//! applied again later has another revision than its client was told.

use std::collections::BTreeMap;

use prost::Message;
use ractor_raft::{
    kv::{Command, Outcome, Output},
    node::Applied,
    rpc::SessionClient,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::server::PATIENCE;

/// The clients.
pub struct SessionLoad {
    steps: watch::Sender<usize>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Told>,
}

/// What one client was told.
pub struct Told {
    counter: String,
    steps: u64,
    /// The revision of each key.
    revisions: BTreeMap<String, u64>,
}

impl SessionLoad {
    /// Each of the clients knows all of the addresses, whether anybody listens there or not.
    pub fn start(addresses: &BTreeMap<u64, String>, clients: usize) -> SessionLoad {
        let (steps, stop) = (watch::channel(0).0, watch::channel(false).0);
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let client = SessionClient::connect(addresses.values()).expect("they are addresses");
            // Not before the test itself gives up.
            let client = client.with_timeout(2 * PATIENCE);
            tasks.spawn(run(number, client, steps.clone(), stop.subscribe()));
        }
        SessionLoad { steps, stop, clients: tasks }
    }

    /// Waits until so many more steps are made, by all of the clients together.
    pub async fn goes_on(&self, more: usize) {
        let mut steps = self.steps.subscribe();
        let enough = *steps.borrow_and_update() + more;
        let reached = timeout(2 * PATIENCE, steps.wait_for(|now| *now >= enough)).await;
        reached.unwrap_or_else(|_| panic!("only {} steps are made", *self.steps.borrow())).expect("it is ours");
    }

    /// Lets every client finish what it is at.
    pub async fn stop(mut self) -> Vec<Told> {
        self.stop.send_replace(true);
        let mut told = Vec::new();
        while let Some(client) = timeout(3 * PATIENCE, self.clients.join_next()).await.expect("no client hangs") {
            told.push(client.expect("no client panics"));
        }
        told
    }
}

/// Asserts of each write that it is there, once, as its client was told, given all that the nodes have.
pub fn assert_once(told: &[Told], state: &BTreeMap<Vec<u8>, (Vec<u8>, u64)>) {
    for Told { counter, steps, revisions } in told {
        let counted = state.get(counter.as_bytes()).map(|(value, _)| String::from_utf8_lossy(value).into_owned());
        assert_eq!(counted, (*steps > 0).then(|| steps.to_string()), "{counter}");
        for (key, revision) in revisions {
            let found = state.get(key.as_bytes()).map(|(_, revision)| revision);
            assert_eq!(found, Some(revision), "{key} was acknowledged, once");
        }
    }
}

async fn run(
    number: usize,
    client: SessionClient,
    steps: watch::Sender<usize>,
    mut stop: watch::Receiver<bool>,
) -> Told {
    let mut told = Told { counter: format!("counter {number}"), steps: 0, revisions: BTreeMap::new() };
    while !*stop.borrow_and_update() {
        let next = told.steps + 1;
        let expected = (told.steps > 0).then(|| told.steps.to_string().into());
        let step = Command::compare_and_swap(told.counter.clone(), expected, next.to_string());
        let keys = [format!("session {number}/{next}a"), format!("session {number}/{next}b")];
        let put = |key: &String| propose(&client, Command::put(key.clone(), key.repeat(8)));
        let (stepped, first, second) = tokio::join!(propose(&client, step), put(&keys[0]), put(&keys[1]));
        let outcome = Output::decode(stepped.output).expect("it is the store's").outcome;
        let swapped = matches!(&outcome, Some(Outcome::CompareAndSwap(outcome)) if outcome.swapped);
        assert!(swapped, "step {next} of {} found {outcome:?}", told.counter);
        told.steps = next;
        told.revisions.extend(keys.into_iter().zip([first.index, second.index]));
        steps.send_modify(|steps| *steps += 1);
    }
    told
}

async fn propose(client: &SessionClient, command: Command) -> Applied {
    let answer = client.propose(command.encode_to_vec().into()).await;
    answer.unwrap_or_else(|error| panic!("a session tries until it is answered: {error}"))
}
