//! A cluster of cores and nothing else: no actor, no clock, no disk. Every message, write and alarm, every step of a state
//! machine and of a snapshot waits until the test lets it happen, so that a test can put any order, loss or repetition
//! between any two of them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::raft::*;

pub mod checks;
pub mod disk;
pub mod network;
pub mod trust;

pub use disk::Disk;
pub use network::{Asker, Body, Conversation, Packet};

/// The limits that all tests run with; small, so that windows fill.
pub fn settings(id: NodeId) -> Settings {
    Settings {
        id,
        incarnation: 0,
        heartbeat_interval: HEARTBEAT,
        election_timeout_min: ELECTION_TIMEOUT_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MAX,
        max_batch_entries: 3,
        max_batch_bytes: 64,
        max_in_flight_batches: 2,
        max_in_flight_bytes: 128,
        snapshot_threshold: 1_000_000,
        snapshot_threshold_bytes: 1 << 30,
        snapshot_trailing: 0,
        disk_timeout: Duration::from_secs(3600),
    }
}

pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(150);
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);
pub const HEARTBEAT: Duration = Duration::from_millis(50);

/// The servers 1 to `size`, all voters.
pub fn voters(size: u64) -> Membership {
    Membership::of_voters((1..=size).map(|id| (id, format!("n{id}"))))
}

/// Cores, their disks, and what is on its way between them.
pub struct World {
    pub now: Duration,
    pub servers: BTreeMap<NodeId, Server>,
    pub network: Vec<Packet>,
    /// The cluster that it begins with.
    pub membership: Membership,
    /// The snapshots under way, by who sends them to whom.
    pub conversations: BTreeMap<(NodeId, NodeId), Conversation>,
    /// What each snapshot that was ever taken holds, and who wrote it.
    contents: Vec<(SnapshotMetadata, Vec<Entry>, u64)>,
    last_call: CallId,
}

/// One server: its core while it is up, its disk always.
pub struct Server {
    pub raft: Option<Raft>,
    /// How often it was started; answers to an earlier life do not reach a later one.
    pub life: u64,
    pub disk: Disk,
    /// The write that is not on disk yet.
    pub in_flight: Option<PendingWrite>,
    pub alarm: Option<SetAlarm>,
    /// What the state machine has taken in, from the first entry on.
    pub applied: Vec<Entry>,
    /// What waits at the state machine, in order.
    pub work: VecDeque<Work>,
    /// A snapshot of its state that is on its way to the disk.
    pub writing: VecDeque<SnapshotMetadata>,
    /// A snapshot that is on its way from the disk to the state machine.
    pub loading: VecDeque<SnapshotMetadata>,
    /// A chunk that is on its way to the disk.
    pub chunk: Option<Chunk>,
    /// The state machine may be told twice to restore one snapshot: whoever loaded it died behind it.
    pub restored_twice: bool,
    /// Requests of other servers that wait for a reply.
    pub asked: BTreeMap<CallId, Asker>,
    pub settings: Settings,
    /// How fast its clock goes, in thousandths.
    pub clock_rate: u32,
    last_seq: u64,
}

/// What a state machine is told to do.
pub enum Work {
    Apply(Vec<Entry>),
    Take(LogPosition, std::sync::Arc<Membership>),
    Restore(SnapshotMetadata),
}

pub struct PendingWrite {
    pub seq: u64,
    pub write: Write,
    pub then: Vec<Effect>,
}

pub struct Chunk {
    pub call: CallId,
    pub snapshot: SnapshotMetadata,
    pub offset: u64,
    pub data: Bytes,
}

#[derive(Clone, Copy)]
pub struct SetAlarm {
    pub epoch: u64,
    pub alarm: Alarm,
    /// On the server's own clock.
    pub since: Duration,
}

impl Server {
    /// A server with this disk, not up yet.
    pub fn new(id: NodeId, disk: Disk) -> Self {
        let settings = Settings { incarnation: disk.incarnation, ..settings(id) };
        Server {
            raft: None,
            life: 0,
            disk,
            in_flight: None,
            alarm: None,
            applied: Vec::new(),
            work: VecDeque::new(),
            writing: VecDeque::new(),
            loading: VecDeque::new(),
            chunk: None,
            restored_twice: false,
            asked: BTreeMap::new(),
            settings,
            clock_rate: 1000,
            last_seq: 0,
        }
    }

    pub fn raft(&self) -> &Raft {
        self.raft.as_ref().expect("the test asks only servers that are up")
    }

    pub fn is_up(&self) -> bool {
        self.raft.is_some()
    }

