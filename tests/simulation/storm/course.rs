//! One storm, from its start to the verdict.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use ractor_raft::{
    error::NodeError,
    flow::{Crash, Filter},
    kv::{Command, Kv},
    node::{NodeEvent, RestartPolicy},
    raft::{LogIndex, NodeId},
    testing::{Cluster, Invariants, Told},
};
use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::{
    clients::{History, Worker},
    plan::Plan,
    sky::Sky,
    verdict,
    watchers::{self, Seen},
    weather::Weather,
};

/// So many of each node's last messages are shown.
const LAST_MESSAGES: usize = 60;

/// By then all that is waited for has come, or never will.
const PATIENCE: Duration = Duration::from_secs(600);

/// A storm that left nothing broken.
pub struct Passed {
    pub events: u64,
    pub steps: u64,
    pub operations: u64,
    pub simulated: Duration,
    pub tally: BTreeMap<&'static str, u64>,
    pub fingerprint: u64,
    /// What it is made of: events, steps, letters, history.
    pub parts: [u64; 4],
}

/// What was broken, and the last messages before.
#[derive(Debug, Default)]
pub struct Failure {
    pub what: String,
    pub messages: String,
}

impl From<&str> for Failure {
    fn from(what: &str) -> Self {
        Failure { what: what.to_owned(), messages: String::new() }
    }
}

/// Runs the storm of this seed. `recorded`: with the last messages of each node, should it fail; that takes longer.
pub fn run(seed: u64, recorded: bool) -> Result<Passed, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing that could be missing");
    runtime.block_on(async {
        let mut plan = Plan::of(seed);
        let began = Instant::now();
        let mut storm = Storm::begin(&mut plan, recorded).await;
        let result = AssertUnwindSafe(storm.pass(&plan)).catch_unwind().await;
        let passed = match result {
            Ok(passed) => Ok(Passed { simulated: began.elapsed(), ..passed }),
            Err(panic) => {
                // What the rules have broken first is the cause of all that follows.
                let violation = storm.invariants.violation().map(|violation| violation.to_string());
                let at = format!(" [{} events, {:?}]", storm.sky.events(), began.elapsed());
                let what = violation.unwrap_or_else(|| text(&*panic)) + &at;
                Err(Failure { what, messages: if recorded { storm.last_messages(began) } else { String::new() } })
            }
        };
        // Names of actors are process-wide: nothing may be left of them.
        for id in storm.cluster.ids() {
            let _ = AssertUnwindSafe(storm.cluster.crash(id)).catch_unwind().await;
        }
        passed
    })
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

struct Storm {
    cluster: Cluster<Kv>,
    invariants: Invariants,
    sky: Sky,
    history: Arc<History>,
    weather: Weather,
}

impl Storm {
    async fn begin(plan: &mut Plan, recorded: bool) -> Self {
        let invariants = Invariants::new();
        let sky = Sky::new(plan.seed, plan.strikes, plan.events);
        let (over, told) = (sky.clone(), invariants.clone());
        let store = move || {
            let told = told.clone();
            Kv::default().watched_by(move |index, hash| told.state(index, u128::from_be_bytes(hash)))
        };
        // More than strikes spend, and less than actors that fall again and again.
        let policy = RestartPolicy { budget: 60, window: Duration::from_secs(10) };
        let builder = Cluster::builder(store)
            .nodes(plan.nodes)
            .seed(plan.random.random())
            .config(plan.config.clone())
            .restart_policy(policy)
            .simulated_disks()
            .recorded(recorded)
            .observed_by(invariants.clone())
            .sabotaged_by(move |node| over.over(node));
        let drift = plan.drift;
        let builder =
            builder.clock_rates(move |node| 1.0 + f64::from(drift) / 1000.0 * [1.0, -1.0, 0.4][node as usize % 3]);
        let cluster = builder.start().await;
        sky.gathers();
        let history = Arc::new(History::default());
        let weather = Weather::new(plan, &cluster, &history);
        Storm { cluster, invariants, sky, history, weather }
    }

