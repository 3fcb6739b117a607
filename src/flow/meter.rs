//! Counts and times of one actor: a [`Meter`] for its place in the tree, over all restarts, and a [`Life`] for each
//! incarnation, since the mailbox dies with it.
//!
//! An actor alone writes its meter and the part of its life behind the mailbox, so most of this is a load and a store.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    ActorId, Sender,
    histogram::{Counts, add},
    times::Times,
};

/// What an actor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It has not started yet.
    Starting,
    /// It waits for messages, or handles one.
    Running,
    /// It was told to stop, or was killed.
    Stopped,
    /// It returned an error or panicked.
    Failed,
}

impl Status {
    fn from_number(number: u8) -> Self {
        [Status::Starting, Status::Running, Status::Stopped, Status::Failed][usize::from(number.min(3))]
    }
}

/// One incarnation.
pub(super) struct Life {
    pub(super) sender: Sender,
    status: AtomicU8,
    /// Messages put into the mailbox.
    sent: AtomicU64,
    /// Messages taken out of the mailbox.
    taken: AtomicU64,
    /// The name of the message being handled. 0: none.
    message: AtomicU16,
    /// When its handling began, in nanoseconds since the node's epoch.
    since: AtomicU64,
}

impl Life {
    fn new(sender: Sender) -> Self {
        Life {
            sender,
            status: AtomicU8::new(Status::Starting as u8),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            message: AtomicU16::new(0),
            since: AtomicU64::new(0),
        }
    }

    /// A message was put into the mailbox.
    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that [`count_sent`](Life::count_sent) counted was taken out of the mailbox.
    pub(super) fn count_taken(&self) {
        add(&self.taken, 1);
    }

    pub(super) fn depth(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(taken)
    }

    pub(super) fn show(&self, message: u16, since: u64) {
        self.since.store(since, Ordering::Relaxed);
        self.message.store(message, Ordering::Relaxed);
    }

    pub(super) fn showing(&self) -> Option<(u16, u64)> {
        let message = self.message.load(Ordering::Relaxed);
        (message != 0).then(|| (message, self.since.load(Ordering::Relaxed)))
    }

    pub(super) fn set_status(&self, status: Status) {
        self.status.store(status as u8, Ordering::Relaxed);
    }

    /// The end of an actor of which nothing is known but that it is gone. What is known already stays.
    pub(super) fn end(&self) {
        if matches!(self.status(), Status::Starting | Status::Running) {
            self.set_status(Status::Stopped);
        }
    }

    pub(super) fn status(&self) -> Status {
        Status::from_number(self.status.load(Ordering::Relaxed))
    }
}

/// One place in the tree.
pub(super) struct Meter {
    pub(super) path: Arc<str>,
    pub(super) actor: ActorId,
    given_out: AtomicU32,
    lives: AtomicU32,
    events: AtomicU64,
    handled: AtomicU64,
    longest_wait: AtomicU64,
    /// There from the first life on; places that no actor lives at need none.
    times: OnceLock<Box<Times>>,
    life: Mutex<Option<Arc<Life>>>,
    last_failure: Mutex<Option<String>>,
}

impl Meter {
    pub(super) fn new(path: Arc<str>, actor: ActorId) -> Self {
        Meter {
            path,
            actor,
            given_out: AtomicU32::new(0),
            lives: AtomicU32::new(0),
            events: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            longest_wait: AtomicU64::new(0),
            times: OnceLock::new(),
            life: Mutex::new(None),
            last_failure: Mutex::new(None),
        }
    }

