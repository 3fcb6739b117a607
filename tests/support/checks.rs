//! What must hold after every step of every server: the five properties of Figure 3, and the promises of this core
//! (nothing leaves before it is durable, reads are linearizable, every call is answered once, snapshots are what they say,
//! a majority is one of the configuration in force).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ractor_raft::raft::*;

use super::{Body, Disk, Packet, Server, World};

mod effects;

/// All that was ever seen, over all servers and all their lives.
#[derive(Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// The terms along the log of each term's leader, as far as it has appended.
    leader_logs: BTreeMap<Term, Vec<Term>>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// For each entry ever seen: the term of the entry before it, and what it says.
    entries: BTreeMap<LogPosition, (Term, Payload)>,
    committed: Vec<Committed>,
    before: BTreeMap<NodeId, Before>,
    calls: BTreeMap<CallId, Call>,
    proposals: BTreeMap<CallId, Payload>,
    /// The highest entry that any client knows to be committed.
    told_index: LogIndex,
    refused: BTreeSet<CallId>,
    /// Servers that have had another disk since.
    pub wiped: BTreeSet<NodeId>,
    /// Servers that were told that their disk was lost: they have stopped for good.
    pub condemned: BTreeSet<NodeId>,
    pub acknowledged: u64,
    pub reads_answered: u64,
    pub lease_reads: u64,
    pub changes: u64,
    pub transfers: u64,
    pub installed: u64,
    pub snapshots: u64,
}

/// A committed entry, the term in which it was committed, and by whom.
struct Committed {
    entry: Entry,
    term: Term,
    by: Arc<Membership>,
}

/// A server as it was after its last step.
struct Before {
    life: u64,
    leads: Option<Term>,
    commit_index: LogIndex,
    log: Vec<Entry>,
    base: LogPosition,
    membership: Membership,
}

struct Call {
    at: NodeId,
    kind: Kind,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Propose,
    /// What the read must see: all that clients had been told when it was asked.
    Read(LogIndex),
    Change,
    Transfer,
    Snapshot,
}

impl Checks {
    pub fn proposed(&mut self, call: CallId, at: NodeId, payload: Payload) {
        self.asked(call, at, Kind::Propose);
        self.proposals.insert(call, payload);
    }

    pub fn asked_to_read(&mut self, call: CallId, at: NodeId) {
        self.asked(call, at, Kind::Read(self.told_index));
    }

    pub fn asked(&mut self, call: CallId, at: NodeId, kind: Kind) {
        self.calls.insert(call, Call { at, kind });
    }

    /// Whoever waited at a server that crashed has no answer to expect. What was committed is still on a majority of
    /// disks.
    pub fn crashed(&mut self, world: &World, id: NodeId) {
        self.calls.retain(|_, call| call.at != id);
        if let Some(last) = self.committed.last().filter(|_| self.wiped.is_empty()) {
            assert_on_a_majority_of_disks(world, &last.entry, &last.by);
        }
    }

    /// What nobody has answered yet, at these servers.
    pub fn open_calls(&self, at_these: impl Fn(NodeId) -> bool) -> Vec<String> {
        let calls = self.calls.iter().filter(|(_, call)| at_these(call.at));
        calls.map(|(call, Call { at, kind })| format!("{kind:?} {call} at n{at}")).collect()
    }

    pub fn committed_index(&self) -> LogIndex {
        self.committed.len() as LogIndex
    }

    /// Who belonged to the cluster as of a committed entry.
    pub fn membership_at(&self, world: &World, index: LogIndex) -> Membership {
        let entries = self.committed[..index as usize].iter().rev();
        let found = entries.map(|committed| &committed.entry.payload).find_map(|payload| match payload {
            Payload::Membership(membership) => Some((**membership).clone()),
            _ => None,
        });
        found.unwrap_or_else(|| world.membership.clone())
    }

    /// After `id` took an input in and carried out `effects`; `left` is what it sent.
    pub fn after(&mut self, world: &World, id: NodeId, effects: &[Effect], left: &[Packet]) {
        let server = world.server(id);
        self.check_commit(world, server, id);
        self.check_leadership(world, server, id);
        self.check_log(server, id);
        left.iter().for_each(|packet| self.check_packet(server, packet));
        effects.iter().for_each(|effect| self.check_effect(world, id, effect));
        let raft = server.raft();
        let leads = (raft.role() == Role::Leader).then(|| raft.current_term());
        let (commit_index, log, base) = (raft.commit_index(), server.log(), raft.base());
        let membership = raft.membership().clone();
        self.before.insert(id, Before { life: server.life, leads, commit_index, log, base, membership });
    }

