//! What is done to a cluster: its nodes lose power, its links break, its operators are at work.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor_raft::{
    kv::Kv,
    raft::{Change, NodeId},
    testing::Cluster,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    clients::History,
    plan::{Kind, Plan},
    sky::Sky,
};

/// The most servers of a cluster that grows.
const MOST_SERVERS: usize = 6;

/// A storm in which too little happens is over after so long.
const LONGEST: Duration = Duration::from_secs(25);

/// So much of what was done last is remembered.
const LAST: usize = 60;

pub struct Weather {
    pub cluster: Cluster<Kv>,
    history: Arc<History>,
    random: SmallRng,
    weights: Vec<(Kind, u32)>,
    calm: std::ops::Range<u64>,
    lost: u32,
    broken: u32,
    first_members: u64,
    next_id: NodeId,
    operators: Vec<JoinHandle<()>>,
    shared: Arc<Mutex<Shared>>,
    pub tally: BTreeMap<&'static str, u64>,
    began: Instant,
    /// When, what, and who ran before.
    log: VecDeque<(Duration, Kind, Vec<NodeId>)>,
}

#[derive(Default)]
struct Shared {
    /// Nodes that an operator is busy with.
    busy: BTreeSet<NodeId>,
    /// Nodes that were removed.
    gone: BTreeSet<NodeId>,
    /// The one whose disk was lost, until another one votes.
    wiped: Option<NodeId>,
    /// How many removals are under way, and when the last one ended: it may be made after its caller gave up.
    removals: u32,
    removal_ended: Option<Instant>,
    /// Why a node did not start last, when all was mended.
    refused: BTreeMap<NodeId, String>,
}

impl Weather {
    pub fn new(plan: &mut Plan, cluster: &Cluster<Kv>, history: &Arc<History>) -> Self {
        Weather {
            cluster: cluster.clone(),
            history: history.clone(),
            random: SmallRng::seed_from_u64(plan.random.random()),
            weights: plan.weights.clone(),
            calm: plan.calm.clone(),
            lost: plan.lost,
            broken: plan.broken,
            first_members: plan.nodes,
            next_id: plan.nodes + 1,
            operators: Vec::new(),
            shared: Arc::default(),
            tally: BTreeMap::new(),
            began: Instant::now(),
            log: VecDeque::new(),
        }
    }

    /// Until enough has happened. What has been begun is done to its end: half a power cut is none.
    pub async fn rage(&mut self, sky: &Sky) {
        self.cluster.network().set_faults(self.lost, self.broken);
        while self.began.elapsed() < LONGEST {
            let calm = self.random.random_range(self.calm.clone());
            if timeout(Duration::from_millis(calm), sky.passed()).await.is_ok() {
                return;
            }
            bury(&self.cluster).await;
            let kinds = self.weights.choose_weighted(&mut self.random, |(_, weight)| *weight);
            let kind = kinds.expect("what mends has a weight").0;
            let before = self.cluster.ids().into_iter().filter(|id| self.cluster.node(*id).is_some()).collect();
            self.log.push_back((self.began.elapsed(), kind, before));
            if self.log.len() > LAST {
                self.log.pop_front();
            }
            if self.strike(kind).await {
                *self.tally.entry(kind.name()).or_default() += 1;
            }
        }
    }

    /// What was done last.
    pub fn last(&self) -> String {
        let line = |(at, kind, up): &(Duration, Kind, Vec<NodeId>)| {
            format!("{:.6} {}, while {up:?} ran\n", at.as_secs_f64(), kind.name())
        };
        let shared = self.shared.lock().expect(SOUND);
        let Shared { busy, gone, wiped, refused, .. } = &*shared;
        let done: String = self.log.iter().map(line).collect();
        format!("{done}busy {busy:?}, gone {gone:?}, wiped {wiped:?}, did not start: {refused:?}\n")
    }

    /// Whether a node may have stopped because of its disk.
    pub fn spoils_disks(&self) -> bool {
        let kinds = [Kind::DiskFails, Kind::BitFlips, Kind::DiskFull];
        kinds.iter().any(|kind| self.tally.contains_key(kind.name()))
    }

    fn free(&self) -> Vec<NodeId> {
        let shared = self.shared.lock().expect(SOUND);
        self.cluster.ids().into_iter().filter(|id| !shared.busy.contains(id)).collect()
    }

    fn one_of(&mut self, ids: &[NodeId]) -> Option<NodeId> {
        (!ids.is_empty()).then(|| ids[self.random.random_range(0..ids.len())])
    }

