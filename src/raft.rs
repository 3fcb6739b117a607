//! The rules of Raft, and nothing else: one pure state machine that is told what happened and says what is to be done.
//!
//! ```text
//!   Input (past tense: Persisted, Response, Timeout)  ──►  Raft::step  ──►  Effect (imperative: Persist, Send, Apply)
//! ```
//! The consensus actor drives it in production, `tests/paper.rs` by hand, the golden scripts line by line, the
//! simulation through the real actors. They all run this code.
//!
//! | file | the rules of |
//! |---|---|
//! | `election` | §5.2, §5.4.1, pre-vote (thesis §9.6), stickiness (thesis §4.2.3), check-quorum (thesis §6.2) |
//! | `replication` | §5.3, §5.4.2, back-off by conflicting term, the pipelined window |
//! | `read` | linearizable reads without a log entry (thesis §6.4), leases |
//! | `snapshot` | §7: snapshots, log compaction, InstallSnapshot |
//! | `change` | §6: changes of the servers by joint consensus; learners |
//! | `transfer` | leadership transfer (thesis §3.10), and when a leader gives way |
//! | `log`, `membership`, `progress`, `quorum` | what those rules keep |
//! | `outbox` | one write in flight; what must wait for it |
//!
//! Where it goes beyond the paper:
//! - *The leader writes while its peers write* (thesis §10.2.1): its own entries count for a quorum only when they are
//!   `Persisted`, and no entry is applied before it is durable here.
//! - *The alarm is lazy*: a heartbeat does not set the timer anew, it is noted; an alarm that rings too early is set
//!   again, dated from what was heard last. That saves a message a heartbeat.
//! - *A commit index travels with the next entries*, and where none follow, a tenth of a heartbeat later: whoever writes
//!   one thing after another costs half the messages.
//! - *A heartbeat's reply needs no disk*: it reports what is durable so far, so that a slow disk does not depose a leader.
//!
//! *Architecture invariant: nothing in this module waits, fails, reads a clock, draws a random number, or names an
//! actor, a socket or a disk. The same inputs give the same effects, always.*

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

#[cfg(feature = "testing")]
mod canonical;
mod change;
mod display;
mod election;
mod events;
mod log;
mod membership;
mod message;
mod outbox;
mod progress;
mod quorum;
mod read;
mod recovered;
mod replication;
mod snapshot;
mod transfer;
mod types;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub use canonical::Never;
pub use events::*;
pub use message::*;
pub use quorum::majority;
pub use recovered::Recovered;
pub use types::*;

use self::{
    election::Campaign, log::Log, membership::MembershipHistory, outbox::Outbox, progress::Progress, progress::Window,
    read::ForwardedReads, replication::Leadership, snapshot::Snapshots,
};

/// What the core has to know about its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// This server.
    pub id: NodeId,
    /// Its disk. 0: it is not told.
    pub incarnation: Incarnation,
    /// How often a leader is heard from at least.
    pub heartbeat_interval: Duration,
    /// No election starts earlier than this after a leader was heard; votes are refused for as long.
    pub election_timeout_min: Duration,
    /// A leader that no quorum has answered for this long steps down.
    pub election_timeout_max: Duration,
    /// The most entries in one AppendEntries.
    pub max_batch_entries: usize,
    /// The most payload bytes in one AppendEntries; one entry may exceed it alone.
    pub max_batch_bytes: usize,
    /// The most AppendEntries with entries to one peer that are not answered.
    pub max_in_flight_batches: usize,
    /// The most payload bytes to one peer that are not answered.
    pub max_in_flight_bytes: usize,
    /// A snapshot is due after so many entries…
    pub snapshot_threshold: u64,
    /// …or so many bytes of them; neither before the log since the last one is half as large as that one.
    pub snapshot_threshold_bytes: u64,
    /// So many entries stay in the log behind a snapshot.
    pub snapshot_trailing: u64,
    /// A leader whose write has been in flight for so long steps down (D06).
    pub disk_timeout: Duration,
}

/// How far the order to apply may run ahead of [`Input::Applied`], in entries: bounds what waits at the state machine
/// when a long log is replayed.
const APPLY_WINDOW: u64 = 8192;

