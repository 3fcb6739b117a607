//! gRPC: the services of `proto/`, the connections between nodes, and a client for operators.
//!
//! - [`Grpc`] is the [`Transport`](crate::transport::Transport) of a node that is reached over a network.
//! - The handlers (`server`) check who speaks to whom, translate, and forward to the node in a line each.
//! - [`convert`] turns messages into the core's words and back; what is malformed never gets past it.
//! - [`flow`] gathers what all nodes of a cluster recorded of the messages between their actors.
//! - [`error`] carries typed errors through [`tonic::Status`] and back, each with its number and its fix.
//!
//! *Architecture invariant: nothing here knows a rule of Raft. A request is either passed on as it came or refused
//! because it is malformed or meant for someone else.*

pub mod channel;
pub mod client;
pub mod cluster;
pub mod convert;
pub mod error;
pub mod flow;
mod forward;
pub mod identity;
pub mod limits;
mod listener;
mod peer;
pub mod reason;
mod server;
pub mod session;
pub mod sockets;
pub mod trace;

pub use client::ClusterClient;
pub use peer::Grpc;
pub use server::wants_forwarding;
pub use session::SessionClient;
pub use sockets::Sockets;

/// The generated code of `proto/raft/v1`.
#[allow(missing_docs, reason = "generated")]
pub mod pb {
    tonic::include_proto!("raft.v1");
}

/// The descriptors of every service in `proto/`, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The metadata key by which a client asks for the redirect instead of having its command forwarded: `raft-no-forward: 1`.
pub const NO_FORWARD: &str = "raft-no-forward";