    /// Everything, or the first thing that is broken.
    async fn pass(&mut self, plan: &Plan) -> Passed {
        let invariants = self.invariants.clone();
        tokio::select! {
            biased;
            violation = invariants.violated() => panic!("{violation}"),
            () = tokio::time::sleep(PATIENCE) => panic!("somebody waits for ever\n{}", self.cluster.describe()),
            passed = self.rage_and_mend(plan) => passed,
        }
    }

    async fn rage_and_mend(&mut self, plan: &Plan) -> Passed {
        let clients: Vec<_> = (1..=plan.clients)
            .map(|number| tokio::spawn(Worker::new(plan, &self.cluster, &self.history, number).work()))
            .collect();
        let goal = Arc::new(AtomicU64::new(0));
        let prefixes = ["", "r/", "s/"];
        let watchers: Vec<_> = (0..plan.watchers)
            .map(|number| {
                let prefix = prefixes[number as usize % prefixes.len()];
                tokio::spawn(watchers::watch(self.cluster.clone(), goal.clone(), plan.seed + number, prefix))
            })
            .collect();
        self.weather.rage(&self.sky).await;

        self.sky.clears();
        let mending = self.weather.mend();
        let election_timeout = plan.config.election_timeout_max;
        let served = timeout(10 * election_timeout, self.serves()).await;
        served.unwrap_or_else(|_| {
            panic!("it does not serve within ten election timeouts after all is mended\n{}", self.cluster.describe())
        });
        self.weather.settle().await;
        self.history.over.store(true, Relaxed);
        for client in clients {
            joined(client.await);
        }
        // One whose disk failed may still be about to end: as long as it has not applied what is written now, it is seen to.
        let last = self.serves().await;
        self.members(last).await;
        mending.end().await;
        // Whoever was still on its way to be added is added now, or never; one that gave up before it was told is started.
        self.start_members().await;
        let members = self.members(last).await;
        for id in self.cluster.ids() {
            if !members.contains(&id) {
                self.cluster.crash(id).await;
            }
        }
        let last = self.serves().await;
        self.applied_by(&members, last).await;
        goal.store(last, Relaxed);
        let mut seen = Vec::new();
        for watcher in watchers {
            let watched = timeout(Duration::from_secs(30), watcher).await;
            let watched = watched.unwrap_or_else(|_| panic!("a watcher waits for ever\n{}", self.cluster.describe()));
            seen.push(joined(watched));
        }
        self.nobody_died_of_itself();
        self.judge(&members, &seen).await
    }

