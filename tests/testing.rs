//! The faults of simulated clusters do what they say, and what users test with finds what it is for.
#![cfg(feature = "testing")]

#[path = "testing/disks.rs"]
mod disks;
#[path = "testing/letters.rs"]
mod letters;
#[path = "testing/nemesis.rs"]
mod nemesis;
#[path = "testing/nodes.rs"]
mod nodes;
#[path = "testing/trial.rs"]
mod trial;
