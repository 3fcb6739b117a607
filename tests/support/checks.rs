//! What must hold after every step of every server: the five properties of Figure 3, and the promises of this core
//! (nothing leaves before it is durable, reads are linearizable, every call is answered at most once).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ractor_raft::raft::*;

use super::{Body, Packet, Server, World};

/// All that was ever seen, over all servers and all their lives.
#[derive(Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// The terms along the log of each term's leader, as far as it has appended.
    leader_logs: BTreeMap<Term, Vec<Term>>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// For each entry ever seen: the term of the entry before it, and what it says.
    entries: BTreeMap<LogPosition, (Term, Payload)>,
    /// Each committed entry, and the term in which it was committed.
    committed: Vec<(Entry, Term)>,
    before: BTreeMap<NodeId, Before>,
    calls: BTreeMap<CallId, Call>,
    commands: BTreeMap<CallId, Bytes>,
    /// The highest entry that any client knows to be committed.
    told_index: LogIndex,
    refused: BTreeSet<CallId>,
    pub acknowledged: u64,
    pub reads_answered: u64,
}

/// A server as it was after its last step.
struct Before {
    life: u64,
    leads: Option<Term>,
    commit_index: LogIndex,
    log: Vec<Entry>,
}

struct Call {
    at: NodeId,
    kind: Kind,
}

enum Kind {
    Propose,
    /// What the read must see: all that clients had been told when it was asked.
    Read(LogIndex),
}

impl Checks {
    pub fn proposed(&mut self, call: CallId, at: NodeId, command: Bytes) {
        self.calls.insert(call, Call { at, kind: Kind::Propose });
        self.commands.insert(call, command);
    }

    pub fn asked_to_read(&mut self, call: CallId, at: NodeId) {
        self.calls.insert(call, Call { at, kind: Kind::Read(self.told_index) });
    }

    /// Whoever waited at a server that crashed has no answer to expect. What was committed is still on a majority of
    /// disks.
    pub fn crashed(&mut self, world: &World, id: NodeId) {
        self.calls.retain(|_, call| call.at != id);
        if let Some((last, _)) = self.committed.last() {
            assert_on_a_majority_of_disks(world, last);
        }
    }

    pub fn open_calls(&self) -> Vec<String> {
        let describe = |(call, Call { at, kind }): (&CallId, &Call)| match kind {
            Kind::Propose => format!("proposal {call} at n{at}"),
            Kind::Read(_) => format!("read {call} at n{at}"),
        };
        self.calls.iter().map(describe).collect()
    }

    /// After `id` took an input in and carried out `effects`; `left` is what it sent.
    pub fn after(&mut self, world: &World, id: NodeId, effects: &[Effect], left: &[Packet]) {
        let server = world.server(id);
        self.check_leadership(server, id);
        self.check_log(server, id);
        self.check_commit(world, server, id);
        left.iter().for_each(|packet| self.check_packet(server, packet));
        effects.iter().for_each(|effect| self.check_effect(server, id, effect));
        let raft = server.raft();
        let leads = (raft.role() == Role::Leader).then(|| raft.current_term());
        let before = Before { life: server.life, leads, commit_index: raft.commit_index(), log: server.log() };
        self.before.insert(id, before);
    }

