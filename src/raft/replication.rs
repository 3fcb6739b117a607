//! Log replication (§5.3) and commitment (§5.4.2).
//!
//! Rules, as in Figure 2:
//! 1. Reply stale if `term < current_term`; conflict if the log has no entry at `prev_log_index` with `prev_log_term`.
//! 2. Where an existing entry conflicts with a new one, delete it and all that follow it; append what is new. What
//!    matches stays (L02).
//! 3. `commit_index = min(leader_commit, index of the last new entry)` (L04).
//! 4. The leader commits *N* if a majority has it and it is of the leader's own term (L01); its own copy counts when it
//!    is on disk.
//! 5. After a conflict the leader goes back by a term at a time (L11).
//!
//! Invariants: a leader never overwrites or deletes an entry of its log; a committed entry is never deleted.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Raft, RoleState,
    events::{Alarm, Effect, Refusal},
    log::Log,
    message::{AppendEntriesReply, AppendEntriesRequest, AppendOutcome, InstallSnapshotRequest, Reply, Request},
    progress::{Mode, Progress},
    quorum,
    read::LeaderReads,
    transfer::Transfer,
    types::{CallId, Entry, LogIndex, LogPosition, NodeId, Payload, Term},
};

/// What only a leader has (Figure 2, "volatile state on leaders").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leadership {
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// What opened its term, a no-op or the cluster's first names: until it is committed, the leader does not know what is (§8).
    pub(super) first_index: LogIndex,
    pub(super) reads: LeaderReads,
    /// Who waits for the change of the membership that is under way.
    pub(super) change: Option<CallId>,
    pub(super) transfer: Option<Transfer>,
    /// When the heartbeat was sent last.
    heartbeat_since: Duration,
    /// Whether the alarm is set to [`Alarm::Notice`].
    notice_set: bool,
}

impl Raft {
    /// "Upon election: send initial empty AppendEntries RPCs to each server" (Figure 2), and append an entry, so that
    /// what earlier terms left can be committed (§8).
    pub(super) fn become_leader(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let id = self.settings.id;
        let first_index = self.log.last().index + 1;
        let peers: Vec<NodeId> = self.membership().peers_of(id).collect();
        let progress =
            peers.into_iter().map(|peer| (peer, Progress::new(first_index, self.new_session(), now))).collect();
        self.leader = Some(id);
        self.role = RoleState::Leader(Box::new(Leadership {
            progress,
            first_index,
            reads: LeaderReads::default(),
            change: None,
            transfer: None,
            heartbeat_since: now,
            notice_set: false,
        }));
        self.set_timer(now, Alarm::Heartbeat, effects);
        self.met_itself();
        match self.first_names() {
            Some(membership) => self.append_membership(now, membership, effects),
            None => {
                self.append(Entry { index: first_index, term: self.current_term(), payload: Payload::Noop }, effects);
            }
        }
    }

