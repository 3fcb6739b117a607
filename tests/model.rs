//! The real core, explored exhaustively: every state that some servers, their disks and their messages can reach within a
//! bound is visited once, breadth first, and the properties of Figure 3 are checked in each (`model/history.rs`):
//! Election Safety, Leader Append-Only, Log Matching, Leader Completeness, State Machine Safety; besides One Vote Per Term,
//! Monotone Commit, No Reply Before Its Write, Read Linearizability, Joint Consensus, and the core's own assertions.
//!
//! What may happen in every configuration, at any time and any number of times: a message that was ever sent arrives, late,
//! again, out of order or never; a write reaches its disk; an alarm rings that starts an election. What is bounded stands in
//! the configuration (`model/scope.rs`): terms, proposals, crashes (before a write reaches its disk, or after that and before
//! it is reported), and so on. Pre-votes are granted to whoever asks, except in the configuration about them: a model that
//! lets more happen misses nothing.
//!
//! What makes the space small enough, and loses nothing: a state is a few numbers (`model/explore.rs`); numbers that only tell
//! one thing from another are counted anew (`Raft::renumber`); what nobody will look at again is forgotten (`Raft::forget`;
//! `what_is_forgotten_changes_nothing` compares what comes to happen with and without it); of two servers that are alike, the
//! second does not go first; and states that another one includes are left out, which finds most of them when those go first
//! in which the servers have come less far (`model/order.rs`).
//!
//! What makes it smaller and is a bound: no more than a few requests wait at one server at a time; a leader begins only so
//! many rounds of reads; clocks stand still where no lease is at stake; no leader steps down for want of answers except where
//! `alone` says so; a leader sends heartbeats only where the configuration says so. What a configuration claims to explore, it
//! has to come by, or its test fails (`model/tally.rs`; `MOVES=1` prints how often each move was made and what came of it).
//!
//! Explored to the end by default, so that the test fails otherwise (states): elections 48,321; pre-votes 4,237; replication
//! 198,592; conflicts 180,042; crashes 185,277; figure 8 456,817; reads 1,055,018; leases 595,806; handed over leases 505,843;
//! joint consensus 12,051; joint leader 44,743; two changes 470,309; learner removal 5,666; snapshots of changes 27,629;
//! removal 22,732; self-removal 16,759; transfer 35,074; snapshots 86,877; stale logs 57,568; installed snapshots 1,849;
//! inherited names 299,830. Cut at its nearest 2,000,000 states: repeated reads; at their nearest 400,000 (18 to 19 steps): first
//! names, rival names, former disks, late members.
//!
//! Disks have numbers only in the configurations about them (M06). There a disk may be lost once, and an empty one take its place,
//! which starts as its server was started first; what was sent to the former one may still reach it. Properties are of disks:
//! an empty disk in the place of another is another server, and what was committed stays so.
//!
//! `cargo test --test model` explores each configuration's nearest states, which gives the shortest way to what is wrong
//! there, and then, if there are more, all of them. `MODEL=full` takes larger bounds, best one configuration at a time
//! (`MODEL=full cargo test --test model elections`), and more states; it does not promise an end, and says `CUT` where it
//! came to none. `STATES` says how many states at most, 0 for all; `LEVELS=1` tells how far it is.
#![cfg(feature = "testing")]

use std::env;

use ractor_raft::raft::*;

use crate::{
    explore::Search,
    scope::{Scope, compacted_disk, disk, joint, naming, numbered},
    server::PreVotes,
    tally::Kind,
};

#[path = "model/explore.rs"]
mod explore;
#[path = "model/history.rs"]
mod history;
#[path = "model/moves.rs"]
mod moves;
#[path = "model/order.rs"]
mod order;
#[path = "model/scope.rs"]
mod scope;
#[path = "model/server.rs"]
mod server;
mod support;
#[path = "model/tally.rs"]
mod tally;
#[path = "model/turn_checks.rs"]
mod turn_checks;

/// Where searches that have no end within minutes stop.
const NEAREST: usize = 400_000;

