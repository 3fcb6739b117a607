//! One server of the real core, and peers that say whatever can be decoded: lying, confused, or from another world.
//!
//! A walk is a list of moves, each a few numbers, so that proptest and libFuzzer drive the same code. The disk, the state
//! machine and the snapshotter around the core are honest, and late as it comes.
//!
//! What must hold: the core never panics, but for the two proofs that the protocol was broken elsewhere ([`PROOFS`]); and
//! whatever it says itself to its peers, they can decode.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Once,
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::{
    raft::*,
    rpc::{convert, pb},
};

/// How the panics begin that a lie may cause: another leader of this server's own term, and a leader that lacks what is
/// committed here. Both show that a majority forgot a vote or an entry; to go on would be to serve two histories.
pub const PROOFS: [&str; 2] = ["Election Safety:", "Leader Completeness:"];

/// What happens next, and with which numbers.
#[derive(Clone, Debug)]
pub struct Move {
    pub kind: u8,
    pub picks: [u16; 16],
}

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All its moves were made.
    Done,
    /// The core stopped itself: what it was told it had acknowledged is not there (L08).
    Condemned,
    /// One of [`PROOFS`].
    Proof(String),
}

thread_local! {
    /// A panic is caught, and told by whoever caught it.
    static EXPECTING: Cell<bool> = const { Cell::new(false) };
}

/// The server's own id; its peers are 2 and so on.
const OWN: NodeId = 1;

const INTERVAL: Duration = Duration::from_millis(50);

/// Makes the moves against a server in the state that `begin` says.
///
/// # Panics
/// The core did, and with no proof.
pub fn walk(begin: Move, moves: impl IntoIterator<Item = Move>) -> End {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let aloud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTING.get() {
                aloud(info)
            }
        }));
    });
    let mut server = Server::begin(&mut Picks::of(&begin));
    for next in moves {
        EXPECTING.set(true);
        let made = catch_unwind(AssertUnwindSafe(|| server.make(&next)));
        EXPECTING.set(false);
        if let Err(cause) = made {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            if PROOFS.iter().any(|proof| text.starts_with(proof)) {
                return End::Proof(text);
            }
            panic!("the core fell over {next:?}, {}: {text}", server.last_input);
        }
        if server.condemned {
            return End::Condemned;
        }
    }
    End::Done
}

/// The numbers of a move, one after the other.
struct Picks<'a>(&'a Move, usize);

impl<'a> Picks<'a> {
    fn of(from: &'a Move) -> Self {
        Picks(from, 0)
    }

