//! What several nodes recorded, as one picture.
//!
//! Each node records the messages between its own actors ([`crate::flow`]), by its own clock. A [`Recording`] is what one
//! of them told, with where its clock stands beside the others'. A [`Sequence`] joins them: what left one node is paired with
//! what entered another, clocks are moved as far as they may be wrong until everything arrives after it left, and all messages
//! stand in one order. From there it is written as [text](Sequence::text), [JSON](Sequence::json), a
//! [Mermaid](Sequence::mermaid) diagram, a [Chrome or Perfetto](Sequence::chrome) trace, or, with the feature `otel`, as
//! OTLP spans.
//!
//! ```text
//!   Recording ┐             ┌ text      what a person reads, with the critical path and the quorum summed up
//!   Recording ┼▶ Sequence ─▶┼ json      all of it, for programs
//!   Recording ┘             └ mermaid, chrome, otlp
//! ```
//!
//! What is missing is said: messages that were overwritten, arrows of which one end is not recorded, and where even the
//! clocks' errors do not explain that something arrived before it left.
//!
//! Architecture invariant: this module reads what was recorded and knows nothing of how it came here. It knows the names of
//! the actors and of their messages, as a reader does.

mod account;
mod call;
mod chrome;
mod clocks;
mod election;
mod json;
mod lines;
mod mermaid;
mod names;
#[cfg(feature = "otel")]
pub mod otlp;
mod pairing;
mod path;
mod sequence;
mod text;
mod upkeep;

use std::time::Duration;

use crate::flow::Event;

pub use self::{
    account::{Account, Acknowledgement, What},
    call::of_call,
    path::{Part, Place},
    sequence::{Lane, Sequence, Step},
};

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
