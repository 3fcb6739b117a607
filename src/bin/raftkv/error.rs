//! What went wrong, why, the fix with the user's own values in it, and the exit code.

use std::fmt::{self, Display, Formatter};

use ractor_raft::{
    error::{ChangeError, Code, NodeError},
    rpc::{error::Told, reason},
    storage::StorageError,
};

/// The exit codes, as scripts rely on them.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const OTHER: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const UNAVAILABLE: u8 = 3;
    pub const KEY_ABSENT: u8 = 4;
    pub const COMPARE_FAILED: u8 = 5;
    pub const UNHEALTHY: u8 = 6;
    pub const UNKNOWN_OUTCOME: u8 = 7;
    pub const CORRUPT_DATA: u8 = 10;
    pub const DISK_FAILED: u8 = 11;
    pub const BUDGET_SPENT: u8 = 12;
    pub const POISON_ENTRY: u8 = 13;
    pub const DATA_NOT_OURS: u8 = 14;
}

/// An error as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its number, where it has one.
    pub code: Option<Code>,
    /// One line.
    pub what: String,
    /// The cause, with the user's values. Empty: `what` says it all.
    pub why: String,
    /// What to do about it. Empty: nothing is known.
    pub fix: String,
    /// What the process returns.
    pub exit: u8,
}

impl Failure {
    /// One with a number.
    pub fn new(code: u16, exit: u8, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Failure { code: Some(Code(code)), what: what.into(), why: why.into(), fix: fix.into(), exit }
    }

    /// One without a number.
    pub fn other(what: impl Into<String>, why: impl Into<String>) -> Self {
        Failure { code: None, what: what.into(), why: why.into(), fix: String::new(), exit: exit::OTHER }
    }

    /// R020.
    pub fn bad_setting(key: &str, value: &str, source: impl Display, wanted: &str) -> Self {
        let what = format!("{key} is {value:?}, which will not do");
        Failure::new(20, exit::USAGE, what, format!("it comes from {source}"), format!("give {key} {wanted}"))
    }

    /// What a node answered, in its own words.
    pub fn told(endpoint: &str, status: &tonic::Status, told: &Told) -> Self {
        let exit = match status.code() {
            tonic::Code::InvalidArgument => exit::USAGE,
            tonic::Code::Unavailable => exit::UNAVAILABLE,
            _ => exit::OTHER,
        };
        let mut code = told.code().and_then(|code| code.strip_prefix('R')?.parse().ok()).map(Code);
        let mut fix = told.fix().unwrap_or_default().to_owned();
        if told.reason == reason::MALFORMED {
            code = code.or(Some(Code(20)));
            if fix.is_empty() {
                fix = format!("correct {} in the request", told.metadata.get("field").map_or("the field", |it| it));
            }
        }
        let why = format!("the node at {endpoint} refused it with the reason {}", told.reason);
        Failure { code, what: status.message().to_owned(), why, fix, exit }
    }

    /// One object on one line, for `-o json`.
    pub fn to_json(&self) -> String {
        let Failure { what, why, fix, exit, .. } = self;
        let line = FailureLine { v: 1, error: self.code.map(|code| code.to_string()), what, why, fix, exit: *exit };
        serde_json::to_string(&line).expect("texts and numbers have a JSON form")
    }
}

#[derive(serde::Serialize)]
struct FailureLine<'a> {
    v: u8,
    error: Option<String>,
    what: &'a str,
    why: &'a str,
    fix: &'a str,
    exit: u8,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "error[{code}]: {}", self.what)?,
            None => write!(f, "error: {}", self.what)?,
        }
        for (label, text) in [("why", &self.why), ("fix", &self.fix)] {
            if !text.is_empty() {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let (what, exit) = match &error {
            NodeError::Storage(StorageError::Corrupt { .. } | StorageError::Format { .. }) => {
                ("the node's data cannot be trusted", exit::CORRUPT_DATA)
            }
            NodeError::Storage(StorageError::LostEntries { .. }) => {
                ("the node's disk lost what it had acknowledged", exit::CORRUPT_DATA)
            }
            NodeError::Storage(StorageError::Failed { .. } | StorageError::Full { .. }) => {
                ("the node's disk failed", exit::DISK_FAILED)
            }
            NodeError::Storage(StorageError::InUse { .. }) => ("the data directory is in use", exit::DATA_NOT_OURS),
            NodeError::Storage(StorageError::Foreign { .. }) => {
                ("the data directory is another node's", exit::DATA_NOT_OURS)
            }
            NodeError::Restore { .. } => ("the state machine does not take its snapshot", exit::CORRUPT_DATA),
            NodeError::PoisonEntry { .. } => ("an entry makes the state machine panic", exit::POISON_ENTRY),
            NodeError::BudgetSpent { .. } => ("the node failed too often to go on", exit::BUDGET_SPENT),
            NodeError::Config { .. } => ("a setting will not do", exit::USAGE),
            NodeError::Join { cause: ChangeError::Unroutable { .. }, .. } => ("the node cannot join", exit::USAGE),
            NodeError::Join { cause, .. } if cause.code().0 == 2 => ("the node cannot join", exit::UNAVAILABLE),
            NodeError::Join { .. } => ("the node cannot join", exit::OTHER),
            NodeError::Start { .. } => ("the node did not start", exit::OTHER),
            _ => ("the node stopped", exit::OTHER),
        };
        Failure { code: error.code(), what: what.to_owned(), why: error.to_string(), fix: error.fix(), exit }
    }
}
