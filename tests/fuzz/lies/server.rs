//! The server that is lied to: the core, and an honest node around it. Its disk, its state machine and its snapshotter are late
//! as it comes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::raft::*;

use super::{
    Move, Picks,
    understood::{check_answered, check_said},
};

/// The server's own id; its peers are 2 and so on.
pub const OWN: NodeId = 1;

const INTERVAL: Duration = Duration::from_millis(50);

/// The core, and what an honest node keeps around it.
pub struct Server {
    pub raft: Raft,
    now: Duration,
    epoch: u64,
    calls: u64,
    pub sessions: BTreeMap<NodeId, u64>,
    writes: VecDeque<(u64, Vec<Effect>)>,
    applied: VecDeque<LogIndex>,
    written: VecDeque<SnapshotMetadata>,
    chunks: VecDeque<Input>,
    restored: VecDeque<LogIndex>,
    pub condemned: bool,
    pub last_input: String,
}

impl Server {
    pub fn begin(picks: &mut Picks<'_>) -> Self {
        let size = 1 + picks.below(5);
        let members = Membership::of_voters((1..=size).map(|id| (id, format!("n{id}:1"))));
        let based = picks.chance(2);
        let base = if based { LogPosition { term: 2, index: 5 } } else { LogPosition::default() };
        let mut term = base.term.max(1);
        let entries: Vec<_> = (base.index + 1..=base.index + picks.below(8))
            .map(|index| {
                term += u64::from(picks.chance(3));
                Entry { index, term, payload: Payload::Noop }
            })
            .collect();
        let last_term = entries.last().map_or(base.term, |entry| entry.term);
        let hard_state = HardState {
            current_term: last_term + picks.below(2),
            voted_for: picks.chance(2).then(|| 1 + picks.below(size)),
        };
        let snapshot = based.then(|| metadata(base, members.clone(), 10));
        let recovered = Recovered { hard_state, base, membership: members, entries, snapshot, receiving: None };
        let settings = Settings {
            id: OWN,
            incarnation: 0,
            heartbeat_interval: INTERVAL,
            election_timeout_min: 3 * INTERVAL,
            election_timeout_max: 6 * INTERVAL,
            max_batch_entries: 2,
            max_batch_bytes: 100,
            max_in_flight_batches: 2,
            max_in_flight_bytes: 100,
            snapshot_threshold: 3 + picks.below(10),
            snapshot_threshold_bytes: 1000,
            snapshot_trailing: picks.below(4),
            disk_timeout: Duration::from_secs(1),
        };
        let now = Duration::from_secs(1);
        let mut effects = Vec::new();
        let raft = Raft::new(settings, recovered, now, &mut effects);
        let mut server = Server {
            raft,
            now,
            epoch: 0,
            calls: 0,
            sessions: BTreeMap::new(),
            writes: VecDeque::new(),
            applied: VecDeque::new(),
            written: VecDeque::new(),
            chunks: VecDeque::new(),
            restored: VecDeque::new(),
            condemned: false,
            last_input: String::new(),
        };
        server.carry_out(effects);
        server.now += Duration::from_secs(1);
        server
    }

