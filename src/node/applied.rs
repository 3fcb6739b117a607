//! Waiting for what a node applies, at no cost for the applier where nobody waits.

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, SeqCst},
    fence,
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::NodeRef;
use crate::{error::ReadError, raft::LogIndex};

/// So many of those who were woken ask the applier at a time. They take the permits of calls, and there may be more of
/// them than permits: clients would be refused for the sake of watchers.
const TURNS: usize = 64;

/// Those who wait for the applier. `Notify` wakes them in the order in which they came, which a simulation relies on.
pub(crate) struct AppliedWaiters {
    count: AtomicUsize,
    news: Notify,
    turns: Semaphore,
    /// Nothing more will be served.
    ended: AtomicBool,
}

/// One of them, counted until it is dropped.
struct Waiting<'a>(&'a AppliedWaiters);

impl Default for AppliedWaiters {
    fn default() -> Self {
        AppliedWaiters {
            count: AtomicUsize::new(0),
            news: Notify::new(),
            turns: Semaphore::new(TURNS),
            ended: AtomicBool::new(false),
        }
    }
}

impl AppliedWaiters {
    /// More has been applied, or the state was replaced. Once a batch, after the index was stored.
    pub(crate) fn tell(&self) {
        // Either the count of one who comes now is seen here, or the new index is seen there.
        fence(SeqCst);
        if self.count.load(Relaxed) > 0 {
            self.news.notify_waiters();
        }
    }

    /// The node begins to stop: nobody waits any longer.
    pub(crate) fn end(&self) {
        self.ended.store(true, SeqCst);
        self.news.notify_waiters();
    }

    /// So many wait now.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    fn join(&self) -> Waiting<'_> {
        self.count.fetch_add(1, SeqCst);
        fence(SeqCst);
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
    }
}

impl NodeRef {
    /// Waits until this node has applied more than `index`; returns how much it has applied then. Costs nothing while
    /// it waits; woken at most once a batch of entries.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the node is stopping, or has stopped.
    pub async fn applied_past(&self, index: LogIndex) -> Result<LogIndex, ReadError> {
        let shared = self.shared();
        let waiters = &shared.applied_waiters;
        let _waiting = waiters.join();
        loop {
            let news = waiters.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if waiters.ended.load(SeqCst) {
                return Err(ReadError::Unavailable { node: shared.id() });
            }
            let applied = shared.progress.applied_index.load(Acquire);
            if applied > index {
                return Ok(applied);
            }
            news.await;
        }
    }

    /// One's turn to ask what was applied, in the order of asking; kept until the answer is there.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.shared().applied_waiters.turns.acquire().await.expect("it is never closed")
    }

    /// Why linearizable reads would not be served now, if no leader is known.
    pub(crate) fn without_leader(&self) -> Option<ReadError> {
        let led = self.shared().standing.borrow().leader.is_some();
        (!led).then(|| self.shared().read_no_leader())
    }

    /// Whether the node is stopping or has stopped.
    pub(crate) fn is_ending(&self) -> bool {
        self.shared().applied_waiters.ended.load(SeqCst)
    }
}

#[cfg(test)]
#[path = "applied_tests.rs"]
mod tests;
