//! Leader election (§5.2, §5.4.1), with pre-vote (thesis §9.6), vote stickiness (thesis §4.2.3) and check-quorum
//! (thesis §6.2).
//!
//! Rules, as in Figure 2:
//! 1. RequestVote: refuse if `term < current_term`; grant if `voted_for` is null or the candidate, and the candidate's
//!    log is at least as up to date.
//! 2. A follower that hears neither a leader nor a candidate it votes for, for an election timeout, starts an election.
//! 3. A candidate votes for itself; with a majority it leads; if a leader of its term appears it follows.
//! 4. `voted_for` is cleared only when the term rises (E02), and term and vote are one write (E01).
//!
//! Invariant: one vote a term, and none is told before it is on disk.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Raft, RoleState,
    events::{Alarm, Effect},
    message::{
        PreVoteReply, PreVoteRequest, Reply, Request, RequestVoteReply, RequestVoteRequest, TimeoutNowReply,
        TimeoutNowRequest,
    },
    quorum,
    types::{CallId, HardState, LogPosition, Membership, NodeId, Term},
};

/// One attempt to win: votes that were asked for in another session belong to another attempt (E04).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Campaign {
    pub(super) session: u64,
    /// The one in which the pre-votes were asked for, where that is over and some may still come.
    pub(super) pre_vote_session: Option<u64>,
    votes: BTreeSet<NodeId>,
}

impl Raft {
    /// The alarm rang.
    pub(super) fn timeout(&mut self, now: Duration, epoch: u64, effects: &mut Vec<Effect>) {
        if epoch != self.timer_epoch {
            return;
        }
        if let RoleState::Leader(_) = self.role {
            self.leader_timeout(now, effects);
            return;
        }
        self.retry_forwarded_reads(effects);
        let heard_since = self.timeout_since > self.timer_since;
        // A server whose disk hangs could not even vote for itself.
        if heard_since || !self.may_campaign() || self.disk_hangs(now) {
            // Rang too early, or for a server that must not campaign: dated anew from what was heard last.
            let since = if heard_since { self.timeout_since } else { now };
            self.set_timer(since, Alarm::Election, effects);
        } else {
            self.start_pre_vote(now, effects);
        }
    }

    /// Whoever votes, and whose vote counts. "A server that is not part of its own latest configuration should still start new
    /// elections, as it might still be needed until the C_new entry is committed" (thesis §4.2.2): the others may not even have
    /// that entry, and none of them can win against a log that has it.
    pub(super) fn may_campaign(&self) -> bool {
        let mut in_force = self.memberships.since(self.commit_index);
        // A vote is for an id, not for a disk. Nobody would notice if the disk of a leader that nobody knows were lost: an empty one
        // in its place would be elected once more in the same term, by the same votes. Those whose votes count do without it.
        let names = !self.membership().incarnations.is_empty();
        let has_vote = |membership: &Arc<Membership>| {
            let is_named = !names || membership.incarnations.contains_key(&self.settings.id);
            is_named && quorum::has_vote(membership, self.settings.id)
        };
        // One whose disk is not the one that is meant waits until the log says that it is (M06).
        let known = self.membership().incarnations.get(&self.settings.id);
        // Nor does one that catches up count as what its id was while another disk had it: alone, for instance.
        let another = self.settings.incarnation != 0 && known.is_some_and(|known| *known != self.settings.incarnation);
        let wiped = another || (self.told_wiped && known.is_none());
        // Without room, nobody could vote for itself, and a leader that answers would be deposed for nothing.
        !self.told_removed && !wiped && !self.disk_full && in_force.any(has_vote)
    }

    /// A peer says that this server was removed (M05): it campaigns no more, and has no leader to ask.
    pub(super) fn is_told_removed(&mut self, effects: &mut Vec<Effect>) {
        self.told_removed = true;
        // A leader goes on until it finds that no quorum listens.
        if !matches!(self.role, RoleState::Leader(_)) {
            self.leader = None;
            self.refuse_forwarded_reads(effects);
            self.abandon_proposals(effects);
        }
    }

    /// The timer died with its alarm.
    pub(super) fn reset_timer(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let alarm = match self.role {
            RoleState::Leader(_) => Alarm::Heartbeat,
            _ => Alarm::Election,
        };
        self.set_timer(now, alarm, effects);
    }

