//! One stream of a snapshot: each message is passed on, and the next is read once that one's bytes are stored.
//!
//! So no more than one chunk is in memory here, besides what the window lets through; a slow disk slows the sender down.
//! The stream ends with the answer to its last message, or to the first that did not store just what it brought: the
//! sender begins anew where that says. If the sender goes away, all of this is dropped, and the chunks that were stored
//! are there for the next stream.

use futures_util::{Stream, StreamExt};
use tonic::{Request, Status, Streaming};

use super::{Handlers, gone, misfit, pb, raft};
use crate::{
    raft::{InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, SnapshotMetadata},
    rpc::{
        convert::{self, Malformed},
        identity::Refused,
    },
    transport::Caller,
};

/// The answer to a stream of chunks.
pub(super) async fn answer(
    handlers: &Handlers,
    requests: Request<Streaming<pb::InstallSnapshotRequest>>,
) -> Result<pb::InstallSnapshotReply, Status> {
    let (address, requests) = (requests.remote_addr(), requests.into_inner());
    let mut closing = handlers.closing.clone();
    let ask = |from, request| async move {
        match handlers.ask(from, address, raft::Request::InstallSnapshot(request), None).await? {
            raft::Reply::InstallSnapshot(reply) => Ok(reply),
            other => Err(misfit(&other)),
        }
    };
    tokio::select! {
        biased;
        _ = &mut closing => Err(gone(&handlers.node)),
        answer = receive(requests, |header| handlers.check(header, address), ask) => answer,
    }
}

/// Reads a stream to its end. `check` gives the reply's header for a request's and who sent it, `ask` stores a chunk.
pub(in crate::rpc) async fn receive<A>(
    mut requests: impl Stream<Item = Result<pb::InstallSnapshotRequest, Status>> + Unpin,
    check: impl Fn(Option<pb::Header>) -> Result<(pb::Header, Caller), Refused>,
    ask: impl Fn(Caller, InstallSnapshotRequest) -> A,
) -> Result<pb::InstallSnapshotReply, Status>
where
    A: Future<Output = Result<InstallSnapshotReply, Status>>,
{
    let mut stream = None::<SnapshotMetadata>;
    let mut last = None;
    while let Some(message) = requests.next().await {
        let message = message?;
        let (header, from) = check(message.header)?;
        let request = convert::install_snapshot_from_pb(from.id, stream.as_ref(), message)?;
        let snapshot = stream.get_or_insert_with(|| request.snapshot.clone());
        let end = request.offset + request.data.len() as u64;
        let is_last = end == snapshot.size;
        let reply = ask(from, request).await?;
        let answer = convert::install_reply_to_pb(header, &reply);
        if is_last || reply.outcome != (InstallOutcome::Stored { offset: end }) {
            return Ok(answer);
        }
        last = Some(answer);
    }
    last.ok_or_else(|| Malformed::new("snapshot", "is missing: the stream ended before its first message").into())
}
