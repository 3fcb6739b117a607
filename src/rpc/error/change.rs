//! [`ChangeError`] as gRPC carries it, and back.

use tonic::{Code, Status};

use super::{
    AFTER_AN_ELECTION, Report, Told, busy, ids, in_words, limit, no_leader, out_of_place, reason, retry_after,
    was_never_sent,
};
use crate::{error::ChangeError, raft::NodeId};

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Status {
        let report = |code, reason| {
            Report::new(code, reason, error.to_string()).with("code", error.code()).with("fix", error.fix())
        };
        let precondition = |reason| report(Code::FailedPrecondition, reason);
        let soon =
            |reason, node: &NodeId| report(Code::Unavailable, reason).with("node", node).retry_after(AFTER_AN_ELECTION);
        let report = match &error {
            ChangeError::NotLeader { node, leader, address } => {
                let report = precondition(reason::NOT_LEADER).with("node", node);
                report.with("leader_id", leader).with("leader_addr", address)
            }
            ChangeError::NoLeader { node, unreachable, needed, voters } => {
                no_leader(report(Code::Unavailable, reason::NO_LEADER), *node, unreachable, *needed, *voters)
            }
            ChangeError::NotReady { node } => soon(reason::NOT_READY, node),
            ChangeError::Unavailable { node } => soon(reason::UNAVAILABLE, node),
            ChangeError::WrongCluster { node, cluster, found } => {
                let (cluster, found) = (format!("{cluster:016x}"), format!("{found:016x}"));
                let report = precondition(reason::WRONG_CLUSTER).with("node", node);
                report.with("cluster_id", cluster).with("found_cluster_id", found)
            }
            ChangeError::DiskReplaced { id, address } => {
                precondition(reason::DISK_REPLACED).with("id", id).with("address", address)
            }
            ChangeError::Removed { id } => precondition(reason::REMOVED).with("id", id),
            ChangeError::NodeWiped { node } => out_of_place(report, reason::NODE_WIPED, *node),
            ChangeError::NodeRemoved { node } => out_of_place(report, reason::NODE_REMOVED, *node),
            ChangeError::UnderWay { index } => {
                precondition(reason::CHANGE_UNDER_WAY).with("index", index).retry_after(AFTER_AN_ELECTION)
            }
            ChangeError::NotCaughtUp { id, match_index } => {
                precondition(reason::NOT_CAUGHT_UP).with("id", id).with("match_index", match_index)
            }
            ChangeError::WouldStop { in_touch, needed } => {
                precondition(reason::WOULD_STOP).with("in_touch", in_touch).with("needed", needed)
            }
            ChangeError::Unroutable { id, address, cause } => {
                let report = report(Code::InvalidArgument, reason::UNROUTABLE).field("address", cause);
                report.with("id", id).with("address", address).with("detail", cause)
            }
            ChangeError::Unknown { reason: detail } => {
                report(Code::Aborted, reason::UNKNOWN_OUTCOME).with("detail", detail)
            }
            ChangeError::DiskFull { node } => report(Code::ResourceExhausted, reason::DISK_FULL).with("node", node),
            ChangeError::Busy { node, limit, retry_after } => {
                busy(report(Code::ResourceExhausted, reason::BUSY), *node, limit, *retry_after)
            }
            ChangeError::NoSuchServer { id } => report(Code::NotFound, reason::NO_SUCH_SERVER).with("id", id),
            ChangeError::Leads { id } => precondition(reason::LEADS).with("id", id),
            ChangeError::DoesNotVote { id } => precondition(reason::DOES_NOT_VOTE).with("id", id),
            ChangeError::AlreadyThere { id, address } => {
                report(Code::AlreadyExists, reason::ALREADY_THERE).with("id", id).with("address", address)
            }
            ChangeError::TransferFailed { to } => report(Code::Aborted, reason::TRANSFER_FAILED).with("to", to),
        };
        report.into_status()
    }
}

/// What a failed order to node `asked` (0: it is not known who that is) means. Whatever does not say for sure that nothing
/// was changed is [`ChangeError::Unknown`].
pub fn change_error(status: &Status, asked: NodeId) -> ChangeError {
    let unknown = || ChangeError::Unknown { reason: in_words(status) };
    match Told::of(status) {
        Some(told) => told_change_error(&told, asked).unwrap_or_else(unknown),
        None if was_never_sent(status) => ChangeError::Unavailable { node: asked },
        None => unknown(),
    }
}

