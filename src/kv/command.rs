//! What can be asked of the store through the log, and what it answers.
//!
//! These are prost messages of their own, not those of the gRPC service: the log outlives every version of the service.
//! *Fields are added, never changed: a node must read what an older version of it has logged.*

use bytes::Bytes;

/// What is proposed and logged. Without an operation it does nothing, on every node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do.
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub operation: Option<Operation>,
}

/// The operations of a [`Command`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operation {
    /// Writes a value.
    #[prost(message, tag = "1")]
    Put(Put),
    /// Takes a key away.
    #[prost(message, tag = "2")]
    Delete(Delete),
    /// Writes a value if the key has the expected one.
    #[prost(message, tag = "3")]
    CompareAndSwap(CompareAndSwap),
}

/// Writes `value` at `key`, whatever stood there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    /// Any bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Any bytes, also none.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Takes `key` away. That it is absent already is no failure.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delete {
    /// Any bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// Writes `set` at `key` if `expect` stands there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CompareAndSwap {
    /// Any bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value that must stand there. `None`: the key must be absent. Empty bytes are a value.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub expect: Option<Bytes>,
    /// What is written then.
    #[prost(bytes = "bytes", tag = "3")]
    pub set: Bytes,
}

impl Command {
    /// Writes `value` at `key`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Operation::Put(Put { key: key.into(), value: value.into() }).into()
    }

    /// Takes `key` away.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Operation::Delete(Delete { key: key.into() }).into()
    }

    /// Writes `set` at `key` if `expect` stands there, or, with `None`, if nothing does.
    pub fn compare_and_swap(key: impl Into<Bytes>, expect: Option<Bytes>, set: impl Into<Bytes>) -> Self {
        Operation::CompareAndSwap(CompareAndSwap { key: key.into(), expect, set: set.into() }).into()
    }
}

impl From<Operation> for Command {
    fn from(operation: Operation) -> Self {
        Command { operation: Some(operation) }
    }
}

/// What the proposer of a [`Command`] gets back; of the same kind as its operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Output {
    /// What came of it. `None`: the command had no operation.
    #[prost(oneof = "Outcome", tags = "1, 2, 3")]
    pub outcome: Option<Outcome>,
}

/// The kinds of [`Output`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Outcome {
    /// Of [`Put`].
    #[prost(message, tag = "1")]
    Put(PutOutcome),
    /// Of [`Delete`].
    #[prost(message, tag = "2")]
    Delete(DeleteOutcome),
    /// Of [`CompareAndSwap`].
    #[prost(message, tag = "3")]
    CompareAndSwap(CompareAndSwapOutcome),
}

/// The value is written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutOutcome {
    /// The key's revision from now on: the index of this command.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// The key is absent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteOutcome {
    /// Whether it was there before.
    #[prost(bool, tag = "1")]
    pub existed: bool,
    /// The value it had; empty if it was absent.
    #[prost(bytes = "bytes", tag = "2")]
    pub previous: Bytes,
    /// The index of this command, also where there was nothing to delete.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// The comparison is made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CompareAndSwapOutcome {
    /// Whether the expected value stood there, and `set` does now.
    #[prost(bool, tag = "1")]
    pub swapped: bool,
    /// What stood there before, swapped or not. `None`: the key was absent.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub current: Option<Bytes>,
    /// The key's revision after this command: its index if it swapped, else that of `current`; 0 if there is none.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

impl From<Outcome> for Output {
    fn from(outcome: Outcome) -> Self {
        Output { outcome: Some(outcome) }
    }
}