    /// "A server first asks the others whether they would vote for it, and raises its term only if a majority would"
    /// (thesis §9.6): a server that was cut off does not depose a working leader when it comes back (E09).
    fn start_pre_vote(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.leader = None;
        self.refuse_forwarded_reads(effects);
        // Whoever was met before may have another disk by now.
        self.met.clear();
        let session = self.new_session();
        let votes = BTreeSet::from([self.settings.id]);
        self.set_timer(now, Alarm::Election, effects);
        let request =
            PreVoteRequest { term: self.current_term() + 1, candidate_id: self.settings.id, last_log: self.log.last() };
        for to in self.other_voters() {
            effects.push(Effect::Send { to, session, request: Request::PreVote(request.clone()) });
        }
        self.role = RoleState::PreCandidate(Campaign { session, pre_vote_session: None, votes });
        self.count_pre_votes(now, effects);
    }

    /// "To begin an election, a follower increments its current term and transitions to candidate state. It then votes
    /// for itself and issues RequestVote RPCs in parallel" (§5.2), once its own vote is on disk.
    pub(super) fn start_election(&mut self, now: Duration, leadership_transfer: bool, effects: &mut Vec<Effect>) {
        self.leader = None;
        self.refuse_forwarded_reads(effects);
        let term = self.current_term() + 1;
        self.set_hard_state(HardState { current_term: term, voted_for: Some(self.settings.id) });
        let session = self.new_session();
        self.set_timer(now, Alarm::Election, effects);
        let candidate_id = self.settings.id;
        let request = RequestVoteRequest { term, candidate_id, last_log: self.log.last(), leadership_transfer };
        for to in self.other_voters() {
            self.outbox.after_write(Effect::Send { to, session, request: Request::RequestVote(request.clone()) });
        }
        // Its own vote counts when it is on disk, like any other (`count_own_vote`).
        let pre_vote_session = match &self.role {
            RoleState::PreCandidate(campaign) => Some(campaign.session),
            _ => None,
        };
        self.role = RoleState::Candidate(Campaign { session, pre_vote_session, votes: BTreeSet::new() });
    }

    /// Receiver's side of RequestVote.
    pub(super) fn request_vote(
        &mut self,
        now: Duration,
        call: CallId,
        request: RequestVoteRequest,
        effects: &mut Vec<Effect>,
    ) {
        // "If a server receives a RequestVote request within the minimum election timeout of hearing from a current
        // leader, it does not update its term or grant its vote" (thesis §4.2.3), unless that leader asked for it.
        let sticky = self.has_live_leader(now) && !request.leadership_transfer;
        if !sticky && request.term > self.current_term() {
            self.become_follower(now, request.term, None, effects);
        }
        let free = self.voted_for().is_none_or(|id| id == request.candidate_id);
        let vote_granted =
            !sticky && request.term == self.current_term() && free && self.is_as_up_to_date(request.last_log);
        if vote_granted {
            if self.voted_for().is_none() {
                let current_term = self.current_term();
                self.set_hard_state(HardState { current_term, voted_for: Some(request.candidate_id) });
            }
            self.timeout_since = now;
            // Whoever has voted waits for the one it voted for: a pre-vote that still comes in must not depose it.
            if let RoleState::PreCandidate(_) = self.role {
                self.role = RoleState::Follower;
            }
        }
        let reply = RequestVoteReply { term: self.current_term(), vote_granted };
        self.reply(call, Reply::RequestVote(reply), effects);
    }

    /// Receiver's side of the pre-vote: would it vote, and has it lost its leader too? Nothing changes here.
    pub(super) fn pre_vote(&mut self, now: Duration, call: CallId, request: PreVoteRequest, effects: &mut Vec<Effect>) {
        let vote_granted =
            !self.has_live_leader(now) && request.term > self.current_term() && self.is_as_up_to_date(request.last_log);
        // A refusal carries this server's term, so that a candidate of an older one catches up (E10).
        let reply = PreVoteReply { term: self.current_term(), vote_granted };
        self.reply(call, Reply::PreVote(reply), effects);
    }

    /// "Start an election now" (thesis §3.10): no pre-vote, since the leader itself gives way.
    pub(super) fn timeout_now(
        &mut self,
        now: Duration,
        call: CallId,
        request: TimeoutNowRequest,
        effects: &mut Vec<Effect>,
    ) {
        if request.term > self.current_term() {
            self.become_follower(now, request.term, Some(request.leader_id), effects);
        }
        let reply = TimeoutNowReply { term: self.current_term() };
        self.reply(call, Reply::TimeoutNow(reply), effects);
        let follows = matches!(self.role, RoleState::Follower) && request.term == self.current_term();
        if follows && self.may_campaign() {
            self.start_election(now, true, effects);
        }
    }

