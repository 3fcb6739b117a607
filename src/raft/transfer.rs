//! Leadership transfer (thesis §3.10).
//!
//! Rules:
//! 1. The leader takes no new proposals into its log meanwhile; they are held back, and refused or taken when it is over.
//! 2. It brings the other server's log up to date, then tells it TimeoutNow: that server starts an election at once, and its
//!    voters do not wait for this leader to fall silent.
//! 3. If that has not ended its leadership within an election timeout, the leader goes on as before.
//! 4. Since the voters of that election do not keep to the lease, a leader that has sent TimeoutNow never again in its term
//!    answers by its lease: the message may arrive late (R04).
//!
//! A leader whose disk hangs, or that was removed, gives way: it says TimeoutNow and steps down in one step (D06, M04).
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::time::Duration;

use super::{
    Raft, RoleState,
    events::{Effect, Refusal},
    message::{Request, TimeoutNowRequest},
    progress::Mode,
    quorum,
    types::{CallId, NodeId, Payload},
};

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    to: NodeId,
    /// Who asked for it; `None`: the leader itself.
    call: Option<CallId>,
    /// When it is given up.
    until: Duration,
    /// Whether TimeoutNow was sent and not lost.
    told: bool,
    held_back: Vec<(CallId, Payload)>,
}

impl Transfer {
    pub(super) fn hold_back(&mut self, call: CallId, payload: Payload) {
        self.held_back.push((call, payload));
    }

    /// TimeoutNow may have got lost, if it was for this peer.
    pub(super) fn undelivered(&mut self, peer: NodeId) {
        self.told &= peer != self.to;
    }

    /// The leadership is over, in favour of the other server or not.
    pub(super) fn end(self, leader: Option<NodeId>, effects: &mut Vec<Effect>) {
        if let Some(call) = self.call {
            let in_its_favour = self.told && leader.is_none_or(|leader| leader == self.to);
            effects.push(match in_its_favour {
                true => Effect::AnswerTransfer { call },
                false => Effect::Refuse { call, refusal: Refusal::TransferFailed { to: self.to } },
            });
        }
        let refuse = |(call, _)| Effect::Refuse { call, refusal: Refusal::NotLeader { leader } };
        effects.extend(self.held_back.into_iter().map(refuse));
    }
}

impl Raft {
    /// An operator, or this server's shutdown, wants another leader.
    pub(super) fn transfer_leadership(
        &mut self,
        now: Duration,
        call: CallId,
        to: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |refusal| Effect::Refuse { call, refusal };
        let RoleState::Leader(leadership) = &self.role else {
            return effects.push(refuse(Refusal::NotLeader { leader: self.leader }));
        };
        if leadership.transfer.is_some() || leadership.change.is_some() {
            return effects.push(refuse(Refusal::NotReady));
        }
        let refusal = match to.or_else(|| self.best_successor(now)) {
            None => Refusal::TransferFailed { to: 0 },
            Some(to) if to == self.settings.id => return effects.push(Effect::AnswerTransfer { call }),
            Some(to) if !self.membership().is_voter(to) => Refusal::NoSuchServer { id: to },
            // It would not stand.
            Some(to) if !quorum::has_vote(self.membership(), to) => Refusal::TransferFailed { to },
            Some(to) => return self.begin_transfer(now, to, Some(call)),
        };
        effects.push(refuse(refusal));
    }

    /// This server's disk has no room. Another one may have.
    pub(super) fn disk_is_full(&mut self, now: Duration) {
        self.disk_full = true;
        let RoleState::Leader(leadership) = &self.role else { return };
        if leadership.transfer.is_none()
            && let Some(to) = self.best_successor(now)
        {
            self.begin_transfer(now, to, None);
        }
    }

    /// As long as there is no room, whoever keeps up is asked again.
    pub(super) fn hand_over_for_room(&mut self, now: Duration) {
        let patience = self.settings.election_timeout_max;
        let RoleState::Leader(leadership) = &self.role else { return };
        if self.disk_full
            && leadership.transfer.is_none()
            && let Some(to) = self.best_successor(now)
            && leadership.progress.get(&to).is_some_and(|peer| peer.has_caught_up(now, patience))
        {
            self.begin_transfer(now, to, None);
        }
    }

    fn begin_transfer(&mut self, now: Duration, to: NodeId, call: Option<CallId>) {
        let until = now + self.settings.election_timeout_max;
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.transfer = Some(Transfer { to, call, until, told: false, held_back: Vec::new() });
        }
    }

    /// Tells the other server to take over, once it has all that this one has.
    pub(super) fn advance_transfer(&mut self, effects: &mut Vec<Effect>) {
        // What has no room on this disk has not been sent to anyone either, and nobody has to have it to win.
        let last_index = if self.disk_full { self.outbox.written_index() } else { self.log.last().index };
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let Some(transfer) = leadership.transfer.as_mut().filter(|transfer| !transfer.told) else { return };
        let up_to_date = |peer: &super::Progress| {
            peer.mode == Mode::Replicate && peer.match_index >= last_index && peer.lost_data.is_none()
        };
        let to = transfer.to;
        if leadership.progress.get(&to).is_some_and(up_to_date) {
            transfer.told = true;
            self.tell_to_take_over(to, effects);
        }
    }

    /// Gives the transfer up when its time is over.
    pub(super) fn check_transfer(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let Some(transfer) = leadership.transfer.take_if(|transfer| now >= transfer.until) else { return };
        if let Some(call) = transfer.call {
            effects.push(Effect::Refuse { call, refusal: Refusal::TransferFailed { to: transfer.to } });
        }
        for (call, payload) in transfer.held_back {
            self.propose(call, payload, effects);
        }
    }

    /// Steps down, and names the one who may take over at once.
    pub(super) fn give_way(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let Some(to) = self.best_successor(now) {
            self.tell_to_take_over(to, effects);
        }
        self.become_follower(now, self.current_term(), None, effects);
    }

    /// Whether the write in flight takes longer than a disk that works.
    pub(super) fn disk_hangs(&self, now: Duration) -> bool {
        let hangs = |since| now >= since + self.settings.disk_timeout;
        !self.disk_full && self.outbox.writing_since().is_some_and(hangs)
    }

    /// The voter that has most of the log, among those that answer.
    fn best_successor(&self, now: Duration) -> Option<NodeId> {
        let RoleState::Leader(leadership) = &self.role else { return None };
        let patience = self.settings.election_timeout_max;
        let candidates = leadership
            .progress
            .iter()
            .filter(|(id, peer)| self.membership().voters.contains_key(id) && peer.is_in_touch(now, patience))
            // Another one would not stand, either.
            .filter(|(id, _)| quorum::has_vote(self.membership(), **id));
        // One whose disk gets on rather than one that only answers.
        let merit = |id: &NodeId, peer: &super::Progress| {
            (peer.has_caught_up(now, patience), peer.match_index, std::cmp::Reverse(*id))
        };
        candidates.max_by_key(|(id, peer)| merit(id, peer)).map(|(id, _)| *id)
    }

    fn tell_to_take_over(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let session = self.new_session();
        let request = TimeoutNowRequest { term: self.current_term(), leader_id: self.settings.id };
        effects.push(Effect::Send { to, session, request: Request::TimeoutNow(request) });
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.reads.drop_lease_for_good();
        }
    }
}
