//! The real core, explored exhaustively (breadth first).
#![cfg(feature = "testing")]

use crate::{
    explore::Search,
    scope::{Scope, disk, joint},
    server::PreVotes,
};
use ractor_raft::raft::*;

#[path = "model/explore.rs"]
mod explore;
#[path = "model/history.rs"]
mod history;
#[path = "model/moves.rs"]
mod moves;
#[path = "model/scope.rs"]
mod scope;
#[path = "model/server.rs"]
mod server;
mod support;

fn full() -> bool {
    std::env::var("MODEL").is_ok_and(|bounds| bounds == "full")
}

/// SCOPE="crashes=1 …": a bound tried by hand.
fn tried(mut scope: Scope) -> Scope {
    for (name, value) in std::env::var("BOUNDS").iter().flat_map(|text| text.split(' ')).filter_map(|it| it.split_once('=')) {
        let n: u8 = value.parse().unwrap();
        match name {
            "term" => scope.max_term = n.into(),
            "proposals" => scope.proposals = n,
            "reads" => scope.reads = n,
            "crashes" => scope.crashes = n,
            "breaks" => scope.breaks = n,
            "alone" => scope.alone = n,
            "waiting" => scope.waiting = n.into(),
            "transfers" => scope.transfers = n,
            "snapshots" => scope.snapshots = n,
            "ticks" => scope.ticks = n,
            _ => panic!("{name}"),
        }
    }
    scope
}

#[test]
fn elections() {
    let scope = Scope { only_elections: true, crashes: 1, ..Scope::of("elections", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn pre_votes() {
    let scope = Scope { only_elections: true, pre_votes: PreVotes::Asked, ..Scope::of("pre-votes", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn replication() {
    let scope = Scope { proposals: 1, settled: true, ..Scope::of("replication", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn figure_8() {
    let membership = Membership::of_voters((1..=3).map(|id| (id, "")));
    let disks = [&[1, 2][..], &[1], &[1, 3]].map(|log| disk(&membership, 3, log, None)).into();
    let scope = Scope { disks, batch: 1, mirrored: false, ..Scope::of("figure 8", 3, 5) };
    Search::new(tried(scope)).run();
}

#[test]
fn reads() {
    let scope = Scope { proposals: 1, reads: 1, settled: true, ..Scope::of("reads", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn leases() {
    let scope = Scope { reads: 2, leases: true, ticks: 4, settled: true, ..Scope::of("leases", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn joint_consensus() {
    let old = Membership::of_voters([(1, ""), (2, "")]);
    let disks = vec![disk(&old, 1, &[1], None), disk(&old, 1, &[1], None), disk(&old, 1, &[1], Some(joint(&[1, 2], &[3])))];
    let scope = Scope { disks, mirrored: false, ..Scope::of("joint consensus", 3, 3) };
    Search::new(tried(scope)).run();
}

#[test]
fn removal() {
    let changes = vec![Change::Remove { id: 3 }];
    let scope = Scope { changes, mirrored: false, settled: true, ..Scope::of("removal", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn self_removal() {
    let changes = vec![Change::Remove { id: 1 }];
    let scope = Scope { changes, settled: true, ..Scope::of("self-removal", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn transfer() {
    let scope = Scope { transfers: 1, proposals: 1, settled: true, ..Scope::of("transfer", 3, 2) };
    Search::new(tried(scope)).run();
}

#[test]
fn snapshots() {
    let membership = Membership::of_voters((1..=3).map(|id| (id, "")));
    let disks = [&[1, 3][..], &[1, 3], &[1, 2, 2]].map(|log| disk(&membership, 3, log, None)).into();
    let scope = Scope { disks, snapshots: 1, mirrored: false, ..Scope::of("snapshots", 3, 4) };
    Search::new(tried(scope)).run();
}