    /// "If command received from client: append entry to local log" (Figure 2); answered when it is applied.
    pub(super) fn propose(&mut self, call: CallId, payload: Payload, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leadership) = &mut self.role else {
            effects.push(Effect::Refuse { call, refusal: Refusal::NotLeader { leader: self.leader } });
            return;
        };
        if let Some(transfer) = &mut leadership.transfer {
            return transfer.hold_back(call, payload);
        }
        if self.disk_full {
            effects.push(Effect::Refuse { call, refusal: Refusal::DiskFull });
            return;
        }
        let index = self.log.last().index + 1;
        self.proposals.push_back((index, call));
        self.append(Entry { index, term: self.current_term(), payload }, effects);
    }

    /// A leader's alarm rang: for its heartbeat, or to tell what is committed.
    ///
    /// A commit index travels with the next entries. Where none follow, it would wait for the heartbeat; to send it at
    /// once would double the messages of a client that writes one thing after another.
    pub(super) fn leader_timeout(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let since = leadership.heartbeat_since;
        if !leadership.notice_set || now >= since + self.settings.heartbeat_interval {
            return self.heartbeat(now, effects);
        }
        leadership.notice_set = false;
        let commit_index = self.commit_index;
        let peers = leadership.progress.values_mut();
        peers.filter(|peer| peer.lacks_notice(commit_index)).for_each(Progress::heartbeat_due);
        self.set_timer(since, Alarm::Heartbeat, effects);
    }

    /// "A leader steps down if an election timeout elapses without a successful round of
    /// heartbeats to a majority of its cluster" (thesis §6.2).
    fn heartbeat(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let (id, patience) = (self.settings.id, self.settings.election_timeout_max);
        let membership = self.memberships.current();
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let progress = &mut leadership.progress;
        // A peer whose disk lost what it had says so, and can do no more for a quorum.
        let answers = |peer: &Progress| peer.lost_data.is_none() && now <= peer.last_heard + patience;
        let in_touch = |peer| progress.get(&peer).is_some_and(answers);
        if !quorum::reached(membership, |peer| peer == id || in_touch(peer)) {
            self.become_follower(now, self.current_term(), None, effects);
            return;
        }
        // A leader whose disk hangs would lead for ever and commit nothing more than its peers do without it (D06).
        if self.disk_hangs(now) {
            self.give_way(now, effects);
            return;
        }
        self.check_transfer(now, effects);
        self.hand_over_for_room(now);
        self.let_go_of_removed(now, effects);
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let progress = &mut leadership.progress;
        progress.values_mut().for_each(Progress::heartbeat_due);
        (leadership.heartbeat_since, leadership.notice_set) = (now, false);
        self.set_timer(now, Alarm::Heartbeat, effects);
    }

    /// Sends every peer what it may be sent: a probe, entries, or word of a new read round. Entries go when they go to
    /// this server's own disk, not before.
    pub(super) fn replicate(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let window = self.window();
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let mut sender = Sender {
            log: &self.log,
            term: self.hard_state.current_term,
            leader_id: self.settings.id,
            commit_index: self.commit_index,
            read_round: leadership.reads.round(),
            effects,
        };
        for (id, peer) in &mut leadership.progress {
            if peer.lost_data.is_some() {
                if peer.take_heartbeat() {
                    sender.send(*id, peer, Vec::new());
                }
                continue;
            }
            if peer.mode == Mode::Replicate && peer.next_index <= self.log.base().index {
                peer.fell_behind();
            }
            while peer.may_send(window) && peer.next_index <= self.outbox.written_index() {
                let (max_entries, max_bytes) = (self.settings.max_batch_entries, self.settings.max_batch_bytes);
                let entries = self.log.slice(peer.next_index, self.outbox.written_index(), max_entries, max_bytes);
                sender.send(*id, peer, entries);
            }
            let round = peer.mode == Mode::Replicate && peer.read_round_sent < sender.read_round;
            if peer.take_heartbeat() || round {
                sender.send(*id, peer, Vec::new());
            }
        }
        let news = leadership.progress.values().any(|peer| peer.lacks_notice(self.commit_index));
        // Where the heartbeat comes first, it tells.
        let heartbeat = self.settings.heartbeat_interval;
        let before_heartbeat = now + heartbeat / 10 < leadership.heartbeat_since + heartbeat;
        if news && !leadership.notice_set && before_heartbeat {
            leadership.notice_set = true;
            self.set_timer(now, Alarm::Notice, effects);
        }
    }

    /// Receiver's side of AppendEntries.
    pub(super) fn append_entries(
        &mut self,
        now: Duration,
        call: CallId,
        request: AppendEntriesRequest,
        effects: &mut Vec<Effect>,
    ) {
        let read_round = request.read_round;
        let reply = |raft: &Self, outcome| {
            Reply::AppendEntries(AppendEntriesReply { term: raft.current_term(), outcome, read_round })
        };
        if !self.hear_leader(now, request.term, request.leader_id, effects) {
            let stale = reply(self, AppendOutcome::Stale);
            return self.reply(call, stale, effects);
        }
        let last_index = self.log.last().index;
        if request.acknowledged > last_index {
            // Only a disk that lost entries gets here: what this leader was told is durable is only replaced by a later one.
            let lost = reply(self, AppendOutcome::Lost { last_index });
            self.reply(call, lost, effects);
            self.condemned = true;
            effects.push(Effect::Condemn { acknowledged: request.acknowledged, last: last_index });
            return;
        }
        if let Some(conflict) = self.conflict_at(request.prev_log_index, request.prev_log_term) {
            let conflict = reply(self, conflict);
            return self.reply(call, conflict, effects);
        }
        let last_new_index = request.prev_log_index + request.entries.len() as LogIndex;
        let has_entries = !request.entries.is_empty();
        self.store_entries(request.entries, effects);
        // "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)" (Figure 2):
        // what stands behind the last new entry has not been compared with the leader's log.
        self.commit_index = self.commit_index.max(request.leader_commit.min(last_new_index));
        if has_entries && last_new_index > self.outbox.durable_index() {
            let matched = reply(self, AppendOutcome::Matched { match_index: last_new_index });
            self.outbox.after_write(Effect::Reply { call, reply: matched });
        } else {
            // A heartbeat does not wait for entries that an earlier request brought.
            let match_index = last_new_index.min(self.outbox.durable_index());
            let matched = reply(self, AppendOutcome::Matched { match_index });
            self.reply(call, matched, effects);
        }
    }

    /// A message of the leader of `term`. Returns whether it leads.
    ///
    /// A leader that hears another one of its own term has seen the proof that a majority voted twice: a disk forgot its
    /// vote, and no other check noticed. To refuse that message would leave both at work, each with clients of its own. So it
    /// is an assertion: consensus falls, its cause can be read, and what comes up again from disk follows whoever still leads.
    pub(super) fn hear_leader(
        &mut self,
        now: Duration,
        term: Term,
        leader_id: NodeId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        // "Reply false if term < currentTerm" (§5.1).
        if term < self.current_term() {
            return false;
        }
        assert!(
            term > self.current_term() || !matches!(self.role, RoleState::Leader(_)),
            "Election Safety: n{} and n{leader_id} both lead term {term}",
            self.settings.id
        );
        // "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes the
        // leader as legitimate and returns to follower state" (§5.2).
        self.become_follower(now, term, Some(leader_id), effects);
        self.leader_heard = Some(now);
        self.timeout_since = now;
        true
    }

    /// "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm" (§5.3). What a
    /// snapshot replaced is committed and therefore matches (L03).
    fn conflict_at(&self, prev_log_index: LogIndex, prev_log_term: Term) -> Option<AppendOutcome> {
        let last = self.log.last();
        if prev_log_index < self.log.base().index {
            return None;
        }
        match self.log.term_at(prev_log_index) {
            Some(term) if term == prev_log_term => None,
            Some(conflict_term) => {
                let conflict_index = self.log.first_index_of_term_at(prev_log_index);
                Some(AppendOutcome::Conflict { conflict_term, conflict_index })
            }
            None => Some(AppendOutcome::Conflict { conflict_term: 0, conflict_index: last.index + 1 }),
        }
    }

    /// Stores what is new of `entries`, which follow on from an entry that matched.
    fn store_entries(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        let base = self.log.base();
        for entry in entries {
            if entry.index == base.index && entry.term != base.term {
                self.denies_committed(entry.index);
            }
            if entry.index <= base.index || self.log.term_at(entry.index) == Some(entry.term) {
                continue;
            }
            // "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry
            // and all that follow it" (§5.3).
            if entry.index <= self.log.last().index {
                self.truncate_from(entry.index, effects);
            }
            self.append(entry, effects);
        }
    }

    /// The leader's log has another entry at `index` than the one that is committed here.
    pub(super) fn denies_committed(&self, index: LogIndex) -> ! {
        panic!(
            "Leader Completeness: entry {index} is committed (up to {}) and the leader of term {} has another",
            self.commit_index,
            self.current_term()
        )
    }

    fn truncate_from(&mut self, index: LogIndex, effects: &mut Vec<Effect>) {
        if index <= self.commit_index {
            self.denies_committed(index);
        }
        let membership = self.memberships.current().clone();
        self.log.truncate_from(index);
        self.memberships.truncated_from(index);
        self.outbox.truncate_from(index);
        if *self.memberships.current() != membership {
            effects.push(Effect::MembershipChanged(self.memberships.current().clone()));
        }
        self.forget_proposals_from(index, effects);
    }

    /// Whoever waits for an entry that is gone is never told of success (L10): another server may still commit it.
    fn forget_proposals_from(&mut self, index: LogIndex, effects: &mut Vec<Effect>) {
        while let Some(&(at, call)) = self.proposals.back()
            && at >= index
        {
            self.proposals.pop_back();
            effects.push(Effect::Refuse { call, refusal: Refusal::Unknown });
        }
    }

    /// Nobody will tell this server what became of entries that it does not know to be committed: it was removed.
    pub(super) fn abandon_proposals(&mut self, effects: &mut Vec<Effect>) {
        self.forget_proposals_from(self.commit_index + 1, effects);
    }

    pub(super) fn append_entries_reply(
        &mut self,
        now: Duration,
        from: NodeId,
        session: u64,
        reply: AppendEntriesReply,
        effects: &mut Vec<Effect>,
    ) {
        let last_index = self.log.last().index;
        let RoleState::Leader(leadership) = &mut self.role else { return };
        // A round that was not begun cannot be confirmed.
        let read_round = reply.read_round.min(leadership.reads.round());
        let Some(peer) = leadership.progress.get_mut(&from) else { return };
        // An answer to an earlier leadership, or over an earlier connection (L06).
        if peer.session != session || reply.term != self.hard_state.current_term {
            return;
        }
        // Nobody has more of this log than there is: what else such a peer says is not believed either.
        if matches!(reply.outcome, AppendOutcome::Matched { match_index } if match_index > last_index) {
            return;
        }
        peer.last_heard = now;
        peer.reachable = true;
        if peer.lost_data.is_some() {
            // What it said before may come behind the word that its disk lost entries: it has them no more (L08). One that
            // says it again has fallen before its disk was marked.
            return;
        }
        if !matches!(reply.outcome, AppendOutcome::Lost { .. }) {
            // A disk that lost entries may have lost a vote: it confirms nobody.
            peer.read_round = peer.read_round.max(read_round);
        }
        match reply.outcome {
            AppendOutcome::Matched { match_index } => {
                // A peer that waits for a snapshot need not be a match for what the log still has.
                if peer.mode != Mode::Snapshot || match_index >= self.log.base().index {
                    peer.matched(match_index);
                }
                self.advance_commit_index();
            }
            // It waits for a snapshot, as is known.
            AppendOutcome::Conflict { .. } if peer.mode == Mode::Snapshot => {}
            AppendOutcome::Conflict { conflict_term, conflict_index } => {
                // "The leader can decrement nextIndex to bypass all of the conflicting entries in that term" (§5.3):
                // to its own last entry of that term, if it has one, else to before the follower's first.
                let last_of_term = self.log.last_index_up_to_term(conflict_term);
                let shared_term = conflict_term > 0 && self.log.term_at(last_of_term) == Some(conflict_term);
                let agree = if shared_term { last_of_term } else { conflict_index.saturating_sub(1) };
                let base = self.log.base().index;
                if peer.next_index <= base + 1 && peer.match_index < base {
                    // Not even what the log stands on agrees: the snapshot has to be sent (§7).
                    let snapshot = self.snapshots.finished().clone();
                    self.last_session += 1;
                    peer.needs_snapshot(self.last_session, snapshot.last_included);
                    let (term, leader_id) = (self.hard_state.current_term, self.settings.id);
                    let request = InstallSnapshotRequest { term, leader_id, snapshot, offset: 0, data: Bytes::new() };
                    effects.push(Effect::SendSnapshot { to: from, session: self.last_session, request });
                } else {
                    peer.conflicted(agree, base);
                    if base > 0 && peer.next_index == base + 1 {
                        // An answer to an earlier probe must not pass for one to the probe at the base.
                        self.last_session += 1;
                        peer.session = self.last_session;
                    }
                }
            }
            AppendOutcome::Stale => {}
            AppendOutcome::Lost { .. } => {
                peer.lost_data = Some(std::mem::take(&mut peer.match_index));
                effects.push(Effect::PeerLostData { peer: from });
            }
        }
        self.note_catching_up(now, from);
    }

    /// "If there exists an N such that N > commitIndex, a majority of `matchIndex[i]` >= N, and `log[N].term` ==
    /// currentTerm: set commitIndex = N" (§5.3, §5.4.2).
    pub(super) fn advance_commit_index(&mut self) {
        let RoleState::Leader(leadership) = &self.role else { return };
        let matched = |id| match id == self.settings.id {
            true => self.outbox.durable_index(),
            false => leadership.progress.get(&id).map_or(0, |peer| peer.match_index),
        };
        let index = quorum::committed(self.membership(), matched);
        if index > self.commit_index && self.log.term_at(index) == Some(self.current_term()) {
            self.commit_index = index;
        }
    }

    /// Requests to `peer` may be lost. With `at_once` whoever carried them is ready again.
    pub(super) fn undelivered(&mut self, peer: NodeId, at_once: bool, effects: &mut Vec<Effect>) {
        let session = self.new_session();
        if let RoleState::Leader(leadership) = &mut self.role {
            if let Some(progress) = leadership.progress.get_mut(&peer) {
                progress.lost(session, at_once);
            }
            if let Some(transfer) = &mut leadership.transfer {
                transfer.undelivered(peer);
            }
        } else if self.leader == Some(peer) {
            self.refuse_forwarded_reads(effects);
        }
    }
}

