//! What the handles and the actors of one node hold in common: who it is, how it is set, where its actors are reached,
//! and what it is at the moment. Nothing here is decided; actors write, handles read.

use std::{
    any::TypeId,
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

#[cfg(any(test, feature = "testing"))]
use crate::node::builder::Seams;
use crate::{
    config::Config,
    error::{ChangeError, NodeError, ProposeError, ReadError},
    flow::{self, Envelope, Flow, Histogram, Message, Origin},
    node::{
        PeerStatus, Status, Trouble,
        admission::{Admission, Intake},
        applied::AppliedWaiters,
        messages::{ApplierMessage, ConsensusMessage, LogStoreMessage, NodeMessage},
        trust::Troubles,
    },
    raft::{Address, LogIndex, Membership, NodeId, Role, SnapshotMetadata, Term, majority},
    storage::{Identity, StorageError},
    transport::{Link, Transport},
};

/// When it is worth asking a busy node again: a few slices later.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// One node, as its handles and its actors see it.
pub(crate) struct Shared {
    pub identity: Identity,
    pub config: Config,
    pub listen_address: Address,
    /// Where to dial a peer instead of at its address in the membership.
    pub peer_addresses: BTreeMap<NodeId, Address>,
    pub transport: Arc<dyn Transport>,
    #[cfg(any(test, feature = "testing"))]
    pub seams: Seams,
    pub flow: Flow,
    pub clock: Clock,
    pub admission: Arc<Admission>,
    pub intake: Arc<Intake>,
    pub root: OnceLock<flow::Address<NodeMessage>>,
    pub consensus: Place<ConsensusMessage>,
    pub applier: Place<ApplierMessage>,
    pub log_store: Place<LogStoreMessage>,
    /// The finished snapshot. Written by whoever finishes one.
    pub snapshot: RwLock<Option<SnapshotMetadata>>,
    pub standing: watch::Sender<Standing>,
    /// Told when a leader becomes known. It wakes in the order of asking, where `standing` itself wakes in a random one.
    pub leader_known: Notify,
    /// Told when the membership in force is another. For the same reason not `standing`.
    pub membership_known: Notify,
    /// The number of this node's disk; 0 before it is opened.
    pub incarnation: AtomicU64,
    /// The disks of the others as the log has them, each shared with the links to it. 0: unknown.
    pub known_disks: RwLock<BTreeMap<NodeId, Arc<AtomicU64>>>,
    pub troubles: Troubles,
    pub progress: Progress,
    /// Who waits for the applier.
    pub applied_waiters: AppliedWaiters,
    /// Restarts of actors, of all kinds.
    pub restarts: AtomicU64,
    /// Why the disk failed, once it has. Written by the log store before it says so.
    pub disk_failure: OnceLock<StorageError>,
    /// How the node ended, once it has.
    pub verdict: OnceLock<Result<(), NodeError>>,
    /// Whether the node was told to stop: also for the root itself, while it is at something else.
    pub stopping: watch::Sender<bool>,
    /// Where the server really listens, with the port it got.
    pub bound_address: RwLock<Option<String>>,
    /// What calls from outside carry: "client" as the sender.
    pub client: Origin,
    /// What requests of other nodes carry: "server" as the sender.
    pub server: Origin,
    /// The state machine's type, which the actors do not know.
    pub machine: TypeId,
}

/// The time of one node: what has passed since it was built, by its own clock. Elections and leases go by it.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    /// Seconds of this clock in a million seconds.
    rate: u32,
}

/// The rate of a clock that is right.
pub(crate) const RIGHT: u32 = 1_000_000;

/// What a node is; changes rarely, and can be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
    pub membership: Membership,
    /// Peers that could not be reached when last tried, and why.
    pub unreachable: BTreeMap<NodeId, String>,
}

