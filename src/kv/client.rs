//! The store over the network, each write applied once: [`SessionClient`] with the store's types.

use prost::Message;

use super::command::{Command, CompareAndSwapOutcome, DeleteOutcome, Outcome, Output, PutOutcome};
use crate::{error::ProposeError, rpc::SessionClient};

/// Writes to the store under a session. Its clones share it, and calls may run concurrently.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use ractor_raft::{kv::SessionKv, rpc::SessionClient};
///
/// let kv = SessionKv::new(SessionClient::connect(["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"])?);
/// let revision = kv.put("ada", "1815").await?.revision; // however many leaders that took
/// assert!(kv.compare_and_swap("ada", Some("1815".into()), "1852").await?.revision > revision);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SessionKv {
    session: SessionClient,
}

impl SessionKv {
    /// Over this session.
    pub fn new(session: SessionClient) -> Self {
        SessionKv { session }
    }

    /// Writes `value` at `key`, whatever stood there.
    ///
    /// # Errors
    /// As for [`SessionClient::propose`].
    pub async fn put(
        &self,
        key: impl Into<bytes::Bytes>,
        value: impl Into<bytes::Bytes>,
    ) -> Result<PutOutcome, ProposeError> {
        match self.propose(Command::put(key, value)).await? {
            Outcome::Put(outcome) => Ok(outcome),
            other => Err(another(&other)),
        }
    }

    /// Takes `key` away.
    ///
    /// # Errors
    /// As for [`SessionClient::propose`].
    pub async fn delete(&self, key: impl Into<bytes::Bytes>) -> Result<DeleteOutcome, ProposeError> {
        match self.propose(Command::delete(key)).await? {
            Outcome::Delete(outcome) => Ok(outcome),
            other => Err(another(&other)),
        }
    }

    /// Writes `set` at `key` if `expect` stands there, or, with `None`, if nothing does. A try that was repeated answers
    /// what the first one found.
    ///
    /// # Errors
    /// As for [`SessionClient::propose`].
    pub async fn compare_and_swap(
        &self,
        key: impl Into<bytes::Bytes>,
        expect: Option<bytes::Bytes>,
        set: impl Into<bytes::Bytes>,
    ) -> Result<CompareAndSwapOutcome, ProposeError> {
        match self.propose(Command::compare_and_swap(key, expect, set)).await? {
            Outcome::CompareAndSwap(outcome) => Ok(outcome),
            other => Err(another(&other)),
        }
    }

    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let applied = self.session.propose(command.encode_to_vec().into()).await?;
        let output = Output::decode(applied.output).ok().and_then(|output| output.outcome);
        output.ok_or_else(|| ProposeError::Unknown { reason: "the store's answer cannot be read".to_owned() })
    }
}

fn another(outcome: &Outcome) -> ProposeError {
    ProposeError::Unknown { reason: format!("the store answered to another command: {outcome:?}") }
}