/// One server's Raft: a value. Two that were told the same are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    settings: Settings,

    /// Term and vote (Figure 2, "persistent state"); on disk when the outbox says so.
    hard_state: HardState,
    log: Log,
    memberships: MembershipHistory,
    /// Disks of peers that the membership does not know yet.
    met: BTreeMap<NodeId, Incarnation>,
    snapshots: Snapshots,
    outbox: Outbox,
    /// There is no room for the write in flight.
    disk_full: bool,
    /// The disk lost what was acknowledged: nothing is answered any more (L08).
    condemned: bool,
    /// A peer said that this server was removed.
    told_removed: bool,
    /// A peer said that the cluster knows this server by another disk.
    told_wiped: bool,

    role: RoleState,
    leader: Option<NodeId>,
    /// When the current leader was last heard.
    leader_heard: Option<Duration>,

    commit_index: LogIndex,
    last_applied: LogIndex,
    /// The last entry that was handed to the state machine.
    applying_index: LogIndex,

    /// The epoch of the alarm that is set; one that rings with another is late (E12).
    timer_epoch: u64,
    /// From when the alarm that is set was dated.
    timer_since: Duration,
    /// The latest moment from which an election timeout counts: a leader was heard, or a vote granted (§5.2).
    timeout_since: Duration,
    /// The last session given to anything sent; each campaign and each connection gets its own.
    last_session: u64,

    /// Clients that wait for an entry of this server, by rising index.
    proposals: VecDeque<(LogIndex, CallId)>,
    forwarded_reads: ForwardedReads,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RoleState {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leadership>),
}

impl Raft {
    /// A server as its disk remembers it. The first effects set its alarm and tell who it is; a cluster of one starts
    /// its election at once.
    pub fn new(settings: Settings, recovered: Recovered, now: Duration, effects: &mut Vec<Effect>) -> Self {
        let Recovered { hard_state, base, membership, entries, snapshot, receiving } = recovered;
        let memberships = MembershipHistory::new(membership.into(), &entries);
        let log = Log::new(base, entries);
        let mut raft = Raft {
            settings,
            hard_state,
            outbox: Outbox::new(log.last().index),
            log,
            memberships,
            met: BTreeMap::new(),
            snapshots: Snapshots::recovered(snapshot.clone(), receiving),
            disk_full: false,
            condemned: false,
            told_removed: false,
            told_wiped: false,
            role: RoleState::Follower,
            leader: None,
            // It may have heard one just before it fell, and that one may rest on it (thesis §6.4.1). So may one whose disk is
            // empty: it cannot know what its former disk promised, and is told by then (M06).
            leader_heard: Some(now),
            commit_index: base.index,
            // Also what the log stands on is not applied before it is restored.
            last_applied: 0,
            applying_index: base.index,
            timer_epoch: 0,
            timer_since: now,
            timeout_since: now,
            last_session: 0,
            proposals: VecDeque::new(),
            forwarded_reads: ForwardedReads::default(),
        };
        if let Some(snapshot) = snapshot {
            raft.start_from(snapshot, effects);
        }
        effects.push(Effect::MembershipChanged(raft.memberships.current().clone()));
        let before = (Role::Follower, 0, None);
        raft.set_timer(now, Alarm::Election, effects);
        if raft.is_alone() && raft.may_campaign() {
            raft.start_election(now, false, effects);
        }
        raft.finish(now, before, effects);
        raft
    }

    /// Takes one input in and appends what is to be done about it, in order. `now` is monotonic, from any origin.
    pub fn step(&mut self, now: Duration, input: Input, effects: &mut Vec<Effect>) {
        if self.condemned {
            return;
        }
        let before = self.standing();
        match input {
            Input::Timeout { epoch } => self.timeout(now, epoch, effects),
            Input::Propose { call, payload } => self.propose(call, payload, effects),
            Input::Read { call, lease } => self.read(now, call, lease, effects),
            Input::ChangeMembership { call, change } => self.change_membership(now, call, &change, effects),
            Input::TransferLeadership { call, to } => self.transfer_leadership(now, call, to, effects),
            Input::TakeSnapshot { call } => self.take_snapshot(call, effects),
            Input::Request { call, request, .. } => self.request(now, call, request, effects),
            Input::Response { from, session, reply } => self.response(now, from, session, reply, effects),
            Input::Undelivered { peer } => self.undelivered(peer, false, effects),
            Input::Persisted { seq } => self.persisted(now, seq, effects),
            Input::Applied { index } => self.applied(index),
            Input::Lost(Courier::ElectionTimer) => self.reset_timer(now, effects),
            Input::SnapshotWritten { snapshot } => self.snapshot_written(snapshot, effects),
            Input::SnapshotFailed => self.snapshot_failed(effects),
            Input::ChunkStored { call, stored, complete } => self.chunk_stored(now, call, stored, complete, effects),
            Input::Restored { index } => self.restored(index, effects),
            // The disk that was replaced may have answered before it was gone (M06).
            Input::Met { peer, session, incarnation } if self.is_current(peer, session) => self.met(peer, incarnation),
            Input::Met { .. } => {}
            Input::ToldRemoved => self.is_told_removed(effects),
            Input::ToldWiped => self.told_wiped = true,
            Input::DiskFull => self.disk_is_full(now),
            Input::DiskFreed => self.disk_full = false,
            Input::Lost(Courier::Replicator(peer)) => self.undelivered(peer, true, effects),
            Input::Lost(Courier::Snapshotter) => self.snapshotter_lost(effects),
        }
        self.finish(now, before, effects);
    }

