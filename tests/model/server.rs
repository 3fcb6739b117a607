//! One server of the model: the real core, its disk, and what is on its way between the two. A [`Turn`] is all that happens
//! at one server at once; it depends on nothing but that server and the move, so that it is computed once and remembered.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::raft::*;

use super::scope::{is_another, maker_of};
use crate::support::{
    disk::{Disk, bytes_of, snapshot_of},
    trust,
};

/// Of a request that is over: its answer says nothing but the answerer's term.
pub const OVER: u64 = 0;
/// Of a request whose sender has crashed since: its answer reaches nobody.
pub const ORPHAN: u64 = u64::MAX;
/// Calls of clients are numbered from here on, in the order in which they are made.
pub const CLIENTS: CallId = 1000;
/// Long enough for every timeout of a model whose clocks stand still.
const LONG: Duration = Duration::from_secs(1);

/// A message on its way, or one that was lost and may be found again: the model never takes one back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    /// Of the request, also in its reply.
    pub session: u64,
    /// Of a request: the disk that is meant. Of a reply: the disk that answers. 0: it is not told.
    pub disk: Incarnation,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    Request(Request),
    Reply(Reply),
}

impl Packet {
    /// Whose request it is, or answers.
    pub fn asker(&self) -> NodeId {
        if self.is_reply() { self.to } else { self.from }
    }

    pub fn is_append_entries(&self) -> bool {
        matches!(self.body, Body::Request(Request::AppendEntries(_)))
    }

    /// The round of reads that it tells of. 0: none.
    pub fn read_round(&self) -> u64 {
        match &self.body {
            Body::Request(Request::AppendEntries(request)) => request.read_round,
            _ => 0,
        }
    }

    pub fn is_reply(&self) -> bool {
        matches!(self.body, Body::Reply(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub id: NodeId,
    pub raft: Raft,
    pub disk: Disk,
    /// The write that is not on disk yet, and what waits for it.
    pub pending: Option<(u64, Write, Vec<Effect>)>,
    /// Who waits for an answer of this server: the server, the session of its request, and that.
    pub asked: BTreeMap<CallId, (NodeId, u64, Request)>,
    pub applied: Vec<Entry>,
    /// A snapshot of its state that is on its way to the disk.
    pub writing: Option<SnapshotMetadata>,
    /// A snapshot that is on its way from the disk to the state machine.
    pub loading: Option<SnapshotMetadata>,
    /// A chunk that is on its way to the disk.
    pub chunk: Option<(CallId, SnapshotMetadata, u64, Bytes)>,
    pub now: Duration,
    /// From when its alarm is dated, where clocks go on.
    pub since: Duration,
    pub settings: Settings,
}

impl Server {
    /// Whether it has not answered this yet.
    pub fn owes(&self, packet: &Packet) -> bool {
        let Body::Request(request) = &packet.body else { return false };
        let mut asked = self.asked.values();
        asked.any(|(from, session, asked)| (from, session, asked) == (&packet.from, &packet.session, request))
    }

    /// Whether its alarm may ring: an election timeout after what it is dated from, at the earliest.
    pub fn is_due(&self) -> bool {
        self.leads().is_some() || self.now >= self.since + self.settings.election_timeout_min
    }

    /// Whether anything is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        self.pending.is_some() || self.writing.is_some() || self.chunk.is_some()
    }

    pub fn leads(&self) -> Option<Term> {
        (self.raft.role() == Role::Leader).then(|| self.raft.current_term())
    }
}

/// What happens at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// This message reaches it.
    Deliver(u32),
    /// Its alarm rings.
    Ring,
    /// Its alarm rings, and nobody has been heard for long.
    RingAlone,
    /// The write in flight is on disk, and reported.
    Sync,
    /// A write that was over long ago is reported again (L05).
    LateReport,
    /// It falls and starts again. What was on its way to the disk is there, or not.
    Crash {
        survives: bool,
    },
    /// It falls, its disk is lost, and it starts with an empty one as it was started first.
    Wipe,
    /// Its connection to this peer broke.
    Undelivered(NodeId),
    /// A client proposes its command of this number.
    Propose(u8),
    /// A client makes its read of this number.
    Read(u8, bool),
    /// An operator makes the change of this number.
    Change(u8),
    Transfer(NodeId),
    TakeSnapshot,
    StoreChunk,
    WriteSnapshot,
    Restore,
    /// All clocks go on.
    Tick,
}

impl Move {
    /// Whether another life begins with it.
    pub fn ends_life(self) -> bool {
        matches!(self, Move::Crash { .. } | Move::Wipe)
    }
}

/// What the whole cluster has to be compared with.
#[derive(Clone, Debug)]
pub enum Event {
    Leads,
    Votes { term: Term, candidate: NodeId },
    Commits { from: LogIndex, to: LogIndex, by: Membership },
    Applies { entries: Vec<Entry>, calls: Vec<(LogIndex, CallId)> },
    AnswersRead { call: CallId, read_index: LogIndex, by_lease: bool },
    Refuses { call: CallId, not_applied: bool },
    AnswersChange { index: LogIndex },
    Snapshot { last_included: LogPosition, membership: Membership },
}

/// What the snapshots hold that were ever taken.
pub type Contents = HashMap<SnapshotMetadata, Vec<Entry>>;

/// What happens at one server at once.
pub struct Turn<'a> {
    pub server: Server,
    /// As it was before.
    pub before: Server,
    pub sent: Vec<Packet>,
    pub events: Vec<Event>,
    /// What was violated at this server alone.
    pub violation: Option<String>,
    pub lines: Option<Vec<String>>,
    /// It fell, and what it was writing is not on its disk.
    pub lost_write: bool,
    /// What reached it was refused, since it is from another disk than is known, or for one.
    pub refused: bool,
    pub contents: &'a mut Contents,
}

