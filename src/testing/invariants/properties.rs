//! What holds over all nodes together: the five properties of Figure 3, one vote a term, one state at an index.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Broken, Check, expect,
    server::{New, Server, Terms},
};
use crate::raft::{Entry, LogIndex, LogPosition, Membership, NodeId, Payload, Raft, Role, Term};

/// All that was ever seen, over all nodes and all their lives.
#[derive(Default)]
pub(super) struct Seen {
    /// Who led a term, and its log as far as it has appended.
    leaders: BTreeMap<Term, (NodeId, Terms)>,
    /// Votes that left their voter's disk.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Of disks that are gone: (voter, term, candidate). They may still be on their way.
    former_votes: BTreeSet<(NodeId, Term, NodeId)>,
    /// Each entry ever seen: the term of the entry before it, and what it says.
    entries: HashMap<LogPosition, (Term, Payload)>,
    committed: Vec<Committed>,
    /// Of those committed, the ones that say who belongs to the cluster; at 0 the first members.
    pub memberships: BTreeMap<LogIndex, Arc<Membership>>,
    /// What a state machine's hash is, by its last command.
    states: BTreeMap<LogIndex, u128>,
}

#[derive(Clone, Copy)]
struct Committed {
    term: Term,
    /// The term of whoever committed it first.
    committed_in: Term,
}

impl Seen {
    pub(super) fn begins(&mut self, raft: &Raft) {
        let membership = raft.membership();
        if raft.last_index() == 0 && !membership.voters.is_empty() {
            self.memberships.entry(0).or_insert_with(|| Arc::new(membership.clone()));
        }
    }

