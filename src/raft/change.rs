//! Changes of the cluster's servers (§6; thesis §4), by joint consensus.
//!
//! ```text
//!   C_old ──── append C_old,new ────► joint ──── C_old,new committed: append C_new ────► C_new ──── committed: done
//! ```
//! Rules:
//! 1. A configuration is in force from the moment it is in the log, committed or not (`membership`).
//! 2. One change at a time (M03), and none before the leader has committed an entry of its term (M01).
//! 3. What touches the voters goes through a joint configuration. Whoever leads when it is committed appends C_new: also
//!    another leader than the one that began (M08). What does not (a learner, an address, a disk's number) is one entry.
//! 4. A new server is a learner first, and votes once it keeps up (M10; `progress`).
//! 5. A leader that is not in C_new does not count itself, and gives way once C_new is committed (M04). Until then it may be
//!    needed, so that it campaigns, too (thesis §4.2.2; `election`).
//! 6. A removed server is replicated to until it has C_new and knows that it is committed (M05).
//! 7. A disk that takes another's place is expected to have nothing, from the moment on that it may be reached (M06, L08).
//! 8. The leader names every disk in the log. Its vote counts once that entry is committed, and the next configuration says
//!    so (M06; `quorum`). Nobody is promoted before, and no change leaves a configuration without a majority whose votes count.
//! 9. No change may leave a configuration without a voter, or without a majority that keeps up with this leader (M09).
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::{collections::BTreeMap, time::Duration};

use super::{
    Raft, RoleState,
    events::{Effect, Refusal},
    progress::Progress,
    quorum,
    types::{Address, CallId, Change, Entry, Incarnation, LogIndex, Membership, NodeId, Payload},
};

impl Raft {
    /// An operator wants the servers changed.
    pub(super) fn change_membership(
        &mut self,
        now: Duration,
        call: CallId,
        change: &Change,
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |refusal| Effect::Refuse { call, refusal };
        let RoleState::Leader(_) = &self.role else {
            return effects.push(refuse(Refusal::NotLeader { leader: self.leader }));
        };
        let full = self.disk_full.then_some(Refusal::DiskFull);
        if let Some(refusal) = self.obstacle_to_changes().or(full) {
            return effects.push(refuse(refusal));
        }
        let plan = self.plan(now, change);
        if let (Change::Replace { id, .. }, Plan::Goal(_) | Plan::Nothing) = (change, &plan) {
            self.expect_other_disk(now, *id);
        }
        match plan {
            Plan::Refused(refusal) => effects.push(refuse(refusal)),
            Plan::Nothing => effects.push(Effect::AnswerChange { call, index: self.memberships.current_index() }),
            Plan::Goal(goal) => self.begin_change(now, goal, Some(call), effects),
        }
    }

    /// Takes note of a disk, for the log.
    pub(super) fn met(&mut self, id: NodeId, incarnation: Incarnation) {
        let unknown = self.membership().contains(id) && !self.membership().incarnations.contains_key(&id);
        if incarnation != 0 && unknown && !matches!(self.role, RoleState::Follower) {
            self.met.insert(id, incarnation);
        }
    }

    /// A disk that was met before it was replaced must not be taken for the one that took its place.
    pub(super) fn forget_replaced(&mut self, before: &Membership) {
        let after = self.memberships.current();
        self.met.retain(|id, _| !is_replaced(before, after, *id));
    }

    /// A new leader knows its own disk.
    pub(super) fn met_itself(&mut self) {
        self.met(self.settings.id, self.settings.incarnation);
    }

    /// What a leader does about the membership by itself: it ends what is half done, promotes who has caught up, and
    /// writes down whose disk is whose.
    pub(super) fn advance_membership(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let index = self.memberships.current_index();
        if self.commit_index < leadership.first_index.max(index) {
            return;
        }
        if self.memberships.current().is_joint() {
            let goal = without_outgoing(self.memberships.current());
            return self.append_membership(now, goal, effects);
        }
        if let Some(call) = leadership.change.take() {
            effects.push(Effect::AnswerChange { call, index });
        }
        if !self.membership().is_voter(self.settings.id) {
            self.give_way(now, effects);
            if !self.membership().contains(self.settings.id) {
                self.abandon_proposals(effects);
            }
            return;
        }
        let membership = self.memberships.current();
        let idle = membership.staged.is_empty() && membership.unsettled.is_empty() && self.met.is_empty();
        if idle || self.obstacle_to_changes().is_some() {
            return;
        }
        // Whose disk it is comes first: its vote does not count before (M06). Whatever follows settles what is named already.
        let goal = self.with_names().or_else(|| self.with_caught_up_learner(now));
        let settled = || (!self.membership().unsettled.is_empty()).then(|| self.membership().clone());
        if let Some(goal) = goal.or_else(settled) {
            self.begin_change(now, goal, None, effects);
        }
    }

    /// What the first leader of a cluster opens its term with, where disks tell who they are: the names of a majority.
    pub(super) fn first_names(&mut self) -> Option<Membership> {
        if self.membership().incarnations.is_empty() { self.with_names() } else { None }
    }