/// Where a search stops at the latest: some seconds; with `MODEL=full`, about 4 GiB.
const MOST_STATES: usize = 2_000_000;
const MOST_STATES_FULL: usize = 25_000_000;

/// The second bound with `MODEL=full`, else the first.
fn bound<T>(first: T, full: T) -> T {
    if env::var("MODEL").is_ok_and(|bounds| bounds == "full") { full } else { first }
}

fn explore(scope: Scope) {
    let most = env::var("STATES").ok().map(|most| most.parse().expect("STATES is a number"));
    let max_states = most.unwrap_or(bound(MOST_STATES, MOST_STATES_FULL));
    let max_states =
        if most.is_none() && scope.max_states > 0 { bound(scope.max_states, max_states) } else { max_states };
    Search::run(Scope { max_states, ..scope }, bound(true, false));
}

/// Three voters with these logs, all in `term`.
fn with_logs(name: &'static str, term: Term, max_term: Term, logs: [&[Term]; 3]) -> Scope {
    let voters = Membership::of_voters((1..=3).map(|id| (id, "")));
    let disks = logs.map(|log| disk(&voters, term, log, None)).into();
    Scope { disks, mirrored: false, ..Scope::of(name, 3, max_term) }
}

/// n1 leads term 1, and everyone has what it has; n2 may take over (or, which is the same, n3).
fn settled(name: &'static str) -> Scope {
    let campaigners = bound(vec![2], vec![1, 2, 3]);
    Scope { settled: true, campaigners, waiting: bound(1, 2), ..Scope::of(name, 3, 2) }
}

/// Fails when: a server votes twice in a term; a vote, or a candidate's request, leaves before it is on disk (E03).
#[test]
fn elections() {
    let scope = Scope::of("elections", 3, bound(2, 3));
    explore(Scope { crashes: 1, only_elections: true, waiting: bound(1, 2), ..scope });
}

/// The pre-votes as they are, with the answers of servers that know better.
#[test]
fn pre_votes() {
    let scope = Scope::of("pre-votes", 3, 2);
    explore(Scope { only_elections: true, pre_votes: PreVotes::Asked, prompt_disks: bound(true, false), ..scope });
}

/// Fails when: a matching suffix is truncated (L02); a late report is believed (L05); a leader counts its own copy, or a
/// follower acknowledges it, before it is on disk; who waits for an entry that was truncated waits on (L10).
#[test]
fn replication() {
    explore(replication_scope());
}

fn replication_scope() -> Scope {
    Scope {
        proposals: bound(1, 2),
        late_reports: true,
        waiting: bound(1, 2),
        heartbeats: bound(false, true),
        ..settled("replication")
    }
}

/// Logs that differ.
///
/// Fails when: `leader_commit` counts beyond the last new entry (L04); a vote is forgotten in its own term (E02); the term at
/// `prev_log_index` is not compared.
#[test]
fn conflicts() {
    let scope = with_logs("conflicts", 3, bound(4, 5), [&[1, 3], &[1], &[1, 2, 2]]);
    explore(Scope { late_reports: true, campaigners: bound(vec![1, 3], vec![1, 2, 3]), waiting: bound(1, 2), ..scope });
}

/// A server falls at any moment: before its write is on disk, or before that is reported.
///
/// Fails when: who waits for an entry that was truncated waits on (L10).
#[test]
fn crashes() {
    explore(Scope { proposals: 1, crashes: 1, ..settled("crashes") });
}

/// Figure 8 of the paper, from (c) on.
///
/// Fails when: an entry of an earlier term is committed by counting (L01).
#[test]
fn figure_8() {
    let scope = with_logs("figure 8", 3, 5, [&[1, 2], &[1], &[1, 3]]);
    explore(Scope {
        batch: 1,
        campaigners: bound(vec![1, 3], vec![1, 2, 3]),
        prompt_disks: bound(true, false),
        ..scope
    });
}

