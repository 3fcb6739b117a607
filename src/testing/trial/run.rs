//! One seed of a trial: the cluster, its clients, and what must be true in the end.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Debug,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::FutureExt;
use prost::Message;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::{
    Dice, MakeCommand, Trial,
    history::{History, Operation, contradiction},
    machine::{Findings, Numbered, OnTrial},
};
use crate::{
    error::NodeError,
    node::{Consistency, RestartPolicy},
    raft::{LogIndex, NodeId},
    state_machine::StateMachine,
    testing::{Cluster, Fault, Nemesis, Told},
};

const CLIENTS: u64 = 4;

/// One seed.
pub(super) struct Run<M: StateMachine, S: PartialEq + Debug + Send + 'static> {
    seed: u64,
    pub(super) cluster: Cluster<OnTrial<M, S>>,
    pub(super) findings: Findings<S>,
    history: Arc<History>,
    done: Mutex<Vec<String>>,
}

impl<M, S> Run<M, S>
where
    M: StateMachine,
    S: PartialEq + Debug + Send + 'static,
{
    pub(super) async fn start(trial: &Trial<M, S>, seed: u64) -> Self {
        let (subject, findings) = (trial.subject.clone(), Findings::new());
        let found = findings.clone();
        // The budget is not what is looked at here.
        let policy = RestartPolicy { budget: 1000, window: Duration::from_secs(10) };
        let builder = Cluster::builder(move || OnTrial::new(&subject, &found));
        let builder = builder.nodes(trial.nodes).seed(seed).config(trial.config.clone()).restart_policy(policy);
        #[cfg(feature = "sqlite")]
        let builder = if seed.is_multiple_of(2) { builder.simulated_disks() } else { builder };
        Run { seed, cluster: builder.start().await, findings, history: Arc::default(), done: Mutex::default() }
    }

    /// From the first fault to the last check. `Err` also where a wait was in vain, or something else of this panicked.
    pub(super) async fn through(&self, trial: &Trial<M, S>) -> Result<BTreeMap<Fault, u64>, String> {
        let tried = AssertUnwindSafe(self.try_through(trial)).catch_unwind().await;
        self.history.over.store(true, Relaxed);
        // Nothing of it goes on while the next seed runs.
        for id in self.cluster.ids() {
            self.cluster.crash(id).await;
        }
        tried.unwrap_or_else(|panic| Err(panic_text(&*panic)))
    }

    async fn try_through(&self, trial: &Trial<M, S>) -> Result<BTreeMap<Fault, u64>, String> {
        let mut nemesis = Nemesis::new(&self.cluster, self.seed);
        if let Some(faults) = &trial.faults {
            nemesis = nemesis.only(faults);
        }
        // They end with this.
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(self.client(trial, client).work());
        }
        for _ in 0..trial.steps {
            let struck = nemesis.strike().await.to_string();
            self.done().push(struck);
            self.cluster.run_for(Duration::from_millis(50 + self.cluster.draw(400))).await;
            self.check()?;
        }
        nemesis.heal().await;
        self.serve(trial).await?;
        self.history.over.store(true, Relaxed);
        while let Some(client) = clients.join_next().await {
            client.map_err(|error| panic_text(&*error.into_panic()))?;
        }
        self.compare(trial).await?;
        Ok(nemesis.counts().clone())
    }

    /// What the nemesis has done.
    pub(super) fn done(&self) -> MutexGuard<'_, Vec<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After each step.
    fn check(&self) -> Result<(), String> {
        if let Some(wrong) = self.findings.wrong() {
            return Err(wrong);
        }
        for (id, told) in self.cluster.ends() {
            match told {
                // Disks that were told to fail, and those that were told to stop.
                Told::Stopped | Told::Failed(NodeError::Storage(_)) => {}
                Told::Failed(error) => return Err(format!("node {id} gave up: {error}")),
                Told::Panicked(cause) => return Err(format!("the root of node {id} fell: {cause}")),
            }
        }
        Ok(())
    }

    /// When all is mended.
    async fn serve(&self, trial: &Trial<M, S>) -> Result<(), String> {
        let patience = 10 * trial.config.election_timeout_max;
        let mut client = self.client(trial, CLIENTS);
        let served = tokio::time::timeout(patience, client.until_answered()).await.map(drop);
        served.or_else(|_| {
            self.check()?;
            Err(format!("it does not serve {patience:?} after all was mended\n{}", self.cluster.describe()))
        })
    }

    /// When the clients have ended.
    async fn compare(&self, trial: &Trial<M, S>) -> Result<(), String> {
        let last = self.client(trial, CLIENTS + 1).until_answered().await;
        self.cluster.until_applied(last).await;
        self.check()?;
        let mut states = Vec::new();
        for id in self.cluster.ids() {
            states.push((id, self.cluster.look(id, |machine: &OnTrial<M, S>| (machine.at, machine.state())).await));
        }
        for pair in states.windows(2) {
            let [(one, first), (other, second)] = pair else { unreachable!("windows of two") };
            if first != second {
                return Err(format!("in the end node {one} has {first:?}, and node {other} {second:?}"));
            }
        }
        let operations = self.history.operations();
        for Operation { index, wrote, .. } in &operations {
            let Some((number, output)) = wrote else { continue };
            match self.findings.at(*index) {
                Some(applied) if applied.number == *number && applied.output == *output => {}
                Some(applied) if applied.number == *number => {
                    return Err(format!("the command at {index} was answered with another output than was applied"));
                }
                _ => return Err(format!("a command was answered as applied at {index}, and is not there")),
            }
        }
        contradiction(&operations).map_or(Ok(()), Err)
    }

    fn client(&self, trial: &Trial<M, S>, number: u64) -> Client<M, S> {
        Client {
            cluster: self.cluster.clone(),
            history: self.history.clone(),
            command: trial.command.clone(),
            dice: Dice(SmallRng::seed_from_u64(self.seed.wrapping_mul(1000) + number)),
            in_session: number % 2 == 1,
            session: None,
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Calls one after the other, to any node.
struct Client<M: StateMachine, S: PartialEq + Debug + Send + 'static> {
    cluster: Cluster<OnTrial<M, S>>,
    history: Arc<History>,
    command: MakeCommand<M>,
    dice: Dice,
    /// Whether it tries a command again that may have been applied.
    in_session: bool,
    session: Option<crate::client::Client<OnTrial<M, S>>>,
}

impl<M, S> Client<M, S>
where
    M: StateMachine,
    S: PartialEq + Debug + Send + 'static,
{
    async fn work(mut self) {
        while !self.history.over.load(Relaxed) {
            let ids = self.cluster.ids();
            let id = ids[self.dice.below(ids.len() as u64) as usize];
            if self.dice.below(10) < 7 {
                self.propose(id).await;
            } else {
                self.read(id).await;
            }
            self.cluster.run_for(Duration::from_millis(self.dice.below(20))).await;
        }
    }

    async fn read(&mut self, id: NodeId) {
        let invoked = self.history.next();
        let read = self.cluster.read_on(id, Consistency::Linearizable, |machine| machine.at).await;
        if let Ok((index, _)) = read {
            let answered = self.history.next();
            self.history.note(Operation { invoked, answered, index, wrote: None });
        }
    }

    /// `None`: nobody knows what became of it, or it was refused.
    async fn propose(&mut self, id: NodeId) -> Option<LogIndex> {
        let number = self.history.next();
        let command = Numbered { number, command: (self.command)(&mut self.dice).encode_to_vec() };
        let invoked = self.history.next();
        let outcome = if self.in_session {
            if self.session.is_none() {
                self.session = self.cluster.node(id).map(|node| node.client().with_timeout(Duration::from_secs(2)));
            }
            let answer = self.session.as_ref()?.propose(command).await;
            if answer.is_err() {
                self.session = None;
            }
            answer.ok()?
        } else {
            self.cluster.propose_on(id, command).await.ok()?.output
        };
        let answered = self.history.next();
        let index = outcome.index;
        self.history.note(Operation { invoked, answered, index, wrote: Some((number, outcome.output)) });
        Some(index)
    }

    async fn until_answered(&mut self) -> LogIndex {
        loop {
            let leader = self.cluster.leader().await;
            if let Some(index) = self.propose(leader).await {
                return index;
            }
            self.cluster.run_for(Duration::from_millis(20)).await;
        }
    }
}