    /// A peer has answered.
    pub(super) fn note_catching_up(&mut self, now: Duration, peer: NodeId) {
        let last_index = self.log.last().index;
        if let RoleState::Leader(leadership) = &mut self.role
            && let Some(progress) = leadership.progress.get_mut(&peer)
        {
            progress.catch_up(now, last_index, self.settings.election_timeout_min);
        }
    }

    /// Removed servers that know it, or that have had their time.
    pub(super) fn let_go_of_removed(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let patience = 10 * self.settings.election_timeout_max;
        let RoleState::Leader(leadership) = &mut self.role else { return };
        leadership.progress.retain(|id, peer| {
            let Some((index, since)) = peer.leaving else { return true };
            let told = peer.match_index >= index && peer.commit_sent >= index;
            let stays = !told && now < since + patience;
            if !stays {
                effects.push(Effect::Forget { peer: *id });
            }
            stays
        });
    }

    fn obstacle_to_changes(&self) -> Option<Refusal> {
        let RoleState::Leader(leadership) = &self.role else { return None };
        let index = self.memberships.current_index();
        if self.commit_index < leadership.first_index || leadership.transfer.is_some() {
            Some(Refusal::NotReady)
        } else if self.commit_index < index || self.membership().is_joint() {
            Some(Refusal::ChangeUnderWay { index })
        } else {
            None
        }
    }

    /// What the membership shall be.
    fn plan(&self, now: Duration, change: &Change) -> Plan {
        let current = self.membership();
        let mut goal = current.clone();
        let refusal = match change {
            Change::Add { id, address, promote } => self.plan_addition(&mut goal, *id, address, *promote),
            Change::Promote { id } if current.voters.contains_key(id) => None,
            Change::Promote { id } => self.plan_promotion(now, &mut goal, *id),
            Change::Remove { id } if current.removed.contains(id) => None,
            Change::Remove { id } if goal.learners.remove(id).is_some() => {
                goal.staged.remove(id);
                goal.incarnations.remove(id);
                goal.removed.insert(*id);
                None
            }
            Change::Remove { id } if goal.voters.remove(id).is_some() => None,
            Change::Remove { id } => Some(Refusal::NoSuchServer { id: *id }),
            Change::Replace { id, address } => self.plan_replacement(&mut goal, *id, address),
        };
        let lost = || if goal.voters == current.voters { None } else { self.lost_majority(now, &goal) };
        match refusal.or_else(lost) {
            Some(refusal) => Plan::Refused(refusal),
            None if goal == *current => Plan::Nothing,
            None => Plan::Goal(goal),
        }
    }

    fn plan_addition(&self, goal: &mut Membership, id: NodeId, address: &Address, promote: bool) -> Option<Refusal> {
        if id == 0 || goal.removed.contains(&id) {
            return Some(Refusal::IdRemoved { id });
        }
        if let Some(other) = other_at(goal, id, address) {
            return Some(Refusal::AlreadyThere { id: other });
        }
        if goal.address(id).is_some_and(|known| known != address) {
            return Some(Refusal::AlreadyThere { id });
        }
        if !goal.voters.contains_key(&id) {
            goal.learners.insert(id, address.clone());
            if promote {
                goal.staged.insert(id);
            }
        }
        None
    }

    fn plan_promotion(&self, now: Duration, goal: &mut Membership, id: NodeId) -> Option<Refusal> {
        let Some(address) = goal.learners.remove(&id) else { return Some(Refusal::NoSuchServer { id }) };
        let progress = self.progress_of(id);
        let caught_up = progress.is_some_and(|peer| peer.has_caught_up(now, self.settings.election_timeout_max));
        if !caught_up || !goal.has_known_disk(id) {
            return Some(Refusal::NotCaughtUp { id, match_index: progress.map_or(0, |peer| peer.match_index) });
        }
        goal.staged.remove(&id);
        goal.voters.insert(id, address);
        None
    }

    fn plan_replacement(&self, goal: &mut Membership, id: NodeId, address: &Address) -> Option<Refusal> {
        if id == self.settings.id || !goal.contains(id) {
            return Some(Refusal::NoSuchServer { id });
        }
        if let Some(other) = other_at(goal, id, address) {
            return Some(Refusal::AlreadyThere { id: other });
        }
        if goal.voters.remove(&id).is_some() {
            goal.staged.insert(id);
        } else {
            goal.incarnations.remove(&id);
        }
        goal.learners.insert(id, address.clone());
        None
    }

    /// After the change there must be a majority, and its disks must get on now (M09); so must one of C_old until then, without the
    /// disk that is replaced: it is refused from here on.
    fn lost_majority(&self, now: Duration, goal: &Membership) -> Option<Refusal> {
        let patience = self.settings.election_timeout_max;
        let keeps_up = |peer: &Progress| peer.has_caught_up(now, patience);
        let current = self.membership();
        let answers = |id: &&NodeId| {
            let in_touch = **id == self.settings.id || self.progress_of(**id).is_some_and(keeps_up);
            in_touch && current.has_known_disk(**id)
        };
        let lacks =
            |in_touch, needed| (needed == 0 || in_touch < needed).then_some(Refusal::WouldStop { in_touch, needed });
        let needed = if goal.voters.is_empty() { 0 } else { quorum::majority(goal) };
        let stays = |id: &&NodeId| !goal.learners.contains_key(*id);
        lacks(goal.voters.keys().filter(answers).count(), needed)
            .or_else(|| lacks(current.voters.keys().filter(stays).filter(answers).count(), quorum::majority(current)))
    }