/// Fails when: a read is answered without a round (R02), or at a leader that has not committed its no-op (R01).
#[test]
fn reads() {
    explore(Scope { proposals: 1, reads: 1, read_rounds: bound(1, 2), prompt_disks: true, ..settled("reads") });
}

/// Two reads, each with a round of its own, at leaders and followers, and a write between them.
///
/// Fails when: the answer to an earlier question passes for one to a later (L06).
#[test]
fn repeated_reads() {
    explore(Scope { reads: 2, proposals: 1, prompt_disks: true, whole: false, ..settled("repeated reads") });
}

/// Fails when: a lease is dated from when it was confirmed; a vote does not wait for a leader that was heard (R04).
#[test]
fn leases() {
    explore(Scope { reads: 2, read_rounds: 1, leases: true, ticks: 3, prompt_disks: true, ..settled("leases") });
}

/// n1 hands over, and has a lease.
///
/// Fails when: a transfer leaves the lease as it is (R04).
#[test]
fn handed_over_leases() {
    let campaigners = bound(vec![], vec![2]);
    let scope =
        Scope { reads: 1, leases: true, ticks: 1, transfers: 1, prompt_disks: true, ..settled("handed over leases") };
    explore(Scope { campaigners, ..scope });
}

/// n3 alone has the change from n1, n2 to n3: n1 fell before the entry was on its disk.
///
/// Fails when: votes, or acknowledgements, are counted in C_new alone.
#[test]
fn joint_consensus() {
    let old = Membership::of_voters([(1, ""), (2, "")]);
    let disk = |joint| disk(&old, 1, &[1], joint);
    let disks = vec![disk(None), disk(None), disk(Some(joint(&[1, 2], &[3])))];
    let scope = Scope::of("joint consensus", 3, 3);
    let campaigners = bound(vec![3], vec![1, 2, 3]);
    explore(Scope {
        disks,
        campaigners,
        mirrored: false,
        prompt_disks: bound(true, false),
        waiting: bound(1, 2),
        ..scope
    });
}

/// n1 alone has the change from n1, n2 to n3.
///
/// Fails when: votes, or acknowledgements, are counted in C_old alone.
#[test]
fn joint_leader() {
    explore(joint_leader_scope());
}

fn joint_leader_scope() -> Scope {
    let old = Membership::of_voters([(1, ""), (2, "")]);
    let disk = |joint| disk(&old, 1, &[1], joint);
    let disks = vec![disk(Some(joint(&[1, 2], &[3]))), disk(None), disk(None)];
    let scope = Scope::of("joint leader", 3, bound(2, 3));
    let campaigners = bound(vec![1], vec![1, 2, 3]);
    Scope { disks, campaigners, mirrored: false, prompt_disks: bound(true, false), waiting: bound(1, 2), ..scope }
}

/// An operator makes two changes.
///
/// Fails when: a second change is begun while one is not committed (M03).
#[test]
fn two_changes() {
    let changes = vec![Change::Remove { id: 3 }, Change::Remove { id: 2 }];
    explore(Scope { changes, mirrored: false, prompt_disks: true, ..settled("two changes") });
}

/// An operator removes a learner, which takes no majority to be in touch; a leader that is alone steps down, so that there may
/// be another before anyone is asked.
///
/// Fails when: a change is begun before the leader's no-op is committed (M01).
#[test]
fn learner_removal() {
    let learners = [(3, String::new())].into();
    let membership = Membership { learners, ..Membership::of_voters([(1, ""), (2, "")]) };
    let disks = vec![disk(&membership, 0, &[], None); 3];
    let changes = vec![Change::Remove { id: 3 }];
    let scope = Scope { disks, changes, mirrored: false, ..settled("learner removal") };
    let reaches = vec![Kind::BeginsChangeLater, Kind::Removes];
    explore(Scope { campaigners: vec![1, 2], alone: 1, prompt_disks: true, reaches, ..scope });
}

