//! Each message between nodes: bytes that decode, and what becomes of them.

use prost::Message;
use ractor_raft::{
    raft::{LARGEST, NodeId},
    rpc::{
        convert::{self, Malformed},
        pb,
    },
};

/// How many kinds of messages there are.
#[cfg_attr(not(test), allow(dead_code, reason = "libFuzzer finds them by itself"))]
pub const KINDS: u8 = 16;

const HEADER: pb::Header =
    pb::Header { cluster_id: 7, from: 2, to: 1, session: 9, from_incarnation: 22, to_incarnation: 11 };

/// What it means in the core's words; and the bytes that say that again.
type Meant = Result<Vec<u8>, Malformed>;

/// Decodes `bytes` as the message of this kind from `from`. Whether it means anything.
///
/// # Panics
/// What it means is not what is said again, or is out of bounds, or a refusal names nothing.
pub fn convert(kind: u8, from: NodeId, bytes: &[u8]) -> Option<bool> {
    let meant = convert_once(kind, from, bytes)?;
    match meant {
        Ok(said) => {
            let again = convert_once(kind, from, &said).expect("what was encoded is decoded");
            assert_eq!(again, Ok(said), "kind {kind}: said again, it means something else");
            Some(true)
        }
        Err(Malformed { field, problem }) => {
            assert!(!field.is_empty() && !problem.is_empty(), "kind {kind}: a refusal names the field and its fault");
            Some(false)
        }
    }
}

/// `None`: the bytes are no such message.
fn convert_once(kind: u8, from: NodeId, bytes: &[u8]) -> Option<Meant> {
    Some(match kind % KINDS {
        0 => append_entries(from, pb::AppendEntriesRequest::decode(bytes).ok()?),
        1 => said(pb::AppendEntriesReply::decode(bytes).ok()?, |message| {
            convert::append_reply_from_pb(&message).map(|reply| convert::append_reply_to_pb(HEADER, &reply))
        }),
        2 => said(pb::RequestVoteRequest::decode(bytes).ok()?, |message| {
            let request = convert::request_vote_from_pb(from, message)?;
            assert!(request.term <= LARGEST && request.last_log.index <= LARGEST);
            Ok(convert::request_vote_to_pb(HEADER, &request))
        }),
        3 => said(pb::RequestVoteReply::decode(bytes).ok()?, |message| {
            convert::request_vote_reply_from_pb(&message).map(|reply| convert::request_vote_reply_to_pb(HEADER, &reply))
        }),
        4 => said(pb::PreVoteRequest::decode(bytes).ok()?, |message| {
            convert::pre_vote_from_pb(from, message).map(|request| convert::pre_vote_to_pb(HEADER, &request))
        }),
        5 => said(pb::PreVoteReply::decode(bytes).ok()?, |message| {
            convert::pre_vote_reply_from_pb(&message).map(|reply| convert::pre_vote_reply_to_pb(HEADER, &reply))
        }),
        6 => said(pb::TimeoutNowRequest::decode(bytes).ok()?, |message| {
            convert::timeout_now_from_pb(from, message).map(|request| convert::timeout_now_to_pb(HEADER, &request))
        }),
        7 => said(pb::TimeoutNowReply::decode(bytes).ok()?, |message| {
            convert::timeout_now_reply_from_pb(&message).map(|reply| convert::timeout_now_reply_to_pb(HEADER, &reply))
        }),
        8 => said(pb::ReadIndexRequest::decode(bytes).ok()?, |message| {
            convert::read_index_from_pb(message).map(|request| convert::read_index_to_pb(HEADER, &request))
        }),
        9 => said(pb::ReadIndexReply::decode(bytes).ok()?, |message| {
            convert::read_index_reply_from_pb(&message).map(|reply| convert::read_index_reply_to_pb(HEADER, &reply))
        }),
        10 => said(pb::InstallSnapshotRequest::decode(bytes).ok()?, |message| {
            let request = convert::install_snapshot_from_pb(from, None, message)?;
            assert!(request.offset + request.data.len() as u64 <= request.snapshot.size, "bytes beyond the snapshot");
            assert!(
                request.snapshot.last_included.term <= request.term && !request.snapshot.membership.voters.is_empty()
            );
            Ok(convert::install_snapshot_to_pb(HEADER, true, &request, request.offset, request.data.clone()))
        }),
        11 => said(pb::InstallSnapshotReply::decode(bytes).ok()?, |message| {
            convert::install_reply_from_pb(&message).map(|reply| convert::install_reply_to_pb(HEADER, &reply))
        }),
        12 => said(pb::SnapshotMetadata::decode(bytes).ok()?, |message| {
            convert::snapshot_from_pb(message).map(|snapshot| convert::snapshot_to_pb(&snapshot))
        }),
        13 => said(pb::BackupHead::decode(bytes).ok()?, |message| {
            convert::backup_head_from_pb(message).map(|head| convert::backup_head_to_pb(&head))
        }),
        14 => said(pb::FlowReply::decode(bytes).ok()?, flow_reply),
        _ => said(pb::StatusReply::decode(bytes).ok()?, |message| {
            convert::status_from_pb(message).map(|status| convert::status_to_pb(&status))
        }),
    })
}

fn said<M: Message, S: Message>(message: M, convert: impl FnOnce(M) -> Result<S, Malformed>) -> Meant {
    convert(message).map(|said| said.encode_to_vec())
}

/// Numbers of names are given anew, and stay what they are then.
fn flow_reply(message: pb::FlowReply) -> Result<pb::FlowReply, Malformed> {
    let part = convert::FlowReader::default().read(message)?;
    let mut names = convert::FlowNames::default();
    let events = part.events.iter().map(|event| {
        let _no_overflow = event.ended();
        names.event_to_pb(event)
    });
    let events = events.collect();
    let clock = Some(pb::FlowClock { life: part.life, now: part.now.as_nanos() as u64 });
    Ok(pb::FlowReply { clock, node: part.node, names: names.take_new(), events, missed: part.missed })
}

fn append_entries(from: NodeId, message: pb::AppendEntriesRequest) -> Meant {
    said(message, |message| {
        let (request, traces) = convert::append_entries_from_pb(from, message)?;
        let last_index = request.prev_log_index + request.entries.len() as u64;
        assert!(last_index <= LARGEST && request.acknowledged <= request.prev_log_index && request.term <= LARGEST);
        let mut last_term = request.prev_log_term;
        for (entry, index) in request.entries.iter().zip(request.prev_log_index + 1..) {
            assert!(entry.index == index && entry.term >= last_term && entry.term <= request.term, "{entry:?}");
            last_term = entry.term;
        }
        assert!(traces.iter().all(|(index, _)| (request.prev_log_index + 1..=last_index).contains(index)));
        Ok(convert::append_entries_to_pb(HEADER, request, traces))
    })
}
