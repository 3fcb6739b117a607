//! Whatever the server says itself, its peers can decode.

use ractor_raft::{
    raft::*,
    rpc::{convert, pb},
};

use super::server::OWN;

const HEADER: pb::Header =
    pb::Header { cluster_id: 7, from: OWN, to: 2, session: 1, from_incarnation: 0, to_incarnation: 0 };

/// What this server says is understood by its peers as it was meant, unless a lie has driven it to the end of all numbers.
pub fn check_said(request: Request) {
    if request.term() > LARGEST {
        return;
    }
    let heard = match request.clone() {
        Request::AppendEntries(request) => {
            let last_index = request.prev_log_index + request.entries.len() as u64;
            if last_index > LARGEST {
                return;
            }
            let message = convert::append_entries_to_pb(HEADER, request, Vec::new());
            convert::append_entries_from_pb(OWN, message).map(|(request, _)| Request::AppendEntries(request))
        }
        Request::RequestVote(request) => {
            convert::request_vote_from_pb(OWN, convert::request_vote_to_pb(HEADER, &request)).map(Request::RequestVote)
        }
        Request::PreVote(request) => {
            convert::pre_vote_from_pb(OWN, convert::pre_vote_to_pb(HEADER, &request)).map(Request::PreVote)
        }
        Request::TimeoutNow(request) => {
            convert::timeout_now_from_pb(OWN, convert::timeout_now_to_pb(HEADER, &request)).map(Request::TimeoutNow)
        }
        Request::ReadIndex(request) => {
            convert::read_index_from_pb(convert::read_index_to_pb(HEADER, &request)).map(Request::ReadIndex)
        }
        Request::InstallSnapshot(request) => {
            let message = convert::install_snapshot_to_pb(HEADER, true, &request, request.offset, request.data.clone());
            convert::install_snapshot_from_pb(OWN, None, message).map(Request::InstallSnapshot)
        }
    };
    assert_eq!(heard, Ok(request), "its peers do not understand what it says");
}

pub fn check_answered(reply: &Reply) {
    if reply.term() > LARGEST {
        return;
    }
    let heard = match reply {
        Reply::AppendEntries(reply) => {
            if let AppendOutcome::Conflict { conflict_index, .. } = reply.outcome
                && conflict_index > LARGEST
            {
                return;
            }
            convert::append_reply_from_pb(&convert::append_reply_to_pb(HEADER, reply)).map(Reply::AppendEntries)
        }
        Reply::RequestVote(reply) => {
            convert::request_vote_reply_from_pb(&convert::request_vote_reply_to_pb(HEADER, reply))
                .map(Reply::RequestVote)
        }
        Reply::PreVote(reply) => {
            convert::pre_vote_reply_from_pb(&convert::pre_vote_reply_to_pb(HEADER, reply)).map(Reply::PreVote)
        }
        Reply::TimeoutNow(reply) => {
            convert::timeout_now_reply_from_pb(&convert::timeout_now_reply_to_pb(HEADER, reply)).map(Reply::TimeoutNow)
        }
        Reply::ReadIndex(reply) => {
            convert::read_index_reply_from_pb(&convert::read_index_reply_to_pb(HEADER, reply)).map(Reply::ReadIndex)
        }
        Reply::InstallSnapshot(reply) => {
            convert::install_reply_from_pb(&convert::install_reply_to_pb(HEADER, reply)).map(Reply::InstallSnapshot)
        }
    };
    assert_eq!(heard.as_ref(), Ok(reply), "its peers do not understand what it answers");
}