    /// A life that may begin: its number is higher than those before, and shows only once it does.
    pub(super) fn conceive(&self) -> Arc<Life> {
        let incarnation = self.given_out.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Life::new(Sender { actor: self.actor, incarnation }))
    }

    /// This life begins and follows upon the one before.
    pub(super) fn begin(&self, life: &Arc<Life>) {
        self.times.get_or_init(Box::default);
        self.lives.fetch_add(1, Ordering::Relaxed);
        *self.life.lock().expect(NEVER_POISONED) = Some(life.clone());
    }

    pub(super) fn life(&self) -> Option<Arc<Life>> {
        self.life.lock().expect(NEVER_POISONED).clone()
    }

    /// Numbers for so many events of this actor that no one else gets.
    pub(super) fn reserve_events(&self, count: u64) -> Range<u64> {
        let first = self.events.fetch_add(count, Ordering::Relaxed) + 1;
        first..first + count
    }

    pub(super) fn count_handled(&self) {
        add(&self.handled, 1);
    }

    /// A message of this name was handled by `now` and took so long; where it stood in a mailbox, so long before.
    pub(super) fn add_times(&self, now: u64, message: u16, waited: Option<u64>, handling: u64) {
        let Some(times) = self.times.get() else { return };
        times.add_handling(message, handling);
        let Some(waited) = waited else { return };
        times.add_wait(now, waited);
        if waited > self.longest_wait.load(Ordering::Relaxed) {
            self.longest_wait.store(waited, Ordering::Relaxed);
        }
    }

    pub(super) fn set_last_failure(&self, cause: String) {
        *self.last_failure.lock().expect(NEVER_POISONED) = Some(cause);
    }

    /// `None`: no actor ever lived here. `name` turns the number of a message into its name; `now` is nanoseconds since the
    /// node's epoch.
    pub(super) fn report(&self, name: impl Fn(u16) -> &'static str, now: u64) -> Option<ActorReport> {
        let life = self.life()?;
        // One that lives has been begun.
        let times = self.times.get()?;
        let (lately, over) = times.lately(now);
        let current = life
            .showing()
            .map(|(message, since)| CurrentMessage { message: name(message), since: Duration::from_nanos(since) });
        let longest_wait = Duration::from_nanos(self.longest_wait.load(Ordering::Relaxed));
        Some(ActorReport {
            path: self.path.to_string(),
            actor: self.actor,
            incarnation: life.sender.incarnation,
            status: life.status(),
            depth: if matches!(life.status(), Status::Starting | Status::Running) { life.depth() } else { 0 },
            handled: self.handled.load(Ordering::Relaxed),
            handling: times.handled(),
            waited: times.waits().sum(),
            longest_wait,
            wait_p99: lately.percentile(99).min(longest_wait),
            lately: Lately { messages: lately.count(), over },
            restarts: self.lives.load(Ordering::Relaxed).saturating_sub(1),
            last_failure: self.last_failure.lock().expect(NEVER_POISONED).clone(),
            current,
        })
    }
}

impl Meter {
    /// `None`: no actor ever lived here.
    pub(super) fn times(&self, name: impl Fn(u16) -> &'static str) -> Option<ActorTimes> {
        let times = self.times.get()?;
        let mut handling: BTreeMap<&'static str, Counts> = BTreeMap::new();
        // A name may have two numbers.
        times.handling().for_each(|(word, counts)| handling.entry(name(word)).or_default().add(&counts));
        Some(ActorTimes { path: self.path.to_string(), waits: times.waits(), handling })
    }
}

/// Why the locks in here cannot be poisoned.
pub(super) const NEVER_POISONED: &str = "nothing panics while it holds this lock";

/// One actor of the tree, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorReport {
    /// Its place in the tree ("consensus/replicator 2").
    pub path: String,
    /// The number of that place.
    pub actor: ActorId,
    /// Which life of it: 1 is the first.
    pub incarnation: u32,
    /// What it is doing.
    pub status: Status,
    /// Messages in its mailbox. What an application sent through ractor itself is counted once it is handled.
    pub depth: u64,
    /// Messages handled, over all its lives.
    pub handled: u64,
    /// Time spent handling them, what was awaited included.
    pub handling: Duration,
    /// Time they stood in the mailbox, added up.
    pub waited: Duration,
    /// The longest that one stood in the mailbox.
    pub longest_wait: Duration,
    /// 99 of 100 messages [lately](ActorReport::lately) stood in the mailbox no longer. Above 256 ns it may be told an
    /// eighth too high, never too low. 0: there was none.
    pub wait_p99: Duration,
    /// The messages of the last 10 to 20 seconds.
    pub lately: Lately,
    /// Lives after the first.
    pub restarts: u32,
    /// What it died of the last time, if it ever did.
    pub last_failure: Option<String>,
    /// What it is handling just now.
    pub current: Option<CurrentMessage>,
}

impl ActorReport {
    /// The path of the actor above it; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.path.rsplit_once('/').map(|(parent, _)| parent)
    }
}

/// What an actor took out of its mailbox in the last 10 to 20 seconds, while the recorder was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// So many messages.
    pub messages: u64,
    /// In this time.
    pub over: Duration,
}

impl Lately {
    /// Messages a second. 0: no time has passed.
    pub fn per_second(&self) -> f64 {
        if self.over.is_zero() { 0.0 } else { self.messages as f64 / self.over.as_secs_f64() }
    }
}

/// How long the messages of one actor waited and took, over all its lives, while the recorder was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorTimes {
    /// Its place in the tree.
    pub path: String,
    /// How long they stood in the mailbox, or in the queue before consensus.
    pub waits: Counts,
    /// How long their handlers took, by the message's name. 64 names at most; what came after them is
    /// counted as "?".
    pub handling: BTreeMap<&'static str, Counts>,
}

/// A message that is being handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentMessage {
    /// Its name.
    pub message: &'static str,
    /// When its handling began, since the node's epoch.
    pub since: Duration,
}