    fn next(&mut self) -> u64 {
        let pick = self.0.picks[self.1 % 16];
        self.1 += 1;
        u64::from(pick.rotate_left(self.1 as u32 / 16 * 3))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// As a rule one that lies near `near`; sometimes one from the ends of the world.
    fn number(&mut self, near: u64) -> u64 {
        let pick = self.next();
        let rest = pick / 64;
        match pick % 64 {
            0..=3 => 0,
            4..=7 => 1,
            8..=50 => near.saturating_sub(2).saturating_add(rest % 5),
            51..=56 => rest % 24,
            57 => near.saturating_add(1 << 40),
            58 => LARGEST,
            59 => LARGEST - rest % 8,
            60 => LARGEST + 1,
            61 => i64::MAX as u64,
            62 => i64::MAX as u64 + 1 + rest % 2,
            _ => u64::MAX - rest % 2,
        }
    }
}

/// The core, and what an honest node keeps around it.
struct Server {
    raft: Raft,
    now: Duration,
    epoch: u64,
    calls: u64,
    sessions: BTreeMap<NodeId, u64>,
    writes: VecDeque<(u64, Vec<Effect>)>,
    applied: VecDeque<LogIndex>,
    written: VecDeque<SnapshotMetadata>,
    chunks: VecDeque<Input>,
    restored: VecDeque<LogIndex>,
    condemned: bool,
    last_input: String,
}

impl Server {
    fn begin(picks: &mut Picks<'_>) -> Self {
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

    fn step(&mut self, input: Input) {
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

    fn make(&mut self, next: &Move) {
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

    /// Mostly that of the last request.
    fn session(&self, peer: NodeId, picks: &mut Picks) -> u64 {
        let session = self.sessions.get(&peer).copied().unwrap_or(1);
        if picks.chance(6) { picks.number(session) } else { session }
    }

    fn call(&mut self) -> CallId {
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

    /// An index that means something here, or near it.
    fn index(&mut self, picks: &mut Picks<'_>) -> LogIndex {
        let near = match picks.below(4) {
            0 => self.raft.base().index,
            1 => self.raft.commit_index(),
            2 => self.raft.durable_index(),
            _ => self.raft.last_index(),
        };
        picks.number(near)
    }

    /// Where it can be known, the right term more often than not.
    fn term_at(&self, index: LogIndex, picks: &mut Picks<'_>) -> Term {
        let base = self.raft.base();
        let known = if index == base.index { Some(base.term) } else { self.raft.entry(index).map(|entry| entry.term) };
        match known {
            Some(term) if !picks.chance(4) => term,
            _ => picks.number(self.raft.current_term()),
        }
    }

    fn hear_request(&mut self, picks: &mut Picks<'_>) {
        let from = if picks.chance(16) { picks.number(9) } else { 2 + picks.below(4) };
        let next_term = u64::from(picks.chance(2));
        let term = picks.number(self.raft.current_term() + next_term);
        let request = match picks.below(12) {
            0..=5 => {
                let message = self.append_entries(from, term, picks);
                convert::append_entries_from_pb(from, message).map(|(request, _)| Request::AppendEntries(request))
            }
            6 | 7 => {
                let message = self.install_snapshot(from, term, picks);
                convert::install_snapshot_from_pb(from, None, message).map(Request::InstallSnapshot)
            }
            8 => {
                let last_log_index = self.index(picks);
                let last_log_term = self.term_at(last_log_index, picks);
                let leadership_transfer = picks.chance(2);
                let message = pb::RequestVoteRequest {
                    term,
                    candidate_id: from,
                    last_log_index,
                    last_log_term,
                    leadership_transfer,
                    header: None,
                };
                convert::request_vote_from_pb(from, message).map(Request::RequestVote)
            }
            9 => {
                let last_log_index = self.index(picks);
                let last_log_term = self.term_at(last_log_index, picks);
                let message =
                    pb::PreVoteRequest { term, candidate_id: from, last_log_index, last_log_term, header: None };
                convert::pre_vote_from_pb(from, message).map(Request::PreVote)
            }
            10 => {
                let message = pb::TimeoutNowRequest { term, leader_id: from, header: None };
                convert::timeout_now_from_pb(from, message).map(Request::TimeoutNow)
            }
            _ => convert::read_index_from_pb(pb::ReadIndexRequest { term, header: None }).map(Request::ReadIndex),
        };
        if let Ok(request) = request {
            let says_it_leads = matches!(request, Request::AppendEntries(_) | Request::InstallSnapshot(_));
            let same_term = request.term() == self.raft.current_term();
            // The proof of two leaders ends a walk; most of them shall go on.
            if says_it_leads && same_term && self.raft.role() == Role::Leader && !picks.chance(32) {
                return;
            }
            let call = self.call();
            self.step(Input::Request { call, from, request });
        }
    }

    fn append_entries(&mut self, from: NodeId, term: Term, picks: &mut Picks<'_>) -> pb::AppendEntriesRequest {
        let prev_log_index = self.index(picks);
        let prev_log_term = self.term_at(prev_log_index, picks);
        let leader_commit = self.index(picks);
        let acknowledged = if picks.chance(8) { self.index(picks) } else { 0 };
        let mut entries = Vec::new();
        let mut last = prev_log_term;
        for place in 0..picks.below(5) {
            let index = if picks.chance(24) { self.index(picks) } else { prev_log_index.saturating_add(1 + place) };
            let known = self.term_at(index, picks);
            last = if picks.chance(3) { last } else { known.clamp(last.min(term), term.max(last)) };
            entries.push(pb::Entry { index, term: last, payload: payload(picks) });
        }
        pb::AppendEntriesRequest {
            header: None,
            term,
            leader_id: from,
            prev_log_index,
            prev_log_term,
            entries,
            leader_commit,
            read_round: picks.number(1),
            traces: Vec::new(),
            acknowledged,
        }
    }

    fn install_snapshot(&mut self, from: NodeId, term: Term, picks: &mut Picks<'_>) -> pb::InstallSnapshotRequest {
        let last_included_index = self.index(picks);
        let last_included_term = self.term_at(last_included_index, picks);
        let size = picks.number(8);
        let snapshot = pb::SnapshotMetadata {
            last_included_index,
            last_included_term,
            membership: Some(membership(picks)),
            size,
            checksum: picks.below(2) as u32,
        };
        let offset = if picks.chance(2) { 0 } else { picks.number(4) };
        let wanted = picks.number(8).min(32) * picks.below(2);
        let length = wanted.min(size.saturating_sub(offset));
        pb::InstallSnapshotRequest {
            header: None,
            term,
            leader_id: from,
            snapshot: Some(snapshot),
            offset,
            data: Bytes::from(vec![7; length as usize]),
        }
    }

    fn hear_reply(&mut self, picks: &mut Picks<'_>) {
        let from = picks.below(6);
        let session = self.session(from, picks);
        let term = if picks.chance(4) { picks.number(self.raft.current_term()) } else { self.raft.current_term() };
        let vote_granted = !picks.chance(4);
        let reply = match picks.below(8) {
            0..=3 => convert::append_reply_from_pb(&pb::AppendEntriesReply {
                header: None,
                term,
                success: picks.chance(2),
                match_index: self.index(picks),
                conflict_term: picks.number(term),
                conflict_index: self.index(picks),
                read_round: picks.number(2),
                lost_last_index: picks.chance(8).then(|| picks.number(3)),
            })
            .map(Reply::AppendEntries),
            4 => {
                use pb::install_snapshot_reply::Outcome;
                let index = self.index(picks);
                let outcome = match picks.below(3) {
                    0 => None,
                    1 => Some(Outcome::StoredOffset(index)),
                    _ => Some(Outcome::MatchIndex(index)),
                };
                let reply = pb::InstallSnapshotReply { header: None, term, outcome };
                convert::install_reply_from_pb(&reply).map(Reply::InstallSnapshot)
            }
            5 => {
                let reply = pb::RequestVoteReply { header: None, term, vote_granted };
                convert::request_vote_reply_from_pb(&reply).map(Reply::RequestVote)
            }
            6 => {
                let reply = pb::PreVoteReply { header: None, term, vote_granted };
                convert::pre_vote_reply_from_pb(&reply).map(Reply::PreVote)
            }
            _ => {
                let read_index = picks.chance(2).then(|| self.index(picks));
                let reply = pb::ReadIndexReply { header: None, term, read_index };
                convert::read_index_reply_from_pb(&reply).map(Reply::ReadIndex)
            }
        };
        if let Ok(reply) = reply {
            self.step(Input::Response { from, session, reply });
        }
    }
}

fn metadata(last_included: LogPosition, membership: Membership, size: u64) -> SnapshotMetadata {
    SnapshotMetadata { last_included, membership: membership.into(), size, checksum: 0 }
}

fn payload(picks: &mut Picks<'_>) -> Option<pb::entry::Payload> {
    use pb::entry::Payload;
    match picks.below(16) {
        0 => None,
        1..=4 => Some(Payload::Membership(membership(picks))),
        5 => Some(Payload::OpenSession(!picks.chance(4))),
        6..=11 => Some(Payload::Noop(true)),
        _ => Some(Payload::Command(Bytes::from_static(b"put"))),
    }
}

/// With duplicates, with nobody, of servers in two places at once: what conversion lets through may be odd enough.
fn membership(picks: &mut Picks<'_>) -> pb::Membership {
    let members = |bits: u64| -> Vec<pb::Member> {
        let ids = (0..6u64).filter(|id| bits >> id & 1 == 1);
        // Node 0 is there once in a while, node 1 twice.
        let ids = ids.map(|id| if id == 0 && bits & 64 == 0 { 1 } else { id });
        ids.map(|id| pb::Member { id, address: format!("n{id}:1") }).collect()
    };
    let ids = |bits: u64| (1..6u64).filter(|id| bits >> id & 1 == 1).collect::<Vec<_>>();
    let voters = picks.next() & !1;
    let odd = picks.chance(8);
    let others = picks.next() & if odd { 63 } else { !voters & 62 };
    let learners = others & if odd { 63 } else { picks.next() };
    let known = picks.next();
    let unsettled = picks.next() & if odd { 63 } else { known };
    pb::Membership {
        voters: members(voters | u64::from(odd)),
        outgoing: if picks.chance(3) { members(picks.next() & 62) } else { Vec::new() },
        learners: members(learners),
        staged: ids(learners & picks.next()),
        removed: ids(others & !learners),
        incarnations: ids(known).into_iter().map(|id| pb::Incarnation { id, incarnation: picks.below(4) }).collect(),
        unsettled: ids(unsettled),
    }
}

const HEADER: pb::Header =
    pb::Header { cluster_id: 7, from: OWN, to: 2, session: 1, from_incarnation: 0, to_incarnation: 0 };

/// What this server says is understood by its peers as it was meant, unless a lie has driven it to the end of all numbers.
fn check_said(request: Request) {
    if request.term() > LARGEST {
        return;
    }
    let heard = match request.clone() {
        Request::AppendEntries(request) => {
            let last_index = request.prev_log_index + request.entries.len() as u64;
            if last_index > LARGEST {
                return;
            }
            let message = convert::append_entries_to_pb(HEADER, request, Vec::new());
            convert::append_entries_from_pb(OWN, message).map(|(request, _)| Request::AppendEntries(request))
        }
        Request::RequestVote(request) => {
            convert::request_vote_from_pb(OWN, convert::request_vote_to_pb(HEADER, &request)).map(Request::RequestVote)
        }
        Request::PreVote(request) => {
            convert::pre_vote_from_pb(OWN, convert::pre_vote_to_pb(HEADER, &request)).map(Request::PreVote)
        }
        Request::TimeoutNow(request) => {
            convert::timeout_now_from_pb(OWN, convert::timeout_now_to_pb(HEADER, &request)).map(Request::TimeoutNow)
        }
        Request::ReadIndex(request) => {
            convert::read_index_from_pb(convert::read_index_to_pb(HEADER, &request)).map(Request::ReadIndex)
        }
        Request::InstallSnapshot(request) => {
            let message = convert::install_snapshot_to_pb(HEADER, true, &request, request.offset, request.data.clone());
            convert::install_snapshot_from_pb(OWN, None, message).map(Request::InstallSnapshot)
        }
    };
    assert_eq!(heard, Ok(request), "its peers do not understand what it says");
}

fn check_answered(reply: &Reply) {
    if reply.term() > LARGEST {
        return;
    }
    let heard = match reply {
        Reply::AppendEntries(reply) => {
            if let AppendOutcome::Conflict { conflict_index, .. } = reply.outcome
                && conflict_index > LARGEST
            {
                return;
            }
            convert::append_reply_from_pb(&convert::append_reply_to_pb(HEADER, reply)).map(Reply::AppendEntries)
        }
        Reply::RequestVote(reply) => {
            convert::request_vote_reply_from_pb(&convert::request_vote_reply_to_pb(HEADER, reply))
                .map(Reply::RequestVote)
        }
        Reply::PreVote(reply) => {
            convert::pre_vote_reply_from_pb(&convert::pre_vote_reply_to_pb(HEADER, reply)).map(Reply::PreVote)
        }
        Reply::TimeoutNow(reply) => {
            convert::timeout_now_reply_from_pb(&convert::timeout_now_reply_to_pb(HEADER, reply)).map(Reply::TimeoutNow)
        }
        Reply::ReadIndex(reply) => {
            convert::read_index_reply_from_pb(&convert::read_index_reply_to_pb(HEADER, reply)).map(Reply::ReadIndex)
        }
        Reply::InstallSnapshot(reply) => {
            convert::install_reply_from_pb(&convert::install_reply_to_pb(HEADER, reply)).map(Reply::InstallSnapshot)
        }
    };
    assert_eq!(heard.as_ref(), Ok(reply), "its peers do not understand what it answers");
}
