//! The bundled state machine: a key-value store in the order of its keys, with a revision for each.
//!
//! [`Kv`] is what a node replicates, [`Command`] what is proposed to it, [`Output`] what the proposer gets back. With the
//! feature `grpc`, `kv::service` serves it as `raftkv.v1.Kv`; the binary `raftkv` is that and a command line.
//!
//! | file | idea |
//! |---|---|
//! | `command` | the vocabulary: commands and outputs, prost messages that the log keeps |
//! | `state` | the map and what each command does to it |
//! | `scan` | ranges of keys, in pages |
//! | `hash` | a hash of the whole state that costs one pair a write |
//! | `snapshot` | the state as a stream of records |
//! | `client` | a client with a session: each write counts once |
//! | `history` | the latest changes, in order, within bounds |
//! | `watch` | the changes of a prefix as a stream, pulled from the history |
//! | `watch_client` | the same over gRPC, going on at another node after a break |
//! | `service` | the gRPC service: handlers that propose or read, nothing else |
//!
//! A revision is the log index that last wrote the key, so a larger revision is a later write, over all keys.
//!
//! ```
//! use ractor_raft::{kv::{Command, Kv}, state_machine::StateMachine};
//!
//! let mut store = Kv::default();
//! store.apply(7, Command::put("ada", "1815"));
//! let ada = store.get(b"ada").expect("it was just written");
//! assert_eq!((&ada.bytes[..], ada.revision), (&b"1815"[..], 7));
//! ```

#[cfg(feature = "grpc")]
mod client;
mod command;
mod hash;
mod history;
mod scan;
#[cfg(feature = "grpc")]
mod service;
mod snapshot;
mod state;
mod watch;
#[cfg(feature = "grpc")]
mod watch_client;
mod witness;

#[cfg(feature = "grpc")]
pub use client::SessionKv;
pub use command::*;
pub use history::{CHANGE_BYTES, Change, Changes, Compacted, MAX_HISTORY_BYTES, MAX_HISTORY_CHANGES};
pub use scan::{KeyRange, Page};
#[cfg(feature = "grpc")]
pub use service::{KvService, MAX_PAGE_PAIRS, service};
pub use state::{Kv, Value};
pub use watch::{Watched, watch};
#[cfg(feature = "grpc")]
pub use watch_client::WatchClient;

/// The generated code of `proto/raftkv/v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, reason = "generated")]
pub mod pb {
    tonic::include_proto!("raftkv.v1");
}
