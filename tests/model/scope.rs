//! How far a search goes: what may happen, and how often.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::raft::*;

use super::{server::PreVotes, tally::Kind};
use crate::support::disk::{Disk, snapshot_of};

/// One configuration of the model. Whatever is not bounded here may happen at any time, any number of times: a message that
/// was ever sent arrives (late, again, out of order, or never), a write reaches its disk, an alarm rings.
#[derive(Clone)]
pub struct Scope {
    pub name: &'static str,
    pub disks: Vec<Disk>,
    /// What stands in the snapshots that are on these disks from the beginning.
    pub compacted: Vec<Entry>,
    /// Nobody campaigns for a later term.
    pub max_term: Term,
    pub proposals: u8,
    pub reads: u8,
    /// No leader begins more rounds of reads than these: a follower's question that arrives again and again would each time
    /// begin another.
    pub read_rounds: u64,
    pub leases: bool,
    pub changes: Vec<Change>,
    pub transfers: u8,
    /// How often somebody asks for a snapshot.
    pub snapshots: u8,
    pub crashes: u8,
    /// How often a disk is lost, and an empty one takes its place: not where a majority of empty ones would be left, which are
    /// another cluster…
    pub wipes: u8,
    /// …and whose.
    pub wiped: Vec<NodeId>,
    /// How often a connection breaks, and its sender is told.
    pub breaks: u8,
    /// How often a leader finds that nobody has been heard for long.
    pub alone: u8,
    pub late_reports: bool,
    pub pre_votes: PreVotes,
    /// The clocks go on so often; else they stand still, and every timeout is over at once.
    pub ticks: u8,
    /// Whose alarms ring while they do not lead.
    pub campaigners: Vec<NodeId>,
    /// In which terms they stand, if not in all.
    pub stands: Vec<(NodeId, Term)>,
    /// Every write is on disk at once.
    pub prompt_disks: bool,
    /// No more requests than these may wait at one server for its disk or for others.
    pub waiting: usize,
    /// All AppendEntries get lost.
    pub only_elections: bool,
    /// Leaders send heartbeats. Without, they send what elections, proposals and answers lead to; that may still arrive at
    /// any time and any number of times.
    pub heartbeats: bool,
    /// The most entries in one AppendEntries.
    pub batch: usize,
    /// The most AppendEntries with entries to one peer that are not answered.
    pub window: usize,
    /// Differences that cannot come to matter are kept, to show that they do not.
    pub forgets_nothing: bool,
    /// n2 and n3 begin alike, and nothing else tells one from the other.
    pub mirrored: bool,
    /// n1 leads term 1 from the beginning, and everyone has what it has.
    pub settled: bool,
    /// What it is about: a search that never comes by these has a hole.
    pub reaches: Vec<Kind>,
    /// In the order of their distance, else least progress first (`model/order.rs`).
    pub nearest_first: bool,
    /// All of it is explored before `max_states`: otherwise the test fails. Else only the nearest states are explored.
    pub whole: bool,
    /// Stop here. 0: when all is explored.
    pub max_states: usize,
}

/// A tick, where clocks go on.
pub const TICK: Duration = Duration::from_millis(100);

impl Scope {
    /// `size` blank voters, to which nothing happens.
    pub fn of(name: &'static str, size: u64, max_term: Term) -> Self {
        let membership = Membership::of_voters((1..=size).map(|id| (id, "")));
        Scope {
            name,
            disks: (0..size).map(|_| Disk::of(&membership)).collect(),
            compacted: Vec::new(),
            max_term,
            proposals: 0,
            reads: 0,
            read_rounds: 2,
            leases: false,
            changes: Vec::new(),
            transfers: 0,
            snapshots: 0,
            crashes: 0,
            wipes: 0,
            wiped: Vec::new(),
            breaks: 0,
            alone: 0,
            late_reports: false,
            pre_votes: PreVotes::Granted,
            ticks: 0,
            campaigners: (1..=size).collect(),
            stands: Vec::new(),
            prompt_disks: false,
            waiting: 2,
            only_elections: false,
            heartbeats: false,
            batch: 2,
            window: usize::MAX,
            forgets_nothing: false,
            mirrored: true,
            settled: false,
            reaches: Vec::new(),
            nearest_first: false,
            whole: true,
            max_states: 0,
        }
    }

