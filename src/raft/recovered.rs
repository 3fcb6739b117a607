//! What a server starts from: everything that its disk remembers.

use super::types::{Entry, HardState, LogPosition, Membership, SnapshotMetadata};

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
    /// The finished snapshot. It reaches to `base` at least, and beyond it by the trail that was kept, or by more where
    /// the server fell between the snapshot and the log's turn. `None` only while `base` is 0@0.
    pub snapshot: Option<SnapshotMetadata>,
    /// The snapshot that a leader was sending, and how many of its bytes are here.
    pub receiving: Option<(SnapshotMetadata, u64)>,
}
