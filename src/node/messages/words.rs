//! What each message is called in the message flow, and which place in the log it is about.

use super::*;

fn mark(term: Term, index: LogIndex) -> Mark {
    Mark { term, index }
}

fn of_entries(entries: &[Entry]) -> Mark {
    entries.last().map_or(Mark::default(), |entry| mark(entry.term, entry.index))
}

fn of_snapshot(snapshot: &SnapshotMetadata) -> Mark {
    mark(snapshot.last_included.term, snapshot.last_included.index)
}

/// The term, and the last entry that a request carries or speaks of.
fn of_request(request: &Request) -> Mark {
    let index = match request {
        Request::AppendEntries(request) => request.prev_log_index + request.entries.len() as u64,
        Request::RequestVote(request) => request.last_log.index,
        Request::PreVote(request) => request.last_log.index,
        Request::InstallSnapshot(request) => request.snapshot.last_included.index,
        Request::TimeoutNow(_) | Request::ReadIndex(_) => 0,
    };
    mark(request.term(), index)
}

fn of_reply(reply: &Reply) -> Mark {
    use crate::raft::{AppendOutcome::Matched, InstallOutcome::Installed, InstallSnapshotReply};
    let index = match reply {
        Reply::AppendEntries(reply) => match reply.outcome {
            Matched { match_index } => match_index,
            _ => 0,
        },
        Reply::ReadIndex(reply) => reply.read_index.unwrap_or(0),
        Reply::InstallSnapshot(InstallSnapshotReply { outcome: Installed { match_index }, .. }) => *match_index,
        Reply::InstallSnapshot(_) | Reply::RequestVote(_) | Reply::PreVote(_) | Reply::TimeoutNow(_) => 0,
    };
    mark(reply.term(), index)
}

impl Message for ConsensusMessage {
    fn name(&self) -> &'static str {
        match self {
            ConsensusMessage::Propose { .. } => "Propose",
            ConsensusMessage::OpenSession { .. } => "OpenSession",
            ConsensusMessage::ProposeInSession { .. } => "ProposeInSession",
            ConsensusMessage::Read { .. } => "Read",
            ConsensusMessage::TakeSnapshot { .. } => "TakeSnapshot",
            ConsensusMessage::ChangeMembership { .. } => "ChangeMembership",
            ConsensusMessage::TransferLeadership { .. } => "TransferLeadership",
            ConsensusMessage::CallsWaiting => "CallsWaiting",
            ConsensusMessage::ToldWiped { .. } => "ToldWiped",
            ConsensusMessage::DiskFull => "DiskFull",
            ConsensusMessage::DiskFreed => "DiskFreed",
            ConsensusMessage::Request { request, .. } => request.name(),
            ConsensusMessage::Timeout { .. } => "Timeout",
            ConsensusMessage::Delivered { .. } => "Delivered",
            ConsensusMessage::Undelivered { .. } => "Undelivered",
            ConsensusMessage::Persisted { .. } => "Persisted",
            ConsensusMessage::Applied { .. } => "Applied",
            ConsensusMessage::SnapshotWritten { .. } => "SnapshotWritten",
            ConsensusMessage::SnapshotFailed => "SnapshotFailed",
            ConsensusMessage::ChunkStored { .. } => "ChunkStored",
            ConsensusMessage::Restored { .. } => "Restored",
            ConsensusMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ConsensusMessage::Request { request, .. } => of_request(request),
            ConsensusMessage::Delivered { reply, .. } => of_reply(reply),
            ConsensusMessage::Persisted { index, .. }
            | ConsensusMessage::Applied { index }
            | ConsensusMessage::Restored { index } => mark(0, *index),
            ConsensusMessage::SnapshotWritten { snapshot } | ConsensusMessage::ChunkStored { snapshot, .. } => {
                of_snapshot(snapshot)
            }
            _ => Mark::default(),
        }
    }
}

