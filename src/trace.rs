//! What several nodes recorded, as one picture.
//!
//! Each node records the messages between its own actors ([`crate::flow`]), by its own clock. A [`Recording`] is what one
//! of them told, with where its clock stands beside the others'.
//!
//! Architecture invariant: this module reads what was recorded and knows nothing of how it came here.

use std::time::Duration;

use crate::flow::Event;

/// What one node recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The node's number.
    pub node: u64,
    /// In the order in which they ended. Times count from the node's epoch.
    pub events: Vec<Event>,
    /// Recorded messages that are missing here: overwritten before they could be read.
    pub missed: u64,
    /// Where the node's clock stands.
    pub clock: Clock,
}

/// Where a node's clock stands beside the clock that all share in a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The node's epoch in nanoseconds of the common clock.
    pub epoch: i64,
    /// By how much that may be wrong, either way.
    pub error: Duration,
}

impl Clock {
    /// A time of this node, in nanoseconds of the common clock.
    pub fn common(&self, since_epoch: Duration) -> i64 {
        self.epoch.saturating_add(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
    }
}