/// How much of the real protocol around an election takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PreVotes {
    /// As it is.
    Asked,
    /// Whoever asks is granted it at once: nothing that must not happen may rest on a pre-vote.
    Granted,
}

impl<'a> Turn<'a> {
    pub fn new(server: Server, contents: &'a mut Contents, lines: bool) -> Self {
        let before = server.clone();
        let lines = lines.then(Vec::new);
        Turn {
            server,
            before,
            sent: Vec::new(),
            events: Vec::new(),
            violation: None,
            lines,
            lost_write: false,
            refused: false,
            contents,
        }
    }

    /// Starts a server from its disk.
    pub fn start(settings: Settings, disk: Disk, now: Duration, contents: &'a mut Contents, lines: bool) -> Self {
        let mut effects = Vec::new();
        let raft = Raft::new(settings.clone(), disk.recovered(), now, &mut effects);
        let (id, asked) = (settings.id, BTreeMap::new());
        let (pending, applied, writing, loading, chunk) = (None, Vec::new(), None, None, None);
        let server =
            Server { id, raft, disk, pending, asked, applied, writing, loading, chunk, now, since: now, settings };
        let mut turn = Turn::new(server, contents, lines);
        turn.note(|| format!("n{id} starts"));
        turn.carry_out_all(effects);
        turn
    }

    pub fn deliver(&mut self, packet: &Packet) {
        if self.refuses(packet) {
            self.refused = true;
            self.note(|| format!("n{} refuses what is of or for another disk", packet.to));
            return;
        }
        match packet.body.clone() {
            Body::Request(request) => {
                let call = (1..).find(|call| !self.server.asked.contains_key(call)).expect("there is always another");
                self.server.asked.insert(call, (packet.from, packet.session, request.clone()));
                self.step(Input::Request { call, from: packet.from, request });
            }
            Body::Reply(reply) => {
                self.meet(packet.from, packet.session, packet.disk);
                self.step(Input::Response { from: packet.from, session: packet.session, reply });
            }
        }
    }

    /// Whether a message is from another disk than is known, or for one.
    fn refuses(&self, packet: &Packet) -> bool {
        match packet.body {
            Body::Request(_) => !trust::is_for(packet.disk, self.server.disk.incarnation),
            Body::Reply(_) => trust::is_known_otherwise(self.server.raft.membership(), packet.from, packet.disk),
        }
    }

    /// Who answers says which disk it has.
    fn meet(&mut self, peer: NodeId, session: u64, incarnation: Incarnation) {
        let raft = &self.server.raft;
        let unknown = !raft.membership().incarnations.contains_key(&peer);
        if incarnation != 0 && unknown && raft.role() != Role::Follower {
            self.step(Input::Met { peer, session, incarnation });
        }
    }