    pub fn step(&mut self, input: Input) {
        self.last_input = input.to_string();
        let mut effects = Vec::new();
        self.raft.step(self.now, input, &mut effects);
        assert!(effects.len() < 1000, "{} effects of {}", effects.len(), self.last_input);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SetTimer { epoch, .. } => self.epoch = epoch,
                Effect::Send { to, session, request } => {
                    self.sessions.insert(to, session);
                    check_said(request);
                }
                Effect::SendSnapshot { to, session, request } => {
                    self.sessions.insert(to, session);
                    check_said(Request::InstallSnapshot(request));
                }
                Effect::Reply { reply, .. } => check_answered(&reply),
                Effect::Persist { seq, then, .. } => self.writes.push_back((seq, then)),
                Effect::Apply { entries, .. } => self.applied.extend(entries.last().map(|entry| entry.index)),
                Effect::TakeSnapshot { last_included, membership } => {
                    self.written.push_back(metadata(last_included, (*membership).clone(), 10));
                }
                Effect::StoreChunk { call, snapshot, offset, data } => {
                    let stored = offset + data.len() as u64;
                    self.chunks.push_back(Input::ChunkStored { call, stored, complete: stored == snapshot.size });
                }
                Effect::Restore { snapshot } => self.restored.push_back(snapshot.last_included.index),
                Effect::Condemn { .. } => self.condemned = true,
                _ => {}
            }
        }
    }

    pub fn make(&mut self, next: &Move) {
        self.now += Duration::from_millis(1);
        let picks = &mut Picks::of(next);
        match next.kind % 32 {
            0..=9 => self.hear_request(picks),
            10..=15 => self.hear_reply(picks),
            16..=18 => self.ring(picks),
            19..=23 => self.work(picks),
            24 => self.win(),
            25 => self.follow_up(),
            26 => self.order(picks),
            27 => {
                let peer = picks.below(6);
                let (session, incarnation) = (self.session(peer, picks), picks.number(3));
                self.step(Input::Met { peer, session, incarnation });
            }
            28 => self.step(Input::Undelivered { peer: picks.below(6) }),
            29 => self.step(match picks.below(4) {
                0 => Input::Lost(Courier::ElectionTimer),
                1 => Input::Lost(Courier::Replicator(picks.below(6))),
                _ => Input::DiskFreed,
            }),
            30 => self.step(if picks.chance(4) { Input::ToldRemoved } else { Input::DiskFreed }),
            _ => self.step(if picks.chance(4) { Input::ToldWiped } else { Input::DiskFull }),
        }
    }

    pub fn call(&mut self) -> CallId {
        self.calls += 1;
        self.calls
    }

    fn ring(&mut self, picks: &mut Picks<'_>) {
        self.now += INTERVAL * (1 + picks.below(8) as u32);
        self.step(Input::Timeout { epoch: if picks.chance(8) { picks.number(self.epoch) } else { self.epoch } });
    }

    /// Something that was ordered here is done.
    fn work(&mut self, picks: &mut Picks<'_>) {
        match picks.below(8) {
            0..=3 => {
                if let Some((seq, then)) = self.writes.pop_front() {
                    self.step(Input::Persisted { seq });
                    self.carry_out(then);
                }
            }
            4 => {
                if let Some(index) = self.applied.pop_front() {
                    self.step(Input::Applied { index });
                }
            }
            5 => {
                if let Some(snapshot) = self.written.pop_front() {
                    self.step(Input::SnapshotWritten { snapshot });
                }
            }
            6 => {
                if let Some(stored) = self.chunks.pop_front() {
                    self.step(stored);
                }
            }
            _ => {
                if let Some(index) = self.restored.pop_front() {
                    self.step(Input::Restored { index });
                }
            }
        }
    }

    /// Everybody would vote for it, and does.
    fn win(&mut self) {
        self.now += INTERVAL * 8;
        self.step(Input::Timeout { epoch: self.epoch });
        for _ in 0..2 {
            let term = self.raft.current_term();
            let reply = match self.raft.role() {
                Role::PreCandidate => Reply::PreVote(PreVoteReply { term, vote_granted: true }),
                Role::Candidate => Reply::RequestVote(RequestVoteReply { term, vote_granted: true }),
                Role::Follower | Role::Leader => return,
            };
            for (from, session) in self.sessions.clone() {
                self.step(Input::Response { from, session, reply: reply.clone() });
            }
            while let Some((seq, then)) = self.writes.pop_front() {
                self.step(Input::Persisted { seq });
                self.carry_out(then);
            }
        }
    }

    /// Each peer has all that there is.
    fn follow_up(&mut self) {
        let term = self.raft.current_term();
        let outcome = AppendOutcome::Matched { match_index: self.raft.last_index() };
        for (from, session) in self.sessions.clone() {
            let reply = Reply::AppendEntries(AppendEntriesReply { term, outcome, read_round: 1 });
            self.step(Input::Response { from, session, reply });
        }
    }

    /// Clients and operators, whose words are checked elsewhere.
    fn order(&mut self, picks: &mut Picks<'_>) {
        let call = self.call();
        let id = picks.below(7);
        let address = format!("n{id}:1");
        self.step(match picks.below(8) {
            0 | 1 => Input::Propose { call, payload: Payload::Command(Bytes::from_static(b"put")) },
            2 => Input::Read { call, lease: picks.chance(2) },
            3 => Input::ChangeMembership { call, change: Change::Add { id, address, promote: picks.chance(2) } },
            4 => Input::ChangeMembership { call, change: Change::Remove { id } },
            5 => Input::ChangeMembership { call, change: Change::Replace { id, address } },
            6 => Input::TransferLeadership { call, to: picks.chance(2).then_some(id) },
            _ => Input::TakeSnapshot { call },
        });
    }
}

fn metadata(last_included: LogPosition, membership: Membership, size: u64) -> SnapshotMetadata {
    SnapshotMetadata { last_included, membership: membership.into(), size, checksum: 0 }
}
