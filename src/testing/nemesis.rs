//! Does to a cluster what can be done to one, by chance, and mends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::Cluster;
use crate::{
    flow,
    node::{Crash, NodeRef},
    raft::NodeId,
    state_machine::StateMachine,
};

/// What a [`Nemesis`] can do. All of it can be mended, and nothing of it takes away what a node has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A node loses its power.
    Crash,
    /// A node's process is killed.
    Kill,
    /// All nodes lose their power at once.
    CrashAll,
    /// A node is shut down in order, or killed if its disk does not answer as it should.
    Stop,
    /// All nodes that do not run are started.
    Restart,
    /// A node is held, as by SIGSTOP.
    Pause,
    /// All nodes that are held go on.
    Resume,
    /// A node, preferably the leader, reaches nobody.
    Isolate,
    /// Two random parts of the cluster do not reach each other.
    Partition,
    /// One node does not reach another one, in one direction.
    OneWay,
    /// One node alone is between two halves of the others.
    Bridge,
    /// Each node reaches two others.
    Ring,
    /// A link is cut and mended by turns.
    Flap,
    /// A link is slower than the others.
    SlowLink,
    /// Letters are lost, are repeated, are late, and break their connections, at random rates.
    Letters,
    /// All links are mended, and letters come as they should.
    Mend,
    /// A disk does not answer.
    DiskHangs,
    /// A disk is slow.
    DiskSlow,
    /// A disk has no room.
    DiskFull,
    /// One of the next operations of a disk fails, and the node stops.
    DiskFails,
    /// All disks are quick again, and have room.
    DiskRecovers,
    /// An actor panics or is killed.
    Actor,
    /// From now on actors die at random messages, at a random rate, which may be zero.
    Actors,
}

impl Fault {
    /// All there are.
    pub const ALL: [Fault; 23] = [
        Fault::Crash,
        Fault::Kill,
        Fault::CrashAll,
        Fault::Stop,
        Fault::Restart,
        Fault::Pause,
        Fault::Resume,
        Fault::Isolate,
        Fault::Partition,
        Fault::OneWay,
        Fault::Bridge,
        Fault::Ring,
        Fault::Flap,
        Fault::SlowLink,
        Fault::Letters,
        Fault::Mend,
        Fault::DiskHangs,
        Fault::DiskSlow,
        Fault::DiskFull,
        Fault::DiskFails,
        Fault::DiskRecovers,
        Fault::Actor,
        Fault::Actors,
    ];

    /// Whether it mends something.
    pub fn mends(self) -> bool {
        matches!(self, Fault::Restart | Fault::Resume | Fault::Mend | Fault::DiskRecovers)
    }

    /// Whether it may take more nodes out of service than one.
    fn is_wide(self) -> bool {
        matches!(self, Fault::CrashAll | Fault::Partition | Fault::Bridge | Fault::Ring)
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// What kind of thing.
    pub fault: Fault,
    /// To whom. Empty: to all, or to none.
    pub nodes: Vec<NodeId>,
}

impl Display for Struck {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)?;
        if self.nodes.is_empty() { Ok(()) } else { write!(f, " of {:?}", self.nodes) }
    }
}

/// Does one random fault at a time to a cluster, and mends all of it at the end. One seed does the same to the same cluster.
///
/// How likely each kind is, is drawn from the seed as well, and some kinds do not occur at all: rare troubles show when they
/// meet often. What mends is always among them.
pub struct Nemesis<M> {
    cluster: Cluster<M>,
    random: SmallRng,
    weights: BTreeMap<Fault, u32>,
    counts: BTreeMap<Fault, u64>,
    spares_a_majority: bool,
    /// Who has a bad link.
    cut_off: BTreeSet<NodeId>,
    /// Whose disk has no room, or is about to fail.
    bad_disks: BTreeSet<NodeId>,
}