    pub fn ring(&mut self, pre_votes: PreVotes) {
        self.step(Input::Timeout { epoch: 0 });
        if pre_votes == PreVotes::Asked {
            return;
        }
        let is_pre_vote = |packet: &Packet| matches!(packet.body, Body::Request(Request::PreVote(_)));
        let asked: Vec<_> = self.sent.extract_if(.., |packet| is_pre_vote(packet)).collect();
        for Packet { to: from, session, .. } in asked {
            if self.server.raft.role() == Role::PreCandidate {
                let reply = PreVoteReply { term: self.server.raft.current_term(), vote_granted: true };
                self.step(Input::Response { from, session, reply: Reply::PreVote(reply) });
            }
        }
    }

    /// Its alarm rings after it has heard nobody for longer than any timeout.
    pub fn ring_alone(&mut self) {
        self.server.now += LONG;
        self.step(Input::Timeout { epoch: 0 });
    }

    pub fn sync(&mut self) {
        let Some((seq, write, then)) = self.server.pending.take() else { return };
        self.server.disk.write(&write);
        self.step(Input::Persisted { seq });
        self.carry_out_all(then);
    }

    pub fn store_chunk(&mut self) {
        let Some((call, snapshot, offset, data)) = self.server.chunk.take() else { return };
        let (stored, complete) = self.server.disk.store(&snapshot, offset, &data);
        self.step(Input::ChunkStored { call, stored, complete });
    }

    pub fn write_snapshot(&mut self) {
        let Some(snapshot) = self.server.writing.take() else { return };
        self.server.disk.finish(&snapshot);
        self.step(Input::SnapshotWritten { snapshot });
    }

    pub fn restore(&mut self) {
        let Some(snapshot) = self.server.loading.take() else { return };
        // A later one has taken its place, and is to be restored behind it.
        if self.server.disk.finished.as_ref() != Some(&snapshot) {
            return;
        }
        let index = snapshot.last_included.index;
        if self.server.applied.len() as LogIndex > index {
            self.violate(format!("N01: the state of n{} goes back to {index}", self.server.id));
        }
        self.server.applied = self.contents[&snapshot].clone();
        self.step(Input::Restored { index });
    }

    /// What is left of a server that crashes.
    pub fn remains(mut server: Server, survives: bool) -> (Settings, Disk) {
        if survives {
            server.pending.iter().for_each(|(_, write, _)| server.disk.write(write));
            if let Some((_, snapshot, offset, data)) = &server.chunk {
                server.disk.store(snapshot, *offset, data);
            }
            server.writing.iter().for_each(|snapshot| server.disk.finish(snapshot));
        }
        (server.settings, server.disk)
    }

    pub fn step(&mut self, input: Input) {
        let id = self.server.id;
        self.note(|| format!("n{id} < {input}"));
        let from = self.server.raft.commit_index();
        // What a leader appends when it has committed something is in force only behind that.
        let by = self.server.raft.membership().clone();
        let mut effects = Vec::new();
        self.server.raft.step(self.server.now, input, &mut effects);
        let to = self.server.raft.commit_index();
        if to < from {
            self.violate(format!("Monotone Commit: n{id}: the commit index fell to {to} from {from}"));
        } else if to > from {
            self.events.push(Event::Commits { from, to, by });
        }
        self.carry_out_all(effects);
    }

