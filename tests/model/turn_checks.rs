//! What must hold at one server, whatever the others are: nothing leaves before it is on disk, a leader keeps its log, the
//! configuration in force is the latest in the log.

use ractor_raft::raft::*;

use super::server::{Body, Event, Turn};

impl Turn<'_> {
    /// No reply before its write: what leaves a server rests on its disk, not on its memory.
    pub fn check_durable(&mut self, to: NodeId, body: &Body) {
        let (id, disk) = (self.server.id, &self.server.disk);
        let HardState { current_term, voted_for } = disk.hard_state;
        let voted = |term, candidate| current_term > term || current_term == term && voted_for == Some(candidate);
        let has = |index: LogIndex| match self.server.raft.entry(index) {
            Some(entry) => disk.holds(entry.position()),
            // What a finished snapshot stands in for is on disk with it.
            None => disk.holds(LogPosition { index, term: 0 }) || index <= disk.last_index(),
        };
        let durable = match body {
            Body::Request(Request::RequestVote(request)) => {
                self.events.push(Event::Votes { term: request.term, candidate: id });
                voted(request.term, id)
            }
            Body::Reply(Reply::RequestVote(reply)) if reply.vote_granted => {
                self.events.push(Event::Votes { term: reply.term, candidate: to });
                voted(reply.term, to)
            }
            Body::Request(Request::AppendEntries(request)) => current_term >= request.term,
            Body::Reply(Reply::AppendEntries(reply)) => match reply.outcome {
                AppendOutcome::Matched { match_index } => has(match_index) && current_term >= reply.term,
                _ => current_term >= reply.term,
            },
            Body::Reply(Reply::InstallSnapshot(reply)) => match reply.outcome {
                InstallOutcome::Installed { match_index } => has(match_index),
                _ => true,
            },
            _ => true,
        };
        if !durable {
            let body = match body {
                Body::Request(request) => request.to_string(),
                Body::Reply(reply) => reply.to_string(),
            };
            self.violate(format!("No Reply Before Its Write: n{id} says {body} to n{to}, which is not on its disk"));
        }
    }

    /// What can be seen from this server alone, at the end of its turn.
    pub fn check(&mut self, same_life: bool) {
        let (id, raft) = (self.server.id, &self.server.raft);
        if self.server.leads().is_some() && (!same_life || self.before.leads() != self.server.leads()) {
            // After the votes of this turn, and before what it commits.
            let votes = self.events.iter().rposition(|event| matches!(event, Event::Votes { .. }));
            self.events.insert(votes.map_or(0, |at| at + 1), Event::Leads);
        }
        let mut last = raft.base().term;
        for entry in (raft.base().index + 1..=raft.last_index()).filter_map(|at| raft.entry(at)) {
            if entry.term < last {
                let text = format!("Log Matching: n{id}: {entry} follows an entry of the later term {last}");
                return self.violate(text);
            }
            last = entry.term;
        }
        let in_log = (raft.base().index + 1..=raft.last_index()).rev().find_map(|at| match raft.entry(at) {
            Some(Entry { payload: Payload::Membership(membership), .. }) => Some(membership.clone()),
            _ => None,
        });
        let initially = (raft.base().index == 0).then(|| self.server.disk.membership.clone());
        if in_log.or(initially).is_some_and(|latest| *latest != *raft.membership()) {
            let membership = raft.membership().to_string();
            return self.violate(format!("M02: n{id}: {membership} is in force, and is not the latest in its log"));
        }
        if !same_life && raft.commit_index() > 0 {
            let (to, by) = (raft.commit_index(), raft.membership().clone());
            self.events.insert(0, Event::Commits { from: 0, to, by });
        }
        let raft = &self.server.raft;
        if same_life && self.before.leads().is_some() && self.before.leads() == self.server.leads() {
            let old = &self.before.raft;
            let new = (old.last_index() + 1..=raft.last_index()).filter_map(|at| raft.entry(at));
            let changes = new.filter(|entry| matches!(entry.payload, Payload::Membership(_))).count();
            let position = |index| raft.entry(index).map(Entry::position).unwrap_or(raft.base());
            if changes > 0 && position(raft.commit_index()).term != raft.current_term() {
                return self.violate(format!("M01: n{id} changes the servers, and has committed nothing in its term"));
            }
            let is_change =
                |at: &LogIndex| matches!(raft.entry(*at), Some(Entry { payload: Payload::Membership(_), .. }));
            if changes > 0 && (raft.commit_index() + 1..=raft.last_index()).filter(is_change).count() > 1 {
                return self.violate(format!("M03: n{id} makes a change while another is not committed"));
            }
            let changed = (raft.base().index + 1..=old.last_index()).find(|at| old.entry(*at) != raft.entry(*at));
            if let Some(index) = changed.filter(|index| *index > old.base().index) {
                let term = raft.current_term();
                self.violate(format!("Leader Append-Only: n{id} leads term {term} and changed its entry {index}"));
            }
        }
    }
}
