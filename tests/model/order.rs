//! In which order states are gone on from.
//!
//! Nearest first finds the shortest way to a violation. But it comes to a state with few messages before it comes to those
//! that differ in having more, which make it superfluous. So, where all is to be explored, those go first in which the
//! servers have come less far: what leads to a state is then over when its turn comes, and of all that differ in their
//! messages alone only the largest are gone on from. The order decides about how many, not about what they can lead to.

use std::collections::BTreeMap;

use ractor_raft::raft::*;

use super::{
    explore::{Search, State},
    server::Server,
};

/// States that wait for their turn, with their numbers.
#[derive(Default)]
pub struct Waiting {
    by_progress: BTreeMap<u64, Vec<(State, u32)>>,
}

impl Waiting {
    pub fn put(&mut self, progress: u64, state: State, number: u32) {
        self.by_progress.entry(progress).or_default().push((state, number));
    }

    /// Those that have come least far, most messages first.
    pub fn take(&mut self) -> Option<Vec<(State, u32)>> {
        let (_, mut states) = self.by_progress.pop_first()?;
        states.sort_by_key(|(state, number)| (std::cmp::Reverse(state.len()), *number));
        Some(states)
    }
}

impl Search {
    /// How far the servers of a state have come; nearly always, a move makes it more.
    pub fn progress(&mut self, state: &State) -> u64 {
        let size = self.scope.disks.len();
        let servers: u64 = state[1..=size].iter().map(|number| self.ages.of(*number, &self.servers.values)).sum();
        let used = &self.histories.get(state[0]).used;
        servers + (u64::from(used.crashes + used.wipes) << 24) + (u64::from(used.ticks) << 23) + u64::from(used.reads)
    }
}

/// Of each server, once it was asked for.
#[derive(Default)]
pub struct Ages(Vec<u64>);

impl Ages {
    fn of(&mut self, number: u32, servers: &[std::rc::Rc<Server>]) -> u64 {
        while self.0.len() < servers.len() {
            self.0.push(age(&servers[self.0.len()]));
        }
        self.0[number as usize]
    }
}

/// First by its term, its role and its log; then by what it knows of others.
fn age(server: &Server) -> u64 {
    let raft = &server.raft;
    let role = match raft.role() {
        Role::Follower => 0,
        Role::PreCandidate | Role::Candidate => 1,
        Role::Leader => 2,
    };
    let last = raft.last_index();
    let last_term = raft.entry(last).map_or(raft.base().term, |entry| entry.term);
    let matched: u64 = raft.peers().map(|(_, match_index, _)| match_index).sum();
    let kept = u64::from(server.disk.hard_state.voted_for.is_some()) + server.disk.hard_state.current_term;
    let small = raft.durable_index() + raft.commit_index() + raft.base().index + matched + kept;
    (raft.current_term() << 20) + (role << 18) + (last_term << 14) + (last << 10) + small
}