    pub(super) fn pre_vote_reply(
        &mut self,
        now: Duration,
        from: NodeId,
        session: u64,
        reply: PreVoteReply,
        effects: &mut Vec<Effect>,
    ) {
        if !reply.vote_granted {
            return self.denied(from);
        }
        if let RoleState::PreCandidate(campaign) = &mut self.role
            && campaign.session == session
        {
            campaign.votes.insert(from);
            self.count_pre_votes(now, effects);
        }
    }

    /// Whoever denies its vote may have given it to one that deposes this server already, and have lost the disk that knows it: it
    /// is not among the first names (M06).
    fn denied(&mut self, from: NodeId) {
        if !matches!(self.role, RoleState::Leader(_)) {
            self.met.remove(&from);
        }
    }

    /// "The voter denies its vote if its own log is more up-to-date than that of the candidate" (§5.4.1). One that was promoted and
    /// does not know it yet votes like any other (M07): whether its disk is the one that is meant, the candidate's log says
    /// (`quorum`). But an empty log says nothing: with it a server that joins would begin another cluster (M06).
    fn is_as_up_to_date(&self, candidate: LogPosition) -> bool {
        candidate >= self.log.last() && (candidate.index > 0 || !self.membership().voters.is_empty())
    }

    pub(super) fn request_vote_reply(
        &mut self,
        now: Duration,
        from: NodeId,
        session: u64,
        reply: RequestVoteReply,
        effects: &mut Vec<Effect>,
    ) {
        if !reply.vote_granted {
            return self.denied(from);
        }
        // Only a grant for exactly this candidacy counts: this term and this session (E04).
        let term = self.hard_state.current_term;
        if let RoleState::Candidate(campaign) = &mut self.role
            && campaign.session == session
            && reply.term == term
        {
            campaign.votes.insert(from);
            self.count_votes(now, effects);
        }
    }

    /// A candidate's vote for itself is on disk.
    pub(super) fn count_own_vote(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let RoleState::Candidate(campaign) = &mut self.role {
            campaign.votes.insert(self.settings.id);
            // Only now the others are asked: a slow disk must not eat up the time for their answers.
            self.timeout_since = now;
            self.count_votes(now, effects);
        }
    }

    fn count_pre_votes(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let RoleState::PreCandidate(campaign) = &self.role
            && quorum::elected(self.membership(), |id| campaign.votes.contains(&id))
        {
            self.start_election(now, false, effects);
        }
    }

    fn count_votes(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let RoleState::Candidate(campaign) = &self.role
            && quorum::elected(self.membership(), |id| campaign.votes.contains(&id))
        {
            self.become_leader(now, effects);
        }
    }

    /// Follows, in `term`, `leader` if it is known. The vote is forgotten only if the term rises (E02).
    pub(super) fn become_follower(
        &mut self,
        now: Duration,
        term: Term,
        leader: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        assert!(term >= self.current_term(), "the term never falls: {term} after {}", self.current_term());
        if term > self.current_term() {
            self.set_hard_state(HardState { current_term: term, voted_for: None });
        }
        if leader != self.leader {
            self.refuse_forwarded_reads(effects);
        }
        self.leader = leader;
        self.met.clear();
        match std::mem::replace(&mut self.role, RoleState::Follower) {
            RoleState::Leader(leadership) => {
                leadership.end(self.hard_state.current_term, leader, effects);
                if self.told_removed {
                    self.abandon_proposals(effects);
                }
                self.set_timer(now, Alarm::Election, effects);
            }
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {}
        }
    }

    /// Whether a leader was heard so lately that no election can be due: this server's own leadership counts, since
    /// check-quorum ends it when it is no longer real.
    fn has_live_leader(&self, now: Duration) -> bool {
        let heard_lately = self.leader_heard.is_some_and(|heard| now < heard + self.settings.election_timeout_min);
        matches!(self.role, RoleState::Leader(_)) || heard_lately
    }

    /// Of both halves of a joint configuration: each has to agree (§6).
    fn other_voters(&self) -> Vec<NodeId> {
        let membership = self.membership();
        membership.peers_of(self.settings.id).filter(|id| membership.is_voter(*id)).collect()
    }
}
