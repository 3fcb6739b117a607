//! The changes of a prefix as a stream, on any node: in order, each once, until a watcher is slower than the history is
//! long.
//!
//! A watcher *pulls*. It waits until its node has applied more than it has seen, asks the store for the next page of its
//! prefix, and hands that on before it asks for another. So nothing is kept for it anywhere: one that is dropped is gone,
//! one that does not ask costs nothing, and one that has fallen behind the history is told so
//! ([`WatchError::Compacted`]). Revisions are log indexes, equal on all nodes: who was told of everything up to
//! `applied_index` goes on at any node from `applied_index + 1`, without loss or repeat.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    history::{Change, Changes, Compacted},
    scan::KeyRange,
    state::Kv,
};
use crate::{
    error::{ReadError, WatchError},
    node::{Consistency, Node},
    raft::LogIndex,
};

/// The most changes in one page.
const MAX_PAGE_CHANGES: usize = 1000;

/// A page ends once its keys and values have so many bytes. Small, since a page is what a slow watcher keeps in memory.
const MAX_PAGE_BYTES: usize = 256 << 10;

/// A watcher whose prefix is quiet is told how far the node has got after so much time, if the node has got any further…
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// …or after so many entries, so that it can go on elsewhere before what it has seen falls out of the history there.
const PROGRESS_ENTRIES: u64 = 4096;

/// How long to wait before a node is asked again that starts its actors anew.
const PAUSE: Duration = Duration::from_millis(10);

/// What a watcher is told at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// By rising revision. Empty: there was nothing, up to `applied_index`.
    pub changes: Vec<Change>,
    /// All changes up to here have been told. To go on after a break, on any node, watch from the next one.
    pub applied_index: LogIndex,
}

struct Watch {
    node: Node<Kv>,
    range: KeyRange,
    /// Everything below has been told. 0: it begins now, whenever that is.
    next: LogIndex,
    /// Whether there was no more when last asked.
    complete: bool,
    /// The `applied_index` that was told last. `None`: nothing was told yet.
    told: Option<LogIndex>,
    /// When to tell of progress, and to look whether there is a leader.
    look_at: Instant,
    /// There was no leader when it was looked last.
    leaderless: bool,
}

/// The changes of the keys that begin with `prefix`, on this node: with `from`, every one whose revision is at least
/// that, whenever this node gets to it; with 0, from now on, that is behind every write that was answered before the
/// stream is first polled.
///
/// The first item comes at once, empty where there is nothing yet, and says where the watch begins: `applied_index` is
/// never less than `from - 1`. Afterwards items come as changes do, and now and then without any, to tell that the node
/// has got further. The stream survives restarts of the node's actors and changes of the leader.
///
/// # Errors
/// An item with a [`WatchError`] is the last: what was asked for is not remembered, the node is stopping, or it has known
/// no leader for seconds and is perhaps cut off from news.
pub fn watch(
    node: &Node<Kv>,
    prefix: impl Into<Bytes>,
    from: LogIndex,
) -> BoxStream<'static, Result<Watched, WatchError>> {
    let watch = Watch {
        node: node.clone(),
        range: KeyRange::Prefix(prefix.into()),
        next: from,
        complete: false,
        told: None,
        look_at: Instant::now() + PROGRESS_INTERVAL,
        leaderless: false,
    };
    let step = |watch: Option<Watch>| async {
        let mut watch = watch?;
        match watch.step().await {
            Ok(watched) => Some((Ok(watched), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    };
    stream::unfold(Some(watch), step).boxed()
}

impl Watch {
    async fn step(&mut self) -> Result<Watched, WatchError> {
        if self.next == 0 {
            // Not what this node happens to have applied: after a restart that is long ago.
            let (_, now) = self.node.read_at(Consistency::Linearizable, |_| ()).await?;
            (self.next, self.complete) = (now + 1, true);
            return Ok(self.tell(Vec::new()));
        }
        loop {
            if self.complete && self.told.is_some() {
                self.news().await?;
            }
            let changes = self.pull().await?;
            if !changes.is_empty() || self.is_worth_telling() {
                return Ok(self.tell(changes));
            }
        }
    }

    /// Waits until the node has applied what was not looked at yet, or progress is to be told.
    async fn news(&mut self) -> Result<(), WatchError> {
        loop {
            if let Ok(applied) = timeout_at(self.look_at, self.node.applied_past(self.next - 1)).await {
                applied?;
                self.leaderless = false;
                return Ok(());
            }
            self.look_for_a_leader()?;
            if self.told < Some(self.next - 1) {
                return Ok(());
            }
            self.look_at = Instant::now() + PROGRESS_INTERVAL;
        }
    }

    /// A node that knows no leader twice in a row is perhaps cut off, and its silence means nothing.
    fn look_for_a_leader(&mut self) -> Result<(), WatchError> {
        match self.node.without_leader() {
            Some(no_leader) if self.leaderless => Err(no_leader.into()),
            no_leader => {
                self.leaderless = no_leader.is_some();
                Ok(())
            }
        }
    }

    async fn pull(&mut self) -> Result<Vec<Change>, WatchError> {
        let from = self.next;
        loop {
            let range = self.range.clone();
            let query = move |store: &Kv| store.changes(&range, from, MAX_PAGE_CHANGES, MAX_PAGE_BYTES);
            let turn = self.node.turn().await;
            let answer = self.node.read_at(Consistency::Stale, query).await;
            drop(turn);
            match answer {
                Ok((Ok(Changes { changes, next, complete }), at)) => {
                    // What is applied and was no command of the store is behind us, too.
                    self.next = if complete { next.max(at + 1) } else { next };
                    self.complete = complete;
                    return Ok(changes);
                }
                Ok((Err(Compacted { oldest }), _)) => {
                    return Err(WatchError::Compacted { node: self.node.identity().node_id, from, oldest });
                }
                Err(error) if self.node.is_ending() => return Err(error.into()),
                // A pull is a call as any other, and waits for its turn.
                Err(ReadError::Busy { retry_after, .. }) => sleep(retry_after).await,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn is_worth_telling(&self) -> bool {
        let Some(told) = self.told else { return true };
        let news = self.next - 1 - told;
        news >= PROGRESS_ENTRIES || (news > 0 && Instant::now() >= self.look_at)
    }

    fn tell(&mut self, changes: Vec<Change>) -> Watched {
        let applied_index = self.next - 1;
        self.told = Some(applied_index);
        self.look_at = Instant::now() + PROGRESS_INTERVAL;
        Watched { changes, applied_index }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

#[cfg(all(test, feature = "grpc"))]
#[path = "watch_service_tests.rs"]
mod service_tests;
