//! Typed errors as gRPC carries them, and back.
//!
//! Each [`Status`] has a [`google.rpc.ErrorInfo`](tonic_types::ErrorInfo) of domain [`DOMAIN`]: a reason that programs
//! decide by, and metadata with the error's number (`code`), its fix (`fix`) and its values. What a status without one
//! means for a proposal is decided in [`propose_error`]: unknown, unless it certainly never left.

mod snapshot;

use std::{collections::HashMap, str::FromStr, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{convert::Malformed, identity::WrongPeer, reason};
use crate::{
    error::{NodeError, ProposeError, ReadError, WatchError},
    raft::NodeId,
    storage::StorageError,
    transport::Breach,
};

mod change;

pub use change::change_error;

/// The domain of every [`ErrorInfo`](tonic_types::ErrorInfo) of this crate.
pub const DOMAIN: &str = "ractor-raft";

/// When a call that found no leader is worth another try: an election has gone by.
const AFTER_AN_ELECTION: Duration = Duration::from_millis(300);

/// Details travel in a header of limited size; texts are cut to this many bytes.
const LONGEST_TEXT: usize = 512;

/// What a status tells besides its message, if it comes from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// One of [`reason`].
    pub reason: String,
    /// `code` (the number, `R001`), `fix`, and the error's values.
    pub metadata: HashMap<String, String>,
}

impl Told {
    /// Reads a status; `None` if no node of this crate has written it.
    pub fn of(status: &Status) -> Option<Told> {
        let info = status.get_details_error_info()?;
        (info.domain == DOMAIN).then_some(Told { reason: info.reason, metadata: info.metadata })
    }

    /// The error's number, `R001` to `R022`, if it has one.
    pub fn code(&self) -> Option<&str> {
        self.metadata.get("code").map(String::as_str)
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<&str> {
        self.metadata.get("fix").map(String::as_str)
    }

    fn value<T: FromStr>(&self, key: &str) -> Option<T> {
        self.metadata.get(key)?.parse().ok()
    }

    fn cluster(&self, key: &str) -> Option<u64> {
        u64::from_str_radix(self.metadata.get(key)?, 16).ok()
    }
}

/// A status in the making.
struct Report {
    code: Code,
    reason: &'static str,
    message: String,
    details: ErrorDetails,
    metadata: HashMap<String, String>,
}

impl Report {
    fn new(code: Code, reason: &'static str, message: String) -> Self {
        let message = shortened(message);
        Report { code, reason, message, details: ErrorDetails::new(), metadata: HashMap::new() }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), shortened(value.to_string()));
        self
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    fn field(mut self, field: &str, description: &str) -> Self {
        self.details.add_bad_request_violation(field, shortened(description.to_owned()));
        self
    }

