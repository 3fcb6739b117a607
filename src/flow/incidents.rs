//! What is kept when something falls: the messages that went before it.
//!
//! The actor that keeps an incident copies records in memory, and goes on. With a directory, a thread of its own then writes
//! them there, one file each; what is on disk can be read after the process has died of it. A disk that fails is said in
//! the log, and the incident stays in memory; the node does not fall over it.
//!
//! Several falls within a second are one incident: a keeper that panics takes the others with it, and the leadership too.

mod directory;
mod format;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use self::directory::Directory;
use super::{Incident, meter::NEVER_POISONED, recorder::Record};

/// How many incidents are kept, in memory and on disk each; the oldest goes first.
pub(super) const INCIDENTS: usize = 8;
/// How much of the past an incident keeps at most, and what follows while it is still the same incident.
pub(super) const INCIDENT_EVENTS: usize = 4096;
/// See [`INCIDENT_EVENTS`].
pub(super) const INCIDENT_WINDOW: Duration = Duration::from_secs(30);

/// What falls so soon after something fell belongs to the same incident.
const TOGETHER: Duration = Duration::from_secs(1);

/// The longest cause, in bytes.
const MAX_CAUSE: usize = 4 << 10;

/// How long whoever stops waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// An incident as it is kept: numbers, not names.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) id: u64,
    pub(super) cause: String,
    pub(super) at: Duration,
    pub(super) since_1970: Duration,
    pub(super) records: Vec<Record>,
    /// Until when records were taken.
    until: Duration,
    /// How often it has changed since it was last given to the disk. 0: the disk has it, or could not take it.
    changes: u32,
}

#[derive(Default)]
struct State {
    last_id: u64,
    kept: VecDeque<Kept>,
    writing: bool,
}

/// The incidents of one node.
pub(super) struct Incidents {
    state: Mutex<State>,
    directory: OnceLock<Directory>,
    /// Whether everything was given to the disk.
    settled: watch::Sender<bool>,
}

impl Incidents {
    pub(super) fn new() -> Self {
        Incidents { state: Mutex::default(), directory: OnceLock::new(), settled: watch::Sender::new(true) }
    }

    /// Keeps them here as well from now on.
    pub(super) fn keep_in(&self, path: PathBuf) {
        let directory = Directory::new(path);
        let mut state = self.state();
        state.last_id = state.last_id.max(directory.last_id());
        let _ = self.directory.set(directory);
    }

    /// Keeps one, or adds to the one that was kept just before; `records` gives what was recorded since then. Whether
    /// [`write`](Incidents::write) is to be called, on a thread that may wait for the disk.
    pub(super) fn keep(&self, cause: String, at: Duration, records: impl FnOnce(Duration) -> Vec<Record>) -> bool {
        let mut state = self.state();
        match state.kept.back_mut().filter(|last| at.saturating_sub(last.at) < TOGETHER) {
            Some(last) => last.add(&cause, at, records),
            None => {
                state.last_id += 1;
                let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let records = records(at.saturating_sub(INCIDENT_WINDOW));
                let cause = shortened(cause);
                let kept = Kept { id: state.last_id, cause, at, since_1970, records, until: at, changes: 1 };
                if state.kept.len() == INCIDENTS {
                    state.kept.pop_front();
                }
                state.kept.push_back(kept);
            }
        }
        let begins = self.directory.get().is_some() && !state.writing;
        state.writing |= begins;
        if begins {
            self.settled.send_replace(false);
        }
        begins
    }

    /// Those in memory, the oldest first.
    pub(super) fn kept(&self) -> Vec<Kept> {
        self.state().kept.iter().cloned().collect()
    }

    /// Writes what the disk has not, until there is nothing left. Waits for the disk.
    pub(super) fn write(&self, resolve: impl Fn(&Kept) -> Incident) {
        while let Some(kept) = self.next_to_write() {
            let Some(directory) = self.directory.get() else { continue };
            if let Err(error) = directory.write(&resolve(&kept)) {
                let path = directory.path().display();
                tracing::warn!(incident = kept.id, %path, %error, "an incident could not be written; it stays in memory");
            }
        }
    }

    /// Says that nothing will be written, since there is no thread for it.
    pub(super) fn give_up_writing(&self, cause: &std::io::Error) {
        tracing::warn!(%cause, "there is no thread to write an incident; it stays in memory");
        while self.next_to_write().is_some() {}
    }

    fn next_to_write(&self) -> Option<Kept> {
        let mut state = self.state();
        let next = state.kept.iter_mut().find(|kept| kept.changes > 0);
        let next = next.map(|kept| {
            kept.changes = 0;
            kept.clone()
        });
        if next.is_none() {
            state.writing = false;
            self.settled.send_replace(true);
        }
        next
    }

    /// Those on disk, of earlier lives as well, and those in memory; the oldest first. Waits for the disk.
    pub(super) fn all(&self, resolve: impl Fn(&Kept) -> Incident) -> Vec<Incident> {
        let mut all = BTreeMap::new();
        if let Some(directory) = self.directory.get() {
            all.extend(directory.read_all().into_iter().map(|incident| (incident.id, incident)));
        }
        all.extend(self.kept().iter().map(|kept| (kept.id, resolve(kept))));
        all.into_values().collect()
    }

    /// One of them. Waits for the disk.
    pub(super) fn find(&self, id: u64, resolve: impl Fn(&Kept) -> Incident) -> Option<Incident> {
        let kept = self.state().kept.iter().find(|kept| kept.id == id).cloned();
        kept.map(|kept| resolve(&kept)).or_else(|| self.directory.get()?.read(id))
    }

    /// Waits, for two seconds at most, until what was kept is written.
    pub(super) async fn settle(&self) {
        let mut settled = self.settled.subscribe();
        // A disk that takes longer is not waited for; nobody else holds the sender.
        let _ = tokio::time::timeout(PATIENCE, settled.wait_for(|settled| *settled)).await;
    }

    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NEVER_POISONED)
    }
}

impl Kept {
    /// Something else fell of the same cause, or caused it.
    fn add(&mut self, cause: &str, at: Duration, records: impl FnOnce(Duration) -> Vec<Record>) {
        if !self.cause.contains(cause) {
            self.cause = shortened(format!("{}; {cause}", self.cause));
        }
        // What was recorded before that is there.
        let since = self.until;
        let room = (2 * INCIDENT_EVENTS).saturating_sub(self.records.len());
        let more = records(since).into_iter().filter(|record| record.ended() > since).take(room);
        self.records.extend(more);
        self.until = at;
        self.changes += 1;
    }
}

fn shortened(mut cause: String) -> String {
    let end = (0..=cause.len().min(MAX_CAUSE)).rev().find(|at| cause.is_char_boundary(*at));
    cause.truncate(end.unwrap_or(0));
    cause
}
