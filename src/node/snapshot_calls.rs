//! The operator's side of snapshots: have one taken, and have it handed out.

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::oneshot;

use super::{
    NodeRef,
    messages::{ChunkRead, ConsensusMessage, LogStoreMessage},
    ports::SnapshotPort,
};
use crate::{
    error::SnapshotError,
    raft::{LogIndex, SnapshotMetadata},
    storage::SnapshotReader,
};

/// A finished snapshot on its way out of a node.
pub struct SavedSnapshot {
    /// What it is.
    pub metadata: SnapshotMetadata,
    /// Its bytes in order, in chunks of `snapshot_chunk_bytes`. Ends with an error if a later snapshot takes its place
    /// before the first one is read, or if the node stops; else after `metadata.size` bytes. From the first one on the
    /// snapshot's file is kept for it until it is dropped, whatever takes its place.
    pub chunks: BoxStream<'static, Result<Bytes, SnapshotError>>,
}

impl NodeRef {
    /// Takes a snapshot of what is applied by now, and returns its last entry once it is on disk. As long as that takes: a
    /// large state is written for a while.
    ///
    /// # Errors
    /// There was no room for it, or the node fell; what there was before is still there.
    pub async fn take_snapshot(&self) -> Result<LogIndex, SnapshotError> {
        let (shared, node) = (self.shared(), self.identity().node_id);
        let (port, answer) = SnapshotPort::without_permit(node);
        // Where nobody is there the port is dropped, and says so.
        let _ = shared.consensus.send(shared.client, ConsensusMessage::TakeSnapshot { port });
        answer.await.unwrap_or(Err(SnapshotError::Unavailable { node }))
    }

    /// The finished snapshot: what it is, and its bytes, read from the disk as they are asked for.
    ///
    /// # Errors
    /// There is none yet.
    pub fn save_snapshot(&self) -> Result<SavedSnapshot, SnapshotError> {
        let node = self.identity().node_id;
        let metadata = self.shared().finished_snapshot().ok_or(SnapshotError::Absent { node })?;
        let (node, snapshot) = (self.clone(), metadata.clone());
        let chunks = futures_util::stream::try_unfold((0, None), move |(offset, reader)| {
            let (node, snapshot) = (node.clone(), snapshot.clone());
            async move {
                if offset >= snapshot.size {
                    return Ok(None);
                }
                let ChunkRead { chunk, reader } = node.snapshot_chunk(snapshot, reader, offset).await?;
                let end = offset + chunk.len() as u64;
                Ok(Some((chunk, (end, Some(reader)))))
            }
        });
        Ok(SavedSnapshot { metadata, chunks: chunks.boxed() })
    }

    async fn snapshot_chunk(
        &self,
        snapshot: SnapshotMetadata,
        reader: Option<Box<dyn SnapshotReader>>,
        offset: u64,
    ) -> Result<ChunkRead, SnapshotError> {
        let (shared, node, index) = (self.shared(), self.identity().node_id, snapshot.last_included.index);
        let (port, read) = oneshot::channel();
        let length = shared.config.snapshot_chunk_bytes;
        let order = LogStoreMessage::ReadChunk { snapshot, reader, offset, length, port };
        // Where nobody is there the port is dropped.
        let _ = shared.log_store.send(shared.client, order);
        match read.await {
            Ok(Some(read)) if !read.chunk.is_empty() => Ok(read),
            Ok(_) => Err(SnapshotError::Replaced { node, index }),
            Err(_) => Err(SnapshotError::Unavailable { node }),
        }
    }
}