    /// The log in memory, behind its base.
    pub fn log(&self) -> Vec<Entry> {
        let raft = self.raft();
        let indexes = raft.base().index + 1..=raft.last_index();
        indexes.map(|index| raft.entry(index).expect("it stands behind the base").clone()).collect()
    }

    /// Whether anything waits at its state machine or its snapshotter.
    pub fn is_working(&self) -> bool {
        let snapshots = !self.writing.is_empty() || !self.loading.is_empty() || self.chunk.is_some();
        !self.work.is_empty() || snapshots
    }
}

impl World {
    /// Servers with these disks; none is up yet.
    pub fn new(disks: BTreeMap<NodeId, Disk>, membership: Membership) -> Self {
        let servers = disks.into_iter().map(|(id, disk)| (id, Server::new(id, disk))).collect();
        let (network, conversations) = (Vec::new(), BTreeMap::new());
        World { now: Duration::ZERO, servers, network, membership, conversations, contents: Vec::new(), last_call: 0 }
    }

    pub fn server(&self, id: NodeId) -> &Server {
        &self.servers[&id]
    }

    pub fn server_mut(&mut self, id: NodeId) -> &mut Server {
        self.servers.get_mut(&id).expect("the test names servers that exist")
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.servers.keys().copied().collect()
    }

    pub fn new_call(&mut self) -> CallId {
        self.last_call += 1;
        self.last_call
    }

    /// What this server's own clock shows.
    pub fn clock(&self, id: NodeId) -> Duration {
        self.now * self.server(id).clock_rate / 1000
    }

    /// Starts a server from its disk. Returns what it ordered.
    pub fn start(&mut self, id: NodeId) -> Vec<Effect> {
        let now = self.clock(id);
        let server = self.server_mut(id);
        assert!(!server.is_up(), "n{id} is up already");
        let recovered = server.disk.recovered();
        server.life += 1;
        server.last_seq = 0;
        let mut effects = Vec::new();
        server.raft = Some(Raft::new(server.settings.clone(), recovered, now, &mut effects));
        self.carry_out_all(id, &effects);
        effects
    }

    /// Stops a server at once. A write in flight is lost, or had just reached the disk when the power went; so is a chunk,
    /// and a snapshot.
    pub fn crash(&mut self, id: NodeId, write_survives: bool) {
        self.conversations.retain(|(from, _), _| *from != id);
        let server = self.server_mut(id);
        server.raft = None;
        let (pending, chunk, writing) = (server.in_flight.take(), server.chunk.take(), server.writing.pop_front());
        if write_survives {
            pending.iter().for_each(|pending| server.disk.write(&pending.write));
            if let Some(Chunk { snapshot, offset, data, .. }) = chunk {
                server.disk.store(&snapshot, offset, &data);
            }
            writing.iter().for_each(|snapshot| server.disk.finish(snapshot));
        }
        server.alarm = None;
        server.applied.clear();
        server.work.clear();
        server.writing.clear();
        server.loading.clear();
        server.restored_twice = false;
        server.asked.clear();
    }

    /// Lets the core take one input in and carries out what it orders. Returns that.
    pub fn step(&mut self, id: NodeId, input: Input) -> Vec<Effect> {
        let now = self.clock(id);
        if input == Input::Lost(Courier::Snapshotter) {
            self.lose_snapshotter(id);
        }
        let raft = self.server_mut(id).raft.as_mut().expect("only a server that is up hears anything");
        let mut effects = Vec::new();
        raft.step(now, input, &mut effects);
        self.carry_out_all(id, &effects);
        effects
    }

    /// Puts the write in flight on the disk. Returns the report, and what it was that waited for it.
    pub fn sync(&mut self, id: NodeId) -> Option<(Input, Vec<Effect>)> {
        let server = self.server_mut(id);
        let pending = server.in_flight.take()?;
        server.disk.write(&pending.write);
        Some((Input::Persisted { seq: pending.seq }, pending.then))
    }

    /// Puts the chunk in flight on the disk. Returns the report.
    pub fn store_chunk(&mut self, id: NodeId) -> Option<Input> {
        let server = self.server_mut(id);
        let Chunk { call, snapshot, offset, data } = server.chunk.take()?;
        let (stored, complete) = server.disk.store(&snapshot, offset, &data);
        Some(Input::ChunkStored { call, stored, complete })
    }

    /// Puts the server's own snapshot on the disk. Returns the report.
    pub fn write_snapshot(&mut self, id: NodeId) -> Option<Input> {
        let server = self.server_mut(id);
        let snapshot = server.writing.pop_front()?;
        server.disk.finish(&snapshot);
        Some(Input::SnapshotWritten { snapshot })
    }