/// How far things have got; changes with every message, and is only looked at.
#[derive(Default)]
pub(crate) struct Progress {
    pub commit_index: AtomicU64,
    pub applied_index: AtomicU64,
    pub last_index: AtomicU64,
    /// The term of the last entry.
    pub last_term: AtomicU64,
    /// Until when the leader's lease lasts, in nanoseconds of the node's clock; 0: there is none.
    pub lease_until: AtomicU64,
    /// Over all lives of the log store.
    pub log_writes: AtomicU64,
    /// How long each of them took.
    pub fsync_times: Histogram,
    /// How long snapshots took that this node wrote.
    pub snapshot_times: Histogram,
    /// The last term in which this node has known a leader, and how many there were. Written by consensus.
    pub led_term: AtomicU64,
    pub leader_changes: AtomicU64,
    /// The members' progress as the leader knows it, each with whether it answered lately. Rebuilt with the membership.
    pub peers: RwLock<BTreeMap<NodeId, Arc<PeerGauge>>>,
}

/// How far one peer has got, as the leader knows it.
#[derive(Default)]
pub(crate) struct PeerGauge {
    pub match_index: AtomicU64,
    pub reachable: AtomicBool,
}

/// Where an actor is reached, through all its lives. Read once a batch, written once a restart.
pub(crate) struct Place<M: Message>(RwLock<Option<flow::Address<M>>>);

impl Clock {
    /// Another rate than [`RIGHT`] is for tests.
    pub(crate) fn start(rate: u32) -> Self {
        Clock { began: Instant::now(), rate }
    }

    pub(crate) fn now(&self) -> Duration {
        scale(self.began.elapsed(), self.rate, RIGHT)
    }

    /// When this clock shows `at`, or a moment later.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        let elapsed = scale(at, RIGHT, self.rate);
        self.began + if self.rate == RIGHT { elapsed } else { elapsed + Duration::from_nanos(1) }
    }
}

fn scale(time: Duration, numerator: u32, denominator: u32) -> Duration {
    if numerator == denominator {
        return time;
    }
    let nanoseconds = time.as_nanos() * u128::from(numerator) / u128::from(denominator);
    Duration::from_nanos(nanoseconds as u64)
}

impl<M: Message> Place<M> {
    pub(crate) fn nowhere() -> Self {
        Place(RwLock::new(None))
    }

    pub(crate) fn set(&self, address: Option<flow::Address<M>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    pub(crate) fn get(&self) -> Option<flow::Address<M>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the message back if nobody is there.
    pub(crate) fn send(&self, origin: Origin, message: M) -> Result<(), M> {
        match self.get() {
            Some(address) => address.send(origin, message),
            None => Err(message),
        }
    }
}

impl Standing {
    pub(crate) fn starting(membership: Membership) -> Self {
        Standing { role: Role::Follower, term: 0, leader: None, membership, unreachable: BTreeMap::new() }
    }
}

impl Progress {
    /// The leader of this term is known. A consensus that starts anew learns of the same one again, and that counts for none.
    pub(crate) fn leads(&self, term: Term) {
        if self.led_term.fetch_max(term, Relaxed) < term {
            self.leader_changes.fetch_add(1, Relaxed);
        }
    }

    /// Before the keepers start anew.
    pub(crate) fn reset(&self) {
        let Progress { commit_index, applied_index, last_index, last_term, lease_until, .. } = self;
        for number in [commit_index, applied_index, last_index, last_term, lease_until] {
            number.store(0, Relaxed);
        }
    }

    pub(crate) fn set_lease(&self, until: Option<Duration>) {
        // Sequentially consistent with its reader: it is dropped before anyone is told to take over.
        self.lease_until.store(until.map_or(0, |until| until.as_nanos() as u64), SeqCst);
    }

    /// The members may have changed: one gauge for each.
    pub(crate) fn set_peers(&self, peers: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, Arc<PeerGauge>> {
        let gauges: BTreeMap<_, _> = peers.map(|peer| (peer, Arc::default())).collect();
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = gauges.clone();
        gauges
    }
}

impl Shared {
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// Puts a call into the admission queue and tells consensus if nobody has. A call that comes after the end is dropped,
    /// and its port says so.
    pub(crate) fn submit(&self, call: Envelope<ConsensusMessage>) {
        let origin = call.origin;
        if self.intake.push(call) {
            self.announce(origin);
        }
    }

