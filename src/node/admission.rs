//! What lets a client's call in: permits by count and by bytes, and the queue in front of consensus.
//!
//! Consensus' mailbox is unbounded, and heartbeats, votes and timers stand in it. So calls do not: they wait in a queue of
//! their own, and one `CallsWaiting` message tells consensus that it is not empty. Consensus takes a slice of it and
//! puts the next `CallsWaiting` behind whatever came meanwhile. No heartbeat waits behind more than one slice.
//!
//! The queue outlives consensus: what a fallen one had not taken, the next one takes.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    flow::Envelope,
    node::{answered::Answered, messages::ConsensusMessage},
};

/// The bounds of what waits at a node.
pub(crate) struct Admission {
    max_pending: usize,
    max_pending_bytes: usize,
    pending: AtomicUsize,
    pending_bytes: AtomicUsize,
    closed: AtomicBool,
    idle: Notify,
    /// What became of the commands among them.
    pub(crate) answered: Answered,
}

/// Why a call is not let in.
pub(crate) enum Denied {
    /// The node is stopping.
    Closed,
    /// Which limit is reached, with its value.
    Busy(String),
}

/// The right of calls to wait. Dropping it gives it back.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    calls: usize,
    bytes: usize,
    /// When they were let in.
    since: Instant,
}

impl Admission {
    pub(crate) fn new(max_pending: usize, max_pending_bytes: usize) -> Arc<Self> {
        Arc::new(Admission {
            max_pending,
            max_pending_bytes,
            pending: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            idle: Notify::new(),
            answered: Answered::default(),
        })
    }

    /// Lets one call in, or not. Never waits.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit, Denied> {
        self.admit_all(1, bytes)
    }

    /// Lets so many calls in that came together and have so many bytes together, or none of them. Never waits.
    pub(crate) fn admit_all(self: &Arc<Self>, calls: usize, bytes: usize) -> Result<Permit, Denied> {
        if self.closed.load(SeqCst) {
            return Err(Denied::Closed);
        }
        let pending = self.pending.fetch_add(calls, SeqCst);
        let pending_bytes = self.pending_bytes.fetch_add(bytes, SeqCst);
        let permit = Permit { admission: self.clone(), calls, bytes, since: Instant::now() };
        if pending + calls > self.max_pending {
            let limit = format!("{pending} of {} calls wait already (max_pending)", self.max_pending);
            return Err(Denied::Busy(limit));
        }
        if pending_bytes + bytes > self.max_pending_bytes {
            let limit = format!("{pending_bytes} of {} bytes wait already (max_pending_bytes)", self.max_pending_bytes);
            return Err(Denied::Busy(limit));
        }
        Ok(permit)
    }

    /// Calls that wait now.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// Lets nobody in from now on, and waits until all who are in have their answers.
    pub(crate) async fn close(&self) {
        self.closed.store(true, SeqCst);
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.pending() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Permit {
    /// Where the answers are counted.
    pub(crate) fn answered(&self) -> &Answered {
        &self.admission.answered
    }

    /// How long ago they were let in.
    pub(crate) fn age(&self) -> std::time::Duration {
        self.since.elapsed()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.pending_bytes.fetch_sub(self.bytes, SeqCst);
        if self.admission.pending.fetch_sub(self.calls, SeqCst) == self.calls && self.admission.closed.load(SeqCst) {
            self.admission.idle.notify_waiters();
        }
    }
}

type Calls = mpsc::UnboundedReceiver<Envelope<ConsensusMessage>>;

/// The queue of calls in front of consensus.
pub(crate) struct Intake {
    queue: mpsc::UnboundedSender<Envelope<ConsensusMessage>>,
    /// Here between two lives of consensus. Locked only when one starts or ends.
    taken_by_nobody: Mutex<Option<Calls>>,
    /// Whether a `CallsWaiting` is under way.
    announced: AtomicBool,
    /// No consensus will come any more.
    ended: AtomicBool,
}

impl Intake {
    pub(crate) fn new() -> Self {
        let (queue, calls) = mpsc::unbounded_channel();
        Intake {
            queue,
            taken_by_nobody: Mutex::new(Some(calls)),
            announced: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Puts a call behind the others. Returns whether consensus must be told; after the end the call is dropped, and its
    /// port says so.
    pub(crate) fn push(&self, call: Envelope<ConsensusMessage>) -> bool {
        self.queue.send(call).is_ok() && !self.announced.swap(true, SeqCst)
    }

    /// The announcement got lost: the next push makes another one.
    pub(crate) fn announcement_lost(&self) {
        self.announced.store(false, SeqCst);
    }

    /// For consensus, while it lives.
    pub(crate) fn take(self: &Arc<Self>) -> Option<TakenCalls> {
        let calls = self.slot().take()?;
        Some(TakenCalls { intake: self.clone(), calls: Some(calls) })
    }

    /// Ends it: what still waits in it is dropped, and the ports say so.
    pub(crate) fn end(&self) {
        self.ended.store(true, SeqCst);
        let waiting = self.slot().take();
        drop(waiting);
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Calls>> {
        // Nothing can be half done in there.
        self.taken_by_nobody.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue's other end, given back when consensus ends, in whatever way.
pub(crate) struct TakenCalls {
    intake: Arc<Intake>,
    calls: Option<Calls>,
}

impl TakenCalls {
    pub(crate) fn next(&mut self) -> Option<Envelope<ConsensusMessage>> {
        self.calls.as_mut().expect("given back only when dropped").try_recv().ok()
    }

    /// After a slice. Returns whether consensus must tell itself that there is more.
    pub(crate) fn more(&mut self) -> bool {
        let calls = self.calls.as_ref().expect("given back only when dropped");
        if !calls.is_empty() {
            return true;
        }
        self.intake.announced.store(false, SeqCst);
        // Whoever pushed before the line above found it announced and told nobody.
        !calls.is_empty() && !self.intake.announced.swap(true, SeqCst)
    }
}

impl Drop for TakenCalls {
    fn drop(&mut self) {
        let calls = self.calls.take();
        let mut slot = self.intake.slot();
        // Else those who wait are told by the drop of their ports.
        if !self.intake.ended.load(SeqCst) {
            *slot = calls;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: a refused call keeps its share of either limit.
    #[test]
    fn permits_are_bounded_by_count_and_by_bytes_and_come_back() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(60).ok().expect("60 of 100 bytes");
        assert!(matches!(admission.admit(41), Err(Denied::Busy(limit)) if limit.contains("max_pending_bytes")));
        let second = admission.admit(40).ok().expect("100 of 100 bytes");
        assert!(matches!(admission.admit(0), Err(Denied::Busy(limit)) if limit.contains("max_pending)")));
        drop((first, second));
        assert_eq!((admission.pending(), admission.pending_bytes.load(SeqCst)), (0, 0));
        assert!(admission.admit(100).is_ok());
    }

    // Fails when: `close` does not look again after it has asked to be told.
    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_who_is_in_and_lets_nobody_else_in() {
        let admission = Admission::new(2, 100);
        let permit = admission.admit(1).ok().expect("there is room");
        let closing = tokio::spawn({
            let admission = admission.clone();
            async move { admission.close().await }
        });
        tokio::task::yield_now().await;
        assert!(matches!(admission.admit(1), Err(Denied::Closed)));
        assert!(!closing.is_finished());
        drop(permit);
        tokio::time::timeout(std::time::Duration::from_secs(1), closing).await.expect("told").expect("no panic");
    }
}
