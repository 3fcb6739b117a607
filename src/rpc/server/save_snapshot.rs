//! A node's snapshot on its way to an operator: first what it is, then its bytes as they are asked for.
//!
//! It is open until its last byte is sent, though later ones may have taken its place and its file is there for nobody else.
//! So a reader that is alive and takes nothing is given up after [`PATIENCE`]. Its stream is not asked for anything
//! meanwhile, and cannot end by itself: what holds the snapshot is a task beside it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, time::timeout};
use tonic::Status;

use super::{Handlers, pb};
use crate::{
    error::SnapshotError,
    node::{NodeRef, SavedSnapshot},
    raft::NodeId,
    rpc::{convert, pb::save_snapshot_reply::Part},
    storage::Identity,
};

/// How long a reader may take for one chunk.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let snapshot = saved.metadata.clone();
    let head = convert::backup_head_to_pb(&convert::BackupHead { cluster_id, node_id, snapshot });
    let head = stream::once(async move { Ok(Part::Head(head)) });
    let parts = head.chain(handed_out(node_id, saved).map_ok(Part::Data));
    parts.map_ok(|part| pb::SaveSnapshotReply { part: Some(part) })
}

/// The chunks of a snapshot, for as long as somebody takes them.
fn handed_out(node: NodeId, saved: SavedSnapshot) -> impl Stream<Item = Result<Bytes, SnapshotError>> + use<> {
    let SavedSnapshot { metadata, chunks } = saved;
    let index = metadata.last_included.index;
    let (hand, taken) = mpsc::channel(1);
    tokio::spawn(hand_out(chunks, hand));
    stream::try_unfold((taken, metadata.size), move |(mut taken, left)| async move {
        match taken.recv().await {
            Some(chunk) => {
                let chunk = chunk?;
                let left = left.saturating_sub(chunk.len() as u64);
                Ok(Some((chunk, (taken, left))))
            }
            None if left > 0 => Err(SnapshotError::Stalled { node, index, waited: PATIENCE }),
            None => Ok(None),
        }
    })
}

/// Reads one chunk ahead, until nobody takes it, or not in time.
async fn hand_out(
    mut chunks: impl Stream<Item = Result<Bytes, SnapshotError>> + Unpin,
    hand: mpsc::Sender<Result<Bytes, SnapshotError>>,
) {
    while let Ok(Ok(room)) = timeout(PATIENCE, hand.reserve()).await {
        let Some(chunk) = chunks.next().await else { return };
        room.send(chunk);
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;
    use crate::raft::{LogPosition, Membership, SnapshotMetadata};

    /// A snapshot of three chunks, which is open for as long as the other one of these is shared.
    fn open_snapshot() -> (SavedSnapshot, Arc<()>) {
        let open = Arc::new(());
        let reader = open.clone();
        let chunks = stream::iter(["one", "two", "six"]).map(move |text| {
            let _ = &reader;
            Ok(Bytes::from_static(text.as_bytes()))
        });
        let (last_included, membership) = (LogPosition { term: 2, index: 7 }, Membership::default().into());
        let metadata = SnapshotMetadata { last_included, membership, size: 9, checksum: 0 };
        (SavedSnapshot { metadata, chunks: chunks.boxed() }, open)
    }

    /// Lets the task beside the stream run.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    // Fails when: nothing bounds `reserve`, or the end of the channel is taken for the end of the snapshot.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_and_told_so() {
        let (saved, open) = open_snapshot();
        let mut taken = Box::pin(handed_out(3, saved));
        assert_eq!(taken.next().await, Some(Ok("one".into())));
        settle().await;
        advance(PATIENCE - Duration::from_millis(1)).await;
        settle().await;
        assert_eq!(Arc::strong_count(&open), 2, "it has time yet");
        advance(Duration::from_millis(1)).await;
        settle().await;
        assert_eq!(Arc::strong_count(&open), 1, "nothing holds it any more");

        assert_eq!(taken.next().await, Some(Ok("two".into())), "it was on its way");
        let stalled = SnapshotError::Stalled { node: 3, index: 7, waited: PATIENCE };
        assert_eq!(taken.next().await, Some(Err(stalled.clone())));
        assert_eq!(taken.next().await, None);
        let status = Status::from(stalled);
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("entry 7"), "{status}");
    }

    // Fails when: the time is counted over the whole snapshot, or it is not put away at its end.
    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_all_of_it() {
        let (saved, open) = open_snapshot();
        let mut taken = Box::pin(handed_out(3, saved));
        for text in ["one", "two", "six"] {
            settle().await;
            advance(PATIENCE - Duration::from_millis(1)).await;
            assert_eq!(taken.next().await, Some(Ok(text.into())));
        }
        assert_eq!(taken.next().await, None);
        settle().await;
        assert_eq!(Arc::strong_count(&open), 1);
    }

    // Fails when: the task does not end with the stream that it is for.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_leaves_nothing_open() {
        let (saved, open) = open_snapshot();
        let mut taken = Box::pin(handed_out(3, saved));
        assert_eq!(taken.next().await, Some(Ok("one".into())));
        drop(taken);
        settle().await;
        assert_eq!(Arc::strong_count(&open), 1);
    }
}
