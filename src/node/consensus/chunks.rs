//! Reads a finished snapshot for the transport, chunk by chunk, and no faster than it may be sent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::{
    flow::{self, Origin},
    node::{messages::LogStoreMessage, shared::Shared},
    raft::SnapshotMetadata,
    transport::Chunks,
};

/// The chunks of `snapshot`, from the log store's disk, at the pace that is set.
pub(super) fn chunks(
    shared: &Arc<Shared>,
    log_store: flow::Address<LogStoreMessage>,
    snapshot: SnapshotMetadata,
    origin: Origin,
) -> Chunks {
    let (length, rate) = (shared.config.snapshot_chunk_bytes, shared.config.snapshot_bytes_per_second);
    let pause = Duration::from_secs_f64(length as f64 / rate as f64);
    let mut next = Instant::now();
    Box::new(move |offset| {
        let (log_store, snapshot) = (log_store.clone(), snapshot.clone());
        let due = next.max(Instant::now());
        next = due + pause;
        Box::pin(async move {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let (port, chunk) = oneshot::channel();
            // Where nobody is there the port is dropped: the node falls, or stops.
            let _ = log_store.send(origin, LogStoreMessage::ReadChunk { snapshot, offset, length, port });
            chunk.await.ok().flatten()
        })
    })
}
