//! What can be done to single nodes of a cluster while they run.

use std::{ops::RangeInclusive, time::Duration};

use super::{Cluster, Seat};
use crate::{raft::NodeId, state_machine::StateMachine, testing::setup::Disk};

/// What can be done to its nodes while they run.
impl<M: StateMachine> Cluster<M> {
    /// Holds a node as SIGSTOP holds a process: none of its actors handles a message, none of its alarms does anything, and
    /// what others send it waits. On [`resume`](Cluster::resume) all that comes at once; a crash ends it, too. Does nothing to
    /// a node that does not run.
    ///
    /// Who calls the node waits with it: for as long as the call has time.
    pub fn pause(&self, id: NodeId) {
        if let Some(node) = self.node(id) {
            node.flow().pause();
        }
    }

    /// Lets a node go on that was [paused](Cluster::pause).
    pub fn resume(&self, id: NodeId) {
        if let Some(node) = self.node(id) {
            node.flow().resume();
        }
    }

    /// Whether a node runs, and is held.
    pub fn is_paused(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| node.flow().is_paused())
    }

    /// Lets no call to the disk of a node return until told otherwise, or until the node is down: of its log and of the
    /// snapshots that it sends and receives. A call under way may have been carried out by then, or not.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn hang_disk(&self, id: NodeId, hangs: bool) {
        self.seat(id).pace.set_hanging(hangs);
    }

    /// Lets each call to the disk of a node take as long as drawn, once before and once after it is carried out, until told
    /// otherwise or until the node is down. `None`: no time at all, as at first.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn slow_disk(&self, id: NodeId, delay: impl Into<Option<RangeInclusive<Duration>>>) {
        self.seat(id).pace.set_delay(delay.into());
    }

    /// Whether the disk of a node has no room. Not for a storage of the test's own.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn set_disk_full(&self, id: NodeId, full: bool) {
        match self.seat(id).disk {
            Disk::Memory(storage) => storage.set_full(full),
            #[cfg(feature = "sqlite")]
            Disk::Simulated(disk) => disk.set_full(full),
            Disk::Own(_) => {}
        }
    }

    /// Lets a disk's `operation`th operation from now on fail, which is final: the node stops. 1 is the next one, 0 none; on a disk in
    /// memory it is always the next write. Not for a storage of the test's own.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn fail_disk(&self, id: NodeId, operation: u64) {
        match self.seat(id).disk {
            Disk::Memory(storage) => storage.fail_writes(u32::from(operation > 0)),
            #[cfg(feature = "sqlite")]
            Disk::Simulated(disk) => disk.fail_at(operation),
            Disk::Own(_) => {}
        }
    }

    /// Ends all faults of a node's disk.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn recover_disk(&self, id: NodeId) {
        let Seat { pace, disk, .. } = self.seat(id);
        pace.recover();
        match disk {
            Disk::Memory(storage) => {
                storage.set_full(false);
                storage.fail_writes(0);
                storage.fail_snapshot_writes(0);
            }
            #[cfg(feature = "sqlite")]
            Disk::Simulated(disk) => disk.recover(),
            Disk::Own(_) => {}
        }
    }

    /// Whether the disk of a node takes time.
    pub(in crate::testing) fn has_bad_disk(&self, id: NodeId) -> bool {
        self.seat(id).pace.is_bad()
    }

    /// From now on, of a million moments before and after an actor handles a message, so many are its last: it panics, or is
    /// killed. Roots are spared. 0 ends that.
    pub fn strike_actors(&self, of_a_million: u32) {
        self.0.strikes.set_rate(of_a_million);
    }

    /// How many actors were struck so far.
    pub fn struck_actors(&self) -> u64 {
        self.0.strikes.count()
    }
}