    /// Takes these proposals in, in order, as [`step`](Raft::step) takes one. What they lead to leaves together: one write,
    /// one request to each peer.
    pub fn propose_all(
        &mut self,
        now: Duration,
        proposals: impl IntoIterator<Item = (CallId, Payload)>,
        effects: &mut Vec<Effect>,
    ) {
        if self.condemned {
            return;
        }
        let before = self.standing();
        for (call, payload) in proposals {
            self.propose(call, payload, effects);
        }
        self.finish(now, before, effects);
    }

    fn request(&mut self, now: Duration, call: CallId, request: Request, effects: &mut Vec<Effect>) {
        match request {
            Request::AppendEntries(request) => self.append_entries(now, call, request, effects),
            Request::RequestVote(request) => self.request_vote(now, call, request, effects),
            Request::PreVote(request) => self.pre_vote(now, call, request, effects),
            Request::TimeoutNow(request) => self.timeout_now(now, call, request, effects),
            Request::ReadIndex(request) => self.read_index(now, call, request, effects),
            Request::InstallSnapshot(request) => self.install_snapshot(now, call, request, effects),
        }
    }

    fn response(&mut self, now: Duration, from: NodeId, session: u64, reply: Reply, effects: &mut Vec<Effect>) {
        // "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower" (§5.1).
        if reply.term() > self.current_term() {
            self.become_follower(now, reply.term(), None, effects);
            return;
        }
        match reply {
            Reply::AppendEntries(reply) => self.append_entries_reply(now, from, session, reply, effects),
            Reply::RequestVote(reply) => self.request_vote_reply(now, from, session, reply, effects),
            Reply::PreVote(reply) => self.pre_vote_reply(now, from, session, reply, effects),
            Reply::ReadIndex(reply) => self.read_index_reply(session, reply, effects),
            Reply::InstallSnapshot(reply) => self.install_snapshot_reply(now, from, session, &reply),
            Reply::TimeoutNow(_) => {}
        }
    }

    /// The write is on disk: a candidate's own vote counts, a leader's own entries count.
    fn persisted(&mut self, now: Duration, seq: u64, effects: &mut Vec<Effect>) {
        if !self.outbox.persisted(seq) {
            return;
        }
        if self.outbox.hard_state_is_durable() {
            self.count_own_vote(now, effects);
        }
        self.advance_commit_index();
    }

    /// What every step ends with: entries leave to the peers and to the disk, committed ones to the state machine.
    fn finish(&mut self, now: Duration, before: (Role, Term, Option<NodeId>), effects: &mut Vec<Effect>) {
        self.advance_membership(now, effects);
        self.compact(now);
        let write = self.outbox.next_write(now, &self.log, effects);
        // First the network, then the disk: the peers' disks then work while this one does (thesis §10.2.1).
        self.confirm_reads(now, effects);
        self.replicate(now, effects);
        self.advance_transfer(effects);
        effects.extend(write);
        self.apply(effects);
        self.order_snapshot(now, effects);
        let standing = self.standing();
        if standing != before {
            let (role, term, leader) = standing;
            effects.push(Effect::RoleChanged { role, term, leader });
        }
        self.check_invariants(now);
    }

    /// Hands committed entries to the state machine, as far as they are durable here and it keeps up.
    fn apply(&mut self, effects: &mut Vec<Effect>) {
        let to = self.commit_index.min(self.outbox.durable_index()).min(self.last_applied + APPLY_WINDOW);
        if to <= self.applying_index || self.snapshots.is_restoring() {
            return;
        }
        let entries = self.log.slice(self.applying_index + 1, to, usize::MAX, usize::MAX);
        self.snapshots.note_applied(&entries);
        let answered = self.proposals.iter().take_while(|(index, _)| *index <= to).count();
        let calls = self.proposals.drain(..answered).collect();
        self.applying_index = to;
        effects.push(Effect::Apply { entries, calls });
    }

    fn applied(&mut self, index: LogIndex) {
        assert!(index <= self.applying_index, "applied {index}, but only {} was ordered", self.applying_index);
        self.last_applied = self.last_applied.max(index);
    }

    /// Appends an entry in the current term.
    fn append(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        let before = self.memberships.current().clone();
        self.memberships.appended(&entry);
        if let Payload::Membership(membership) = &entry.payload {
            effects.push(Effect::MembershipChanged(membership.clone()));
            self.forget_replaced(&before);
        }
        self.log.append(entry);
    }

    fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
        self.outbox.set_hard_state(hard_state);
    }

    /// Sends `reply` when everything that it rests on is on disk.
    fn reply(&mut self, call: CallId, reply: Reply, effects: &mut Vec<Effect>) {
        let effect = Effect::Reply { call, reply };
        if self.outbox.hard_state_is_durable() { effects.push(effect) } else { self.outbox.after_write(effect) }
    }

    fn set_timer(&mut self, since: Duration, alarm: Alarm, effects: &mut Vec<Effect>) {
        self.timer_epoch += 1;
        self.timer_since = since;
        effects.push(Effect::SetTimer { epoch: self.timer_epoch, alarm, since });
    }

    fn new_session(&mut self) -> u64 {
        self.last_session += 1;
        self.last_session
    }

    /// Whether what is asked of `peer` now, in this leadership or candidacy, is asked in this session.
    fn is_current(&self, peer: NodeId, session: u64) -> bool {
        match &self.role {
            RoleState::Leader(leadership) => leadership.progress.get(&peer).is_some_and(|peer| peer.session == session),
            RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign) => {
                campaign.session == session || campaign.pre_vote_session == Some(session)
            }
            RoleState::Follower => false,
        }
    }

    fn standing(&self) -> (Role, Term, Option<NodeId>) {
        (self.role(), self.current_term(), self.leader)
    }

    /// What must hold after every step (after LogCabin's `checkBasic`).
    fn check_invariants(&self, now: Duration) {
        let last = self.log.last();
        assert!(last.term <= self.current_term(), "entry {last} is of a later term than {}", self.current_term());
        assert!(
            self.last_applied <= self.applying_index && self.applying_index <= self.commit_index,
            "applied {} <= applying {} <= committed {}",
            self.last_applied,
            self.applying_index,
            self.commit_index
        );
        assert!(self.commit_index <= last.index, "committed {} beyond the last entry {last}", self.commit_index);
        let (base, snapshot) = (self.log.base(), self.snapshots.position());
        assert!(
            base.index <= snapshot.index && snapshot.index <= self.commit_index,
            "base {base} <= snapshot {snapshot} <= committed {}",
            self.commit_index
        );
        assert!(
            self.outbox.durable_index() <= self.outbox.written_index() && self.outbox.written_index() <= last.index,
            "durable {} <= written {} <= last {last}",
            self.outbox.durable_index(),
            self.outbox.written_index()
        );
        assert!(self.timer_since <= now, "the alarm is dated {:?}, now is {now:?}", self.timer_since);
        if let RoleState::Leader(_) = &self.role {
            assert_eq!(self.leader, Some(self.settings.id), "a leader knows itself as the leader");
        }
    }

    fn window(&self) -> Window {
        Window { batches: self.settings.max_in_flight_batches, bytes: self.settings.max_in_flight_bytes }
    }

    /// Whether this server alone is the cluster, and was as far back as it remembers: a leader that is on its way out may
    /// still answer by a lease that rests on this server (R04).
    fn is_alone(&self) -> bool {
        self.memberships
            .since(self.commit_index)
            .all(|membership| quorum::reached(membership, |id| id == self.settings.id))
    }
}

/// What can be seen from outside.
impl Raft {
    /// What this server is.
    pub fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// The latest term that this server has seen.
    pub fn current_term(&self) -> Term {
        self.hard_state.current_term
    }

    /// Whom it voted for in that term.
    pub fn voted_for(&self) -> Option<NodeId> {
        self.hard_state.voted_for
    }

    /// The leader of that term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The highest entry known to be committed.
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The highest entry that the state machine has reported as applied.
    pub fn last_applied(&self) -> LogIndex {
        self.last_applied
    }

    /// The last entry of the log.
    pub fn last_index(&self) -> LogIndex {
        self.log.last().index
    }

    /// The last entry that is on this server's disk.
    pub fn durable_index(&self) -> LogIndex {
        self.outbox.durable_index()
    }

    /// The last entry in the finished snapshot. 0@0: there is none.
    pub fn snapshot(&self) -> LogPosition {
        self.snapshots.position()
    }

    /// What the log stands on: the last entry that it does not have any more.
    pub fn base(&self) -> LogPosition {
        self.log.base()
    }

    /// Until when this leader may answer reads by its lease; `None`: it may not.
    pub fn lease_until(&self) -> Option<Duration> {
        match &self.role {
            RoleState::Leader(leadership) => leadership.reads.lease_until(),
            _ => None,
        }
    }

    /// The entry at `index`, if the log has it in memory.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(index)
    }

    /// The configuration in force: the latest in the log (§6).
    pub fn membership(&self) -> &Membership {
        self.memberships.current()
    }

    /// As leader: each peer with its `match_index`, and whether it has answered since the last break. Else nothing.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, LogIndex, bool)> {
        let progress = match &self.role {
            RoleState::Leader(leadership) => Some(&leadership.progress),
            _ => None,
        };
        progress.into_iter().flatten().map(|(id, peer): (&NodeId, &Progress)| (*id, peer.match_index, peer.reachable))
    }
}
