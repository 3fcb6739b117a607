//! Why a snapshot was not taken, or not handed out.

use tonic::{Code, Status};

use super::{AFTER_AN_ELECTION, Report};
use crate::{error::SnapshotError, rpc::reason};

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Status {
        let (code, reason, node) = match &error {
            SnapshotError::Failed { node } => (Code::ResourceExhausted, reason::SNAPSHOT_FAILED, node),
            SnapshotError::Absent { node } => (Code::NotFound, reason::SNAPSHOT_ABSENT, node),
            SnapshotError::Replaced { node, .. } => (Code::Aborted, reason::SNAPSHOT_REPLACED, node),
            SnapshotError::Stalled { node, .. } => (Code::DeadlineExceeded, reason::SNAPSHOT_STALLED, node),
            SnapshotError::Unavailable { node } => (Code::Unavailable, reason::UNAVAILABLE, node),
        };
        let report = Report::new(code, reason, error.to_string()).with("code", error.code()).with("fix", error.fix());
        let report = report.with("node", node);
        match error {
            SnapshotError::Replaced { index, .. } | SnapshotError::Stalled { index, .. } => {
                report.with("index", index).into_status()
            }
            SnapshotError::Unavailable { .. } => report.retry_after(AFTER_AN_ELECTION).into_status(),
            _ => report.into_status(),
        }
    }
}
