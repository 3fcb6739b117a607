//! Lets an actor die at a certain message: how tests show that the tree heals wherever it is hit. Without the feature
//! `testing` nobody decides that, and nothing is asked.

#[cfg(any(test, feature = "testing"))]
use std::sync::Arc;

#[cfg(any(test, feature = "testing"))]
use super::Flow;
use super::{Context, Message};

/// How an actor is to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Crash {
    /// It panics. Told from outside: at the next message, behind those in its mailbox.
    Panic,
    /// It is killed from outside, at the next await.
    Kill,
}

/// When an actor is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// It has taken the message out of its mailbox and done nothing about it.
    Before,
    /// It has handled the message: what it sent is sent, what it wrote is written.
    After,
}

/// Decides which actors of one node die, and when. It is asked twice for every message that any of them handles, also for
/// those that no mailbox held: `Start`, `ChildStopped` and `Stop`. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub trait Saboteur: Send + Sync + 'static {
    /// `None`: it lives on. `path` is the actor's place in the tree, `message` the word as in the code.
    ///
    /// For a call that the admission queue held, a kill takes effect when the slice it came in is done.
    fn strikes(&self, path: &str, message: &'static str, moment: Moment) -> Option<Crash>;
}

#[cfg(any(test, feature = "testing"))]
impl Flow {
    /// Lets actors die by this saboteur's decision, from now on. Does nothing if there is one already. Feature `testing`.
    pub fn sabotage(&self, saboteur: Arc<dyn Saboteur>) {
        let _ = self.saboteur().set(saboteur);
    }
}

impl<M: Message> Context<M> {
    /// Lets this actor die here if the saboteur wants it.
    pub(super) async fn survive(&self, message: &'static str, moment: Moment) {
        if self.is_struck(message, moment) {
            // Killed: this await is the last.
            std::future::pending::<()>().await;
        }
    }

    /// As [`survive`](Context::survive), where nothing can be awaited.
    ///
    /// # Panics
    /// If the saboteur says so.
    pub(super) fn is_struck(&self, message: &'static str, moment: Moment) -> bool {
        #[cfg(any(test, feature = "testing"))]
        match self.flow().saboteur().get().and_then(|saboteur| saboteur.strikes(&self.meter().path, message, moment)) {
            None => {}
            Some(Crash::Panic) => panic!("was told to crash {moment:?} {message}"),
            Some(Crash::Kill) => {
                self.cell().kill();
                return true;
            }
        }
        #[cfg(not(any(test, feature = "testing")))]
        let _ = (message, moment);
        false
    }
}