    fn into_status(mut self) -> Status {
        self.details.set_error_info(self.reason, DOMAIN, self.metadata);
        Status::with_error_details(self.code, self.message, self.details)
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

fn no_leader(report: Report, node: NodeId, unreachable: &[NodeId], needed: usize, voters: usize) -> Report {
    let unreachable = unreachable.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
    let report = report.with("node", node).with("unreachable", unreachable);
    report.with("needed", needed).with("voters", voters).retry_after(AFTER_AN_ELECTION)
}

fn busy(report: Report, node: NodeId, limit: &str, retry_after: Duration) -> Report {
    let report = report.with("node", node).with("limit", limit);
    report.with("retry_after_ms", retry_after.as_millis()).retry_after(retry_after)
}

/// The node that was asked takes no part, and another one may.
fn out_of_place(report: impl Fn(Code, &'static str) -> Report, reason: &'static str, node: NodeId) -> Report {
    report(Code::FailedPrecondition, reason).with("node", node)
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Status {
        let report = |code, reason| {
            Report::new(code, reason, error.to_string()).with("code", error.code()).with("fix", error.fix())
        };
        let report = match &error {
            ProposeError::NotLeader { node, leader, address } => {
                let report = report(Code::FailedPrecondition, reason::NOT_LEADER).with("node", node);
                report.with("leader_id", leader).with("leader_addr", address)
            }
            ProposeError::NoLeader { node, unreachable, needed, voters } => {
                no_leader(report(Code::Unavailable, reason::NO_LEADER), *node, unreachable, *needed, *voters)
            }
            ProposeError::Busy { node, limit, retry_after } => {
                busy(report(Code::ResourceExhausted, reason::BUSY), *node, limit, *retry_after)
            }
            ProposeError::TooLarge { size, limit } => {
                let report = report(Code::InvalidArgument, reason::TOO_LARGE).field("command", &error.to_string());
                report.with("size", size).with("limit", limit)
            }
            ProposeError::Rejected { reason: detail } => {
                let report = report(Code::InvalidArgument, reason::REJECTED).field("command", detail);
                report.with("detail", detail)
            }
            ProposeError::Unknown { reason: detail } => {
                report(Code::Aborted, reason::UNKNOWN_OUTCOME).with("detail", detail)
            }
            ProposeError::SessionExpired { session } => {
                report(Code::FailedPrecondition, reason::SESSION_EXPIRED).with("session", session)
            }
            ProposeError::AnsweredLongAgo { session, sequence } => {
                let report = report(Code::FailedPrecondition, reason::ANSWERED_LONG_AGO);
                report.with("session", session).with("sequence", sequence)
            }
            ProposeError::Unavailable { node } => {
                let report = report(Code::Unavailable, reason::UNAVAILABLE).with("node", node);
                report.retry_after(AFTER_AN_ELECTION)
            }
            ProposeError::NodeWiped { node } => out_of_place(report, reason::NODE_WIPED, *node),
            ProposeError::NodeRemoved { node } => out_of_place(report, reason::NODE_REMOVED, *node),
            ProposeError::DiskFull { node } => report(Code::ResourceExhausted, reason::DISK_FULL).with("node", node),
            ProposeError::WrongCluster { node, cluster, found } => {
                let report = report(Code::FailedPrecondition, reason::WRONG_CLUSTER).with("node", node);
                let (cluster, found) = (format!("{cluster:016x}"), format!("{found:016x}"));
                report.with("cluster_id", cluster).with("found_cluster_id", found)
            }
        };
        report.into_status()
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Status {
        let report = |code, reason| {
            Report::new(code, reason, error.to_string()).with("code", error.code()).with("fix", error.fix())
        };
        let report = match &error {
            ReadError::NoLeader { node, unreachable, needed, voters } => {
                no_leader(report(Code::Unavailable, reason::NO_LEADER), *node, unreachable, *needed, *voters)
            }
            ReadError::TimedOut { node, waited } => {
                let report = report(Code::DeadlineExceeded, reason::READ_TIMED_OUT).with("node", node);
                report.with("waited_ms", waited.as_millis()).retry_after(AFTER_AN_ELECTION)
            }
            ReadError::Busy { node, limit, retry_after } => {
                busy(report(Code::ResourceExhausted, reason::BUSY), *node, limit, *retry_after)
            }
            ReadError::Unavailable { node } => {
                let report = report(Code::Unavailable, reason::UNAVAILABLE).with("node", node);
                report.retry_after(AFTER_AN_ELECTION)
            }
            ReadError::NodeWiped { node } => out_of_place(report, reason::NODE_WIPED, *node),
            ReadError::NodeRemoved { node } => out_of_place(report, reason::NODE_REMOVED, *node),
        };
        report.into_status()
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Status {
        match error {
            WatchError::Read(error) => error.into(),
            WatchError::Compacted { node, from, oldest } => {
                let report = Report::new(Code::OutOfRange, reason::REVISION_COMPACTED, error.to_string());
                let report = report.with("code", error.code()).with("fix", error.fix()).with("node", node);
                report.with("from", from).with("oldest", oldest).into_status()
            }
        }
    }
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Status {
        let (code, reason) = match &error {
            NodeError::Storage(StorageError::Foreign { .. }) => (Code::FailedPrecondition, reason::FOREIGN_DATA),
            NodeError::Storage(StorageError::InUse { .. }) => (Code::FailedPrecondition, reason::DATA_IN_USE),
            NodeError::Storage(StorageError::Failed { .. }) => (Code::Internal, reason::DISK_FAILED),
            NodeError::Storage(StorageError::Full { .. }) => (Code::ResourceExhausted, reason::DISK_FULL),
            NodeError::Storage(StorageError::Corrupt { .. } | StorageError::Format { .. }) => {
                (Code::DataLoss, reason::DATA_CORRUPT)
            }
            NodeError::Storage(StorageError::LostEntries { .. }) => (Code::DataLoss, reason::ENTRIES_LOST),
            NodeError::Restore { .. } => (Code::DataLoss, reason::RESTORE_REFUSED),
            NodeError::PoisonEntry { .. } => (Code::Internal, reason::POISON_ENTRY),
            NodeError::BudgetSpent { .. } => (Code::Internal, reason::BUDGET_SPENT),
            NodeError::Config { .. } => (Code::FailedPrecondition, reason::BAD_CONFIG),
            NodeError::Join { cause, .. } => return cause.clone().into(),
            NodeError::Start { .. } => (Code::Unavailable, reason::NOT_STARTED),
        };
        let mut report = Report::new(code, reason, error.to_string()).with("fix", error.fix());
        if let Some(code) = error.code() {
            report = report.with("code", code);
        }
        report.into_status()
    }
}

impl From<WrongPeer> for Status {
    fn from(wrong: WrongPeer) -> Status {
        let reason = match wrong {
            WrongPeer::Cluster { .. } => reason::WRONG_CLUSTER,
            WrongPeer::Addressee { .. } | WrongPeer::Sender { .. } => reason::WRONG_NODE,
            WrongPeer::OwnDisk { .. } => reason::PEER_WIPED,
            WrongPeer::Replaced { .. } => reason::WIPED,
            WrongPeer::Removed { .. } => reason::REMOVED,
        };
        let report = Report::new(Code::FailedPrecondition, reason, wrong.to_string());
        let report = report.with("code", wrong.code()).with("fix", wrong.fix());
        let report = match wrong {
            WrongPeer::Cluster { node, cluster, found } => {
                let (cluster, found) = (format!("{cluster:016x}"), format!("{found:016x}"));
                report.with("node", node).with("cluster_id", cluster).with("found_cluster_id", found)
            }
            WrongPeer::Addressee { node, found } => report.with("node", node).with("found_node", found),
            WrongPeer::Sender { node, expected, found } => {
                report.with("node", node).with("expected_node", expected).with("found_node", found)
            }
            WrongPeer::OwnDisk { node, .. } => report.with("node", node),
            WrongPeer::Replaced { node, peer, .. } | WrongPeer::Removed { node, peer } => {
                report.with("node", node).with("peer", peer)
            }
        };
        report.into_status()
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Status {
        let report = Report::new(Code::InvalidArgument, reason::MALFORMED, malformed.to_string());
        let (code, fix) = (crate::error::Code(20), format!("correct {}", malformed.field));
        let report = report.with("field", &malformed.field).with("code", code).with("fix", fix);
        report.field(&malformed.field, &malformed.problem).into_status()
    }
}

/// Why the peer refused, if it did because of who speaks to whom.
pub(super) fn breach(status: &Status) -> Breach {
    let reason = Told::of(status).map(|told| told.reason);
    match reason.as_deref() {
        Some(reason::WRONG_CLUSTER | reason::WRONG_NODE) => Breach::WrongPeer,
        Some(reason::WIPED) => Breach::Wiped,
        Some(reason::PEER_WIPED) => Breach::PeerWiped,
        Some(reason::REMOVED) => Breach::Removed,
        _ => Breach::Lost,
    }
}

/// What a failed call of node `asked` means for the command in it. Whatever does not say for sure that it was not
/// applied is [`ProposeError::Unknown`].
pub fn propose_error(status: &Status, asked: NodeId) -> ProposeError {
    let unknown = || ProposeError::Unknown { reason: in_words(status) };
    match Told::of(status) {
        Some(told) => told_propose_error(&told, asked, status).unwrap_or_else(unknown),
        None if was_never_sent(status) => ProposeError::Unavailable { node: asked },
        None if status.code() == Code::Unimplemented => {
            ProposeError::Rejected { reason: format!("node {asked} does not know this call") }
        }
        None => unknown(),
    }
}

fn told_propose_error(told: &Told, asked: NodeId, status: &Status) -> Option<ProposeError> {
    let node = told.value("node").unwrap_or(asked);
    Some(match told.reason.as_str() {
        reason::NOT_LEADER => {
            ProposeError::NotLeader { node, leader: told.value("leader_id")?, address: told.value("leader_addr")? }
        }
        reason::NO_LEADER => ProposeError::NoLeader {
            node,
            unreachable: ids(told),
            needed: told.value("needed").unwrap_or(0),
            voters: told.value("voters").unwrap_or(0),
        },
        reason::BUSY => ProposeError::Busy { node, limit: limit(told), retry_after: retry_after(told) },
        reason::TOO_LARGE => {
            ProposeError::TooLarge { size: told.value("size").unwrap_or(0), limit: told.value("limit").unwrap_or(0) }
        }
        reason::REJECTED => ProposeError::Rejected { reason: told.value("detail").unwrap_or_default() },
        reason::MALFORMED => ProposeError::Rejected { reason: status.message().to_owned() },
        reason::UNKNOWN_OUTCOME => ProposeError::Unknown { reason: told.value("detail").unwrap_or_default() },
        reason::UNAVAILABLE => ProposeError::Unavailable { node },
        reason::SESSION_EXPIRED => ProposeError::SessionExpired { session: told.value("session")? },
        reason::ANSWERED_LONG_AGO => {
            ProposeError::AnsweredLongAgo { session: told.value("session")?, sequence: told.value("sequence")? }
        }
        reason::DISK_FULL => ProposeError::DiskFull { node },
        reason::NODE_WIPED => ProposeError::NodeWiped { node },
        reason::NODE_REMOVED => ProposeError::NodeRemoved { node },
        reason::WRONG_CLUSTER => ProposeError::WrongCluster {
            node,
            cluster: told.cluster("cluster_id")?,
            found: told.cluster("found_cluster_id")?,
        },
        _ => return None,
    })
}

/// What a failed read at node `asked` means. A read changes nothing, so that everything else is "try again".
pub fn read_error(status: &Status, asked: NodeId) -> ReadError {
    let Some(told) = Told::of(status) else {
        return ReadError::Unavailable { node: asked };
    };
    let node = told.value("node").unwrap_or(asked);
    match told.reason.as_str() {
        reason::NO_LEADER => ReadError::NoLeader {
            node,
            unreachable: ids(&told),
            needed: told.value("needed").unwrap_or(0),
            voters: told.value("voters").unwrap_or(0),
        },
        reason::READ_TIMED_OUT => {
            ReadError::TimedOut { node, waited: Duration::from_millis(told.value("waited_ms").unwrap_or(0)) }
        }
        reason::BUSY => ReadError::Busy { node, limit: limit(&told), retry_after: retry_after(&told) },
        reason::NODE_WIPED => ReadError::NodeWiped { node },
        reason::NODE_REMOVED => ReadError::NodeRemoved { node },
        _ => ReadError::Unavailable { node },
    }
}

fn ids(told: &Told) -> Vec<NodeId> {
    let listed = told.metadata.get("unreachable").map_or("", String::as_str);
    listed.split(',').filter_map(|id| id.parse().ok()).collect()
}

fn limit(told: &Told) -> String {
    told.value("limit").unwrap_or_default()
}

fn retry_after(told: &Told) -> Duration {
    Duration::from_millis(told.value("retry_after_ms").unwrap_or(100))
}

/// Whether the connection could not even be made.
fn was_never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The status and what caused it, in one line.
pub(super) fn in_words(status: &Status) -> String {
    let mut words = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !words.ends_with(&cause) {
            words = format!("{words}: {cause}");
        }
        source = error.source();
    }
    shortened(words)
}

#[cfg(test)]
mod tests;
