//! Each invariant is broken once, by hand, and noticed.

use std::time::Duration;

use super::*;
use crate::raft::{
    AppendEntriesReply, AppendOutcome, CallId, Effect, Entry, HardState, Input, Membership, Payload, Raft, Recovered,
    Reply, RequestVoteReply, Settings, Write,
};

const NOW: Duration = Duration::from_secs(1);

fn settings(id: NodeId) -> Settings {
    Settings {
        id,
        incarnation: 0,
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        max_batch_entries: 8,
        max_batch_bytes: 1 << 20,
        max_in_flight_batches: 4,
        max_in_flight_bytes: 1 << 20,
        snapshot_threshold: 1 << 30,
        snapshot_threshold_bytes: 1 << 30,
        snapshot_trailing: 0,
        disk_timeout: Duration::from_secs(1),
    }
}

/// One server that is watched by the invariants, the rules and nothing else.
struct Watched {
    id: NodeId,
    raft: Raft,
    invariants: Invariants,
}

impl Watched {
    /// Starts with this log, in a cluster of these voters.
    fn begin(invariants: &Invariants, id: NodeId, voters: &[NodeId], hard_state: HardState, entries: &[Entry]) -> Self {
        let membership = Membership::of_voters(voters.iter().map(|id| (*id, format!("n{id}"))));
        let recovered = Recovered { hard_state, membership, entries: entries.to_vec(), ..Recovered::default() };
        let mut effects = Vec::new();
        let raft = Raft::new(settings(id), recovered, NOW, &mut effects);
        let watched = Watched { id, raft, invariants: invariants.clone() };
        watched.show(&effects, None, true);
        watched.drain(effects)
    }

    fn show(&self, effects: &[Effect], released_by: Option<u64>, begins: bool) {
        let Watched { id, raft, .. } = self;
        self.invariants.sees(Observed { node: *id, life: 1, now: NOW, raft, effects, released_by, begins });
    }

    /// Makes every write durable at once, until there is none.
    fn drain(mut self, effects: Vec<Effect>) -> Self {
        let mut effects = effects;
        while let Some((seq, then)) = effects.into_iter().find_map(|effect| match effect {
            Effect::Persist { seq, then, .. } => Some((seq, then)),
            _ => None,
        }) {
            self.show(&then, Some(seq), false);
            effects = Vec::new();
            self.raft.step(NOW, Input::Persisted { seq }, &mut effects);
            self.show(&effects, None, false);
        }
        self
    }

    fn propose(mut self, call: CallId, text: &'static str) -> Self {
        let mut effects = Vec::new();
        let payload = Payload::Command(text.as_bytes().into());
        self.raft.step(NOW, Input::Propose { call, payload }, &mut effects);
        self.show(&effects, None, false);
        self.drain(effects)
    }
}

fn entry(index: LogIndex, term: Term, text: &'static str) -> Entry {
    Entry { index, term, payload: Payload::Command(text.as_bytes().into()) }
}

fn in_term(current_term: Term) -> HardState {
    HardState { current_term, voted_for: None }
}

fn broken(invariants: &Invariants) -> &'static str {
    invariants.violation().map_or("nothing", |violation| violation.invariant)
}

#[test]
fn a_server_that_does_all_right_breaks_nothing() {
    let invariants = Invariants::new();
    let one = Watched::begin(&invariants, 1, &[1], in_term(0), &[]).propose(1, "a").propose(2, "b");
    assert_eq!(one.raft.commit_index(), 3);
    assert_eq!(invariants.committed().len(), 3);
    invariants.assert_unbroken();
}

/// Fails when: `leaders` is not compared.
#[test]
fn election_safety() {
    let invariants = Invariants::new();
    Watched::begin(&invariants, 1, &[1], in_term(0), &[]);
    Watched::begin(&invariants, 2, &[2], in_term(0), &[]);
    assert_eq!(broken(&invariants), "Election Safety");
}

/// Fails when: a payload, or the term before it, is not compared.
#[test]
fn log_matching() {
    for other in [[entry(1, 1, "a"), entry(2, 2, "c")], [entry(1, 2, "a"), entry(2, 2, "b")]] {
        let invariants = Invariants::new();
        Watched::begin(&invariants, 1, &[1, 2, 3], in_term(2), &[entry(1, 1, "a"), entry(2, 2, "b")]);
        assert_eq!(broken(&invariants), "nothing");
        Watched::begin(&invariants, 2, &[1, 2, 3], in_term(2), &other);
        assert_eq!(broken(&invariants), "Log Matching");
    }
}

/// Fails when: `check_new_leader` does not look for what is committed, or a leader's replaced entries are not noticed.
#[test]
fn leader_completeness_and_append_only() {
    let invariants = Invariants::new();
    Watched::begin(&invariants, 1, &[1], in_term(0), &[]).propose(1, "a");
    Watched::begin(&invariants, 2, &[2], in_term(4), &[]);
    assert_eq!(broken(&invariants), "Leader Completeness");

    let invariants = Invariants::new();
    let one = Watched::begin(&invariants, 1, &[1], in_term(0), &[]).propose(1, "a").propose(2, "b");
    let mut short = Watched::begin(&Invariants::new(), 1, &[1], in_term(0), &[]).propose(1, "a");
    short.invariants = one.invariants.clone();
    short.show(&[], None, false);
    assert!(["Leader Append-Only", "Monotone Commit Index"].contains(&broken(&invariants)), "{}", broken(&invariants));
}

