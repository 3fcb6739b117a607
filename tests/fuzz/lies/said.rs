//! What peers say: whatever can be decoded, as a rule near what would make sense.

use bytes::Bytes;
use ractor_raft::{
    raft::*,
    rpc::{convert, pb},
};

use super::{Picks, server::Server};

impl Server {
    /// An index that means something here, or near it.
    fn index(&mut self, picks: &mut Picks<'_>) -> LogIndex {
        let near = match picks.below(4) {
            0 => self.raft.base().index,
            1 => self.raft.commit_index(),
            2 => self.raft.durable_index(),
            _ => self.raft.last_index(),
        };
        picks.number(near)
    }

    /// Where it can be known, the right term more often than not.
    fn term_at(&self, index: LogIndex, picks: &mut Picks<'_>) -> Term {
        let base = self.raft.base();
        let known = if index == base.index { Some(base.term) } else { self.raft.entry(index).map(|entry| entry.term) };
        match known {
            Some(term) if !picks.chance(4) => term,
            _ => picks.number(self.raft.current_term()),
        }
    }

    pub fn hear_request(&mut self, picks: &mut Picks<'_>) {
        let from = if picks.chance(16) { picks.number(9) } else { 2 + picks.below(4) };
        let next_term = u64::from(picks.chance(2));
        let term = picks.number(self.raft.current_term() + next_term);
        let request = match picks.below(12) {
            0..=5 => {
                let message = self.append_entries(from, term, picks);
                convert::append_entries_from_pb(from, message).map(|(request, _)| Request::AppendEntries(request))
            }
            6 | 7 => {
                let message = self.install_snapshot(from, term, picks);
                convert::install_snapshot_from_pb(from, None, message).map(Request::InstallSnapshot)
            }
            8 => {
                let last_log_index = self.index(picks);
                let last_log_term = self.term_at(last_log_index, picks);
                let leadership_transfer = picks.chance(2);
                let message = pb::RequestVoteRequest {
                    term,
                    candidate_id: from,
                    last_log_index,
                    last_log_term,
                    leadership_transfer,
                    header: None,
                };
                convert::request_vote_from_pb(from, message).map(Request::RequestVote)
            }
            9 => {
                let last_log_index = self.index(picks);
                let last_log_term = self.term_at(last_log_index, picks);
                let message =
                    pb::PreVoteRequest { term, candidate_id: from, last_log_index, last_log_term, header: None };
                convert::pre_vote_from_pb(from, message).map(Request::PreVote)
            }
            10 => {
                let message = pb::TimeoutNowRequest { term, leader_id: from, header: None };
                convert::timeout_now_from_pb(from, message).map(Request::TimeoutNow)
            }
            _ => convert::read_index_from_pb(pb::ReadIndexRequest { term, header: None }).map(Request::ReadIndex),
        };
        if let Ok(request) = request {
            let says_it_leads = matches!(request, Request::AppendEntries(_) | Request::InstallSnapshot(_));
            let same_term = request.term() == self.raft.current_term();
            // The proof of two leaders ends a walk; most of them shall go on.
            if says_it_leads && same_term && self.raft.role() == Role::Leader && !picks.chance(32) {
                return;
            }
            let call = self.call();
            self.step(Input::Request { call, from, request });
        }
    }

    fn append_entries(&mut self, from: NodeId, term: Term, picks: &mut Picks<'_>) -> pb::AppendEntriesRequest {
        let prev_log_index = self.index(picks);
        let prev_log_term = self.term_at(prev_log_index, picks);
        let leader_commit = self.index(picks);
        let acknowledged = if picks.chance(8) { self.index(picks) } else { 0 };
        let mut entries = Vec::new();
        let mut last = prev_log_term;
        for place in 0..picks.below(5) {
            let index = if picks.chance(24) { self.index(picks) } else { prev_log_index.saturating_add(1 + place) };
            let known = self.term_at(index, picks);
            last = if picks.chance(3) { last } else { known.clamp(last.min(term), term.max(last)) };
            entries.push(pb::Entry { index, term: last, payload: payload(picks) });
        }
        pb::AppendEntriesRequest {
            header: None,
            term,
            leader_id: from,
            prev_log_index,
            prev_log_term,
            entries,
            leader_commit,
            read_round: picks.number(1),
            traces: Vec::new(),
            acknowledged,
        }
    }

