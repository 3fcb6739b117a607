//! What a user replicates: a typed, deterministic state machine.

use std::{any::Any, io, io::Read, io::Write};

use bytes::Bytes;
use prost::Message;

use crate::raft::LogIndex;

/// A state machine that is fed the same commands in the same order on every node, and must therefore come to the same
/// state: no clock, no randomness, no hash-map order in what it keeps or returns.
///
/// A panic in [`apply`](StateMachine::apply) makes the node rebuild it from the log once; if the same entry panics
/// again, the node stops and names the entry. To skip it would let replicas diverge.
pub trait StateMachine: Send + 'static {
    /// What is proposed and logged. A prost message, since a log outlives the program's version.
    type Command: Message + Default + Send + 'static;
    /// What the proposer gets back.
    type Output: Message + Default + Send + 'static;

    /// Applies the command that is committed at `at`.
    fn apply(&mut self, at: LogIndex, command: Self::Command) -> Self::Output;

    /// A handle on the state as of now, cheap to take; turned into bytes elsewhere while this goes on applying.
    fn snapshot(&self) -> impl Snapshot;

    /// Replaces the state by one that [`Snapshot::write`] wrote.
    ///
    /// # Errors
    /// The bytes are not such a state.
    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError>;
}

/// A state at one moment, on its way to bytes.
pub trait Snapshot: Send + 'static {
    /// Writes the whole state.
    ///
    /// # Errors
    /// Those of `to`.
    fn write(self, to: &mut dyn Write) -> io::Result<()>;
}

/// Why [`StateMachine::restore`] could not.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot cannot be restored: {0}")]
pub struct RestoreError(pub String);

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> Self {
        RestoreError(error.to_string())
    }
}

impl From<prost::DecodeError> for RestoreError {
    fn from(error: prost::DecodeError) -> Self {
        RestoreError(error.to_string())
    }
}

/// A [`StateMachine`] with its types behind bytes, so that the actors need no type parameter.
pub(crate) trait Machine: Any + Send {
    /// Applies an encoded command. `Err`: it does not decode, on this and on every node.
    fn apply(&mut self, at: LogIndex, command: Bytes) -> Result<Bytes, prost::DecodeError>;

    /// A handle on the state as of now, which writes it when it is called.
    fn snapshot(&self) -> WriteState;

    /// Replaces the state by one that a [`snapshot`](Machine::snapshot) wrote.
    fn restore(&mut self, bytes: &mut dyn Read) -> Result<(), RestoreError>;

    /// For queries, which know the type.
    fn as_any(&self) -> &dyn Any;
}

/// Writes a state that was taken earlier.
pub(crate) type WriteState = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

impl<M: StateMachine> Machine for M {
    fn apply(&mut self, at: LogIndex, command: Bytes) -> Result<Bytes, prost::DecodeError> {
        let output = StateMachine::apply(self, at, M::Command::decode(command)?);
        Ok(output.encode_to_vec().into())
    }

    fn snapshot(&self) -> WriteState {
        let snapshot = StateMachine::snapshot(self);
        Box::new(move |to| snapshot.write(to))
    }

    fn restore(&mut self, bytes: &mut dyn Read) -> Result<(), RestoreError> {
        StateMachine::restore(self, bytes)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
