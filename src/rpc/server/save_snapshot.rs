//! A node's snapshot on its way to an operator: first what it is, then its bytes as they are asked for.

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::{Handlers, pb};
use crate::{
    error::SnapshotError,
    node::{NodeRef, SavedSnapshot},
    rpc::{convert, pb::save_snapshot_reply::Part},
    storage::Identity,
};

/// The stream of a backup. The snapshot is taken within it: a large state keeps nobody waiting for the stream itself.
///
/// It is whole once all the bytes have come that its head speaks of: where the server closes, it ends before that.
pub(super) fn parts(
    handlers: &Handlers,
    fresh: bool,
) -> impl Stream<Item = Result<pb::SaveSnapshotReply, Status>> + use<> {
    let node = handlers.node.clone();
    let snapshot = stream::once(finished(node.clone(), fresh));
    let parts = snapshot.map_ok(move |saved| in_parts(&node, saved)).try_flatten();
    parts.map_err(Status::from).take_until(handlers.closing.clone())
}

fn in_parts(
    node: &NodeRef,
    saved: SavedSnapshot,
) -> impl Stream<Item = Result<pb::SaveSnapshotReply, SnapshotError>> + use<> {
    let Identity { cluster_id, node_id } = *node.identity();
    let head = convert::backup_head_to_pb(&convert::BackupHead { cluster_id, node_id, snapshot: saved.metadata });
    let head = stream::once(async move { Ok(Part::Head(head)) });
    let parts = head.chain(saved.chunks.map_ok(Part::Data));
    parts.map_ok(|part| pb::SaveSnapshotReply { part: Some(part) })
}

/// The finished snapshot, if it will do.
async fn finished(node: NodeRef, fresh: bool) -> Result<SavedSnapshot, SnapshotError> {
    match node.save_snapshot() {
        Ok(saved) if !fresh => return Ok(saved),
        Ok(_) | Err(SnapshotError::Absent { .. }) => {}
        Err(error) => return Err(error),
    }
    match node.take_snapshot().await {
        // It has none, and that is what was asked for.
        Err(SnapshotError::Failed { node }) if !fresh => return Err(SnapshotError::Absent { node }),
        taken => taken?,
    };
    node.save_snapshot()
}
