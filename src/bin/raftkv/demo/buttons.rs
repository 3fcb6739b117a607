//! The page's buttons. They do what the keys do, in the same place: `stay` takes both, one after the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use futures_util::future::{BoxFuture, FutureExt};
use ractor_raft::http::{Fault, Faults, Order};
use tokio::sync::{mpsc, oneshot};

/// How many may wait.
const WAITING: usize = 2;

const OFFERED: [Fault; 4] = [
    Fault {
        name: "kill",
        label: "Stop the leader",
        hint: "Shuts the leader down; the next press of a button that needs it starts it again.",
    },
    Fault {
        name: "crash",
        label: "Crash an actor",
        hint: "Kills one actor of the leader, as a bug would. Its supervisor starts it again.",
    },
    Fault {
        name: "partition",
        label: "Cut the leader off",
        hint: "Nobody reaches the leader any more, until it is pressed again.",
    },
    Fault { name: "write", label: "Write load", hint: "Eight clients write for two seconds." },
];

/// What the page presses.
pub struct Buttons {
    pressed: mpsc::Sender<Pressed>,
    works: Arc<AtomicBool>,
}

/// A button that was pressed, and who wants to know what came of it.
pub struct Pressed {
    /// What to do.
    pub order: Order,
    /// In words.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// Buttons, and where their presses come out.
pub struct Presses {
    presses: mpsc::Receiver<Pressed>,
    works: Arc<AtomicBool>,
}

/// Both ends.
pub fn buttons() -> (Buttons, Presses) {
    let (pressed, presses) = mpsc::channel(WAITING);
    let works = Arc::new(AtomicBool::new(false));
    (Buttons { pressed, works: works.clone() }, Presses { presses, works })
}

impl Presses {
    /// From now on somebody takes them.
    pub fn begin(&self) {
        self.works.store(true, Relaxed);
    }

    /// The next one. `None`: there are no buttons.
    pub async fn next(&mut self) -> Option<Pressed> {
        self.presses.recv().await
    }
}

impl Faults for Buttons {
    fn offered(&self) -> Vec<Fault> {
        OFFERED.to_vec()
    }

    fn inject(&self, order: Order) -> BoxFuture<'static, Result<String, String>> {
        let (answer, answered) = oneshot::channel();
        let sent = match self.works.load(Relaxed) {
            false => Err("the tour is under way; the buttons work after it".to_owned()),
            true => {
                self.pressed.try_send(Pressed { order, answer }).map_err(|_| "one thing after the other".to_owned())
            }
        };
        async move {
            sent?;
            answered.await.unwrap_or_else(|_| Err("the demo is over".to_owned()))
        }
        .boxed()
    }
}
