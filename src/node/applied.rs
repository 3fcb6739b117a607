//! Waiting for what a node applies, at no cost for the applier where nobody waits.

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, SeqCst},
    fence,
};

use tokio::sync::Notify;

use super::NodeRef;
use crate::{error::ReadError, raft::LogIndex};

/// Those who wait for the applier. `Notify` wakes them in the order in which they came, which a simulation relies on.
#[derive(Default)]
pub(crate) struct AppliedWaiters {
    count: AtomicUsize,
    news: Notify,
    /// Nothing more will be served.
    ended: AtomicBool,
}

/// One of them, counted until it is dropped.
struct Waiting<'a>(&'a AppliedWaiters);

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
mod tests {
    use std::time::Duration;

    use crate::{
        error::ReadError,
        kv::{Command, Kv},
        node::Node,
        storage::MemoryStorage,
        transport::InProcess,
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    // Fails when: the applier does not tell, or `end` does not.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_what_is_applied_and_by_the_end() {
        let story = async {
            let builder = Node::builder(1, Kv::default).cluster([(1, "applied waiters")]);
            let node = builder.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await.expect("starts");
            let before = node.applied_past(0).await.expect("an election leaves an entry");
            let wait_for = |index| {
                let node = node.clone();
                tokio::spawn(async move { node.applied_past(index).await })
            };
            let (next, later) = (wait_for(before), wait_for(before + 1));
            tokio::task::yield_now().await;
            assert_eq!(node.shared().applied_waiters.count(), 2);
            node.propose(Command::put("a", "1")).await.expect("applied");
            assert_eq!(next.await.expect("no panic"), Ok(before + 1));
            assert!(!later.is_finished());
            node.shutdown().await.expect("it stops by order");
            assert_eq!(later.await.expect("no panic"), Err(ReadError::Unavailable { node: 1 }));
            assert_eq!(node.shared().applied_waiters.count(), 0);
        };
        tokio::time::timeout(DEADLINE, story).await.expect("it does not hang");
    }
}
