//! A cluster of real nodes over real tonic on a simulated network: what is done to it, and waiting for what comes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor_raft::{
    Config, Node,
    error::NodeError,
    node::{Consistency, Status},
    raft::{LogIndex, NodeId, Role},
    testing::{Ledger, Line, kill_tree},
};

use super::{
    host::{Blueprint, Seat, live, ordered, use_it},
    network::Breaks,
    record::{Record, host},
};

/// The host of the clients that are in no node's process.
pub const USER: &str = "user";

/// How fast messages are at best, and usually at worst.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// What a cluster is to be.
pub struct Plan {
    pub nodes: u64,
    pub seed: u64,
    pub config: Config,
    /// Clients on each node's host; if there are any, also on one of their own.
    pub clients: u64,
    /// One of so many snapshots on their way breaks. 0: none.
    pub breaks_one_transfer_of: u32,
}

impl Plan {
    /// Three nodes, nobody who uses them, and nothing that breaks by itself.
    pub fn quiet(seed: u64) -> Self {
        Plan { nodes: 3, seed, config: Config::default(), clients: 0, breaks_one_transfer_of: 0 }
    }
}

pub struct Cluster {
    sim: turmoil::Sim<'static>,
    seats: BTreeMap<NodeId, Arc<Seat>>,
    pub record: Record,
    pub breaks: Breaks,
    /// Pairs of hosts that do not hear each other, or only one way.
    cut: BTreeSet<(String, String)>,
    /// Without power: nobody hears it.
    dark: BTreeSet<NodeId>,
    has_users: bool,
}

impl Cluster {
    pub fn start(plan: Plan) -> Self {
        let Plan { nodes, seed, config, clients, breaks_one_transfer_of } = plan;
        // Actors' names are the process's: two runs of one seed must not meet.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let name = format!("gRPC simulation {seed}, run {}", RUNS.fetch_add(1, Relaxed));
        let (record, breaks) = (Record::default(), Breaks::default());
        let members = (1..=nodes).map(|id| (id, format!("{}:7000", host(id)))).collect();
        let blueprint = Blueprint {
            name,
            members,
            config,
            seed,
            record: record.clone(),
            breaks: breaks.clone(),
            breaks_one_transfer_of,
            clients,
        };
        let blueprint = Arc::new(blueprint);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(1 << 16)
            .build();
        let mut seats = BTreeMap::new();
        for id in 1..=nodes {
            let seat = Arc::new(Seat::new(id, blueprint.clone()));
            seats.insert(id, seat.clone());
            sim.host(host(id), move || live(seat.clone()));
        }
        if clients > 0 {
            sim.host(USER, move || use_it(blueprint.clone()));
        }
        let (cut, dark) = (BTreeSet::new(), BTreeSet::new());
        Cluster { sim, seats, record, breaks, cut, dark, has_users: clients > 0 }
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.seats.keys().copied().collect()
    }

    pub fn node(&self, id: NodeId) -> Option<Node<Ledger>> {
        self.seats[&id].node()
    }

    pub fn status(&self, id: NodeId) -> Option<Status> {
        self.node(id).map(|node| node.status())
    }

    /// Simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// A millisecond for everybody.
    ///
    /// # Panics
    /// If something was seen in it that must never be.
    pub fn step(&mut self) {
        self.sim.step().unwrap_or_else(|error| panic!("a host failed: {error}"));
        if let Some(violation) = self.record.violation() {
            panic!("{violation} (at {:?})\n{}", self.elapsed(), self.describe());
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.elapsed() + time;
        while self.elapsed() < end {
            self.step();
        }
    }

    /// Steps until `there` says something. Returns it, and how long that took.
    ///
    /// # Panics
    /// If it takes longer than `bound`.
    pub fn until<T>(&mut self, what: &str, bound: Duration, there: impl Fn(&Self) -> Option<T>) -> (T, Duration) {
        let begin = self.elapsed();
        loop {
            if let Some(found) = there(self) {
                return (found, self.elapsed() - begin);
            }
            assert!(self.elapsed() - begin < bound, "not within {bound:?}: {what}\n{}", self.describe());
            self.step();
        }
    }

    /// Has something done on a node's host and waits for what comes of it.
    pub fn on<T: Clone + Send + 'static, F: Future<Output = T> + Send + 'static>(
        &mut self,
        id: NodeId,
        bound: Duration,
        what: impl FnOnce(Node<Ledger>) -> F + Send + 'static,
    ) -> T {
        let (order, outcome) = ordered(what);
        assert!(self.seats[&id].order(order), "n{id} does not run");
        let come = |_: &Self| outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.until(&format!("what was ordered on n{id}"), bound, come).0
    }

    /// What each node is.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for id in self.ids() {
            let line = match self.status(id) {
                None => format!("n{id} does not run\n"),
                Some(status) => format!(
                    "n{id} {:?} of term {}, leader {:?}, commit {}, applied {}, last {}, snapshot {}\n",
                    status.role,
                    status.term,
                    status.leader,
                    status.commit_index,
                    status.applied_index,
                    status.last_index,
                    status.snapshot_index
                ),
            };
            text.push_str(&line);
        }
        text + &self.record.latest()
    }
}

/// Its nodes' lives.
impl Cluster {
    /// Cuts a node's power: nothing of it is heard any more, not even that its connections are closed.
    pub fn crash(&mut self, id: NodeId) {
        self.set_dark(id, true);
        self.kill(id);
    }

    /// Kills a node's process. What it had open is closed by its machine.
    pub fn kill(&mut self, id: NodeId) {
        let Some((node, orders)) = self.seats[&id].leave() else { return };
        let (order, gone) = ordered(|node: Node<Ledger>| async move { kill_tree(&node).await });
        let _ = orders.send(order);
        self.until("every actor of a killed node to be gone", Duration::from_secs(1), |_| {
            *gone.lock().unwrap_or_else(PoisonError::into_inner)
        });
        drop(node);
        self.sim.crash(host(id));
    }