/// A snapshot is taken while the last configuration is not committed.
///
/// Fails when: a snapshot is given the configuration in force instead of the one at its end (N04).
#[test]
fn snapshots_of_changes() {
    let changes = vec![Change::Remove { id: 3 }];
    let campaigners = bound(vec![], vec![2]);
    let scope = Scope { snapshots: 1, changes, campaigners, mirrored: false, ..settled("snapshots of changes") };
    explore(Scope { prompt_disks: true, ..scope });
}

/// Fails when: a configuration whose entry was truncated stays in force (M02).
#[test]
fn removal() {
    let changes = vec![Change::Remove { id: 3 }];
    explore(Scope {
        changes,
        mirrored: false,
        prompt_disks: bound(true, false),
        crashes: bound(0, 1),
        ..settled("removal")
    });
}

/// Fails when: a leader that is not in C_new counts itself (M04).
#[test]
fn self_removal() {
    explore(self_removal_scope());
}

fn self_removal_scope() -> Scope {
    let changes = vec![Change::Remove { id: 1 }];
    Scope { changes, prompt_disks: bound(true, false), crashes: bound(0, 1), ..settled("self-removal") }
}

/// n1 hands over, while it takes a proposal.
#[test]
fn transfer() {
    explore(transfer_scope());
}

fn transfer_scope() -> Scope {
    Scope { transfers: 1, proposals: 1, prompt_disks: bound(true, false), ..settled("transfer") }
}

/// n1 takes a snapshot, and a server that is behind or has another log receives it.
#[test]
fn snapshots() {
    let scope = with_logs("snapshots", 3, bound(4, 5), [&[1, 3], &[1, 3], &[1, 2, 2]]);
    let campaigners = bound(vec![1], vec![1, 2, 3]);
    let prompt_disks = bound(true, false);
    explore(Scope { snapshots: 1, crashes: bound(0, 1), campaigners, prompt_disks, waiting: bound(1, 2), ..scope });
}

/// Fails when: logs are compared by their length alone (E05).
#[test]
fn stale_logs() {
    let scope = with_logs("stale logs", 3, 5, [&[1, 3], &[1, 3], &[1, 2, 2]]);
    let campaigners = bound(vec![1, 3], vec![1, 2, 3]);
    explore(Scope { campaigners, prompt_disks: bound(true, false), waiting: bound(1, 2), ..scope });
}

/// Two servers stand on a snapshot, and the log of the third differs where that ends.
///
/// Fails when: the log behind the boundary stays though the entry there is another (N02); a snapshot older than what is committed is
/// installed (N01).
#[test]
fn installed_snapshots() {
    explore(installed_snapshots_scope());
}

fn installed_snapshots_scope() -> Scope {
    let voters = Membership::of_voters((1..=3).map(|id| (id, "")));
    let compacted = disk(&voters, 3, &[1, 3], None).entries;
    let stands_on = |maker| compacted_disk(&voters, 3, &compacted, maker);
    let disks = vec![stands_on(1), stands_on(2), disk(&voters, 3, &[1, 2, 2], None)];
    let scope = with_logs("installed snapshots", 3, 4, [&[], &[], &[]]);
    let campaigners = bound(vec![1], vec![1, 2, 3]);
    let prompt_disks = bound(true, false);
    Scope { disks, compacted, crashes: bound(0, 1), campaigners, prompt_disks, waiting: 2, ..scope }
}

/// Three voters with these logs, which begin with the disks that are named first.
fn with_names(name: &'static str, term: Term, max_term: Term, logs: [&[(Term, Option<Membership>)]; 3]) -> Scope {
    let scope = Scope::of(name, 3, max_term);
    let disks = numbered(&three(), term, &logs);
    let campaigners = bound(vec![1, 3], vec![1, 2, 3]);
    Scope {
        disks,
        campaigners,
        mirrored: false,
        prompt_disks: true,
        waiting: 1,
        wipes: 1,
        whole: false,
        max_states: NEAREST,
        ..scope
    }
}

fn three() -> Membership {
    Membership::of_voters((1..=3).map(|id| (id, "")))
}