    /// What no server is ever asked.
    pub fn never(&self) -> Never {
        let joint = self.disks.iter().any(|disk| disk.current_membership().is_joint());
        Never { changes: self.changes.is_empty() && !joint, reads: self.reads == 0 }
    }

    /// Zero timeouts: nobody waits for anything that it could wait for. With ticks, two of them make an election timeout.
    pub fn settings(&self, id: NodeId) -> Settings {
        let timeout = if self.ticks > 0 { 2 * TICK } else { Duration::ZERO };
        Settings {
            id,
            incarnation: self.disks[id as usize - 1].incarnation,
            heartbeat_interval: Duration::ZERO,
            election_timeout_min: timeout,
            election_timeout_max: timeout,
            max_batch_entries: self.batch,
            max_batch_bytes: 64,
            max_in_flight_batches: self.window,
            max_in_flight_bytes: 64,
            snapshot_threshold: 1_000_000,
            snapshot_threshold_bytes: 1 << 30,
            snapshot_trailing: 0,
            disk_timeout: Duration::from_secs(3600),
        }
    }
}

/// A disk that holds entries of these terms, the last of which may be a configuration.
pub fn disk(membership: &Membership, current_term: Term, log: &[Term], then: Option<Membership>) -> Disk {
    let payloads =
        log.iter().map(|_| Payload::Noop).chain(then.map(|membership| Payload::Membership(membership.into())));
    let terms = log.iter().chain(log.last());
    let entries = (1..).zip(payloads).zip(terms).map(|((index, payload), term)| Entry { index, term: *term, payload });
    let hard_state = HardState { current_term, voted_for: None };
    Disk { hard_state, entries: entries.collect(), ..Disk::of(membership) }
}

/// A disk that takes another's place has its number and this more.
const ANOTHER: Incarnation = 10;

/// The number of the disk that takes the place of this one.
pub fn next_number(incarnation: Incarnation) -> Incarnation {
    incarnation + ANOTHER
}

/// Whether a disk took the place of another.
pub fn is_another(incarnation: Incarnation) -> bool {
    incarnation > ANOTHER
}

/// These logs, each on the disk of the server whose number it has; entries that are no configuration are no-ops.
pub fn numbered(voters: &Membership, current_term: Term, logs: &[&[(Term, Option<Membership>)]]) -> Vec<Disk> {
    let payload = |membership: &Option<Membership>| match membership {
        Some(membership) => Payload::Membership(membership.clone().into()),
        None => Payload::Noop,
    };
    let disk = |(incarnation, log): (Incarnation, &&[(Term, Option<Membership>)])| {
        let entries = (1..).zip(*log).map(|(index, (term, said))| Entry { index, term: *term, payload: payload(said) });
        let hard_state = HardState { current_term, voted_for: None };
        Disk { incarnation, hard_state, entries: entries.collect(), ..Disk::of(voters) }
    };
    (1..).zip(logs).map(disk).collect()
}

/// These voters, of whom the first disks of `named` are named, and those of `unsettled` by this configuration first.
pub fn naming(voters: &Membership, named: &[NodeId], unsettled: &[NodeId]) -> Option<Membership> {
    let incarnations = named.iter().map(|id| (*id, *id)).collect();
    Some(Membership { incarnations, unsettled: unsettled.iter().copied().collect(), ..voters.clone() })
}

/// From `outgoing` to `voters`.
pub fn joint(outgoing: &[NodeId], voters: &[NodeId]) -> Membership {
    let of = |ids: &[NodeId]| ids.iter().map(|id| (*id, String::new())).collect::<BTreeMap<_, _>>();
    Membership { voters: of(voters), outgoing: of(outgoing), ..Membership::default() }
}

/// A disk whose log stands on a snapshot that `maker` took of these entries.
pub fn compacted_disk(membership: &Membership, current_term: Term, prefix: &[Entry], maker: NodeId) -> Disk {
    let finished = Some(snapshot_of(prefix, membership.clone().into(), maker_of(maker, prefix.len() as LogIndex)));
    let base = prefix.last().map_or(LogPosition::default(), Entry::position);
    Disk { base, finished, ..disk(membership, current_term, &[], None) }
}

/// By this number `id` writes a snapshot that ends at `index` in two chunks, and with other bytes than other servers.
pub fn maker_of(id: NodeId, index: LogIndex) -> u64 {
    4 * id + (5 - index % 4) % 4
}