    pub fn carry_out_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let id = self.server.id;
            self.note(|| format!("   n{id} > {effect}"));
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let id = self.server.id;
        let server = &mut self.server;
        match effect {
            Effect::Persist { seq, write, then } => {
                assert!(server.pending.is_none(), "n{id} has two writes in flight");
                server.pending = Some((seq, write, then));
            }
            Effect::SetTimer { since, .. } => server.since = since,
            Effect::Send { to, session, request } => self.send(to, session, Body::Request(request)),
            Effect::Reply { call, reply } => {
                let Some((to, session, _)) = server.asked.remove(&call) else {
                    return self.violate(format!("n{id} answers request {call} twice"));
                };
                self.send(to, session, Body::Reply(reply));
            }
            Effect::SendSnapshot { to, session, request } => self.send_snapshot(to, session, &request),
            Effect::Apply { entries, calls } => {
                for entry in &entries {
                    assert_eq!(entry.index, server.applied.len() as LogIndex + 1, "N03: n{id} applies without gaps");
                    assert!(server.disk.holds(entry.position()), "n{id} applies {entry}, which is not on its disk");
                    server.applied.push(entry.clone());
                }
                self.events.push(Event::Applies { entries, calls });
                let index = self.server.applied.len() as LogIndex;
                self.step(Input::Applied { index });
            }
            Effect::TakeSnapshot { last_included, membership } => {
                let prefix = server.applied.clone();
                assert_eq!(prefix.last().map(Entry::position), Some(last_included), "n{id} takes another snapshot");
                // Two chunks, and other bytes at each server.
                let maker = maker_of(id, last_included.index);
                let snapshot = snapshot_of(&prefix, membership.clone(), maker);
                server.writing = Some(snapshot.clone());
                self.contents.insert(snapshot, prefix);
                self.events.push(Event::Snapshot { last_included, membership: (*membership).clone() });
            }
            Effect::Restore { snapshot } => server.loading = Some(snapshot),
            Effect::StoreChunk { call, snapshot, offset, data } => {
                assert!(server.chunk.is_none(), "n{id} has two chunks in flight");
                server.chunk = Some((call, snapshot, offset, data));
            }
            Effect::AnswerRead { call, read_index, lease_until } => {
                let over = lease_until.is_some_and(|until| server.now >= until);
                assert!(!over, "read {call} at n{id} rests on a lease that is over");
                self.events.push(Event::AnswersRead { call, read_index, by_lease: lease_until.is_some() });
            }
            Effect::AnswerChange { index, .. } => self.events.push(Event::AnswersChange { index }),
            Effect::Refuse { call, refusal } => {
                let not_applied = matches!(refusal, Refusal::NotLeader { .. } | Refusal::DiskFull | Refusal::NotReady);
                self.events.push(Event::Refuses { call, not_applied });
            }
            // Another disk took the place of the one that acknowledged it, and nobody knew.
            Effect::Condemn { .. } if is_another(server.disk.incarnation) => {}
            Effect::PeerLostData { .. } if server.disk.incarnation != 0 => {}
            Effect::Condemn { .. } | Effect::PeerLostData { .. } => {
                self.violate(format!("L08: n{id} finds a disk that lost nothing to have lost something: {effect}"));
            }
            _ => {}
        }
    }

    /// The snapshot's transport is the worst there is: any chunk may come at any time, any number of times.
    fn send_snapshot(&mut self, to: NodeId, session: u64, request: &InstallSnapshotRequest) {
        let snapshot = &request.snapshot;
        let (last_included, membership) = (snapshot.last_included, (*snapshot.membership).clone());
        self.events.push(Event::Snapshot { last_included, membership });
        self.send(to, session, Body::Request(Request::InstallSnapshot(request.clone())));
        let prefix = &self.contents[snapshot];
        let maker = |id| maker_of(id, last_included.index);
        let maker =
            (1..9).map(maker).find(|maker| snapshot_of(prefix, snapshot.membership.clone(), *maker) == *snapshot);
        let bytes = bytes_of(prefix, snapshot.size, maker.expect("one of the servers made it"));
        let mut offset = 0;
        while offset < snapshot.size {
            let end = (offset + crate::support::disk::CHUNK as u64).min(snapshot.size);
            let data = bytes.slice(offset as usize..end as usize);
            let request = InstallSnapshotRequest { offset, data, ..request.clone() };
            self.send(to, session, Body::Request(Request::InstallSnapshot(request)));
            offset = end;
        }
    }

    fn send(&mut self, to: NodeId, session: u64, body: Body) {
        self.check_durable(to, &body);
        if session != ORPHAN {
            let disk = match body {
                Body::Request(_) => trust::meant(self.server.raft.membership(), to),
                Body::Reply(_) => self.server.disk.incarnation,
            };
            self.sent.push(Packet { from: self.server.id, to, session, disk, body });
        }
    }

    /// Gives sessions their numbers anew. Returns the new ones by the old ones.
    pub fn renumber(&mut self) -> BTreeMap<u64, u64> {
        let numbers = self.server.raft.renumber();
        let id = self.server.id;
        let new = |session: &mut u64| *session = renumbered(&numbers, *session);
        self.sent.iter_mut().filter(|packet| packet.asker() == id).for_each(|packet| new(&mut packet.session));
        if let Some((seq, _, then)) = &mut self.server.pending {
            *seq = 1;
            for effect in then {
                if let Effect::Send { session, .. } = effect {
                    new(session);
                }
            }
        }
        numbers
    }

    pub fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

pub fn renumbered(numbers: &BTreeMap<u64, u64>, session: u64) -> u64 {
    if session == ORPHAN { ORPHAN } else { numbers.get(&session).copied().unwrap_or(OVER) }
}
