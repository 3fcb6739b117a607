//! One server, n1, driven by hand: what goes in is written out, what comes out is compared as text (the `Display` of
//! requests and replies).

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use ractor_raft::raft::*;

pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(150);
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);
pub const HEARTBEAT: Duration = Duration::from_millis(50);

/// n1 with its disk: a write stays in flight until [`Fixture::persisted`].
pub struct Fixture {
    pub raft: Raft,
    pub now: Duration,
    /// What the last step ordered.
    pub effects: Vec<Effect>,
    /// The write in flight.
    pub in_flight: Option<(u64, Write, Vec<Effect>)>,
    pub epoch: u64,
    sessions: BTreeMap<NodeId, u64>,
    last_call: CallId,
}

impl Fixture {
    /// A fresh server in a cluster of `size`.
    pub fn of(size: u64) -> Self {
        Fixture::recovered(size, 0, None, &[])
    }

    /// A server that starts with this term, vote, and log of these terms.
    pub fn recovered(size: u64, current_term: Term, voted_for: Option<NodeId>, log: &[Term]) -> Self {
        let recovered = Recovered {
            hard_state: HardState { current_term, voted_for },
            base: LogPosition::default(),
            membership: Membership::of_voters((1..=size).map(|id| (id, ""))),
            entries: entries(1, log),
            ..Recovered::default()
        };
        Fixture::start(recovered)
    }

    pub fn start(recovered: Recovered) -> Self {
        Fixture::start_with(recovered, |_| {})
    }

