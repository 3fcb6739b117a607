//! What leaves a node rests on its disk, not on its memory: replies, requests for votes, what goes to the state machine and
//! what callers are told.

use super::{Broken, Check, expect, properties::Seen, server::Server};
use crate::{
    node::Observed,
    raft::{
        AppendOutcome, Effect, Entry, HardState, InstallOutcome, LogIndex, LogPosition, Membership, NodeId, Raft,
        Reply, Request, Term,
    },
};

/// The name of the invariant that most of this file is about.
const DURABLE: &str = "Durable Before Reply";

impl Seen {
    pub(super) fn check_effect(
        &mut self,
        id: NodeId,
        server: &mut Server,
        observed: &Observed<'_>,
        effect: &Effect,
    ) -> Check {
        match effect {
            Effect::Persist { seq, write, .. } => server.ordered(id, *seq, write),
            Effect::MembershipChanged(membership) => {
                server.membership = membership.clone();
                Ok(())
            }
            Effect::Send { request, .. } => self.check_request(id, server, request),
            Effect::Reply { reply, .. } => self.check_reply(id, server, observed.raft, reply),
            Effect::Apply { entries, calls } => {
                let gone = calls.iter().find(|(index, _)| entries.iter().all(|entry| entry.index != *index));
                expect(gone.is_none(), "State Machine Safety", || format!("n{id} answers for {gone:?}, not applied"))?;
                self.check_apply(id, server, observed, entries)
            }
            Effect::AnswerRead { read_index, lease_until, .. } => {
                let known = self.committed_index();
                expect(*read_index <= known, "Committed Reads", || {
                    format!("n{id} answers a read at {read_index}, and only {known} entries are committed")
                })?;
                let over = lease_until.filter(|until| observed.now >= *until);
                expect(over.is_none(), "Lease", || {
                    format!("n{id} answers at {:?} by a lease until {over:?}", observed.now)
                })
            }
            Effect::AnswerChange { index, .. } => expect(*index <= self.committed_index(), "Committed Changes", || {
                format!("n{id} answers a change at {index}, which is not committed")
            }),
            Effect::TakeSnapshot { last_included, membership } => self.check_snapshot(id, *last_included, membership),
            Effect::SendSnapshot { request, .. } => {
                let snapshot = &request.snapshot;
                self.check_snapshot(id, snapshot.last_included, &snapshot.membership)
            }
            Effect::Restore { snapshot } => {
                server.applying = server.applying.max(snapshot.last_included.index);
                self.check_snapshot(id, snapshot.last_included, &snapshot.membership)
            }
            _ => Ok(()),
        }
    }

    fn check_request(&mut self, id: NodeId, server: &Server, request: &Request) -> Check {
        let HardState { current_term, voted_for } = server.disk.hard_state;
        match request {
            Request::RequestVote(request) => {
                let durable = current_term > request.term || (current_term == request.term && voted_for == Some(id));
                expect(durable, DURABLE, || format!("n{id} asks for votes in term {}, not yet its own", request.term))?;
                self.vote_leaves(id, request.term, id)
            }
            Request::AppendEntries(request) => expect(current_term >= request.term, DURABLE, || {
                format!("n{id} leads term {}, on its disk is {current_term}", request.term)
            }),
            _ => Ok(()),
        }
    }

    fn check_reply(&mut self, id: NodeId, server: &Server, raft: &Raft, reply: &Reply) -> Check {
        match reply {
            Reply::RequestVote(reply) if reply.vote_granted => self.check_grant(id, server, reply.term),
            Reply::AppendEntries(reply) => match reply.outcome {
                AppendOutcome::Matched { match_index } => self.check_matched(id, server, raft, reply.term, match_index),
                _ => Ok(()),
            },
            Reply::InstallSnapshot(reply) => match reply.outcome {
                InstallOutcome::Installed { match_index } => {
                    self.check_matched(id, server, raft, reply.term, match_index)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn check_grant(&mut self, id: NodeId, server: &Server, term: Term) -> Check {
        let HardState { current_term, voted_for } = server.disk.hard_state;
        let Some(candidate) = server.votes.get(&term).copied().or(voted_for.filter(|_| current_term == term)) else {
            return Err(Broken(DURABLE, format!("n{id} grants a vote in term {term} and never gave one")));
        };
        let durable = current_term > term || (current_term == term && voted_for == Some(candidate));
        expect(durable, DURABLE, || {
            format!("n{id} votes for n{candidate} in term {term}; on its disk is {current_term}, {voted_for:?}")
        })?;
        self.vote_leaves(id, term, candidate)
    }

    /// It says that its log is the leader's up to here, on its disk.
    fn check_matched(&self, id: NodeId, server: &Server, raft: &Raft, term: Term, match_index: LogIndex) -> Check {
        // A leader that nobody has seen leading is checked by what follows from it.
        let Some(leader_has) = self.leader_has(term, match_index) else { return Ok(()) };
        let log = &server.disk.log;
        // A finished snapshot is on disk before the log is told to stand on it.
        let in_snapshot = match_index <= log.base.index.max(raft.snapshot().index);
        let holds = leader_has.is_some()
            && (log.at(match_index) == leader_has || (in_snapshot && self.committed_term(match_index) == leader_has));
        expect(holds, DURABLE, || {
            let has = log.at(match_index);
            format!("n{id} acknowledges entry {match_index} of term {leader_has:?}; on its disk is one of {has:?}")
        })
    }

    /// "If commitIndex > lastApplied: increment lastApplied, apply log\[lastApplied\]" (Figure 2): in order, each once a life,
    /// and here not before it is on this disk.
    fn check_apply(&self, id: NodeId, server: &mut Server, observed: &Observed<'_>, entries: &[Entry]) -> Check {
        for entry in entries {
            let (index, next) = (entry.index, server.applying + 1);
            expect(index == next, "State Machine Safety", || format!("n{id} applies {index}, and {next} is next"))?;
            let committed = self.committed_term(index);
            expect(committed == Some(entry.term), "State Machine Safety", || {
                format!("n{id} applies {}, and committed is one of term {committed:?}", entry.position())
            })?;
            let log = &server.disk.log;
            let durable =
                log.at(index) == Some(entry.term) || index <= log.base.index.max(observed.raft.snapshot().index);
            expect(durable, DURABLE, || format!("n{id} applies {}, which is not on its disk", entry.position()))?;
            server.applying = index;
        }
        Ok(())
    }

    /// It ends with a committed entry, and its membership is the one as of that (N04).
    fn check_snapshot(&self, id: NodeId, last: LogPosition, membership: &Membership) -> Check {
        let committed = self.committed_term(last.index);
        expect(committed == Some(last.term), "Committed Snapshots", || {
            format!("n{id} has a snapshot up to {last}, and committed is one of term {committed:?}")
        })?;
        let as_of = self.memberships.range(..=last.index).next_back();
        expect(as_of.is_none_or(|(_, as_of)| **as_of == *membership), "Membership of Snapshots", || {
            format!("n{id} has a snapshot up to {last} with {membership}, and not with {as_of:?}")
        })
    }
}