impl<M: StateMachine> Nemesis<M> {
    /// One that has done nothing yet.
    pub fn new(cluster: &Cluster<M>, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x4E45_4D45_5349_5300);
        let mut weigh = |fault: Fault| {
            let weight = random.random_range(0..12_u32);
            (fault, if fault.mends() { 6 + weight } else { weight.saturating_sub(3) })
        };
        let weights = Fault::ALL.into_iter().map(&mut weigh).collect();
        Nemesis {
            cluster: cluster.clone(),
            random,
            weights,
            counts: BTreeMap::new(),
            spares_a_majority: false,
            cut_off: BTreeSet::new(),
            bad_disks: BTreeSet::new(),
        }
    }

    /// Does only what stands here, each kind as often.
    pub fn only(mut self, faults: &[Fault]) -> Self {
        self.weights = faults.iter().map(|fault| (*fault, 1)).collect();
        self
    }

    /// Makes a kind more or less likely than others, which have from 0 to 8, and what mends from 6 to 17. 0: it is not done.
    pub fn with(mut self, fault: Fault, weight: u32) -> Self {
        self.weights.insert(fault, weight);
        self
    }

    /// Leaves a majority of the nodes running, awake and connected at all times, with disks that work: the cluster can serve
    /// without being mended. Letters and actors may be hit everywhere.
    pub fn sparing_a_majority(mut self) -> Self {
        self.spares_a_majority = true;
        self
    }

    /// How often each kind was done so far.
    pub fn counts(&self) -> &BTreeMap<Fault, u64> {
        &self.counts
    }

    /// Does a random one.
    ///
    /// # Panics
    /// If all kinds have weight 0.
    pub async fn strike(&mut self) -> Struck {
        let kinds: Vec<_> = self.weights.iter().map(|(fault, weight)| (*fault, *weight)).collect();
        let (fault, _) = *kinds.choose_weighted(&mut self.random, |(_, weight)| *weight).expect("a kind with a weight");
        self.inflict(fault).await
    }

    /// Does this one, to whomever it hits.
    pub async fn inflict(&mut self, fault: Fault) -> Struck {
        let mut fault = fault;
        if self.spares_a_majority && fault.is_wide() {
            fault = Fault::Isolate;
        }
        *self.counts.entry(fault).or_default() += 1;
        let nodes = match fault {
            Fault::Restart => self.restart().await,
            Fault::Resume => self.resume(),
            Fault::Mend => self.mend(),
            Fault::DiskRecovers => self.recover_disks(),
            Fault::CrashAll => {
                for id in self.cluster.ids() {
                    self.cluster.crash(id).await;
                }
                Vec::new()
            }
            Fault::Partition | Fault::Bridge | Fault::Ring | Fault::Letters => self.hurt_network(fault),
            Fault::Actors => {
                let rate = self.random.random_range(0..=1000_u32).saturating_sub(200);
                self.cluster.strike_actors(rate);
                Vec::new()
            }
            _ => match self.target() {
                Some(target) => self.hurt(fault, target).await,
                None => Vec::new(),
            },
        };
        Struck { fault, nodes }
    }

    /// Ends all faults, lets everything go on, and starts all nodes that do not run.
    ///
    /// # Panics
    /// If a node does not start although nothing is wrong any more.
    pub async fn heal(&mut self) {
        self.cluster.strike_actors(0);
        self.mend();
        self.recover_disks();
        self.resume();
        // What was done last may show only now.
        for _ in 0..3 {
            self.cluster.run_for(Duration::from_millis(20)).await;
            self.restart().await;
        }
        for id in self.cluster.ids() {
            if self.is_down(id) {
                self.cluster.restart(id).await;
            }
        }
    }
}

/// Whom it hits.
impl<M: StateMachine> Nemesis<M> {
    /// A node that may be hit: the leader more often than others. `None`: there is none.
    fn target(&mut self) -> Option<NodeId> {
        let ids = self.cluster.ids();
        let harmed: Vec<_> = ids.iter().copied().filter(|id| self.is_harmed(*id)).collect();
        if self.spares_a_majority && harmed.len() >= (ids.len() - 1) / 2 {
            return harmed.choose(&mut self.random).copied();
        }
        let leader = self.cluster.known_leader().filter(|_| self.random.random_bool(0.3));
        leader.or_else(|| ids.choose(&mut self.random).copied())
    }

    fn is_down(&self, id: NodeId) -> bool {
        self.cluster.node(id).is_none_or(|node| node.has_stopped())
    }

    fn is_harmed(&self, id: NodeId) -> bool {
        let cluster = &self.cluster;
        let broken = self.cut_off.contains(&id) || self.bad_disks.contains(&id);
        broken || self.is_down(id) || cluster.is_paused(id) || cluster.has_bad_disk(id)
    }

    /// Another node.
    fn other(&mut self, id: NodeId) -> Option<NodeId> {
        let others: Vec<_> = self.cluster.ids().into_iter().filter(|other| *other != id).collect();
        others.choose(&mut self.random).copied()
    }
}

