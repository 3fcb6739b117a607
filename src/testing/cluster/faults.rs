//! What can be done to single nodes of a cluster while they run.

use std::{ops::RangeInclusive, time::Duration};

use super::Cluster;
use crate::{raft::NodeId, state_machine::StateMachine};

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

    /// Lets no call to the disk of a node return until told otherwise, or until the node crashes: of its log and of the
    /// snapshots that it sends and receives. A call under way may have been carried out by then, or not.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn hang_disk(&self, id: NodeId, hangs: bool) {
        self.seat(id).pace.set_hanging(hangs);
    }

    /// Lets each call to the disk of a node take as long as drawn, once before and once after it is carried out, until told
    /// otherwise or until the node crashes. `None`: no time at all, as at first.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn slow_disk(&self, id: NodeId, delay: impl Into<Option<RangeInclusive<Duration>>>) {
        self.seat(id).pace.set_delay(delay.into());
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
