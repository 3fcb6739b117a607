//! What a server starts from: everything that its disk remembers.

use super::types::{Entry, HardState, LogPosition, Membership};

/// A server's durable state, as its log store found it. All of it is durable again before it gets here: an entry that
/// was read from a page cache and not yet synced must not be counted (DESIGN: "ghost entries").
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// What the log stands on: the last entry that a snapshot replaced, or 0@0.
    pub base: LogPosition,
    /// Who belonged to the cluster as of `base`.
    pub membership: Membership,
    /// The log behind `base`, without gaps.
    pub entries: Vec<Entry>,
}
