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
//! Every wait has a deadline, and panics behind it with what was awaited and what each node is.
//!
//! What one needs for simulated time: the feature `testing` of this crate and `test-util` of tokio, as dev-dependencies.

mod application;
mod cluster;
#[cfg(feature = "sqlite")]
pub mod disk;
mod ledger;
mod network;
mod setup;

pub use self::{
    application::{Told, kill_tree},
    cluster::{Cluster, Committed},
    ledger::{Ledger, Line, Witness, Written},
    network::Network,
    setup::ClusterBuilder,
};