/// What it does.
impl<M: StateMachine> Nemesis<M> {
    /// Returns who was hit.
    async fn hurt(&mut self, fault: Fault, id: NodeId) -> Vec<NodeId> {
        let (cluster, network) = (self.cluster.clone(), self.cluster.network().clone());
        match fault {
            Fault::Crash => cluster.crash(id).await,
            Fault::Kill => cluster.kill(id).await,
            // Nobody can shut down in order what waits for its disk.
            Fault::Stop if cluster.has_bad_disk(id) => cluster.kill(id).await,
            Fault::Stop => drop(cluster.stop(id).await),
            Fault::Pause => cluster.pause(id),
            Fault::Isolate => {
                network
                    .partition(&[id], &self.cluster.ids().into_iter().filter(|other| *other != id).collect::<Vec<_>>());
                self.cut_off.insert(id);
            }
            Fault::OneWay | Fault::Flap | Fault::SlowLink => {
                let Some(other) = self.other(id) else { return Vec::new() };
                self.cut_off.insert(id);
                let (from, to) = if self.random.random_bool(0.5) { (id, other) } else { (other, id) };
                match fault {
                    Fault::OneWay => network.cut(from, to),
                    Fault::Flap => network.flap(from, to, Duration::from_millis(self.random.random_range(5..500))),
                    _ => network.slow_down(from, to, Duration::from_millis(self.random.random_range(5..300))),
                }
                return vec![from, to];
            }
            Fault::DiskHangs if !self.is_down(id) => cluster.hang_disk(id, true),
            Fault::DiskSlow => {
                let longest = Duration::from_millis(self.random.random_range(1..100));
                cluster.slow_disk(id, Duration::ZERO..=longest);
            }
            Fault::DiskFull => {
                cluster.set_disk_full(id, true);
                self.bad_disks.insert(id);
            }
            Fault::DiskFails => {
                cluster.fail_disk(id, self.random.random_range(1..=60));
                self.bad_disks.insert(id);
            }
            Fault::Actor => {
                let Some(node) = cluster.node(id) else { return Vec::new() };
                self.crash_actor(&node);
            }
            _ => return Vec::new(),
        }
        vec![id]
    }

    fn crash_actor(&mut self, node: &NodeRef) {
        let living = |actor: &flow::ActorReport| actor.status == flow::Status::Running && &*actor.path != "node";
        let actors: Vec<_> = node.tree().into_iter().filter(living).collect();
        let how = if self.random.random_bool(0.5) { Crash::Kill } else { Crash::Panic };
        if let Some(actor) = actors.choose(&mut self.random) {
            node.crash(&actor.path, how);
        }
    }

    fn hurt_network(&mut self, fault: Fault) -> Vec<NodeId> {
        let (ids, network) = (self.cluster.ids(), self.cluster.network().clone());
        match fault {
            Fault::Partition => {
                let (these, those): (Vec<_>, Vec<_>) = ids.into_iter().partition(|_| self.random.random_bool(0.5));
                network.partition(&these, &those);
                self.cut_off.extend(&these);
                return these;
            }
            Fault::Bridge => {
                let bridge = ids.choose(&mut self.random).copied();
                bridge.into_iter().for_each(|bridge| network.bridge(bridge, &ids));
                self.cut_off.extend(ids);
                return bridge.into_iter().collect();
            }
            Fault::Ring => {
                network.ring(&ids);
                self.cut_off.extend(ids);
            }
            _ => {
                let random = &mut self.random;
                let (lost, broken) = (random.random_range(0..50), random.random_range(0..20));
                let (repeated, late) = (random.random_range(0..100), random.random_range(0..50));
                network.set_faults(lost, broken);
                network.set_repeats(repeated, Duration::from_millis(random.random_range(1..1000)));
                network.set_long_tail(late, Duration::from_millis(random.random_range(1..2000)));
            }
        }
        Vec::new()
    }

    /// Also of such that stopped by themselves. One that does not start is tried again the next time.
    async fn restart(&mut self) -> Vec<NodeId> {
        let down: Vec<_> = self.cluster.ids().into_iter().filter(|id| self.is_down(*id)).collect();
        for id in &down {
            let _ = self.cluster.try_restart(*id).await;
        }
        down
    }

    fn resume(&mut self) -> Vec<NodeId> {
        let held: Vec<_> = self.cluster.ids().into_iter().filter(|id| self.cluster.is_paused(*id)).collect();
        held.iter().for_each(|id| self.cluster.resume(*id));
        held
    }

    fn mend(&mut self) -> Vec<NodeId> {
        self.cluster.network().heal();
        std::mem::take(&mut self.cut_off).into_iter().collect()
    }

    fn recover_disks(&mut self) -> Vec<NodeId> {
        self.cluster.ids().into_iter().for_each(|id| self.cluster.recover_disk(id));
        std::mem::take(&mut self.bad_disks).into_iter().collect()
    }
}