    /// Writes through whoever leads, until it is done: one that was removed and not told may wait for its leader for as long as
    /// it likes. Where it stands.
    async fn serves(&self) -> LogIndex {
        loop {
            if let Some(leader) = self.cluster.known_leader()
                && let command = Command::put("served", 0_u64.to_be_bytes().to_vec())
                && let Ok(written) = self.cluster.propose_on(leader, command).await
            {
                return written.index;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Who belongs to the cluster at the end: all of them have applied `index`.
    async fn members(&self, index: LogIndex) -> Vec<NodeId> {
        let what = "a leader of a settled configuration whose servers all run";
        let settled = self.cluster.until(what, |cluster| {
            let leader = cluster.status(cluster.known_leader()?)?;
            let members: Vec<_> = leader.membership.addresses().map(|(id, _)| id).collect();
            let run = members.iter().all(|id| cluster.status(*id).is_some_and(|status| status.applied_index >= index));
            (!leader.membership.is_joint() && leader.membership.staged.is_empty() && run).then_some(members)
        });
        settled.await
    }

    /// A node that joins and hears no answer in time does not start, and says that it may have been added.
    async fn start_members(&self) {
        let leader = self.cluster.until("a leader", |cluster| cluster.status(cluster.known_leader()?)).await;
        for (id, _) in leader.membership.addresses() {
            if self.cluster.node(id).is_none() {
                self.cluster.restart(id).await;
            }
        }
    }

    async fn applied_by(&self, members: &[NodeId], index: LogIndex) {
        let all = |cluster: &Cluster<Kv>| {
            let applied = |id: &NodeId| cluster.status(*id).is_some_and(|status| status.applied_index >= index);
            members.iter().all(applied).then_some(())
        };
        self.cluster.until("all members to have applied everything", all).await;
    }

    /// The core's own assertions, and disks that fail without being told to, must not hide behind the supervision.
    fn nobody_died_of_itself(&self) {
        let meant = |cause: &str| cause.contains("killed") || cause.contains("was told to crash");
        for (id, event) in self.cluster.events() {
            match event {
                NodeEvent::ActorRestarted { path, cause } => {
                    assert!(meant(&cause), "{path} of node {id} died of itself: {cause}");
                }
                NodeEvent::SnapshotInstalled { .. } => self.history.count("snapshot installed"),
                _ => {}
            }
        }
        for (id, told) in self.cluster.ends() {
            let by_its_disk = || self.weather.spoils_disks();
            let meant = match &told {
                Told::Stopped => true,
                Told::Failed(NodeError::Storage(_)) if by_its_disk() => {
                    self.history.count("stopped by its disk");
                    true
                }
                Told::Failed(error) => meant(&error.to_string()),
                Told::Panicked(cause) => meant(cause),
            };
            assert!(meant, "node {id} gave up: {told:?}");
        }
    }

    async fn judge(&self, members: &[NodeId], seen: &[Seen]) -> Passed {
        let log = verdict::replay(&self.invariants.committed());
        let calls = self.history.calls.lock().expect("no client panicked").clone();
        for id in members {
            self.cluster.look(*id, verdict::holds_what_the_log_says(*id, &log)).await;
        }
        let refused = self.history.refused.lock().expect("no client panicked").clone();
        verdict::check_refused(&refused, &log);
        verdict::check_by_index(&calls, &log);
        let operations = verdict::check_without_index(&calls);
        for watcher in seen {
            let changes = verdict::check_watched(watcher, &log);
            (0..changes).for_each(|_| self.history.count("watched changes"));
        }

        let mut tally = self.history.counts.lock().expect("no client panicked").clone();
        for (kind, count) in &self.weather.tally {
            *tally.entry(kind).or_default() += count;
        }
        for (crash, count) in self.sky.struck() {
            tally.insert(if crash == Crash::Panic { "actor panics" } else { "actor killed" }, count);
        }
        let mut hasher = DefaultHasher::new();
        let histories: Vec<_> = calls.iter().map(|told| format!("{told:?}")).collect();
        histories.hash(&mut hasher);
        let (events, steps) = (self.sky.events(), self.invariants.steps());
        let network = self.cluster.network();
        let parts = [self.sky.fingerprint(), self.invariants.fingerprint(), network.fingerprint(), hasher.finish()];
        let mut hasher = DefaultHasher::new();
        (parts, events, steps, log.hash()).hash(&mut hasher);
        let fingerprint = hasher.finish();
        Passed { events, steps, operations, simulated: Duration::ZERO, tally, fingerprint, parts }
    }

    /// The last messages of all nodes, as one sequence.
    fn last_messages(&self, began: Instant) -> String {
        let mut messages = Vec::new();
        for id in self.cluster.ids() {
            let Some(node) = self.cluster.node(id) else { continue };
            let flow = node.flow();
            let epoch = began.elapsed().saturating_sub(flow.now());
            for event in flow.events(&Filter::last(LAST_MESSAGES)) {
                messages.push((epoch + event.ended(), id, event));
            }
        }
        messages.sort_by_key(|(at, ..)| *at);
        let mut text = format!("{:?}\n{}", self.weather.tally, self.weather.last());
        let _ = writeln!(text, "The last messages of each node:\n{}", self.cluster.describe());
        for (at, id, event) in messages {
            let _ = writeln!(text, "{:.6} n{id} | {event}", at.as_secs_f64());
        }
        text
    }
}

fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> T {
    outcome.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
