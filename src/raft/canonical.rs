//! One form for states that behave alike, so that a search through all of them comes to an end.
//!
//! Alarms, writes and sessions are numbered only to tell the present one from those that are over: the core compares such
//! numbers for equality, and what is over never comes back. They may therefore be counted anew after any step, as long as
//! whoever holds such a number outside changes it likewise.
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
            RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign) => count(&mut campaign.session),
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
}
