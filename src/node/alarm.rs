//! One sleep at a time, owned by an actor: it ends with the actor.

use tokio::{task::AbortHandle, time::Instant};

/// At most one thing that will happen later.
#[derive(Default)]
pub(crate) struct Alarm {
    asleep: Option<(Instant, AbortHandle)>,
}

impl Alarm {
    /// Does `then` at `deadline`. What was set before will not happen.
    pub(crate) fn set(&mut self, deadline: Instant, then: impl FnOnce() + Send + 'static) {
        self.stop();
        let task = tokio::spawn(sleep(deadline, then));
        self.asleep = Some((deadline, task.abort_handle()));
    }

    /// When it will happen.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.asleep.as_ref().map(|(deadline, _)| *deadline)
    }

    /// Nothing will happen. To be called also when it has happened.
    pub(crate) fn stop(&mut self) {
        if let Some((_, task)) = self.asleep.take() {
            task.abort();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn sleep(deadline: Instant, then: impl FnOnce()) {
    tokio::time::sleep_until(deadline).await;
    then();
}