    pub(super) fn wiped(&mut self, id: NodeId) {
        let (former, votes): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.votes).into_iter().partition(|((voter, _), _)| *voter == id);
        self.votes = votes;
        self.former_votes.extend(former.into_iter().map(|((voter, term), candidate)| (voter, term, candidate)));
    }

    pub(super) fn committed(&self) -> Vec<Entry> {
        let positions = self.committed.iter().zip(1..);
        let entry = |(committed, index): (&Committed, LogIndex)| {
            let term = committed.term;
            let payload = self.entries.get(&LogPosition { term, index }).map(|(_, payload)| payload.clone());
            Entry { index, term, payload: payload.unwrap_or(Payload::Noop) }
        };
        positions.map(entry).collect()
    }

    pub(super) fn committed_index(&self) -> LogIndex {
        self.committed.len() as LogIndex
    }

    /// The term of the committed entry at `index`. At 0 there is none, of term 0.
    pub(super) fn committed_term(&self, index: LogIndex) -> Option<Term> {
        if index == 0 { Some(0) } else { self.committed.get(index as usize - 1).map(|committed| committed.term) }
    }

    /// "If two logs contain an entry with the same index and term, then the logs are identical in all entries up through the
    /// given index": Log Matching (§5.3). If two entries of one index and term always say the same and always follow an
    /// entry of the same term, that is so.
    pub(super) fn check_log(&mut self, id: NodeId, server: &Server, raft: &Raft, new: New) -> Check {
        let base = server.log.base;
        if new.from == base.index + 1 {
            let committed = self.committed_term(base.index);
            expect(committed == Some(base.term), "Log Matching", || {
                format!("n{id} stands on {base}, but the entry committed there is of term {committed:?}")
            })?;
        }
        let mut previous = server.log.at(new.from - 1).unwrap_or_default();
        for index in new.from..=raft.last_index() {
            let Some(entry) = raft.entry(index) else {
                return Err(Broken("Log Matching", format!("n{id} has a hole at {index}")));
            };
            let known = self.entries.entry(entry.position()).or_insert_with(|| (previous, entry.payload.clone()));
            let same = known.0 == previous && known.1 == entry.payload;
            expect(same, "Log Matching", || {
                format!("entry {} of n{id} follows term {previous} or says something else", entry.position())
            })?;
            previous = entry.term;
        }
        Ok(())
    }

    /// "Each server will vote for at most one candidate in a given term" (§5.2), in its memory; `outgoing` sees to its disk.
    pub(super) fn check_votes(&mut self, id: NodeId, server: &mut Server, raft: &Raft) -> Check {
        let (term, Some(candidate)) = (raft.current_term(), raft.voted_for()) else { return Ok(()) };
        let vote = *server.votes.entry(term).or_insert(candidate);
        expect(vote == candidate, "One Vote a Term", || {
            format!("n{id} votes for n{vote} and n{candidate} in term {term}")
        })
    }

    /// A vote leaves `id`, on its disk by now.
    pub(super) fn vote_leaves(&mut self, id: NodeId, term: Term, candidate: NodeId) -> Check {
        let vote = *self.votes.entry((id, term)).or_insert(candidate);
        expect(vote == candidate, "One Vote a Term", || {
            format!("n{id} gave its vote to n{vote} and to n{candidate} in term {term}")
        })
    }

    /// "If a server has applied a log entry at a given index to its state machine, no other server will ever apply a
    /// different log entry for the same index": State Machine Safety (§5.4.3), already where it is committed.
    pub(super) fn check_commit(
        &mut self,
        id: NodeId,
        server: &Server,
        raft: &Raft,
        others: &BTreeMap<NodeId, Server>,
    ) -> Check {
        let (before, now) = (server.commit_index, raft.commit_index());
        expect(now >= before, "Monotone Commit Index", || {
            format!("the commit index of n{id} fell from {before} to {now}")
        })?;
        for index in before + 1..=now {
            let term = server.log.at(index);
            match self.committed_term(index) {
                Some(committed) => {
                    let same = term == Some(committed) || (term.is_none() && index < server.log.base.index);
                    expect(same, "State Machine Safety", || {
                        format!(
                            "n{id} commits entry {index} of term {term:?}, where one of term {committed} was committed"
                        )
                    })?;
                }
                None => {
                    let Some(term) = term.filter(|_| index > server.log.base.index) else {
                        let detail = format!("n{id} commits entry {index}, which nobody has committed, by a snapshot");
                        return Err(Broken("State Machine Safety", detail));
                    };
                    self.commits(id, server, raft, LogPosition { term, index }, others)?;
                }
            }
        }
        Ok(())
    }

    /// The first to commit an entry: it is on a majority of disks, and every later leader has it.
    fn commits(
        &mut self,
        id: NodeId,
        server: &Server,
        raft: &Raft,
        entry: LogPosition,
        others: &BTreeMap<NodeId, Server>,
    ) -> Check {
        let holds = |voter: NodeId| {
            let voter = if voter == id { Some(server) } else { others.get(&voter) };
            voter.is_some_and(|voter| {
                let log = &voter.disk.log;
                voter.had_another_disk || log.base.index > entry.index || log.at(entry.index) == Some(entry.term)
            })
        };
        // What a leader appends when it has committed something is in force only behind that.
        let by = [&*server.membership, raft.membership()];
        expect(by.iter().any(|by| is_quorum(by, holds)), "Commit Quorum", || {
            format!("n{id} commits {entry}, which is not on the disks of a majority of {}", server.membership)
        })?;
        let committed_in = raft.current_term();
        for (term, (leader, log)) in self.leaders.range(committed_in + 1..) {
            let has = log.base.index > entry.index || log.at(entry.index) == Some(entry.term);
            expect(has, "Leader Completeness", || {
                format!("n{leader} led term {term} without {entry}, which n{id} commits in term {committed_in}")
            })?;
        }
        self.committed.push(Committed { term: entry.term, committed_in });
        if let Some((_, Payload::Membership(membership))) = self.entries.get(&entry) {
            self.memberships.insert(entry.index, membership.clone());
        }
        Ok(())
    }

    pub(super) fn check_leadership(&mut self, id: NodeId, server: &Server, raft: &Raft, new: New) -> Check {
        if raft.role() != Role::Leader {
            return Ok(());
        }
        let term = raft.current_term();
        // "At most one leader can be elected in a given term": Election Safety (§5.2).
        let leader = self.leaders.get(&term).map_or(id, |(leader, _)| *leader);
        expect(leader == id, "Election Safety", || format!("n{leader} and n{id} both lead term {term}"))?;
        if server.leads != Some(term) {
            self.check_new_leader(id, server, raft)?;
            self.leaders.insert(term, (id, server.log.clone()));
            return Ok(());
        }
        // "A leader never overwrites or deletes entries in its log; it only appends new entries": Leader Append-Only (§5.3).
        expect(!new.replaced, "Leader Append-Only", || {
            format!("n{id} leads term {term} and changed its log from {} on", new.from)
        })?;
        if let Some((_, log)) = self.leaders.get_mut(&term) {
            let appended = (log.last_index() + 1..=server.log.last_index()).filter_map(|index| server.log.at(index));
            log.terms.extend(appended);
        }
        Ok(())
    }

    /// "If a log entry is committed in a given term, then that entry will be present in the logs of the leaders for all
    /// higher-numbered terms": Leader Completeness (§5.4).
    fn check_new_leader(&self, id: NodeId, server: &Server, raft: &Raft) -> Check {
        let term = raft.current_term();
        for (committed, index) in self.committed.iter().zip(1..).skip(server.log.base.index as usize) {
            let has = committed.committed_in >= term || server.log.at(index) == Some(committed.term);
            expect(has, "Leader Completeness", || {
                format!(
                    "n{id} leads term {term} without {index}@{}, committed in {}",
                    committed.term, committed.committed_in
                )
            })?;
        }
        let voted = |voter: NodeId| {
            let votes = self.votes.get(&(voter, term)) == Some(&id) || voter == id;
            votes || self.former_votes.contains(&(voter, term, id))
        };
        expect(is_quorum(raft.membership(), voted), "Election Quorum", || {
            format!("n{id} leads term {term} without the votes of a majority of {}", raft.membership())
        })
    }

    /// The term that the leader of `term` has at `index`; `None`: nobody knows, or it has nothing there.
    pub(super) fn leader_has(&self, term: Term, index: LogIndex) -> Option<Option<Term>> {
        let (_, log) = self.leaders.get(&term)?;
        Some(if index < log.base.index { self.committed_term(index) } else { log.at(index) })
    }

    pub(super) fn state(&mut self, index: LogIndex, hash: u128) -> Check {
        let known = *self.states.entry(index).or_insert(hash);
        expect(known == hash, "Equal State", || {
            format!("two state machines at {index} have the hashes {known:032x} and {hash:032x}")
        })
    }
}

/// More than half of C_new, and of C_old where there is one. Counted anew here: the rules' own way is what is checked.
fn is_quorum(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    let most = |ids: Vec<NodeId>| ids.iter().filter(|id| agrees(**id)).count() * 2 > ids.len();
    let outgoing: Vec<_> = membership.outgoing.keys().copied().collect();
    most(membership.voters.keys().copied().collect()) && (outgoing.is_empty() || most(outgoing))
}