    /// With other limits.
    pub fn start_with(recovered: Recovered, adjust: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            id: 1,
            incarnation: 0,
            heartbeat_interval: HEARTBEAT,
            election_timeout_min: ELECTION_TIMEOUT_MIN,
            election_timeout_max: ELECTION_TIMEOUT_MAX,
            max_batch_entries: 2,
            max_batch_bytes: 1000,
            max_in_flight_batches: 2,
            max_in_flight_bytes: 1000,
            snapshot_threshold: 1_000_000,
            snapshot_threshold_bytes: 1 << 30,
            snapshot_trailing: 0,
            disk_timeout: Duration::from_secs(3600),
        };
        adjust(&mut settings);
        let now = Duration::from_secs(1);
        let mut effects = Vec::new();
        let raft = Raft::new(settings, recovered, now, &mut effects);
        let (in_flight, sessions) = (None, BTreeMap::new());
        let mut fixture = Fixture { raft, now, effects: Vec::new(), in_flight, epoch: 0, sessions, last_call: 0 };
        fixture.carry_out(effects);
        // A server that has only just started refuses its vote: it may have heard a leader before it fell.
        fixture.now += ELECTION_TIMEOUT_MIN;
        fixture
    }

    /// A leader of three in the term after `log`'s last, whose no-op is on its own disk and nowhere else.
    pub fn leader_of(size: u64, log: &[Term]) -> Self {
        let mut n1 = Fixture::recovered(size, log.last().copied().unwrap_or(0), None, log);
        n1.campaign();
        n1.win();
        n1.persisted();
        n1
    }

    /// A leader of three that has committed its no-op, with both followers up to date.
    pub fn settled_leader() -> Self {
        Fixture::settled_leader_on(0)
    }

    /// The same on a disk with this number.
    pub fn settled_leader_on(incarnation: Incarnation) -> Self {
        let membership = Membership::of_voters((1..=3).map(|id| (id, "")));
        let recovered = Recovered { membership, ..Recovered::default() };
        let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = incarnation);
        n1.campaign();
        n1.win();
        n1.persisted();
        for peer in [2, 3] {
            n1.matched(peer, 0);
            n1.matched(peer, 1);
        }
        n1
    }

    /// The alarm rings, the others would vote for n1, and its own vote is on its disk: it is a candidate.
    pub fn campaign(&mut self) {
        self.alarm();
        let term = self.raft.current_term();
        for peer in self.peers() {
            if self.raft.role() == Role::PreCandidate {
                self.reply_from(peer, Reply::PreVote(PreVoteReply { term, vote_granted: true }));
            }
        }
        self.persisted();
        assert_eq!(self.raft.role(), Role::Candidate);
    }

    /// As many grants as are needed.
    pub fn win(&mut self) {
        for peer in self.peers() {
            if self.raft.role() == Role::Candidate {
                self.granted(peer);
            }
        }
        assert_eq!(self.raft.role(), Role::Leader);
    }

    fn peers(&self) -> Vec<NodeId> {
        self.raft.membership().peers_of(1).collect()
    }

    pub fn step(&mut self, input: Input) -> &mut Self {
        let mut effects = Vec::new();
        self.raft.step(self.now, input, &mut effects);
        self.carry_out(effects);
        self
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            match effect {
                Effect::SetTimer { epoch, .. } => self.epoch = *epoch,
                Effect::Send { to, session, .. } | Effect::SendSnapshot { to, session, .. } => {
                    self.sessions.insert(*to, *session);
                }
                Effect::Persist { seq, write, then } => {
                    assert!(self.in_flight.is_none(), "one write is in flight");
                    self.in_flight = Some((*seq, write.clone(), then.clone()));
                }
                _ => {}
            }
        }
        self.effects = effects;
    }

    /// The write in flight reaches the disk, if there is one. What waited for it comes behind what it led to.
    pub fn persisted(&mut self) -> &mut Self {
        self.effects.clear();
        if let Some((seq, _, then)) = self.in_flight.take() {
            self.step(Input::Persisted { seq });
            let mut effects = std::mem::take(&mut self.effects);
            self.carry_out(then);
            effects.append(&mut self.effects);
            self.effects = effects;
        }
        self
    }

    /// The alarm rings, after the longest election timeout.
    pub fn alarm(&mut self) -> &mut Self {
        self.now += ELECTION_TIMEOUT_MAX;
        self.ring()
    }

    /// The alarm rings now.
    pub fn ring(&mut self) -> &mut Self {
        let epoch = self.epoch;
        self.step(Input::Timeout { epoch })
    }

    pub fn request(&mut self, from: NodeId, request: Request) -> &mut Self {
        self.last_call += 1;
        let call = self.last_call;
        self.step(Input::Request { call, from, request })
    }

    /// An answer to the last request to `from`.
    pub fn reply_from(&mut self, from: NodeId, reply: Reply) -> &mut Self {
        let session = self.session(from);
        self.step(Input::Response { from, session, reply })
    }

    /// The session of the last request to `peer`.
    pub fn session(&self, peer: NodeId) -> u64 {
        self.sessions.get(&peer).copied().unwrap_or(0)
    }

    /// `peer` answers the last request to it, with this disk.
    pub fn met(&mut self, peer: NodeId, incarnation: Incarnation) -> &mut Self {
        let session = self.session(peer);
        self.step(Input::Met { peer, session, incarnation })
    }

    pub fn granted(&mut self, from: NodeId) -> &mut Self {
        let term = self.raft.current_term();
        self.reply_from(from, Reply::RequestVote(RequestVoteReply { term, vote_granted: true }))
    }

    pub fn matched(&mut self, from: NodeId, match_index: LogIndex) -> &mut Self {
        let reply = append_reply(self.raft.current_term(), AppendOutcome::Matched { match_index });
        self.reply_from(from, reply)
    }

    pub fn conflict(&mut self, from: NodeId, conflict_index: LogIndex, conflict_term: Term) -> &mut Self {
        let outcome = AppendOutcome::Conflict { conflict_term, conflict_index };
        let reply = append_reply(self.raft.current_term(), outcome);
        self.reply_from(from, reply)
    }

    /// AppendEntries of the leader n2: entries of these terms behind `prev`, written (index, term).
    pub fn append(&mut self, term: Term, prev: (LogIndex, Term), terms: &[Term], leader_commit: LogIndex) -> &mut Self {
        let request = AppendEntriesRequest {
            term,
            leader_id: 2,
            prev_log_index: prev.0,
            prev_log_term: prev.1,
            entries: entries(prev.0 + 1, terms),
            leader_commit,
            read_round: 0,
            acknowledged: 0,
        };
        self.request(2, Request::AppendEntries(request))
    }

    /// RequestVote of `candidate_id`, whose last entry is `last`, written (index, term).
    pub fn request_vote(&mut self, candidate_id: NodeId, term: Term, last: (LogIndex, Term)) -> &mut Self {
        let last_log = LogPosition { index: last.0, term: last.1 };
        let request = RequestVoteRequest { term, candidate_id, last_log, leadership_transfer: false };
        self.request(candidate_id, Request::RequestVote(request))
    }

    pub fn pre_vote(&mut self, candidate_id: NodeId, term: Term, last: (LogIndex, Term)) -> &mut Self {
        let last_log = LogPosition { index: last.0, term: last.1 };
        self.request(candidate_id, Request::PreVote(PreVoteRequest { term, candidate_id, last_log }))
    }

    pub fn propose(&mut self, call: CallId) -> &mut Self {
        self.step(Input::Propose { call, payload: Payload::Command(Bytes::from(format!("command {call}"))) })
    }

    /// The replies among the last effects, as text.
    pub fn replies(&self) -> Vec<String> {
        let reply = |effect: &Effect| match effect {
            Effect::Reply { reply, .. } => Some(reply.to_string()),
            _ => None,
        };
        self.effects.iter().filter_map(reply).collect()
    }

    /// The requests among the last effects, as text, behind their addressee.
    pub fn sent(&self) -> Vec<String> {
        let request = |effect: &Effect| match effect {
            Effect::Send { to, request, .. } => Some(format!("n{to} {request}")),
            _ => None,
        };
        self.effects.iter().filter_map(request).collect()
    }

    /// What is neither a request nor a reply nor a write, and went to clients: as text.
    pub fn told(&self) -> Vec<String> {
        let told = |effect: &&Effect| {
            let answers = matches!(effect, Effect::AnswerChange { .. } | Effect::AnswerTransfer { .. });
            let snapshots = matches!(effect, Effect::AnswerSnapshot { .. });
            answers
                || snapshots
                || matches!(effect, Effect::Apply { .. } | Effect::Refuse { .. } | Effect::AnswerRead { .. })
        };
        self.effects.iter().filter(told).map(Effect::to_string).collect()
    }

    /// What was ordered about snapshots, as text.
    pub fn ordered(&self) -> Vec<String> {
        let ordered = |effect: &&Effect| {
            let own = matches!(effect, Effect::TakeSnapshot { .. } | Effect::SendSnapshot { .. });
            own || matches!(effect, Effect::StoreChunk { .. } | Effect::Restore { .. })
        };
        self.effects.iter().filter(ordered).map(Effect::to_string).collect()
    }

    /// InstallSnapshot of the leader n2: `bytes` bytes of `snapshot` from `offset` on.
    pub fn install(&mut self, term: Term, snapshot: &SnapshotMetadata, offset: u64, bytes: usize) -> &mut Self {
        let (snapshot, data) = (snapshot.clone(), Bytes::from(vec![7; bytes]));
        let request = InstallSnapshotRequest { term, leader_id: 2, snapshot, offset, data };
        self.request(2, Request::InstallSnapshot(request))
    }

    /// The chunk of the last request is on disk.
    pub fn chunk_stored(&mut self, stored: u64, complete: bool) -> &mut Self {
        let call = self.last_call;
        self.step(Input::ChunkStored { call, stored, complete })
    }

    pub fn change(&mut self, call: CallId, change: Change) -> &mut Self {
        self.step(Input::ChangeMembership { call, change })
    }

    /// An answer to the last AppendEntries to `from`, of the leader's latest round.
    pub fn confirmed(&mut self, from: NodeId, match_index: LogIndex, read_round: u64) -> &mut Self {
        let (term, outcome) = (self.raft.current_term(), AppendOutcome::Matched { match_index });
        self.reply_from(from, Reply::AppendEntries(AppendEntriesReply { term, outcome, read_round }))
    }

    /// The write in flight, as text.
    pub fn writing(&self) -> Option<String> {
        self.in_flight.as_ref().map(|(_, write, _)| write.to_string().trim().to_owned())
    }

    /// The terms along the log.
    pub fn log(&self) -> Vec<Term> {
        (1..=self.raft.last_index()).map(|index| self.raft.entry(index).expect("nothing is compacted").term).collect()
    }

    /// Role, term and vote, as text.
    pub fn state(&self) -> String {
        let vote = self.raft.voted_for().map_or("nobody".to_owned(), |id| format!("n{id}"));
        format!("{} in term {}, voted for {vote}", self.raft.role(), self.raft.current_term())
    }
}

pub fn append_reply(term: Term, outcome: AppendOutcome) -> Reply {
    Reply::AppendEntries(AppendEntriesReply { term, outcome, read_round: 0 })
}

/// Entries of these terms, from `first` on.
pub fn entries(first: LogIndex, terms: &[Term]) -> Vec<Entry> {
    let entry = |(index, term): (LogIndex, &Term)| Entry { index, term: *term, payload: Payload::Noop };
    (first..).zip(terms).map(entry).collect()
}

/// A snapshot of `size` bytes that ends with this entry, written (index, term), of the voters 1 to 3.
pub fn snapshot(last_included: (LogIndex, Term), size: u64) -> SnapshotMetadata {
    let last_included = LogPosition { index: last_included.0, term: last_included.1 };
    let membership = Membership::of_voters((1..=3).map(|id| (id, ""))).into();
    SnapshotMetadata { last_included, membership, size, checksum: 0 }
}