/// Makes AppendEntries requests and notes what they tell the peer.
struct Sender<'a> {
    log: &'a Log,
    term: Term,
    leader_id: NodeId,
    commit_index: LogIndex,
    read_round: u64,
    effects: &'a mut Vec<Effect>,
}

impl Sender<'_> {
    fn send(&mut self, to: NodeId, peer: &mut Progress, entries: Vec<Entry>) {
        // What a snapshot replaced cannot be asked about: whoever has the log's base has all before it.
        peer.next_index = peer.next_index.max(self.log.base().index + 1);
        let LogPosition { index: prev_log_index, term: prev_log_term } = self.log.position_at(peer.next_index - 1);
        let bytes = entries.iter().map(Entry::size).sum();
        let acknowledged = peer.lost_data.unwrap_or(peer.match_index);
        assert!(
            acknowledged <= prev_log_index,
            "n{to} acknowledged {acknowledged}, and is asked about {prev_log_index}"
        );
        peer.sent(entries.last().map(|entry| entry.index), bytes);
        peer.commit_sent = self.commit_index;
        peer.read_round_sent = self.read_round;
        let request = AppendEntriesRequest {
            term: self.term,
            leader_id: self.leader_id,
            prev_log_index,
            prev_log_term,
            entries,
            leader_commit: self.commit_index,
            read_round: self.read_round,
            acknowledged,
        };
        self.effects.push(Effect::Send { to, session: peer.session, request: Request::AppendEntries(request) });
    }
}
