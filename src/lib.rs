//! Raft as a supervision tree of ractor actors.
#![forbid(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod config;
pub mod error;
pub mod flow;
pub mod kv;
pub mod node;
pub mod raft;
#[cfg(feature = "grpc")]
pub mod rpc;
pub mod state_machine;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

/// The README's example, so that it is compiled.
#[cfg(all(doctest, feature = "grpc", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