    fn check_leadership(&mut self, server: &Server, id: NodeId) {
        let raft = server.raft();
        let term = raft.current_term();
        if raft.role() != Role::Leader {
            return;
        }
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "Election Safety: n{leader} and n{id} both lead term {term}");
        let before = self.before.get(&id).filter(|before| before.life == server.life && before.leads == Some(term));
        let log = server.log();
        match before {
            Some(before) => {
                let kept = log.get(..before.log.len()) == Some(&before.log[..]);
                assert!(kept, "Leader Append-Only: n{id} leads term {term} and changed its log");
            }
            None => {
                for (entry, committed_in) in self.committed.iter().filter(|(_, committed_in)| *committed_in < term) {
                    let has = log.get(entry.index as usize - 1) == Some(entry);
                    assert!(
                        has,
                        "Leader Completeness: n{id} leads term {term} without {entry}, committed in term {committed_in}"
                    );
                }
            }
        }
        self.leader_logs.insert(term, log.iter().map(|entry| entry.term).collect());
    }

    /// If two entries of one index and term always say the same and always follow an entry of the same term, then two
    /// logs that share an entry share all before it: Log Matching.
    fn check_log(&mut self, server: &Server, id: NodeId) {
        let log = server.log();
        let unchanged = self.before.get(&id).is_some_and(|before| before.log == log);
        if unchanged {
            return;
        }
        let mut previous = 0;
        for entry in log {
            let (position, term) = (entry.position(), entry.term);
            let seen = self.entries.entry(position).or_insert_with(|| (previous, entry.payload.clone()));
            assert_eq!(*seen, (previous, entry.payload), "Log Matching: entry {position} of n{id}");
            previous = term;
        }
    }

    fn check_commit(&mut self, world: &World, server: &Server, id: NodeId) {
        let raft = server.raft();
        let commit_index = raft.commit_index();
        if let Some(before) = self.before.get(&id).filter(|before| before.life == server.life) {
            assert!(commit_index >= before.commit_index, "n{id}: the commit index fell to {commit_index}");
        }
        for index in 1..=commit_index {
            let entry = raft.entry(index).expect("nothing is compacted here");
            match self.committed.get(index as usize - 1) {
                Some((committed, _)) => {
                    assert_eq!(committed, entry, "State Machine Safety: n{id} commits another entry {index}");
                }
                None => {
                    assert_on_a_majority_of_disks(world, entry);
                    self.committed.push((entry.clone(), raft.current_term()));
                }
            }
        }
    }

    /// What leaves a server rests on its disk, not on its memory.
    fn check_packet(&mut self, server: &Server, packet: &Packet) {
        let (id, hard_state) = (packet.from, server.disk.hard_state);
        match &packet.body {
            Body::Request(Request::RequestVote(request)) => self.check_vote(server, id, request.term, id),
            Body::Reply(Reply::RequestVote(reply)) if reply.vote_granted => {
                self.check_vote(server, id, reply.term, packet.to);
            }
            Body::Request(Request::AppendEntries(request)) => {
                let term = request.term;
                assert!(hard_state.current_term >= term, "n{id} leads term {term}, which is not on its disk");
            }
            Body::Reply(Reply::AppendEntries(reply)) => {
                if let AppendOutcome::Matched { match_index } = reply.outcome {
                    let leader_has = match match_index {
                        0 => Some(0),
                        _ => self.leader_logs[&reply.term].get(match_index as usize - 1).copied(),
                    };
                    let on_disk = server.disk.term_at(match_index);
                    assert_eq!(on_disk, leader_has, "n{id} acknowledges entry {match_index}, which is not on its disk");
                }
            }
            _ => {}
        }
    }

    fn check_vote(&mut self, server: &Server, id: NodeId, term: Term, candidate: NodeId) {
        let HardState { current_term, voted_for } = server.disk.hard_state;
        let durable = current_term > term || (current_term == term && voted_for == Some(candidate));
        assert!(durable, "n{id} votes for n{candidate} in term {term}, which is not on its disk");
        let vote = *self.votes.entry((id, term)).or_insert(candidate);
        assert_eq!(vote, candidate, "n{id} votes for n{vote} and n{candidate} in term {term}");
    }

    fn check_effect(&mut self, server: &Server, id: NodeId, effect: &Effect) {
        match effect {
            Effect::Apply { entries, calls } => {
                for entry in entries {
                    let committed = self.committed.get(entry.index as usize - 1).map(|(entry, _)| entry);
                    assert_eq!(committed, Some(entry), "State Machine Safety: n{id} applies another entry");
                    let on_disk = server.disk.term_at(entry.index);
                    assert_eq!(on_disk, Some(entry.term), "n{id} applies {entry}, which is not on its disk");
                }
                for (index, call) in calls {
                    let entry =
                        entries.iter().find(|entry| entry.index == *index).expect("the call's entry is applied");
                    let command = Payload::Command(self.commands[call].clone());
                    assert_eq!(entry.payload, command, "n{id}: call {call} is told of another's success");
                    self.answered(*call, id);
                    self.told_index = self.told_index.max(*index);
                    self.acknowledged += 1;
                }
            }
            Effect::AnswerRead { call, read_index, .. } => {
                let Kind::Read(must_see) = self.answered(*call, id) else {
                    panic!("n{id}: call {call} is not a read");
                };
                assert!(*read_index >= must_see, "read {call} at n{id} sees {read_index}, clients know of {must_see}");
                self.told_index = self.told_index.max(*read_index);
                self.reads_answered += 1;
            }
            Effect::Refuse { call, refusal } => {
                self.answered(*call, id);
                if let Refusal::NotLeader { .. } = refusal {
                    self.refused.insert(*call);
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, call: CallId, id: NodeId) -> Kind {
        let Some(Call { at, kind }) = self.calls.remove(&call) else { panic!("n{id} answers call {call} twice") };
        assert_eq!(at, id, "call {call} is answered by another server");
        kind
    }

    /// At the end: what was refused as "not applied" is nowhere.
    pub fn check_refused(&self) {
        let refused: BTreeSet<_> = self.refused.iter().filter_map(|call| self.commands.get(call)).collect();
        for (entry, _) in &self.committed {
            if let Payload::Command(command) = &entry.payload {
                assert!(!refused.contains(command), "{entry} is committed, but its client was told that it is not");
            }
        }
    }
}

fn assert_on_a_majority_of_disks(world: &World, entry: &Entry) {
    let holds = |server: &&Server| server.disk.term_at(entry.index) == Some(entry.term);
    let count = world.servers.values().filter(holds).count();
    assert!(count * 2 > world.servers.len(), "{entry} is committed, and on {count} of {} disks", world.servers.len());
}
