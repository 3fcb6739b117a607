//! Linearizable reads without a log entry (thesis §6.4, "ReadIndex").
//!
//! The rules:
//! 1. A leader knows what is committed only once its no-op is (R01); reads wait for that.
//! 2. The read index is the commit index at the start of a round; the round is confirmed when a majority has answered a
//!    request that was sent in it. Each round has its own token (R03), and one round serves all that waited for it.
//! 3. The read may be served by any state machine that has applied the read index.
//! 4. A follower asks its leader for the read index (R05), one question for all that wait.
//! 5. A round that is confirmed is a lease as well (thesis §6.4.1): for the shortest election timeout from when it was
//!    *sent*, less a tenth for clocks that drift, no majority elects another leader. Until then a read that asks for no more
//!    is answered at once; whoever serves it has to look at the clock again when the answer is ready (R04). The lease rests
//!    on servers that refuse their votes for as long, also after a restart (`election`); a transfer ends it for good.
//!
//! Every AppendEntries carries the latest round, whatever else it carries; any answer of the term confirms it, also a
//! conflict: the follower has shown that it knows no later leader.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::time::Duration;

use super::{
    Raft, RoleState,
    events::{Effect, Refusal},
    message::{ReadIndexReply, ReadIndexRequest, Reply, Request},
    quorum,
    replication::Leadership,
    types::{CallId, LogIndex, NodeId, Term},
};

/// The reads of a leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LeaderReads {
    round: u64,
    /// When that round was begun.
    began: Duration,
    /// The read index of the round in flight, and whom it serves.
    in_round: Option<(LogIndex, Vec<Reader>)>,
    waiting: Vec<Reader>,
    lease_until: Option<Duration>,
    /// A server that does not wait for the lease to end was told to take over.
    lease_dropped: bool,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Client(CallId),
    Follower(CallId),
}

/// The reads of a follower.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ForwardedReads {
    /// The session of the question that is out, and whom it serves.
    pub(super) asked: Option<(u64, Vec<CallId>)>,
    waiting: Vec<CallId>,
}

impl LeaderReads {
    /// The latest round. 0: there was none.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Until when no other server can lead.
    pub(super) fn lease_until(&self) -> Option<Duration> {
        self.lease_until
    }

    /// For as long as this leadership lasts.
    pub(super) fn drop_lease_for_good(&mut self) {
        self.lease_dropped = true;
        self.lease_until = None;
    }
}

impl Reader {
    fn answer(self, term: Term, read_index: LogIndex) -> Effect {
        match self {
            Reader::Client(call) => Effect::AnswerRead { call, read_index, lease_until: None },
            Reader::Follower(call) => {
                let reply = ReadIndexReply { term, read_index: Some(read_index) };
                Effect::Reply { call, reply: Reply::ReadIndex(reply) }
            }
        }
    }

    fn refuse(self, term: Term) -> Effect {
        match self {
            Reader::Client(call) => Effect::Refuse { call, refusal: Refusal::NotLeader { leader: None } },
            Reader::Follower(call) => {
                let reply = ReadIndexReply { term, read_index: None };
                Effect::Reply { call, reply: Reply::ReadIndex(reply) }
            }
        }
    }
}

impl Leadership {
    /// The leadership is over: nobody learns anything from it (R02). Of a change under way another leader decides.
    pub(super) fn end(self, term: Term, leader: Option<NodeId>, effects: &mut Vec<Effect>) {
        if let Some(transfer) = self.transfer {
            transfer.end(leader, effects);
        }
        effects.extend(self.change.map(|call| Effect::Refuse { call, refusal: Refusal::Unknown }));
        let in_round = self.reads.in_round.map(|(_, readers)| readers).unwrap_or_default();
        effects.extend(in_round.into_iter().chain(self.reads.waiting).map(|reader| reader.refuse(term)));
    }
}