    fn install_snapshot(&mut self, from: NodeId, term: Term, picks: &mut Picks<'_>) -> pb::InstallSnapshotRequest {
        let last_included_index = self.index(picks);
        let last_included_term = self.term_at(last_included_index, picks);
        let size = picks.number(8);
        let snapshot = pb::SnapshotMetadata {
            last_included_index,
            last_included_term,
            membership: Some(membership(picks)),
            size,
            checksum: picks.below(2) as u32,
        };
        let offset = if picks.chance(2) { 0 } else { picks.number(4) };
        let wanted = picks.number(8).min(32) * picks.below(2);
        let length = wanted.min(size.saturating_sub(offset));
        pb::InstallSnapshotRequest {
            header: None,
            term,
            leader_id: from,
            snapshot: Some(snapshot),
            offset,
            data: Bytes::from(vec![7; length as usize]),
        }
    }

    /// Mostly that of the last request.
    pub fn session(&self, peer: NodeId, picks: &mut Picks<'_>) -> u64 {
        let session = self.sessions.get(&peer).copied().unwrap_or(1);
        if picks.chance(6) { picks.number(session) } else { session }
    }

    pub fn hear_reply(&mut self, picks: &mut Picks<'_>) {
        let from = picks.below(6);
        let session = self.session(from, picks);
        let term = if picks.chance(4) { picks.number(self.raft.current_term()) } else { self.raft.current_term() };
        let vote_granted = !picks.chance(4);
        let reply = match picks.below(8) {
            0..=3 => convert::append_reply_from_pb(&pb::AppendEntriesReply {
                header: None,
                term,
                success: picks.chance(2),
                match_index: self.index(picks),
                conflict_term: picks.number(term),
                conflict_index: self.index(picks),
                read_round: picks.number(2),
                lost_last_index: picks.chance(8).then(|| picks.number(3)),
            })
            .map(Reply::AppendEntries),
            4 => {
                use pb::install_snapshot_reply::Outcome;
                let index = self.index(picks);
                let outcome = match picks.below(3) {
                    0 => None,
                    1 => Some(Outcome::StoredOffset(index)),
                    _ => Some(Outcome::MatchIndex(index)),
                };
                let reply = pb::InstallSnapshotReply { header: None, term, outcome };
                convert::install_reply_from_pb(&reply).map(Reply::InstallSnapshot)
            }
            5 => {
                let reply = pb::RequestVoteReply { header: None, term, vote_granted };
                convert::request_vote_reply_from_pb(&reply).map(Reply::RequestVote)
            }
            6 => {
                let reply = pb::PreVoteReply { header: None, term, vote_granted };
                convert::pre_vote_reply_from_pb(&reply).map(Reply::PreVote)
            }
            _ => {
                let read_index = picks.chance(2).then(|| self.index(picks));
                let reply = pb::ReadIndexReply { header: None, term, read_index };
                convert::read_index_reply_from_pb(&reply).map(Reply::ReadIndex)
            }
        };
        if let Ok(reply) = reply {
            self.step(Input::Response { from, session, reply });
        }
    }
}

fn payload(picks: &mut Picks<'_>) -> Option<pb::entry::Payload> {
    use pb::entry::Payload;
    match picks.below(16) {
        0 => None,
        1..=4 => Some(Payload::Membership(membership(picks))),
        5 => Some(Payload::OpenSession(!picks.chance(4))),
        6..=11 => Some(Payload::Noop(true)),
        _ => Some(Payload::Command(Bytes::from_static(b"put"))),
    }
}

/// With duplicates, with nobody, of servers in two places at once: what conversion lets through may be odd enough.
fn membership(picks: &mut Picks<'_>) -> pb::Membership {
    let members = |bits: u64| -> Vec<pb::Member> {
        let ids = (0..6u64).filter(|id| bits >> id & 1 == 1);
        // Node 0 is there once in a while, node 1 twice.
        let ids = ids.map(|id| if id == 0 && bits & 64 == 0 { 1 } else { id });
        ids.map(|id| pb::Member { id, address: format!("n{id}:1") }).collect()
    };
    let ids = |bits: u64| (1..6u64).filter(|id| bits >> id & 1 == 1).collect::<Vec<_>>();
    let voters = picks.next() & !1;
    let odd = picks.chance(8);
    let others = picks.next() & if odd { 63 } else { !voters & 62 };
    let learners = others & if odd { 63 } else { picks.next() };
    let known = picks.next();
    let unsettled = picks.next() & if odd { 63 } else { known };
    pb::Membership {
        voters: members(voters | u64::from(odd)),
        outgoing: if picks.chance(3) { members(picks.next() & 62) } else { Vec::new() },
        learners: members(learners),
        staged: ids(learners & picks.next()),
        removed: ids(others & !learners),
        incarnations: ids(known).into_iter().map(|id| pb::Incarnation { id, incarnation: picks.below(4) }).collect(),
        unsettled: ids(unsettled),
    }
}
