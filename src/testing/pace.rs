//! How fast a disk answers: in simulated time, and without holding up a thread.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::Notify, time::sleep};

use crate::storage::{Bootstrap, Identity, Opened, Restoration, Snapshots, Storage, StorageError, Store};

/// How fast the disk of one node answers. Clones are the same disk's.
#[derive(Clone)]
pub(super) struct Pace(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    released: Notify,
}

struct State {
    random: SmallRng,
    hangs: bool,
    delay: Option<RangeInclusive<Duration>>,
}

impl Pace {
    /// One that takes no time.
    pub(super) fn new(seed: u64) -> Self {
        let state = State { random: SmallRng::seed_from_u64(seed), hangs: false, delay: None };
        Pace(Arc::new(Inner { state: Mutex::new(state), released: Notify::new() }))
    }

    /// Whether no call returns.
    pub(super) fn set_hanging(&self, hangs: bool) {
        self.state().hangs = hangs;
        self.0.released.notify_waiters();
    }

    /// What each call takes, before and after; `None`: no time.
    pub(super) fn set_delay(&self, delay: Option<RangeInclusive<Duration>>) {
        self.state().delay = delay;
    }

    /// Takes no time any more.
    pub(super) fn recover(&self) {
        self.set_delay(None);
        self.set_hanging(false);
    }

    pub(super) fn is_bad(&self) -> bool {
        let state = self.state();
        state.hangs || state.delay.is_some()
    }

    fn hangs(&self) -> bool {
        self.state().hangs
    }

    fn draw(&self) -> Option<Duration> {
        let State { random, delay, .. } = &mut *self.state();
        delay.clone().map(|delay| random.random_range(delay))
    }

    async fn wait(self, delay: Option<Duration>) {
        if let Some(delay) = delay {
            sleep(delay).await;
        }
        loop {
            let mut released = std::pin::pin!(self.0.released.notified());
            released.as_mut().enable();
            if !self.hangs() {
                return;
            }
            released.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can be half done in there.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk at that pace.
pub(super) struct Paced {
    pub storage: Arc<dyn Storage>,
    pub pace: Pace,
}

impl Storage for Paced {
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        self.storage.owner()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        self.storage.open(bootstrap)
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.storage.snapshots()
    }

    fn restoration(&self) -> Result<Option<Restoration>, StorageError> {
        self.storage.restoration()
    }

    fn blocks(&self) -> bool {
        self.storage.blocks()
    }

    fn pace(&self) -> Option<BoxFuture<'static, ()>> {
        let delay = self.pace.draw();
        if delay.is_none() && !self.pace.hangs() {
            return self.storage.pace();
        }
        Some(Box::pin(self.pace.clone().wait(delay)))
    }
}