impl Message for LogStoreMessage {
    fn name(&self) -> &'static str {
        match self {
            LogStoreMessage::ReportTo(_) => "ReportTo",
            LogStoreMessage::Persist { .. } => "Persist",
            LogStoreMessage::StoreChunk { .. } => "StoreChunk",
            LogStoreMessage::ReadChunk { .. } => "ReadChunk",
            LogStoreMessage::TryAgain => "TryAgain",
            LogStoreMessage::Condemn { .. } => "Condemn",
            LogStoreMessage::Tidy => "Tidy",
            LogStoreMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            LogStoreMessage::Persist { write, .. } => match (write.entries.last(), write.hard_state) {
                (Some(entry), _) => mark(entry.term, entry.index),
                (None, Some(hard_state)) => mark(hard_state.current_term, 0),
                (None, None) => Mark::default(),
            },
            LogStoreMessage::StoreChunk { snapshot, .. } | LogStoreMessage::ReadChunk { snapshot, .. } => {
                of_snapshot(snapshot)
            }
            _ => Mark::default(),
        }
    }
}

impl Message for ApplierMessage {
    fn name(&self) -> &'static str {
        match self {
            ApplierMessage::ReportTo(_) => "ReportTo",
            ApplierMessage::Apply { .. } => "Apply",
            ApplierMessage::Query(_) => "Query",
            ApplierMessage::TakeSnapshot { .. } => "TakeSnapshot",
            ApplierMessage::Install { .. } => "Install",
            ApplierMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ApplierMessage::Apply { entries, .. } => of_entries(entries),
            ApplierMessage::Query(query) => mark(0, query.at_least()),
            ApplierMessage::TakeSnapshot { last_included, .. } => mark(last_included.term, last_included.index),
            ApplierMessage::Install { index, .. } => mark(0, *index),
            _ => Mark::default(),
        }
    }
}

impl Message for ElectionTimerMessage {
    fn name(&self) -> &'static str {
        match self {
            ElectionTimerMessage::SetTimer { .. } => "SetTimer",
            ElectionTimerMessage::Woke => "Woke",
            ElectionTimerMessage::Crash => "Crash",
        }
    }
}

impl Message for SnapshotterMessage {
    fn name(&self) -> &'static str {
        match self {
            SnapshotterMessage::Write { .. } => "Write",
            SnapshotterMessage::Restore { .. } => "Restore",
            SnapshotterMessage::Discard(_) => "Discard",
            SnapshotterMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            SnapshotterMessage::Write { last_included, .. } => mark(last_included.term, last_included.index),
            SnapshotterMessage::Restore { snapshot } => of_snapshot(snapshot),
            _ => Mark::default(),
        }
    }
}

impl Message for ReplicatorMessage {
    fn name(&self) -> &'static str {
        match self {
            ReplicatorMessage::Deliver { .. } => "Deliver",
            ReplicatorMessage::DeliverSnapshot { .. } => "DeliverSnapshot",
            ReplicatorMessage::Answered { .. } => "Answered",
            ReplicatorMessage::Broken { .. } => "Broken",
            ReplicatorMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ReplicatorMessage::Deliver { request, .. } => of_request(request),
            ReplicatorMessage::DeliverSnapshot { request, .. } => of_snapshot(&request.snapshot),
            ReplicatorMessage::Answered { reply, .. } => of_reply(reply),
            _ => Mark::default(),
        }
    }
}

impl Message for ServerMessage {
    fn name(&self) -> &'static str {
        match self {
            ServerMessage::Crash => "Crash",
        }
    }
}

impl Message for NodeMessage {
    fn name(&self) -> &'static str {
        match self {
            NodeMessage::Shutdown => "Shutdown",
            NodeMessage::Subscribe(_) => "Subscribe",
            NodeMessage::RoleChanged { .. } => "RoleChanged",
            NodeMessage::MembershipChanged(_) => "MembershipChanged",
            NodeMessage::CourierRestarted { .. } => "CourierRestarted",
            NodeMessage::StartKeepers { .. } => "StartKeepers",
            NodeMessage::Happened(_) => "Happened",
            NodeMessage::DiskFailed(_) => "DiskFailed",
            NodeMessage::RestoreFailed(_) => "RestoreFailed",
            NodeMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            NodeMessage::RoleChanged { term, .. } => mark(*term, 0),
            NodeMessage::Happened(NodeEvent::SnapshotTaken { index } | NodeEvent::SnapshotInstalled { index }) => {
                mark(0, *index)
            }
            _ => Mark::default(),
        }
    }
}