/// A cluster begins: the first leader names those that elected it, and one of them loses its disk.
///
/// Fails when: an acknowledgment of a disk counts that is not among the first names, while they are not settled (an empty disk
/// has forgotten that it voted in a later term); names are settled before they are committed, or at once.
#[test]
fn first_names() {
    let scope = with_names("first names", 0, 2, [&[], &[], &[]]);
    let reaches = vec![Kind::Names, Kind::Settles, Kind::InheritsNames];
    explore(Scope { stands: bound(vec![(1, 1), (3, 2)], vec![]), wiped: vec![2], reaches, ..scope });
}

/// n3 led term 1, and named itself and n1. Nobody has that entry, and n1 may lead with the vote of n2, which then loses its disk.
///
/// Fails when: any acknowledgment counts before the first names are settled; any vote does; the first leader opens its term with
/// a no-op.
#[test]
fn rival_names() {
    let names = naming(&three(), &[1, 3], &[1, 3]);
    let scope = with_names("rival names", 1, 3, [&[], &[], &[(1, names)]]);
    let reaches = vec![Kind::Names, Kind::Settles, Kind::Truncates];
    explore(Scope { wiped: vec![2], reaches, ..scope });
}

/// n1 and n3 are settled. n2 is about to be, acknowledges entries, and loses its disk, while n3 lags behind (storm 36582).
///
/// Fails when: the vote of a disk counts that the log does not name.
#[test]
fn former_disks() {
    let first = naming(&three(), &[1, 3], &[]);
    let log = &[(1, first)][..];
    let scope = with_names("former disks", 1, 3, [log, log, log]);
    let reaches = vec![Kind::Names, Kind::NamesAnother, Kind::Settles, Kind::InheritsNames];
    explore(Scope { stands: bound(vec![(1, 2), (3, 3)], vec![]), wiped: vec![2], reaches, ..scope });
}

/// n1 and n2 are settled, and n3 was never heard of: it loses its disk before that, or after.
#[test]
fn late_members() {
    let names = naming(&three(), &[1, 2], &[]);
    let log = &[(1, names)][..];
    let scope = with_names("late members", 1, 3, [log, log, &[]]);
    let reaches = vec![Kind::Names, Kind::NamesAnother, Kind::Settles];
    explore(Scope { stands: bound(vec![(1, 2), (3, 3)], vec![]), wiped: vec![3], reaches, ..scope });
}

/// n1 named n2, which has that entry, and n3 has it not: whoever leads next finds it, and does not know whether it is committed.
///
/// Fails when: the vote of a disk counts that the log does not name.
#[test]
fn inherited_names() {
    let first = naming(&three(), &[1, 3], &[]);
    let second = naming(&three(), &[1, 2, 3], &[2]);
    let log = &[(1, first), (1, second)][..];
    let scope = with_names("inherited names", 1, 3, [log, log, &log[..1]]);
    let reaches = vec![Kind::Settles, Kind::InheritsNames];
    let scope = Scope { whole: true, max_states: 0, ..scope };
    explore(Scope { stands: bound(vec![(1, 2), (3, 3)], vec![]), wiped: vec![2], reaches, ..scope });
}

/// What servers forget (`Raft::forget`) cannot come to matter, and in which order states are gone on from neither: the same
/// comes to happen.
///
/// Fails when: servers forget also where changes are made who keeps up.
#[test]
fn what_is_forgotten_changes_nothing() {
    let scopes = [replication_scope(), joint_leader_scope(), self_removal_scope(), transfer_scope()];
    for scope in scopes.into_iter().chain([installed_snapshots_scope()]) {
        let forgetful = Search::histories(scope.clone());
        assert!(forgetful == Search::histories(Scope { forgets_nothing: true, ..scope.clone() }), "{}", scope.name);
        let near = Search::histories(Scope { nearest_first: true, ..scope.clone() });
        // Where that has no end here, all that it came by is there.
        assert!(near.is_subset(&forgetful), "{}", scope.name);
    }
}