    /// Shuts a node down in order, and its host with it.
    pub fn stop(&mut self, id: NodeId) {
        let Some((_, orders)) = self.seats[&id].leave() else { return };
        let (order, stopped) = ordered(|node: Node<Ledger>| async move { node.shutdown().await });
        let _ = orders.send(order);
        let come = |_: &Self| stopped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (stopped, _): (Result<(), NodeError>, _) = self.until("an orderly shutdown", Duration::from_secs(20), come);
        stopped.unwrap_or_else(|error| panic!("n{id} did not stop in order: {error}"));
        self.sim.crash(host(id));
    }

    /// Starts a node that does not run.
    pub fn bounce(&mut self, id: NodeId) {
        if self.node(id).is_some() {
            return;
        }
        self.sim.bounce(host(id));
        self.until("a node to start", Duration::from_secs(5), |cluster| cluster.node(id));
        self.set_dark(id, false);
    }
}

/// The network.
impl Cluster {
    /// All hosts.
    pub fn hosts(&self) -> Vec<String> {
        let users = self.has_users.then(|| USER.to_owned());
        self.ids().into_iter().map(host).chain(users).collect()
    }

    /// Nothing goes from one to the other, in both directions; what is on its way is lost.
    pub fn cut(&mut self, one: &str, other: &str) {
        if one != other {
            self.cut.insert((one.to_owned(), other.to_owned()));
            self.sim.partition(one, other);
        }
    }

    /// Nothing goes from one to the other in this direction.
    pub fn cut_one_way(&mut self, from: &str, to: &str) {
        if from != to && !self.is_cut(from, to) {
            self.cut.insert((from.to_owned(), to.to_owned()));
            self.sim.partition_oneway(from, to);
        }
    }

    /// What goes between them waits until they are mended.
    pub fn hold(&mut self, one: &str, other: &str) {
        if one != other && !self.is_cut(one, other) {
            self.cut.insert((one.to_owned(), other.to_owned()));
            self.sim.hold(one, other);
        }
    }

    pub fn slow_down(&mut self, one: &str, other: &str, latency: Duration) {
        if one != other {
            self.sim.set_link_latency(one, other, latency);
        }
    }

    fn is_cut(&self, one: &str, other: &str) -> bool {
        let (one, other) = (one.to_owned(), other.to_owned());
        self.cut.contains(&(one.clone(), other.clone())) || self.cut.contains(&(other, one))
    }

    /// Everybody hears everybody again. What was lost stays lost: TCP connections over it are dead, and nobody knows.
    pub fn mend(&mut self) {
        for (one, other) in std::mem::take(&mut self.cut) {
            self.sim.release(&*one, &*other);
            self.darken();
        }
    }

    fn set_dark(&mut self, id: NodeId, dark: bool) {
        if dark {
            self.dark.insert(id);
        } else if self.dark.remove(&id) {
            for other in self.hosts() {
                let other_is_dark = self.dark.iter().any(|dark| host(*dark) == other);
                if other != host(id) && !other_is_dark && !self.is_cut(&host(id), &other) {
                    self.sim.repair(host(id), &*other);
                }
            }
        }
        self.darken();
    }

    fn darken(&self) {
        for id in &self.dark {
            for other in self.hosts().iter().filter(|other| **other != host(*id)) {
                self.sim.partition(host(*id), &**other);
            }
        }
    }
}

/// Using it.
impl Cluster {
    /// Waits until a majority follows one leader.
    pub fn leader(&mut self) -> NodeId {
        self.until("a leader", Duration::from_secs(10), Cluster::known_leader).0
    }

    /// Who leads, as a majority says.
    pub fn known_leader(&self) -> Option<NodeId> {
        let statuses: Vec<_> = self.ids().into_iter().filter_map(|id| self.status(id)).collect();
        let leader = statuses.iter().filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)?;
        let followed = |status: &&Status| status.term == leader.term && status.leader == Some(leader.id);
        (statuses.iter().filter(followed).count() * 2 > self.seats.len()).then_some(leader.id)
    }

    /// Writes at a node, again until it is told "applied".
    pub fn write(&mut self, id: NodeId, text: &str, bound: Duration) -> LogIndex {
        let text = text.to_owned();
        self.on(id, bound, |node| async move {
            for attempt in 0.. {
                if let Ok(written) = node.propose(Line::new(format!("{text}, try {attempt}"))).await {
                    return written.index;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            unreachable!("there are tries enough")
        })
    }

    /// What a node's state machine holds now.
    pub fn lines(&mut self, id: NodeId) -> Vec<(LogIndex, String)> {
        self.on(id, Duration::from_secs(5), |node| async move {
            let lines = |ledger: &Ledger| ledger.lines().map(|(index, text)| (index, text.to_owned())).collect();
            node.read(Consistency::Stale, lines).await.expect("a node that runs can be looked at")
        })
    }

    /// Waits until all running nodes have applied so far.
    pub fn until_applied(&mut self, index: LogIndex, bound: Duration) -> Duration {
        let behind = |cluster: &Self, id| cluster.status(id).is_some_and(|status| status.applied_index < index);
        let all = |cluster: &Self| cluster.ids().into_iter().all(|id| !behind(cluster, id)).then_some(());
        self.until(&format!("all to have applied {index}"), bound, all).1
    }
}

impl Drop for Cluster {
    /// Lets no actor's name be left behind, unless the test fails anyhow.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for id in self.ids() {
                self.kill(id);
            }
        }
    }
}