    /// The snapshot to be restored reaches the state machine. Returns whether there was one.
    pub fn load_snapshot(&mut self, id: NodeId) -> bool {
        let server = self.server_mut(id);
        let Some(snapshot) = server.loading.pop_front() else { return false };
        server.work.push_back(Work::Restore(snapshot));
        true
    }

    /// The state machine does what it was told first. Returns the report, where it makes one.
    pub fn work(&mut self, id: NodeId) -> Option<Input> {
        let maker = id;
        let server = self.server_mut(id);
        match server.work.pop_front()? {
            Work::Apply(entries) => {
                for entry in entries {
                    let next = server.applied.len() as LogIndex + 1;
                    assert_eq!(
                        entry.index, next,
                        "n{id} applies without gaps, and nothing before it is restored (N03)"
                    );
                    server.applied.push(entry);
                }
                Some(Input::Applied { index: server.applied.len() as LogIndex })
            }
            Work::Take(last_included, membership) => {
                let prefix = server.applied.clone();
                let last = prefix.last().map(Entry::position);
                assert_eq!(last, Some(last_included), "n{id} takes a snapshot of another state than was ordered");
                let snapshot = disk::snapshot_of(&prefix, membership, maker);
                server.writing.push_back(snapshot.clone());
                self.contents.push((snapshot, prefix, maker));
                None
            }
            Work::Restore(snapshot) => {
                let index = snapshot.last_included.index;
                let content = self.contents.iter().find(|(known, _, _)| *known == snapshot);
                let prefix = content.expect("a snapshot that somebody took").1.clone();
                let server = self.server_mut(id);
                // A later one has taken its place, and is to be restored behind it.
                if server.disk.finished.as_ref() != Some(&snapshot) {
                    return None;
                }
                let back = (server.applied.len() as LogIndex) > index;
                assert!(!back || server.restored_twice, "N01: the state of n{id} goes back to {index}");
                if !back {
                    server.applied = prefix;
                }
                Some(Input::Restored { index })
            }
        }
    }

    /// What a snapshot holds.
    pub fn content(&self, snapshot: &SnapshotMetadata) -> Option<&[Entry]> {
        self.contents.iter().find(|(known, _, _)| known == snapshot).map(|(_, prefix, _)| &prefix[..])
    }

    /// What the snapshotter held is lost; what the state machine was told is not.
    fn lose_snapshotter(&mut self, id: NodeId) {
        let server = self.server_mut(id);
        server.writing.clear();
        server.loading.clear();
        server.restored_twice |= server.work.iter().any(|work| matches!(work, Work::Restore(_)));
        server.work.retain(|work| !matches!(work, Work::Take(..)));
    }

    pub fn carry_out_all(&mut self, id: NodeId, effects: &[Effect]) {
        effects.iter().for_each(|effect| self.carry_out(id, effect));
    }

    fn carry_out(&mut self, id: NodeId, effect: &Effect) {
        let server = self.server_mut(id);
        match effect {
            Effect::SetTimer { epoch, alarm, since } => {
                server.alarm = Some(SetAlarm { epoch: *epoch, alarm: *alarm, since: *since });
            }
            Effect::Persist { seq, write, then } => {
                assert!(server.in_flight.is_none(), "n{id} has two writes in flight");
                assert_eq!(*seq, server.last_seq + 1, "n{id}: write sequences rise one by one");
                server.last_seq = *seq;
                server.in_flight = Some(PendingWrite { seq: *seq, write: write.clone(), then: then.clone() });
            }
            Effect::Apply { entries, .. } => server.work.push_back(Work::Apply(entries.clone())),
            Effect::TakeSnapshot { last_included, membership } => {
                server.work.push_back(Work::Take(*last_included, membership.clone()));
            }
            Effect::Restore { snapshot } => server.loading.push_back(snapshot.clone()),
            Effect::StoreChunk { call, snapshot, offset, data } => {
                assert!(server.chunk.is_none(), "n{id} has two chunks in flight");
                let (snapshot, data) = (snapshot.clone(), data.clone());
                server.chunk = Some(Chunk { call: *call, snapshot, offset: *offset, data });
            }
            Effect::Send { to, session, request } => self.send(id, *to, *session, request.clone()),
            Effect::SendSnapshot { to, session, request } => self.converse(id, *to, *session, request),
            Effect::Reply { call, reply } => self.reply(id, *call, reply),
            _ => {}
        }
    }
}