    /// Tells consensus that calls wait. If it is just falling, the next one looks by itself: it is announced to right
    /// after it becomes known.
    pub(crate) fn announce(&self, origin: Origin) {
        let mut fallen = None;
        loop {
            let address = self.consensus.get();
            let actor = address.as_ref().map(|address| address.identity());
            if address.is_some_and(|address| address.send(origin, ConsensusMessage::CallsWaiting).is_ok()) {
                return;
            }
            self.intake.announcement_lost();
            if actor.is_none() || actor == fallen {
                return;
            }
            // Perhaps the next one has just become known, and was announced to before this call was in the queue.
            fallen = actor;
        }
    }

    /// Whether a lease that was given until then still holds: its time is not over, and it was not dropped since.
    pub(crate) fn lease_holds(&self, until: Duration) -> bool {
        let (now, until) = (self.clock.now().as_nanos() as u64, until.as_nanos() as u64);
        now < until && now < self.progress.lease_until.load(SeqCst)
    }

    /// A link to a peer, with its address as in the membership. `None`: no such peer.
    pub(crate) fn link(&self, to: NodeId, heard: Arc<dyn Fn(crate::transport::Heard) + Send + Sync>) -> Option<Link> {
        Some(self.link_to(to, &self.address_of(to)?, heard))
    }

    /// A link to a peer at this address, unless another one was set for it.
    pub(crate) fn link_to(
        &self,
        to: NodeId,
        address: &Address,
        heard: Arc<dyn Fn(crate::transport::Heard) + Send + Sync>,
    ) -> Link {
        let address = self.peer_addresses.get(&to).unwrap_or(address).clone();
        let (from_incarnation, to_incarnation) = (self.incarnation.load(Relaxed), self.known_disk(to));
        let (from, snapshot_timeout) = (self.identity.clone(), self.config.snapshot_timeout);
        Link { from, to, address, from_incarnation, to_incarnation, snapshot_timeout, heard }
    }

    pub(crate) fn address_of(&self, node: NodeId) -> Option<Address> {
        self.standing.borrow().membership.address(node).cloned()
    }

    pub(crate) fn status(&self) -> Status {
        let Standing { role, term, leader, membership, .. } = self.standing.borrow().clone();
        // The applier may be ahead of what consensus has shown.
        let applied_index = self.progress.applied_index.load(Acquire);
        let commit_index = self.progress.commit_index.load(Relaxed).max(applied_index);
        let address = membership.address(self.id()).unwrap_or(&self.listen_address).clone();
        Status {
            id: self.id(),
            address,
            cluster_id: self.identity.cluster_id,
            role,
            term,
            leader,
            commit_index,
            applied_index,
            last_index: self.progress.last_index.load(Relaxed).max(commit_index),
            snapshot_index: self.snapshot_index(),
            membership,
            incarnation: self.incarnation.load(Relaxed),
            trouble: self.troubles.worst(),
            restarts: self.restarts.load(Relaxed),
            log_writes: self.progress.log_writes.load(Relaxed),
            peers: if role == Role::Leader { self.peer_status() } else { Vec::new() },
        }
    }

    /// A snapshot was finished. The disk keeps the newest, and so does this.
    pub(crate) fn finished(&self, snapshot: &SnapshotMetadata) {
        let mut newest = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let index = newest.as_ref().map_or(0, |newest| newest.last_included.index);
        if snapshot.last_included.index >= index {
            *newest = Some(snapshot.clone());
        }
    }

