//! The paper's rules, a test a sentence: Figures 2 and 13, §5 to §8 of the extended Raft paper, the
//! thesis where it goes on, and the core's rows of SAFETY.
//!
//! Each test drives one server by hand (`paper/fixture.rs`) and says in its comment the sentence, and with which bug it
//! fails: each was seen red with that bug in the core.

#[path = "paper/boundaries.rs"]
mod boundaries;
#[path = "paper/bounds.rs"]
mod bounds;
#[path = "paper/compaction.rs"]
mod compaction;
#[path = "paper/disks.rs"]
mod disks;
#[path = "paper/elections.rs"]
mod elections;
#[path = "paper/fixture.rs"]
mod fixture;
#[path = "paper/followers.rs"]
mod followers;
#[path = "paper/installs.rs"]
mod installs;
#[path = "paper/leaders.rs"]
mod leaders;
#[path = "paper/leases.rs"]
mod leases;
#[path = "paper/membership.rs"]
mod membership;
#[path = "paper/operators.rs"]
mod operators;
#[path = "paper/reads.rs"]
mod reads;
#[path = "paper/snapshots.rs"]
mod snapshots;
#[path = "paper/thresholds.rs"]
mod thresholds;
#[path = "paper/transfers.rs"]
mod transfers;