/// Fails when: what is committed is not compared with what was, or not looked for on a majority of disks.
#[test]
fn state_machine_safety_and_commit_quorum() {
    let invariants = Invariants::new();
    Watched::begin(&invariants, 1, &[1], in_term(0), &[]).propose(1, "a");
    // Its first entry is of another term, and it alone makes a majority.
    Watched::begin(&invariants, 2, &[2], in_term(0), &[entry(1, 0, "x")]).propose(1, "b");
    assert_ne!(broken(&invariants), "nothing");

    // A server of a cluster of three commits what no other has, since its rules think that it is alone.
    let invariants = Invariants::new();
    Watched::begin(&invariants, 1, &[1, 2, 3], in_term(0), &[]);
    let alone = Watched::begin(&Invariants::new(), 1, &[1], in_term(0), &[]).propose(1, "a");
    let alone = Watched { invariants: invariants.clone(), ..alone };
    alone.show(&[], None, false);
    assert!(["Commit Quorum", "Election Quorum"].contains(&broken(&invariants)), "{}", broken(&invariants));
}

/// Fails when: `votes` is not kept, or not over lives.
#[test]
fn one_vote_a_term() {
    let invariants = Invariants::new();
    let voted = |candidate| HardState { current_term: 3, voted_for: Some(candidate) };
    let granted =
        [Effect::Reply { call: 1, reply: Reply::RequestVote(RequestVoteReply { term: 3, vote_granted: true }) }];
    let one = Watched::begin(&invariants, 1, &[1, 2, 3], voted(2), &[]);
    one.show(&granted, None, false);
    assert_eq!(broken(&invariants), "nothing");
    let other = Watched::begin(&Invariants::new(), 1, &[1, 2, 3], voted(3), &[]);
    Watched { invariants: invariants.clone(), ..other }.show(&granted, None, false);
    assert_eq!(broken(&invariants), "One Vote a Term");
}

/// Fails when: a reply is not compared with the disk.
#[test]
fn durable_before_reply() {
    let vote = Reply::RequestVote(RequestVoteReply { term: 3, vote_granted: true });
    let outcome = AppendOutcome::Matched { match_index: 1 };
    let matched = Reply::AppendEntries(AppendEntriesReply { term: 1, outcome, read_round: 0 });
    for reply in [vote, matched] {
        let invariants = Invariants::new();
        // A leader of term 1, with an entry.
        Watched::begin(&invariants, 9, &[9], in_term(0), &[]);
        let one = Watched::begin(&invariants, 1, &[1, 9], in_term(0), &[]);
        one.show(&[Effect::Reply { call: 1, reply }], None, false);
        assert_eq!(broken(&invariants), "Durable Before Reply");
    }
}

/// Fails when: a node that starts is not compared with what its disk had.
#[test]
fn durability() {
    for (hard_state, entries) in
        [(in_term(1), vec![entry(1, 1, "a"), entry(2, 1, "b")]), (in_term(2), vec![entry(1, 1, "a")])]
    {
        let invariants = Invariants::new();
        Watched::begin(&invariants, 1, &[1, 2, 3], in_term(2), &[entry(1, 1, "a"), entry(2, 1, "b")]);
        Watched::begin(&invariants, 1, &[1, 2, 3], hard_state, &entries);
        assert_eq!(broken(&invariants), "Durability");
    }
    let invariants = Invariants::new();
    Watched::begin(&invariants, 1, &[1, 2, 3], in_term(2), &[entry(1, 1, "a")]);
    invariants.wiped(1);
    Watched::begin(&invariants, 1, &[1, 2, 3], in_term(0), &[]);
    assert_eq!(broken(&invariants), "nothing", "it was told that the disk is another one");
}

/// Fails when: a write that nobody knows of is taken for one that is, or for one that is not.
#[test]
fn a_write_under_way_may_be_there_or_not() {
    let write = Write { entries: vec![entry(1, 2, "a")], ..Write::default() };
    let persist = Effect::Persist { seq: 1, write, then: Vec::new() };
    for (entries, expected) in [(vec![], "nothing"), (vec![entry(1, 2, "a")], "nothing")] {
        let invariants = Invariants::new();
        let one = Watched::begin(&invariants, 1, &[1, 2, 3], in_term(2), &[]);
        one.show(std::slice::from_ref(&persist), None, false);
        Watched::begin(&invariants, 1, &[1, 2, 3], in_term(2), &entries);
        assert_eq!(broken(&invariants), expected);
    }
}

/// Fails when: hashes at one index are not compared, or entries may be left out.
#[test]
fn equal_state_and_gapless_application() {
    let invariants = Invariants::new();
    invariants.state(3, 7);
    invariants.state(4, 8);
    invariants.state(3, 7);
    assert_eq!(broken(&invariants), "nothing");
    invariants.state(4, 9);
    assert_eq!(broken(&invariants), "Equal State");

    let invariants = Invariants::new();
    let one = Watched::begin(&invariants, 1, &[1], in_term(0), &[]).propose(1, "a");
    one.show(&[Effect::Apply { entries: vec![entry(1, 1, "a")], calls: Vec::new() }], None, false);
    assert_eq!(broken(&invariants), "State Machine Safety", "it is applied twice");
}

/// Fails when: an answer of a read or of a change is not compared with what is committed.
#[test]
fn nobody_is_told_what_is_not_committed() {
    let read = Effect::AnswerRead { call: 1, read_index: 5, lease_until: None };
    let late = Effect::AnswerRead { call: 1, read_index: 0, lease_until: Some(NOW) };
    let change = Effect::AnswerChange { call: 1, index: 5 };
    for (effect, expected) in [(read, "Committed Reads"), (late, "Lease"), (change, "Committed Changes")] {
        let invariants = Invariants::new();
        let one = Watched::begin(&invariants, 1, &[1, 2, 3], in_term(0), &[]);
        one.show(&[effect], None, false);
        assert_eq!(broken(&invariants), expected);
    }
}