impl Raft {
    /// A client of this server wants to read.
    pub(super) fn read(&mut self, now: Duration, call: CallId, lease: bool, effects: &mut Vec<Effect>) {
        if let RoleState::Leader(leadership) = &mut self.role {
            let lease_until = leadership.reads.lease_until.filter(|until| lease && now < *until);
            if lease_until.is_some() {
                // It was confirmed by a round, so the no-op of the term is committed (R01).
                return effects.push(Effect::AnswerRead { call, read_index: self.commit_index, lease_until });
            }
            leadership.reads.waiting.push(Reader::Client(call));
        } else if self.leader.is_some() {
            self.forwarded_reads.waiting.push(call);
            self.ask_leader(effects);
        } else {
            effects.push(Effect::Refuse { call, refusal: Refusal::NotLeader { leader: None } });
        }
    }

    /// Receiver's side of ReadIndex.
    pub(super) fn read_index(
        &mut self,
        now: Duration,
        call: CallId,
        request: ReadIndexRequest,
        effects: &mut Vec<Effect>,
    ) {
        if request.term > self.current_term() {
            self.become_follower(now, request.term, None, effects);
        }
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.reads.waiting.push(Reader::Follower(call));
        } else {
            let reply = ReadIndexReply { term: self.current_term(), read_index: None };
            self.reply(call, Reply::ReadIndex(reply), effects);
        }
    }

    /// Answers the round in flight if a majority has confirmed it, and starts the next if anyone waits.
    pub(super) fn confirm_reads(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let lease = self.settings.election_timeout_min * 9 / 10;
        let (id, term, membership) = (self.settings.id, self.hard_state.current_term, self.memberships.current());
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let Leadership { progress, first_index, reads, .. } = &mut **leadership;
        let confirmed = |round| {
            quorum::reached(membership, |peer| {
                peer == id || progress.get(&peer).is_some_and(|peer| peer.read_round >= round)
            })
        };
        loop {
            if let Some((read_index, readers)) = reads.in_round.take_if(|_| confirmed(reads.round)) {
                reads.lease_until = (!reads.lease_dropped).then_some(reads.began + lease);
                effects.extend(readers.into_iter().map(|reader| reader.answer(term, read_index)));
            }
            if reads.in_round.is_some() || reads.waiting.is_empty() || self.commit_index < *first_index {
                return;
            }
            // A leader without peers has confirmed it already.
            reads.round += 1;
            reads.began = now;
            reads.in_round = Some((self.commit_index, std::mem::take(&mut reads.waiting)));
        }
    }

    pub(super) fn read_index_reply(&mut self, session: u64, reply: ReadIndexReply, effects: &mut Vec<Effect>) {
        let Some((_, calls)) = self.forwarded_reads.asked.take_if(|(asked, _)| *asked == session) else { return };
        effects.extend(calls.into_iter().map(|call| match reply.read_index {
            Some(read_index) => Effect::AnswerRead { call, read_index, lease_until: None },
            None => Effect::Refuse { call, refusal: Refusal::NotLeader { leader: None } },
        }));
        self.ask_leader(effects);
    }

    /// The question may have got lost without a word; the alarm is patience enough.
    pub(super) fn retry_forwarded_reads(&mut self, effects: &mut Vec<Effect>) {
        if let Some((_, calls)) = self.forwarded_reads.asked.take() {
            self.forwarded_reads.waiting.splice(0..0, calls);
            self.ask_leader(effects);
        }
    }

    /// There is no longer a leader to ask, or another one.
    pub(super) fn refuse_forwarded_reads(&mut self, effects: &mut Vec<Effect>) {
        let ForwardedReads { asked, waiting } = std::mem::take(&mut self.forwarded_reads);
        let asked = asked.map(|(_, calls)| calls).unwrap_or_default();
        let refusal = Refusal::NotLeader { leader: None };
        effects.extend(asked.into_iter().chain(waiting).map(|call| Effect::Refuse { call, refusal }));
    }

    fn ask_leader(&mut self, effects: &mut Vec<Effect>) {
        let Some(to) = self.leader else { return };
        if self.forwarded_reads.asked.is_some() || self.forwarded_reads.waiting.is_empty() {
            return;
        }
        let session = self.new_session();
        let calls = std::mem::take(&mut self.forwarded_reads.waiting);
        self.forwarded_reads.asked = Some((session, calls));
        let request = ReadIndexRequest { term: self.current_term() };
        effects.push(Effect::Send { to, session, request: Request::ReadIndex(request) });
    }
}
