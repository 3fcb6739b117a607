//! Whole clusters of real supervision trees, in simulated time, with faults.
//!
//! Each test is a row of what other Raft systems got wrong once (`E10`, `D02`, …), and was seen red with the bug put in
//! that its `Fails when` names. The random test and the storms run seeds: `SEEDS=1000` for
//! more of them, `SEED=42` for that one alone, `FIRST=5000` to begin elsewhere.
#![cfg(feature = "testing")]

#[path = "simulation/actors.rs"]
mod actors;
#[cfg(feature = "sqlite")]
#[path = "simulation/disks.rs"]
mod disks;
#[path = "simulation/elections.rs"]
mod elections;
#[path = "support/forgetful.rs"]
mod forgetful;
#[cfg(feature = "sqlite")]
#[path = "support/linear/mod.rs"]
mod linear;
#[path = "simulation/load.rs"]
mod load;
#[path = "simulation/log.rs"]
mod log;
#[path = "simulation/membership.rs"]
mod membership;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/reads.rs"]
mod reads;
#[path = "simulation/replacement.rs"]
mod replacement;
#[path = "simulation/sessions.rs"]
mod sessions;
#[path = "simulation/snapshot_faults.rs"]
mod snapshot_faults;
#[path = "simulation/snapshots.rs"]
mod snapshots;
#[cfg(feature = "sqlite")]
#[path = "simulation/storm/mod.rs"]
mod storm;
#[path = "simulation/support.rs"]
mod support;
#[path = "simulation/transfer.rs"]
mod transfer;
#[path = "simulation/trouble.rs"]
mod trouble;
