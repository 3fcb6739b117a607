//! What each message is called in the message flow, and which place in the log it is about.
//!
//! The words of each vocabulary stand here once: the `match` that says which one a message is must be exhaustive, and the
//! list of all of them comes out of the same line. So a new message is known to whoever goes through all words, as the
//! tests of the supervision do, or nothing compiles.

use super::*;

/// All that an actor may be told.
pub(crate) trait Vocabulary {
    /// Every word of it, also of what is within a message.
    #[cfg(any(test, feature = "testing"))]
    fn words() -> Vec<&'static str>;

    /// Which one this is.
    fn word(&self) -> &'static str;
}

macro_rules! vocabulary {
    ($message:ident: $($word:ident)* $(, $holder:ident { $held:ident: $inner:ident })?) => {
        impl Vocabulary for $message {
            #[cfg(any(test, feature = "testing"))]
            fn words() -> Vec<&'static str> {
                #[allow(unused_mut, reason = "only one of them holds another vocabulary")]
                let mut words = vec![$(stringify!($word)),*];
                $(words.extend($inner::words());)?
                words
            }

            fn word(&self) -> &'static str {
                match self {
                    $($message::$word { .. } => stringify!($word),)*
                    $($message::$holder { $held, .. } => $held.word(),)?
                }
            }
        }
    };
}

vocabulary!(ConsensusMessage:
    Propose OpenSession ProposeInSession Read TakeSnapshot ChangeMembership TransferLeadership CallsWaiting ToldWiped
    DiskFull DiskFreed Timeout Delivered Undelivered Persisted Applied SnapshotWritten SnapshotFailed ChunkStored Restored
    Crash, Request { request: Request });
vocabulary!(Request: AppendEntries RequestVote PreVote TimeoutNow ReadIndex InstallSnapshot);
vocabulary!(LogStoreMessage: ReportTo Persist StoreChunk ReadChunk TryAgain Condemn Tidy Crash);
vocabulary!(ApplierMessage: ReportTo Apply Query TakeSnapshot Install Crash);
vocabulary!(SnapshotterMessage: Write Restore Discard Crash);
vocabulary!(ElectionTimerMessage: SetTimer Woke Crash);
vocabulary!(ReplicatorMessage: Deliver DeliverSnapshot Answered Broken Crash);
vocabulary!(ServerMessage: Crash);
vocabulary!(NodeMessage:
    Shutdown Subscribe RoleChanged MembershipChanged CourierRestarted StartKeepers Happened DiskFailed RestoreFailed Crash);

/// Every actor of a node's tree, by its place ("consensus/replicator *" is one for each peer), with all that it handles:
/// the messages, and what no mailbox holds.
#[cfg(any(test, feature = "testing"))]
pub fn vocabulary() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut actors = vec![
        ("node", NodeMessage::words()),
        ("log store", LogStoreMessage::words()),
        ("applier", ApplierMessage::words()),
        ("consensus", ConsensusMessage::words()),
        ("consensus/election timer", ElectionTimerMessage::words()),
        ("consensus/replicator *", ReplicatorMessage::words()),
        ("consensus/snapshotter", SnapshotterMessage::words()),
        ("server", ServerMessage::words()),
    ];
    for (path, words) in &mut actors {
        words.extend([flow::START, flow::STOP]);
        if matches!(*path, "node" | "consensus") {
            words.push(flow::CHILD_STOPPED);
        }
    }
    actors
}

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

/// What the answer to another server's request is called where it leaves: its name, and what a reader wants to know of it.
pub(crate) fn reply_word(reply: &Reply) -> &'static str {
    use crate::raft::AppendOutcome::Matched;
    match reply {
        Reply::AppendEntries(reply) if matches!(reply.outcome, Matched { .. }) => "AppendEntriesReply",
        Reply::AppendEntries(_) => "AppendEntriesReply refused",
        Reply::RequestVote(reply) if reply.vote_granted => "RequestVoteReply granted",
        Reply::RequestVote(_) => "RequestVoteReply refused",
        Reply::PreVote(reply) if reply.vote_granted => "PreVoteReply granted",
        Reply::PreVote(_) => "PreVoteReply refused",
        Reply::TimeoutNow(_) => "TimeoutNowReply",
        Reply::ReadIndex(_) => "ReadIndexReply",
        Reply::InstallSnapshot(_) => "InstallSnapshotReply",
    }
}

pub(crate) fn of_reply(reply: &Reply) -> Mark {
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
        self.word()
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
        self.word()
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
        self.word()
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
        self.word()
    }
}

impl Message for SnapshotterMessage {
    fn name(&self) -> &'static str {
        self.word()
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
        self.word()
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
        self.word()
    }
}

impl Message for NodeMessage {
    fn name(&self) -> &'static str {
        self.word()
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