    /// Whether it could be done.
    async fn strike(&mut self, kind: Kind) -> bool {
        let free = self.free();
        let (up, down): (Vec<_>, Vec<_>) = free.into_iter().partition(|id| self.cluster.node(*id).is_some());
        match kind {
            Kind::PowerCut => {
                let Some(one) = self.one_of(&up) else { return false };
                self.cluster.crash(one).await;
            }
            Kind::PowerCutForAll => {
                for id in up {
                    self.cluster.crash(id).await;
                }
            }
            Kind::Kill => {
                let Some(one) = self.one_of(&up) else { return false };
                self.cluster.kill(one).await;
            }
            Kind::Stop => {
                let Some(one) = self.one_of(&up) else { return false };
                // Nobody ends in order whose disk does not answer.
                self.cluster.recover_disk(one);
                let _ = self.cluster.stop(one).await;
            }
            Kind::Start => {
                let Some(one) = self.one_of(&down) else { return false };
                self.start(one);
            }
            Kind::StartAll => down.into_iter().for_each(|id| self.start(id)),
            Kind::Pause => {
                let Some(one) = self.one_of(&up) else { return false };
                self.cluster.pause(one);
            }
            Kind::Resume => up.into_iter().for_each(|id| self.cluster.resume(id)),
            Kind::DiskHangs | Kind::DiskSlow | Kind::DiskFull | Kind::DiskFails => {
                let Some(one) = self.one_of(&up) else { return false };
                self.spoil_disk(kind, one);
            }
            Kind::DiskMends => self.cluster.ids().into_iter().for_each(|id| self.cluster.recover_disk(id)),
            Kind::Wipe | Kind::BitFlips => return self.lose_disk(kind == Kind::BitFlips).await,
            Kind::Join => return self.join(),
            Kind::Remove => return self.remove(),
            Kind::Transfer => {
                let Some(node) = self.one_of(&up).and_then(|one| self.cluster.node(one)) else { return false };
                let to = self.one_of(&up).filter(|_| self.random.random_range(0..2) == 0);
                self.at_work("leadership transferred", async move { node.transfer_leadership(to).await.is_ok() });
            }
            Kind::Snapshot => {
                let Some(node) = self.one_of(&up).and_then(|one| self.cluster.node(one)) else { return false };
                self.at_work("snapshot taken", async move { node.take_snapshot().await.is_ok() });
            }
            other => self.break_links(other),
        }
        true
    }

