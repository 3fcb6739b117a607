//! The reasons in [`ErrorInfo`](tonic_types::ErrorInfo): what programs decide by. Never renamed.

/// R001. `FAILED_PRECONDITION` with `leader_id` and `leader_addr`. Not applied.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// R002. `UNAVAILABLE` with RetryInfo. Not applied.
pub const NO_LEADER: &str = "NO_LEADER";
/// R002. `UNAVAILABLE` with RetryInfo: the node is stopping or starting. Not applied.
pub const UNAVAILABLE: &str = "UNAVAILABLE";
/// R002. `DEADLINE_EXCEEDED`: a read was not served in time.
pub const READ_TIMED_OUT: &str = "READ_TIMED_OUT";
/// R004. `FAILED_PRECONDITION`: a message of another cluster.
pub const WRONG_CLUSTER: &str = "WRONG_CLUSTER";
/// R005. `FAILED_PRECONDITION`: a message for or from another node.
pub const WRONG_NODE: &str = "WRONG_NODE";
/// R002. `UNAVAILABLE` with RetryInfo: the leader has not committed anything yet. Not made.
pub const NOT_READY: &str = "NOT_READY";
/// R007. `FAILED_PRECONDITION`: who asked has another disk than the cluster knows it by.
pub const WIPED: &str = "WIPED";
/// R007. `FAILED_PRECONDITION`: who was asked has another disk than the one who asked knows it by.
pub const PEER_WIPED: &str = "PEER_WIPED";
/// R007. `FAILED_PRECONDITION`: a server of this id belongs to the cluster, with another disk.
pub const DISK_REPLACED: &str = "DISK_REPLACED";
/// R008. `FAILED_PRECONDITION`: the id was removed from the cluster.
pub const REMOVED: &str = "REMOVED";
/// R007. `FAILED_PRECONDITION` with `node`: the one that was asked takes no part, since it has another disk than the cluster
/// knows it by. Not applied; ask another one.
pub const NODE_WIPED: &str = "NODE_WIPED";
/// R008. `FAILED_PRECONDITION` with `node`: the one that was asked was removed. Not applied; ask another one.
pub const NODE_REMOVED: &str = "NODE_REMOVED";
/// R009. `FAILED_PRECONDITION` with the `index` of the change that is under way.
pub const CHANGE_UNDER_WAY: &str = "CHANGE_UNDER_WAY";
/// R010. `FAILED_PRECONDITION` with `id` and `match_index`.
pub const NOT_CAUGHT_UP: &str = "NOT_CAUGHT_UP";
/// R023. `ABORTED` with `to`: the leadership stays.
pub const TRANSFER_FAILED: &str = "TRANSFER_FAILED";
/// R011. `FAILED_PRECONDITION` with `in_touch` and `needed`.
pub const WOULD_STOP: &str = "WOULD_STOP";
/// R012. `INVALID_ARGUMENT` naming the field `address`.
pub const UNROUTABLE: &str = "UNROUTABLE";
/// R020. `NOT_FOUND` with `id`.
pub const NO_SUCH_SERVER: &str = "NO_SUCH_SERVER";
/// R020. `FAILED_PRECONDITION` with `id`: the leader cannot be given another disk.
pub const LEADS: &str = "LEADS";
/// R020. `FAILED_PRECONDITION` with `id`: a learner cannot lead.
pub const DOES_NOT_VOTE: &str = "DOES_NOT_VOTE";
/// R020. `ALREADY_EXISTS` with `id` and `address`.
pub const ALREADY_THERE: &str = "ALREADY_THERE";
/// R006.
pub const FOREIGN_DATA: &str = "FOREIGN_DATA";
/// R007.
pub const ENTRIES_LOST: &str = "ENTRIES_LOST";
/// R013.
pub const DATA_IN_USE: &str = "DATA_IN_USE";
/// R014. `ABORTED`. May have been applied.
pub const UNKNOWN_OUTCOME: &str = "UNKNOWN_OUTCOME";
/// R014. `FAILED_PRECONDITION` with `session` and `sequence`: it may have been applied when it was first sent.
pub const ANSWERED_LONG_AGO: &str = "ANSWERED_LONG_AGO";
/// R015.
pub const POISON_ENTRY: &str = "POISON_ENTRY";
/// R016.
pub const DISK_FAILED: &str = "DISK_FAILED";
/// R016, and the node goes on once there is room.
pub const DISK_FULL: &str = "DISK_FULL";
/// R017.
pub const DATA_CORRUPT: &str = "DATA_CORRUPT";
/// R017. The state machine does not take its snapshot.
pub const RESTORE_REFUSED: &str = "RESTORE_REFUSED";
/// R018. `INVALID_ARGUMENT` with `size` and `limit`. Not applied.
pub const TOO_LARGE: &str = "TOO_LARGE";
/// R019. `RESOURCE_EXHAUSTED` with RetryInfo. Not applied.
pub const BUSY: &str = "BUSY";
/// R020. `INVALID_ARGUMENT`: not a command of the state machine. Not applied.
pub const REJECTED: &str = "REJECTED";
/// R020.
pub const BAD_CONFIG: &str = "BAD_CONFIG";
/// R021. `FAILED_PRECONDITION` with `session`. Not applied.
pub const SESSION_EXPIRED: &str = "SESSION_EXPIRED";
/// `INVALID_ARGUMENT` naming the `field`. Not applied.
pub const MALFORMED: &str = "MALFORMED";
/// R022. `OUT_OF_RANGE` with `oldest`: a watch asked for changes that are no longer remembered.
pub const REVISION_COMPACTED: &str = "REVISION_COMPACTED";
/// The restart budget is spent.
pub const BUDGET_SPENT: &str = "BUDGET_SPENT";
/// An address or an actor's name could not be had.
pub const NOT_STARTED: &str = "NOT_STARTED";
/// R016. `RESOURCE_EXHAUSTED`: there was no room for a snapshot, or nothing to take one of.
pub const SNAPSHOT_FAILED: &str = "SNAPSHOT_FAILED";
/// `NOT_FOUND`: the node has no snapshot yet.
pub const SNAPSHOT_ABSENT: &str = "SNAPSHOT_ABSENT";
/// `ABORTED`: a later snapshot took the place of the one on its way. Worth another try at once.
pub const SNAPSHOT_REPLACED: &str = "SNAPSHOT_REPLACED";
/// `DEADLINE_EXCEEDED`: who asked for a snapshot took nothing of it for so long that the node has put it away.
pub const SNAPSHOT_STALLED: &str = "SNAPSHOT_STALLED";
