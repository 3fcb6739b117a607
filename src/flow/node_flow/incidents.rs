//! What a node keeps of its last seconds when something falls.

use std::{path::PathBuf, time::Duration};

use super::{Flow, reading::in_order};
use crate::flow::{
    Incident,
    incidents::{INCIDENT_EVENTS, Kept},
};

impl Flow {
    /// Keeps the last events (4,096 of them, 30 seconds at most), because something fell. What falls within a second after it
    /// is added to the same incident.
    pub fn keep_incident(&self, cause: impl Into<String>) {
        let records = |since: Duration| {
            let mut records = self.0.recorder.last(INCIDENT_EVENTS);
            records.retain(|record| record.ended() >= since);
            in_order(&mut records);
            records
        };
        if self.0.incidents.keep(cause.into(), self.now(), records) {
            let flow = self.clone();
            let write = move || flow.0.incidents.write(|kept| flow.incident_of(kept));
            if let Err(error) = std::thread::Builder::new().name("incidents".to_owned()).spawn(write) {
                self.0.incidents.give_up_writing(&error);
            }
        }
    }

    /// Keeps incidents in files as well: the last eight in this directory, of a megabyte each at most. They outlive the
    /// process. It is made with the first of them; what an earlier process left there is found again.
    pub fn keep_incidents_in(&self, directory: impl Into<PathBuf>) {
        self.0.incidents.keep_in(directory.into());
    }

    /// The last incidents of this process, the oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.0.incidents.kept().iter().map(|kept| self.incident_of(kept)).collect()
    }

    /// The last incidents, those of earlier processes included that are on disk. It waits for the disk: not for a runtime's
    /// worker.
    pub fn all_incidents(&self) -> Vec<Incident> {
        self.0.incidents.all(|kept| self.incident_of(kept))
    }

    /// The incident of this number, if it is still kept. It waits for the disk.
    pub fn incident(&self, id: u64) -> Option<Incident> {
        self.0.incidents.find(id, |kept| self.incident_of(kept))
    }

    /// Waits, for two seconds at most, until the incidents are on disk that are to be there.
    pub async fn incidents_settled(&self) {
        self.0.incidents.settle().await;
    }

    /// For tests in simulated time, in which a disk takes no time at all.
    #[cfg(test)]
    pub(in crate::flow) fn wait_for_incidents(&self) {
        let begun = std::time::Instant::now();
        while !self.0.incidents.is_settled() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the disk takes too long");
            std::thread::yield_now();
        }
    }

    fn incident_of(&self, kept: &Kept) -> Incident {
        Incident {
            id: kept.id,
            cause: kept.cause.clone(),
            at: kept.at,
            since_1970: kept.since_1970,
            life: self.life(),
            events: self.resolve(&kept.records),
        }
    }
}
