//! Holds all actors of a node before their next message, as SIGSTOP holds a process. For tests: without the feature
//! `testing` nothing can be held.

use super::Flow;

impl Flow {
    /// At once, unless the actors are held: then when they go on. Wakes in the order of asking.
    pub(crate) async fn awake(&self) {
        #[cfg(any(test, feature = "testing"))]
        self.released().await;
    }
}

#[cfg(any(test, feature = "testing"))]
pub(super) use self::held::Pause;

#[cfg(any(test, feature = "testing"))]
mod held {
    use std::{
        pin::pin,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
    };

    use tokio::sync::Notify;

    use crate::flow::Flow;

    /// Whether a node is held.
    #[derive(Default)]
    pub(in crate::flow) struct Pause {
        held: AtomicBool,
        released: Notify,
    }

    impl Flow {
        /// Holds every actor before it handles its next message, until [`resume`](Flow::resume). What is being handled is
        /// handled to its end. Mailboxes go on filling, and alarms put their messages there. Feature `testing`.
        pub fn pause(&self) {
            self.pause_state().held.store(true, SeqCst);
        }

        /// Lets the actors go on, with all that has come meanwhile. Feature `testing`.
        pub fn resume(&self) {
            let Pause { held, released } = self.pause_state();
            held.store(false, SeqCst);
            released.notify_waiters();
        }

        /// Whether the actors are held. Feature `testing`.
        pub fn is_paused(&self) -> bool {
            self.pause_state().held.load(SeqCst)
        }

        pub(super) async fn released(&self) {
            while self.is_paused() {
                let mut released = pin!(self.pause_state().released.notified());
                released.as_mut().enable();
                if self.is_paused() {
                    released.await;
                }
            }
        }
    }
}
