//! Raft as a supervision tree of ractor actors: embed a node, give it your state machine, and supervise it.
//!
//! The README's example, *Embed a node*, is a whole durable cluster with a typed state machine (it is compiled as a test
//! of this file); `examples/bank.rs` adds a supervisor and a crash that heals. Where to begin: [`StateMachine`],
//! [`Node::builder`], [`Node::propose`], [`Node::read`].
//!
//! # Two maxims
//! - **[`raft`] decides, [`node`] does.** All rules of Raft are one pure state machine without clock, disk, network or
//!   chance; a tree of actors feeds it facts and carries out its orders.
//! - **Orders are imperative, reports are past tense**: `Persist` and `Persisted`, `Apply` and `Applied`. Every arrow in
//!   the message flow shows its direction by its name.
//!
//! # The tree
//! ```text
//! your supervisor
//! └─ node                     root: restart budget, start order, shutdown order
//!    ├─ log store    KEEPER   term, vote and log on disk, on a thread of its own
//!    ├─ applier      KEEPER   your state machine; answers clients
//!    ├─ consensus    KEEPER   drives raft::Raft, turns its effects into messages
//!    │  ├─ election timer   COURIER   one alarm
//!    │  ├─ replicator n     COURIER   one for each peer
//!    │  └─ snapshotter      COURIER   the state as bytes, and back
//!    └─ server       COURIER  keeps the address open
//! ```
//! A courier that dies is started again alone; keepers fall together and start anew from disk ([`node`] has the contract).
//!
//! # One write in 8 messages
//! 1. client → consensus `Propose`, once admission lets it in.
//! 2. consensus → replicator *n* `Deliver`, for each peer, and at the same time
//! 3. consensus → log store `Persist`.
//! 4. At the peer: server → consensus `Request`; its log store persists; only then does it reply.
//! 5. replicator → consensus `Delivered`, log store → consensus `Persisted`: a majority moves the commit index.
//! 6. consensus → applier `Apply`.
//! 7. applier → client: the output, directly.
//! 8. applier → consensus `Applied`.
//!
//! # See it
//! Every message is recorded: [`Node::flow`](node::NodeRef::flow) gives what was and what comes, filtered, and `flow::layer` puts
//! your own spans into the same sequence ([`flow`]); [`Node::tree`](node::NodeRef::tree) is the supervision tree as data, and
//! `metrics::text` all figures as Prometheus reads them.
//!
//! # The modules
//! | module | |
//! |---|---|
//! | [`raft`] | The rules of Raft, pure: what happened goes in, what is to be done comes out. |
//! | [`node`] | The supervision tree around them, and the handles that applications hold. |
//! | [`client`] | A session of the application's own: commands that are applied once. |
//! | [`state_machine`] | What you write: typed commands, typed outputs, snapshots. |
//! | [`kv`] | The bundled state machine, a key-value store, and its gRPC service. |
//! | [`storage`] | Where term, vote and log are kept: SQLite or memory. |
//! | [`transport`] | How nodes reach each other: a trait, and the network inside one process. |
//! | `rpc` | The network between processes: gRPC with `raft.v1` (feature `grpc`). |
//! | `http` | The page: the whole cluster in a browser (feature `server`). |
//! | [`flow`] | The envelope around every message, the flight recorder and the meters. |
//! | `metrics` | What a node is and does, in figures, as Prometheus reads it (feature `metrics`). |
//! | [`trace`] | What several nodes recorded, as one picture: text, JSON, Mermaid, Chrome trace events, OTLP (feature `otel`). |
//! | `backup` | A snapshot as one file, and a new cluster out of it (feature `grpc`). |
//! | [`config`] | The settings of a node, their defaults and their bounds. |
//! | [`error`] | What can go wrong, each with its number, what, why and the fix. |
//! | `testing` | In-process clusters with simulated time, network and disks (feature `testing`). |
#![forbid(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

#[cfg(feature = "grpc")]
pub mod backup;
pub mod client;
pub mod config;
pub mod error;
pub mod flow;
#[cfg(feature = "server")]
pub mod http;
pub mod kv;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod node;
pub mod raft;
#[cfg(feature = "grpc")]
pub mod rpc;
pub mod state_machine;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
pub mod transport;

pub use crate::{
    client::Client,
    config::Config,
    error::{NodeError, ProposeError, ReadError, SnapshotError, WatchError},
    node::{Consistency, Node},
    state_machine::StateMachine,
    storage::StorageError,
};

/// The README's example, so that it is compiled.
#[cfg(all(doctest, feature = "grpc", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