fn told_change_error(told: &Told, asked: NodeId) -> Option<ChangeError> {
    let node = told.value("node").unwrap_or(asked);
    Some(match told.reason.as_str() {
        reason::NOT_LEADER => {
            ChangeError::NotLeader { node, leader: told.value("leader_id")?, address: told.value("leader_addr")? }
        }
        reason::NO_LEADER => ChangeError::NoLeader {
            node,
            unreachable: ids(told),
            needed: told.value("needed").unwrap_or(0),
            voters: told.value("voters").unwrap_or(0),
        },
        reason::NOT_READY => ChangeError::NotReady { node },
        reason::UNAVAILABLE => ChangeError::Unavailable { node },
        reason::WRONG_CLUSTER => ChangeError::WrongCluster {
            node,
            cluster: told.cluster("cluster_id")?,
            found: told.cluster("found_cluster_id")?,
        },
        reason::DISK_REPLACED => ChangeError::DiskReplaced { id: told.value("id")?, address: told.value("address")? },
        reason::REMOVED => ChangeError::Removed { id: told.value("id")? },
        reason::NODE_WIPED => ChangeError::NodeWiped { node },
        reason::NODE_REMOVED => ChangeError::NodeRemoved { node },
        reason::CHANGE_UNDER_WAY => ChangeError::UnderWay { index: told.value("index")? },
        reason::NOT_CAUGHT_UP => {
            ChangeError::NotCaughtUp { id: told.value("id")?, match_index: told.value("match_index")? }
        }
        reason::WOULD_STOP => {
            ChangeError::WouldStop { in_touch: told.value("in_touch")?, needed: told.value("needed")? }
        }
        reason::UNROUTABLE => ChangeError::Unroutable {
            id: told.value("id")?,
            address: told.value("address")?,
            cause: told.value("detail").unwrap_or_default(),
        },
        reason::UNKNOWN_OUTCOME => ChangeError::Unknown { reason: told.value("detail").unwrap_or_default() },
        reason::DISK_FULL => ChangeError::DiskFull { node },
        reason::BUSY => ChangeError::Busy { node, limit: limit(told), retry_after: retry_after(told) },
        reason::NO_SUCH_SERVER => ChangeError::NoSuchServer { id: told.value("id")? },
        reason::LEADS => ChangeError::Leads { id: told.value("id")? },
        reason::DOES_NOT_VOTE => ChangeError::DoesNotVote { id: told.value("id")? },
        reason::ALREADY_THERE => ChangeError::AlreadyThere { id: told.value("id")?, address: told.value("address")? },
        reason::TRANSFER_FAILED => ChangeError::TransferFailed { to: told.value("to")? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Fails when: an error is read back as another one, or loses a value on the way.
    #[test]
    fn a_change_error_survives_the_wire() {
        let address = "10.0.0.1:7001".to_owned();
        for error in [
            ChangeError::NotLeader { node: 1, leader: 2, address: address.clone() },
            ChangeError::NoLeader { node: 1, unreachable: vec![2, 3], needed: 2, voters: 3 },
            ChangeError::NotReady { node: 1 },
            ChangeError::Unavailable { node: 1 },
            ChangeError::WrongCluster { node: 1, cluster: u64::MAX, found: 7 },
            ChangeError::DiskReplaced { id: 3, address: address.clone() },
            ChangeError::Removed { id: 3 },
            ChangeError::NodeWiped { node: 3 },
            ChangeError::NodeRemoved { node: 3 },
            ChangeError::UnderWay { index: 17 },
            ChangeError::NotCaughtUp { id: 4, match_index: 9 },
            ChangeError::WouldStop { in_touch: 1, needed: 2 },
            ChangeError::Unroutable { id: 4, address: "0.0.0.0:1".to_owned(), cause: "it is nowhere".to_owned() },
            ChangeError::Unknown { reason: "it got lost".to_owned() },
            ChangeError::DiskFull { node: 1 },
            ChangeError::Busy { node: 1, limit: "4096".to_owned(), retry_after: Duration::from_millis(20) },
            ChangeError::NoSuchServer { id: 9 },
            ChangeError::Leads { id: 3 },
            ChangeError::DoesNotVote { id: 3 },
            ChangeError::AlreadyThere { id: 3, address },
            ChangeError::TransferFailed { to: 2 },
        ] {
            let response = Status::from(error.clone()).into_http::<tonic::body::Body>();
            let status = Status::from_header_map(response.headers()).expect("a status in the headers");
            assert_eq!(Told::of(&status).expect("ours").code(), Some(error.code().to_string().as_str()));
            assert_eq!(change_error(&status, 9), error);
        }
    }

    // Fails when: a status from elsewhere is read as "not made".
    #[test]
    fn a_status_that_is_not_ours_leaves_the_outcome_unknown() {
        for code in 0..17 {
            assert!(change_error(&Status::new(Code::from(code), "?"), 9).may_have_been_made());
        }
    }
}