    fn progress_of(&self, id: NodeId) -> Option<&Progress> {
        match &self.role {
            RoleState::Leader(leadership) => leadership.progress.get(&id),
            _ => None,
        }
    }

    fn begin_change(&mut self, now: Duration, goal: Membership, call: Option<CallId>, effects: &mut Vec<Effect>) {
        let current = self.membership();
        let next = match goal.voters == current.voters {
            true => goal,
            // What leaves is only gone with C_new: until then it votes, with the disk it has.
            false => Membership { outgoing: current.voters.clone(), ..goal },
        };
        self.append_membership(now, next, effects);
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.change = call;
        }
    }

    /// The one in force is committed, or names nobody.
    pub(super) fn append_membership(&mut self, now: Duration, next: Membership, effects: &mut Vec<Effect>) {
        let index = self.log.last().index + 1;
        let before = self.memberships.current().clone();
        let next = before.followed_by(next);
        let entry = Entry { index, term: self.current_term(), payload: Payload::Membership(next.into()) };
        self.append(entry, effects);
        self.follow_membership(now, &before, index);
    }

    /// One progress for each peer; a fresh one for a disk that took another's place.
    fn follow_membership(&mut self, now: Duration, before: &Membership, index: LogIndex) {
        let membership = self.memberships.current().clone();
        let id = self.settings.id;
        let mut sessions = self.last_session;
        let RoleState::Leader(leadership) = &mut self.role else { return };
        for peer in membership.peers_of(id) {
            if is_replaced(before, &membership, peer) || !leadership.progress.contains_key(&peer) {
                sessions += 1;
                leadership.progress.insert(peer, Progress::new(index, sessions, now));
            }
        }
        self.last_session = sessions;
        for (peer, progress) in &mut leadership.progress {
            if !membership.contains(*peer) {
                progress.leaving.get_or_insert((index, now));
            }
        }
    }

    /// Nothing that the disk before had acknowledged is expected of the one that takes its place: it would pass for one that
    /// lost it (L08).
    fn expect_other_disk(&mut self, now: Duration, id: NodeId) {
        self.met.remove(&id);
        let (next_index, session) = (self.log.last().index + 1, self.new_session());
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.progress.insert(id, Progress::new(next_index, session, now));
        }
    }

    fn with_caught_up_learner(&self, now: Duration) -> Option<Membership> {
        let keeps_up = |peer: &Progress| peer.has_caught_up(now, self.settings.election_timeout_max);
        let keeps_up = |id: &&NodeId| self.progress_of(**id).is_some_and(keeps_up);
        let plans =
            self.membership().staged.iter().filter(keeps_up).map(|id| self.plan(now, &Change::Promote { id: *id }));
        plans.into_iter().find_map(|plan| if let Plan::Goal(goal) = plan { Some(goal) } else { None })
    }

    /// The membership with the disks that were met. The first to be named are a majority, or none: from then on they alone
    /// elect.
    fn with_names(&mut self) -> Option<Membership> {
        let mut goal = self.membership().clone();
        for (id, incarnation) in &self.met {
            if goal.contains(*id) {
                goal.incarnations.entry(*id).or_insert(*incarnation);
            }
        }
        if !quorum::names_majority(&goal) {
            return None;
        }
        self.met.clear();
        (goal != *self.membership()).then_some(goal)
    }
}

/// Whether another disk stands under this id now: the former one voted, or was known.
pub(super) fn is_replaced(before: &Membership, after: &Membership, id: NodeId) -> bool {
    before.incarnations.contains_key(&id) && !after.incarnations.contains_key(&id)
        || before.is_voter(id) && !after.is_voter(id)
}

/// What a change comes to.
enum Plan {
    Refused(Refusal),
    /// It is so already.
    Nothing,
    Goal(Membership),
}

/// Another server at this address.
fn other_at(membership: &Membership, id: NodeId, address: &Address) -> Option<NodeId> {
    membership.addresses().find(|(other, at)| *other != id && *at == address).map(|(other, _)| other)
}

/// C_new of a joint configuration. Who leaves the voters is removed for good, or, where a learner stands under its id, was
/// replaced: its disk counts for nothing more.
fn without_outgoing(joint: &Membership) -> Membership {
    let mut goal = Membership { outgoing: BTreeMap::new(), ..joint.clone() };
    for id in joint.outgoing.keys().filter(|id| !joint.voters.contains_key(id)) {
        goal.incarnations.remove(id);
        if !joint.learners.contains_key(id) {
            goal.removed.insert(*id);
        }
    }
    goal
}
