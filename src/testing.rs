//! In-process clusters of real nodes, with faults, for tests: ours and yours.
//!
//! A [`Cluster`] runs whole supervision trees, as in production, on a [`Network`] that delays, loses and cuts, and on
//! disks that survive a crash of their node. On a current-thread runtime whose time is paused, seconds pass in
//! milliseconds, and one seed gives one run. On any other runtime it works as well, in real time.
//!
//! ```
//! use ractor_raft::testing::{Cluster, Ledger, Line};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)] // in your tests: #[tokio::test(start_paused = true)]
//! async fn main() {
//!     let cluster = Cluster::builder(Ledger::default).nodes(3).seed(1).start().await;
//!     let leader = cluster.leader().await;
//!     let written = cluster.propose(Line::new("kept")).await.expect("there is a leader");
//!
//!     cluster.crash(leader).await; // power loss: only what was durable is kept
//!     assert_ne!(cluster.leader().await, leader);
//!     cluster.restart(leader).await;
//!     cluster.until_applied(written.index).await;
//!     assert!(cluster.look(leader, move |ledger| ledger.at(written.index).is_some()).await);
//! }
//! ```
//!
//! To try a state machine of your own, leave the rest to a [`Trial`]: clients that send it commands and read, a [`Nemesis`]
//! that does whatever [`Fault`] it can to the nodes, their network and their disks, and all that must hold of a replicated
//! state machine. Where it does not, it says which seed to run again.
//!
//! ```
//! use ractor_raft::testing::{Dice, Ledger, Line, Trial};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() {
//!     let state = |ledger: &Ledger| ledger.lines().map(|(_, text)| text.to_owned()).collect::<Vec<_>>();
//!     let command = |dice: &mut Dice| Line::new(format!("line {}", dice.below(100)));
//!     let short = |ledger: &Ledger| if ledger.len() < 10_000 { Ok(()) } else { Err("it is long".to_owned()) };
//!     let passed = Trial::new(Ledger::default, state, command).invariant(short).seeds(2).run().await;
//!     println!("{passed}");
//! }
//! ```
//!
//! # The faults
//! Each is there for itself, and all are healed or undone the same way; a [`Nemesis`] does them by chance.
//!
//! | | |
//! |---|---|
//! | [`Network`] | Delays and their long tails, losses, repeats, breaks; cuts in one direction, partitions, bridges, rings, links that flap or are slow. Requests of other kinds overtake each other, as over gRPC. |
//! | [`SimulatedDisk`](disk::SimulatedDisk) | Power losses with torn writes, writes and syncs that fail (once, at an operation, by chance), no room, flipped bits, old contents. |
//! | [`Cluster`] | Nodes that are [crashed](Cluster::crash), [killed](Cluster::kill), [wiped](Cluster::wipe) and [held](Cluster::pause); disks that [hang](Cluster::hang_disk) and are [slow](Cluster::slow_disk); [actors that die](Cluster::strike_actors) at any message. |
//! | [`ClusterBuilder`] | [Clocks that drift](ClusterBuilder::clock_rates), [actors that die](ClusterBuilder::sabotaged_by) at a certain message, and an [observer](ClusterBuilder::observed_by) of every step. |
//!
//! Every wait has a deadline, and panics behind it with what was awaited and what each node is.
//!
//! What one needs for simulated time: the feature `testing` of this crate and `test-util` of tokio, as dev-dependencies.

mod application;
mod cluster;
#[cfg(feature = "sqlite")]
pub mod disk;
mod invariants;
mod ledger;
mod nemesis;
mod network;
mod pace;
mod setup;
mod strikes;
mod trial;

pub use crate::node::vocabulary;

pub use self::{
    application::{Told, kill_tree},
    cluster::{Cluster, Committed},
    invariants::{Invariants, Violation},
    ledger::{Ledger, Line, Witness, Written},
    nemesis::{Fault, Nemesis, Struck},
    network::Network,
    setup::ClusterBuilder,
    trial::{Dice, Failure, Passed, Trial},
};
