//! Watchers of the store: each follows a prefix from the first revision on, over crashes and from node to node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use ractor_raft::{
    WatchError,
    kv::{self, Change, Kv},
    raft::LogIndex,
    testing::Cluster,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// A stream is given up after so much silence: its node may have lost its power.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one watcher was told.
#[derive(Default)]
pub struct Seen {
    pub prefix: &'static str,
    pub changes: Vec<Change>,
    /// From where to where it was told everything.
    pub told: Vec<(LogIndex, LogIndex)>,
}

/// Watches until it was told everything up to `goal`, once that is set.
pub async fn watch(cluster: Cluster<Kv>, goal: Arc<AtomicU64>, seed: u64, prefix: &'static str) -> Seen {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut seen = Seen { prefix, ..Seen::default() };
    let mut next = 1;
    while goal.load(Relaxed) == 0 || next <= goal.load(Relaxed) {
        let ids = cluster.ids();
        let Some(node) = cluster.node(ids[random.random_range(0..ids.len())]) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = kv::watch(&node, prefix, next);
        let mut from = next;
        let mut patience = random.random_range(1..20);
        while goal.load(Relaxed) == 0 || next <= goal.load(Relaxed) {
            match tokio::time::timeout(PATIENCE, stream.next()).await {
                Ok(Some(Ok(watched))) => {
                    assert!(
                        watched.applied_index + 1 >= next,
                        "a watcher at {next} is told of {}",
                        watched.applied_index
                    );
                    seen.changes.extend(watched.changes);
                    next = watched.applied_index + 1;
                    // It breaks off now and then, and goes on elsewhere.
                    patience -= 1;
                    if patience == 0 {
                        break;
                    }
                }
                Ok(Some(Err(WatchError::Compacted { oldest, .. }))) => {
                    assert!(oldest > next, "changes from {next} on are forgotten, and remembered from {oldest} on");
                    seen.told.push((from, next - 1));
                    (from, next) = (oldest, oldest);
                    break;
                }
                _ => break,
            }
        }
        if next > from {
            seen.told.push((from, next - 1));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}
