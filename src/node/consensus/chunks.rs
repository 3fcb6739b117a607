//! Reads a finished snapshot for the transport, chunk by chunk, and no faster than it may be sent.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::{
    flow::{self, Origin},
    node::{
        messages::{ChunkRead, LogStoreMessage},
        shared::Shared,
    },
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
    // Open from the first chunk on, whatever snapshot takes its place meanwhile. One chunk is asked for at a time.
    let open = Arc::new(Mutex::new(None));
    Box::new(move |offset| {
        let (log_store, snapshot, open) = (log_store.clone(), snapshot.clone(), open.clone());
        let due = next.max(Instant::now());
        next = due + pause;
        Box::pin(async move {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let (port, read) = oneshot::channel();
            let reader = open.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Where nobody is there the port is dropped: the node falls, or stops.
            let _ = log_store.send(origin, LogStoreMessage::ReadChunk { snapshot, reader, offset, length, port });
            let ChunkRead { chunk, reader } = read.await.ok().flatten()?;
            *open.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
            Some(chunk)
        })
    })
}