    /// The entry at `index` in the log of `server`: what it has compacted was committed.
    fn entry_of<'a>(&'a self, server: &'a Server, index: LogIndex) -> Option<&'a Entry> {
        let raft = server.raft();
        if index > raft.base().index {
            return raft.entry(index);
        }
        self.committed.get(index.checked_sub(1)? as usize).map(|committed| &committed.entry)
    }

    fn check_leadership(&mut self, world: &World, server: &Server, id: NodeId) {
        let raft = server.raft();
        let term = raft.current_term();
        if raft.role() != Role::Leader {
            return;
        }
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "Election Safety: n{leader} and n{id} both lead term {term}");
        let before = self.before.get(&id).filter(|before| before.life == server.life && before.leads == Some(term));
        match before {
            Some(before) => {
                for entry in &before.log {
                    let kept = self.entry_of(server, entry.index) == Some(entry);
                    assert!(kept, "Leader Append-Only: n{id} leads term {term} and changed {entry}");
                }
            }
            None => self.check_new_leader(world, server, id),
        }
        self.check_changes(server, id);
        let terms = (1..=raft.last_index()).map(|index| self.entry_of(server, index).map(|entry| entry.term));
        let terms: Option<Vec<Term>> = terms.collect();
        self.leader_logs.insert(term, terms.expect("what a leader has compacted is committed"));
    }

    /// It has a quorum of the configuration that is in force, all that was committed, and nobody else's lease stands in its
    /// way.
    fn check_new_leader(&self, world: &World, server: &Server, id: NodeId) {
        let raft = server.raft();
        let term = raft.current_term();
        for Committed { entry, term: committed_in, .. } in self.committed.iter().filter(|it| it.term < term) {
            let has = self.entry_of(server, entry.index) == Some(entry);
            assert!(has, "Leader Completeness: n{id} leads term {term} without {entry}, committed in {committed_in}");
        }
        // The last entry of its own is its no-op, which says nothing about who votes.
        let voted = |voter: NodeId| self.votes.get(&(voter, term)) == Some(&id) || voter == id;
        assert!(is_quorum(raft.membership(), voted), "n{id} leads term {term} without a quorum of its configuration");
        for (other, leader) in world.servers.iter().filter(|(other, server)| **other != id && server.is_up()) {
            let until = leader.raft().lease_until().filter(|until| world.clock(*other) < *until);
            let leads = leader.raft().role() == Role::Leader && leader.raft().current_term() < term;
            assert!(!leads || until.is_none(), "R04: n{id} leads term {term} within the lease of n{other}");
        }
    }

    /// A leader appends a configuration only when the one before is committed (§6, M03), and the first entry of its own
    /// term with it (M01).
    fn check_changes(&self, server: &Server, id: NodeId) {
        let raft = server.raft();
        let (term, commit_index) = (raft.current_term(), raft.commit_index());
        let open = server.log().into_iter().filter(|entry| entry.index > commit_index);
        let open: Vec<_> = open.filter(|entry| matches!(entry.payload, Payload::Membership(_))).collect();
        let own = open.iter().filter(|entry| entry.term == term).count();
        assert!(own == 0 || open.len() == 1, "M03: n{id} began a change while another is under way: {open:?}");
        let committed = self.entry_of(server, commit_index).map(|entry| entry.term);
        // The first entry of all names disks, and says nothing new of who votes.
        let first = |entry: &Entry| {
            let Payload::Membership(membership) = &entry.payload else { return false };
            let begun = &server.disk.membership;
            entry.index == 1 && (&membership.voters, &membership.outgoing) == (&begun.voters, &begun.outgoing)
        };
        let started = own == 0 || committed == Some(term) || open.iter().all(first);
        assert!(started, "M01: n{id} began a change in a term without a committed entry");
    }

    /// If two entries of one index and term always say the same and always follow an entry of the same term, then two
    /// logs that share an entry share all before it: Log Matching.
    fn check_log(&mut self, server: &Server, id: NodeId) {
        let (log, base) = (server.log(), server.raft().base());
        let unchanged = self.before.get(&id).is_some_and(|before| before.log == log && before.base == base);
        if unchanged {
            return;
        }
        if base.index > 0 {
            let committed = self.committed.get(base.index as usize - 1).map(|committed| committed.entry.position());
            assert_eq!(committed, Some(base), "n{id} stands on another entry than was committed");
        }
        let mut previous = base.term;
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
        let before = self.before.get(&id).filter(|before| before.life == server.life);
        let checked = before.map_or(0, |before| before.commit_index);
        // What a leader appends when it has committed something is in force only behind that.
        let by = before.map_or_else(|| raft.membership().clone(), |before| before.membership.clone());
        assert!(commit_index >= checked, "n{id}: the commit index fell to {commit_index} from {checked}");
        for index in checked + 1..=commit_index {
            let entry = raft.entry(index);
            match (self.committed.get(index as usize - 1), entry) {
                (Some(committed), Some(entry)) => {
                    let committed = &committed.entry;
                    assert_eq!(committed, entry, "State Machine Safety: n{id} commits another entry {index}");
                }
                (Some(_), None) => assert!(index <= raft.base().index, "n{id} has not what it commits"),
                (None, Some(entry)) => {
                    assert_on_a_majority_of_disks(world, entry, &by);
                    let (entry, term, by) = (entry.clone(), raft.current_term(), Arc::new(by.clone()));
                    self.committed.push(Committed { entry, term, by });
                }
                (None, None) => panic!("n{id} commits {index}, which nobody has committed, by a snapshot"),
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
                    self.check_acknowledgement(server, id, reply.term, match_index);
                }
            }
            Body::Reply(Reply::InstallSnapshot(reply)) => {
                if let InstallOutcome::Installed { match_index } = reply.outcome {
                    self.check_acknowledgement(server, id, reply.term, match_index);
                }
            }
            _ => {}
        }
    }

    fn check_acknowledgement(&self, server: &Server, id: NodeId, term: Term, match_index: LogIndex) {
        let Some(log) = self.leader_logs.get(&term) else { return };
        let leader_has = match match_index {
            0 => return,
            _ => log.get(match_index as usize - 1).copied(),
        };
        let Some(leader_has) = leader_has else {
            panic!("n{id} acknowledges entry {match_index}, which the leader of term {term} does not have")
        };
        let holds = server.disk.holds(LogPosition { index: match_index, term: leader_has });
        assert!(holds, "n{id} acknowledges entry {match_index}, which is not on its disk");
    }

    fn check_vote(&mut self, server: &Server, id: NodeId, term: Term, candidate: NodeId) {
        let HardState { current_term, voted_for } = server.disk.hard_state;
        let durable = current_term > term || (current_term == term && voted_for == Some(candidate));
        assert!(durable, "n{id} votes for n{candidate} in term {term}, which is not on its disk");
        let vote = *self.votes.entry((id, term)).or_insert(candidate);
        assert_eq!(vote, candidate, "n{id} votes for n{vote} and n{candidate} in term {term}");
    }

    /// At the end: what was refused as "not applied" is nowhere.
    pub fn check_refused(&self) {
        let refused: Vec<_> = self.refused.iter().filter_map(|call| self.proposals.get(call)).collect();
        for Committed { entry, .. } in &self.committed {
            let lied = refused.contains(&&entry.payload);
            assert!(!lied, "{entry} is committed, but its client was told that it is not");
        }
    }
}

/// The naive way to count: more than half of C_new, and of C_old where there is one.
pub fn is_quorum(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    let most = |ids: Vec<NodeId>| ids.iter().filter(|id| agrees(**id)).count() * 2 > ids.len();
    let outgoing: Vec<_> = membership.outgoing.keys().copied().collect();
    most(membership.voters.keys().copied().collect()) && (outgoing.is_empty() || most(outgoing))
}

fn assert_on_a_majority_of_disks(world: &World, entry: &Entry, by: &Membership) {
    // A disk that was lost since has not the number that it is known by, and counts for nobody's election either.
    let lost = |id: NodeId, disk: &Disk| by.incarnations.get(&id).is_some_and(|known| *known != disk.incarnation);
    let holds = |id: NodeId| {
        let disk = world.servers.get(&id).map(|server| &server.disk);
        disk.is_some_and(|disk| disk.holds(entry.position()) || lost(id, disk))
    };
    assert!(is_quorum(by, holds), "{entry} is committed, and not on the disks of a majority of {by}");
}
