//! One form for states that behave alike, so that a search through all of them comes to an end.
//!
//! Alarms, writes and sessions are numbered only to tell the present one from those that are over: the core compares such
//! numbers for equality, and what is over never comes back. They may therefore be counted anew after any step, as long as
//! whoever holds such a number outside changes it likewise.
//!
//! And what nobody will ever look at again tells two states apart that cannot come to differ in anything else.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::collections::BTreeMap;

use super::{Raft, RoleState};

impl Raft {
    /// Counts alarms, writes and sessions anew: the alarm that is set has epoch 0, the write in flight sequence 1, and the
    /// sessions that an answer may still belong to are 1, 2 and so on. Returns their new numbers by their old ones; all
    /// others are over, and may all be 0.
    #[doc(hidden)]
    pub fn renumber(&mut self) -> BTreeMap<u64, u64> {
        let mut numbers = BTreeMap::new();
        let mut count = |session: &mut u64| {
            let next = numbers.len() as u64 + 1;
            *session = *numbers.entry(*session).or_insert(next);
        };
        match &mut self.role {
            RoleState::Follower => {}
            RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign) => {
                campaign.pre_vote_session.iter_mut().for_each(&mut count);
                count(&mut campaign.session);
            }
            RoleState::Leader(leadership) => {
                leadership.progress.values_mut().for_each(|peer| count(&mut peer.session));
            }
        }
        self.forwarded_reads.asked.iter_mut().for_each(|(session, _)| count(session));
        self.outbox.renumber(|session| numbers.get(&session).copied().unwrap_or(0));
        self.last_session = numbers.len() as u64;
        self.timer_epoch = 0;
        numbers
    }

    /// Forgets what is never looked at again, given what is never asked of this server. Whatever is left decides about every
    /// effect from now on but [`Effect::RoleChanged`](super::Effect::RoleChanged) and the names of leaders in refusals.
    #[doc(hidden)]
    pub fn forget(&mut self, never: &Never) {
        // Where no time passes, a leader that was heard is one that was not heard for an election timeout.
        if self.settings.election_timeout_min.is_zero() {
            self.leader_heard = None;
        }
        match &mut self.role {
            RoleState::Leader(leadership) => {
                for peer in leadership.progress.values_mut() {
                    // Read to tell a peer what is committed before the heartbeat does, and whether a removed one knows it.
                    if self.settings.heartbeat_interval.is_zero() && peer.leaving.is_none() {
                        peer.commit_sent = 0;
                    }
                    peer.forget(never.changes, self.settings.max_in_flight_batches == usize::MAX);
                }
            }
            _ if never.reads => self.leader = None,
            _ => {}
        }
    }
}

/// What is never asked of a server in the rest of its life.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Never {
    /// To change the membership, or to give way to any other server, and no change is under way.
    pub changes: bool,
    /// To read.
    pub reads: bool,
}