    /// What the disk has when it is opened.
    pub(crate) fn set_snapshot(&self, snapshot: Option<SnapshotMetadata>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    pub(crate) fn finished_snapshot(&self) -> Option<SnapshotMetadata> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn snapshot_index(&self) -> LogIndex {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot.as_ref().map_or(0, |snapshot| snapshot.last_included.index)
    }

    fn peer_status(&self) -> Vec<PeerStatus> {
        let status = |(id, gauge): (&NodeId, &Arc<PeerGauge>)| PeerStatus {
            id: *id,
            match_index: gauge.match_index.load(Relaxed),
            reachable: gauge.reachable.load(Relaxed),
        };
        self.progress.peers.read().unwrap_or_else(PoisonError::into_inner).iter().map(status).collect()
    }

    pub(crate) fn listening_on(&self, address: &str) {
        *self.bound_address.write().unwrap_or_else(PoisonError::into_inner) = Some(address.to_owned());
    }

    /// Waits until the node is told to stop.
    pub(crate) async fn told_to_stop(&self) {
        let _ = self.stopping.subscribe().wait_for(|told| *told).await;
    }

    /// Where the node was last bound to.
    pub(crate) fn bound_address(&self) -> Option<String> {
        self.bound_address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What callers are told, with this node's own values filled in.
impl Shared {
    pub(crate) fn busy(&self, limit: String) -> ProposeError {
        ProposeError::Busy { node: self.id(), limit, retry_after: RETRY_AFTER }
    }

    pub(crate) fn read_busy(&self, limit: String) -> ReadError {
        ReadError::Busy { node: self.id(), limit, retry_after: RETRY_AFTER }
    }

    pub(crate) fn not_leader(&self, leader: Option<NodeId>) -> ProposeError {
        let known = leader.filter(|leader| *leader != self.id());
        let address = known.and_then(|leader| self.address_of(leader));
        match (known, address) {
            (Some(leader), Some(address)) => ProposeError::NotLeader { node: self.id(), leader, address },
            _ => match self.troubles.worst() {
                Some(Trouble::Wiped) => ProposeError::NodeWiped { node: self.id() },
                Some(Trouble::Removed) => ProposeError::NodeRemoved { node: self.id() },
                _ => {
                    let (unreachable, needed, voters) = self.voters();
                    ProposeError::NoLeader { node: self.id(), unreachable, needed, voters }
                }
            },
        }
    }

    pub(crate) fn change_not_leader(&self, leader: Option<NodeId>) -> ChangeError {
        match self.not_leader(leader) {
            ProposeError::NotLeader { node, leader, address } => ChangeError::NotLeader { node, leader, address },
            ProposeError::NoLeader { node, unreachable, needed, voters } => {
                ChangeError::NoLeader { node, unreachable, needed, voters }
            }
            ProposeError::NodeWiped { node } => ChangeError::NodeWiped { node },
            ProposeError::NodeRemoved { node } => ChangeError::NodeRemoved { node },
            _ => ChangeError::Unavailable { node: self.id() },
        }
    }

    pub(crate) fn change_busy(&self, limit: String) -> ChangeError {
        ChangeError::Busy { node: self.id(), limit, retry_after: RETRY_AFTER }
    }

    pub(crate) fn read_no_leader(&self) -> ReadError {
        let node = self.id();
        match self.troubles.worst() {
            Some(Trouble::Wiped) => ReadError::NodeWiped { node },
            Some(Trouble::Removed) => ReadError::NodeRemoved { node },
            _ => {
                let (unreachable, needed, voters) = self.voters();
                ReadError::NoLeader { node, unreachable, needed, voters }
            }
        }
    }

    /// How a node ended that could not say it itself.
    pub(crate) fn fallen(&self) -> NodeError {
        NodeError::Start { what: format!("node {}", self.id()), cause: "it was killed or panicked".to_owned() }
    }

    /// Voters that cannot be reached, how many it takes, how many there are.
    fn voters(&self) -> (Vec<NodeId>, usize, usize) {
        let standing = self.standing.borrow();
        let voters = standing.membership.voters.len();
        let unreachable = standing.unreachable.keys().copied().filter(|id| standing.membership.is_voter(*id));
        (unreachable.collect(), majority(&standing.membership), voters)
    }
}