    fn break_links(&mut self, kind: Kind) {
        let (ids, network) = (self.cluster.ids(), self.cluster.network().clone());
        let one = self.one_of(&ids).expect("there is a node");
        match kind {
            Kind::LeaderIsolated => {
                // Alone, or with one other.
                let leader = self.cluster.known_leader().unwrap_or(one);
                let (these, those): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| [leader, one].contains(id));
                network.heal();
                network.partition(&these, &those);
            }
            Kind::Halves => {
                let (these, those): (Vec<_>, Vec<_>) =
                    ids.into_iter().partition(|_| self.random.random_range(0..2) == 0);
                network.partition(&these, &those);
            }
            Kind::OneWay => {
                let other = self.one_of(&ids).expect("there is a node");
                network.cut(one, other);
            }
            Kind::Bridge => network.bridge(one, &ids),
            Kind::Ring => network.ring(&ids),
            Kind::Flap | Kind::SlowLink => {
                let other = self.one_of(&ids).expect("there is a node");
                let time = Duration::from_millis(self.random.random_range(5..300));
                if kind == Kind::Flap { network.flap(one, other, time) } else { network.slow_down(one, other, time) }
            }
            Kind::BadLetters => {
                let random = &mut self.random;
                network.set_faults(random.random_range(0..60), random.random_range(0..40));
                network.set_repeats(random.random_range(0..100), Duration::from_millis(random.random_range(1..1000)));
                network.set_long_tail(random.random_range(0..50), Duration::from_millis(random.random_range(1..2000)));
            }
            Kind::Delays => {
                let most = [1, 5, 40, 150][self.random.random_range(0..4)];
                network.set_delay(Duration::from_micros(100)..=Duration::from_millis(most));
            }
            _ => {
                network.heal();
                network.set_faults(self.lost, self.broken);
                network.set_delay(Duration::from_micros(200)..=Duration::from_millis(2));
            }
        }
    }

    fn spoil_disk(&mut self, kind: Kind, id: NodeId) {
        match kind {
            Kind::DiskHangs => self.cluster.hang_disk(id, true),
            Kind::DiskFull => self.cluster.set_disk_full(id, true),
            Kind::DiskFails => self.cluster.fail_disk(id, self.random.random_range(1..60)),
            _ => {
                let longest = Duration::from_millis(self.random.random_range(1..80));
                self.cluster.slow_disk(id, Duration::ZERO..=longest);
            }
        }
    }

    /// An operator does something that may take long.
    fn at_work(&mut self, done: &'static str, work: impl Future<Output = bool> + Send + 'static) {
        let history = self.history.clone();
        self.operators.push(tokio::spawn(async move {
            if work.await {
                history.count(done);
            }
        }));
    }

    /// As [`at_work`](Self::at_work), at a node that everybody else leaves alone meanwhile.
    fn at_work_on(&mut self, id: NodeId, done: &'static str, work: impl Future<Output = bool> + Send + 'static) {
        let shared = self.shared.clone();
        shared.lock().expect(SOUND).busy.insert(id);
        self.at_work(done, async move {
            let done = work.await;
            shared.lock().expect(SOUND).busy.remove(&id);
            done
        });
    }

    /// Starts a node from its disk. One that joined asks to be added if it was not, and that may take.
    fn start(&mut self, id: NodeId) {
        let cluster = self.cluster.clone();
        self.at_work_on(id, "started", async move { cluster.try_restart(id).await.is_ok() });
    }

    fn join(&mut self) -> bool {
        let gone = self.shared.lock().expect(SOUND).gone.len();
        if self.cluster.ids().len() >= MOST_SERVERS + gone {
            return false;
        }
        let (id, cluster) = (self.next_id, self.cluster.clone());
        self.next_id += 1;
        self.at_work_on(id, "server added", async move { cluster.try_join(id).await.is_ok() });
        true
    }

    fn remove(&mut self) -> bool {
        let Some(leader) = self.cluster.known_leader().and_then(|leader| self.cluster.status(leader)) else {
            return false;
        };
        let members: Vec<_> = leader.membership.addresses().map(|(id, _)| id).collect();
        if members.len() < 2 || self.shared.lock().expect(SOUND).wiped.is_some() {
            return false;
        }
        let (Some(one), Some(by)) = (self.one_of(&members), self.one_of(&members)) else { return false };
        let Some(node) = self.cluster.node(by) else { return false };
        let shared = self.shared.clone();
        shared.lock().expect(SOUND).removals += 1;
        self.at_work("server removed", async move {
            let removed = node.remove_server(one).await.is_ok();
            let mut shared = shared.lock().expect(SOUND);
            shared.removals -= 1;
            shared.removal_ended = Some(Instant::now());
            if removed {
                shared.gone.insert(one);
            }
            removed
        });
        true
    }

    /// Takes a voter's disk away, or damages it, and replaces it. Raft bears that once at a time, and only where the cluster
    /// knows its disks and no change is open that could make the rest too small.
    async fn lose_disk(&mut self, flips: bool) -> bool {
        let Some(leader) = self.cluster.known_leader().and_then(|leader| self.cluster.status(leader)) else {
            return false;
        };
        let (membership, settled) = (leader.membership, leader.commit_index == leader.last_index);
        let voters: Vec<_> = membership.voters.keys().copied().collect();
        let known = membership.addresses().all(|(id, _)| membership.incarnations.contains_key(&id))
            && membership.unsettled.is_empty();
        let free = self.free();
        // A power cut loses what would show that an end of the log is damaged and not torn: only what runs is damaged.
        let one =
            self.one_of(&voters).filter(|one| free.contains(one) && (!flips || self.cluster.node(*one).is_some()));
        let Some(one) = one.filter(|_| known && settled && !membership.is_joint() && voters.len() >= 3) else {
            return false;
        };
        {
            let mut shared = self.shared.lock().expect(SOUND);
            let may_shrink =
                shared.removals > 0 || shared.removal_ended.is_some_and(|ended| ended.elapsed() < IN_FLIGHT);
            if shared.wiped.is_some() || may_shrink {
                return false;
            }
            shared.wiped = Some(one);
        }
        if flips {
            self.cluster.kill(one).await;
            for _ in 0..self.random.random_range(1..4) {
                let _ = self.cluster.disk(one).flip_any_bit(&mut self.random);
            }
        } else {
            self.cluster.wipe(one).await;
        }
        // A majority of empty disks would begin another cluster.
        let has_log = |id: &NodeId| self.cluster.status(*id).is_some_and(|status| status.last_index > 0);
        let with_log = (1..=self.first_members).filter(|id| *id != one && membership.contains(*id)).filter(has_log);
        let others = with_log.count() as u64 > self.first_members / 2;
        let as_before = flips || (others && self.random.random_range(0..2) == 0);
        let pause = Duration::from_millis(self.random.random_range(0..300));
        let (cluster, shared, history) = (self.cluster.clone(), self.shared.clone(), self.history.clone());
        let seed = self.random.random();
        self.at_work_on(one, "server replaced", async move {
            let started = as_before && cluster.try_restart(one).await.is_ok();
            if flips && !started {
                history.count("damaged disk refused");
            }
            tokio::time::sleep(pause).await;
            if flips {
                // Also one that started may hold damage that shows later.
                cluster.wipe(one).await;
            }
            let replaced = replace(&cluster, one, SmallRng::seed_from_u64(seed)).await;
            let mut shared = shared.lock().expect(SOUND);
            shared.wiped = None;
            if !replaced {
                shared.gone.insert(one);
            }
            replaced
        });
        true
    }

    /// Ends all faults, and starts whoever may belong to the cluster, again and again until told otherwise.
    pub fn mend(&self) -> Mending {
        let network = self.cluster.network();
        network.heal();
        network.set_delay(Duration::from_micros(200)..=Duration::from_millis(2));
        for id in self.cluster.ids() {
            self.cluster.recover_disk(id);
            self.cluster.resume(id);
        }
        let over = Arc::new(AtomicBool::new(false));
        let (cluster, shared, done) = (self.cluster.clone(), self.shared.clone(), over.clone());
        let working = tokio::spawn(async move {
            let mut starting = Vec::new();
            while !done.load(Relaxed) {
                bury(&cluster).await;
                for id in cluster.ids() {
                    let mut known = shared.lock().expect(SOUND);
                    if cluster.node(id).is_none() && !known.gone.contains(&id) && known.busy.insert(id) {
                        let (cluster, shared) = (cluster.clone(), shared.clone());
                        starting.push(tokio::spawn(async move {
                            let refused = cluster.try_restart(id).await.err();
                            let mut shared = shared.lock().expect(SOUND);
                            shared.busy.remove(&id);
                            if let Some(refused) = refused {
                                shared.refused.insert(id, refused.to_string());
                            }
                        }));
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            for started in starting {
                let _ = started.await;
            }
        });
        Mending { over, working }
    }

    /// Waits until all operators are done.
    pub async fn settle(&mut self) {
        for operator in std::mem::take(&mut self.operators) {
            let ended = tokio::time::timeout(Duration::from_secs(60), operator).await;
            let ended = ended.unwrap_or_else(|_| panic!("an operator waits for ever\n{}", self.cluster.describe()));
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        }
    }
}

/// Someone who starts what does not run.
pub struct Mending {
    over: Arc<AtomicBool>,
    working: JoinHandle<()>,
}

impl Mending {
    pub async fn end(self) {
        self.over.store(true, Relaxed);
        self.working.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
}

/// A node whose root was struck, or whose disk failed, has ended: what is left of it goes, too.
async fn bury(cluster: &Cluster<Kv>) {
    for id in cluster.ids() {
        if let Some(node) = cluster.node(id)
            && timeout(Duration::ZERO, node.stopped()).await.is_ok()
        {
            cluster.crash(id).await;
        }
    }
}

/// An operator who does not give up: the disk of `id` is another one now. `false`: another operator had removed it before.
async fn replace(cluster: &Cluster<Kv>, id: NodeId, mut random: SmallRng) -> bool {
    let address = cluster.address(id);
    for _ in 0..1000 {
        let ids = cluster.ids();
        let node = cluster.node(ids[random.random_range(0..ids.len())]);
        let change = Change::Replace { id, address: address.clone() };
        if let Some(node) = node
            && node.change_membership(change).await.is_ok()
        {
            break;
        }
        let leader = cluster.known_leader().and_then(|leader| cluster.status(leader));
        if leader.is_some_and(|leader| leader.membership.removed.contains(&id)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut refused = None;
    for _ in 0..1000 {
        let running = match cluster.node(id) {
            Some(node) => timeout(Duration::ZERO, node.stopped()).await.is_err(),
            None => false,
        };
        if !running {
            refused = cluster.try_join(id).await.err();
        }
        let leader = cluster.known_leader().and_then(|leader| cluster.status(leader));
        if leader.as_ref().is_some_and(|leader| leader.membership.removed.contains(&id)) {
            cluster.crash(id).await;
            return false;
        }
        let own = cluster.node(id).map(|node| node.incarnation());
        let done = leader.is_some_and(|leader| {
            let membership = &leader.membership;
            membership.voters.contains_key(&id)
                && membership.incarnations.get(&id).copied() == own
                && !membership.is_joint()
        });
        if done {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("node {id} cannot be replaced: {refused:?}\n{}", cluster.describe());
}

/// An order that nobody waits for any more is carried out within this time, or never.
const IN_FLIGHT: Duration = Duration::from_secs(3);

const SOUND: &str = "nobody panics with it";
