//! What a script can say.

use ractor_raft::raft::{NodeId, Term};

/// What a script can say.
#[derive(goldenscript::Command)]
pub enum Command {
    /// n1, n2, … nN, all voters, with empty disks. With `stopped=true` none is started yet.
    Cluster {
        #[arg(key)]
        nodes: u64,
        #[arg(key, optional)]
        stopped: bool,
        /// Their disks have numbers: 11, 22, 33, …
        #[arg(key, optional)]
        numbered: bool,
        /// A snapshot is due after so many entries.
        #[arg(key)]
        threshold: Option<u64>,
        /// So many entries stay behind one.
        #[arg(key)]
        trailing: Option<u64>,
        /// In milliseconds.
        #[arg(key)]
        disk_timeout: Option<u64>,
    },
    /// A stopped server's disk: its term, and the terms along its log.
    Disk {
        id: NodeId,
        #[arg(key)]
        term: Term,
        #[arg(optional)]
        log: Vec<Term>,
    },
    /// This server's writes stay in flight until `persist`.
    SlowDisk {
        id: NodeId,
    },
    /// The write in flight reaches the disk.
    Persist {
        id: NodeId,
    },
    /// Rings the alarm that is set, when it is due at the latest: an election, or a heartbeat.
    Timeout {
        id: NodeId,
    },
    /// An alarm of this epoch rings, late.
    LateTimeout {
        id: NodeId,
        #[arg(key)]
        epoch: u64,
    },
    /// Time passes.
    Wait {
        milliseconds: u64,
    },
    /// Delivers what is on its way now, not what that leads to.
    Deliver {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
        #[arg(key)]
        only: Option<usize>,
    },
    /// Delivers until nothing is on its way.
    Stabilize,
    /// Loses what is on its way, and tells nobody.
    Drop {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
    },
    /// What is on its way will come twice.
    Repeat {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
    },
    /// What is on its way comes in reverse order.
    Reverse,
    /// What is on its way, in order.
    Network,
    /// The connection breaks: what is on it gets lost, and the caller is told.
    Break {
        from: NodeId,
        to: NodeId,
    },
    /// Nothing passes between these and the others, until `heal`.
    Partition {
        ids: Vec<NodeId>,
    },
    /// Ends the partition.
    Heal,
    Propose {
        id: NodeId,
        command: String,
    },
    Read {
        id: NodeId,
    },
    /// The leader asks another server to take over.
    Transfer {
        from: NodeId,
        to: NodeId,
    },
    /// With `write_survives=true` the write in flight reached the disk just before.
    Crash {
        id: NodeId,
        #[arg(key, optional)]
        write_survives: bool,
    },
    Restart {
        ids: Vec<NodeId>,
    },
    /// A replicator dies and is started again; without a peer, the election timer or the snapshotter does.
    Lose {
        id: NodeId,
        peer: Option<NodeId>,
        #[arg(key, optional)]
        snapshotter: bool,
    },
    /// Shows the orders to the timer too.
    ShowTimers,
    /// Shows what becomes of the membership too.
    ShowMemberships,
    Status,
    /// The log of each of these; of all where none is named.
    Log {
        #[arg(optional)]
        ids: Vec<NodeId>,
    },
    /// A server that belongs to nothing yet, with an empty disk of this number; or another disk for one that is there.
    NewDisk {
        id: NodeId,
        #[arg(key, optional)]
        incarnation: u64,
    },
    /// An operator asks `id` for a new learner, which will vote with `promote=true`.
    Add {
        id: NodeId,
        server: NodeId,
        #[arg(key, optional)]
        promote: bool,
    },
    Promote {
        id: NodeId,
        server: NodeId,
    },
    Remove {
        id: NodeId,
        server: NodeId,
    },
    Replace {
        id: NodeId,
        server: NodeId,
    },
    /// A peer has answered in this session, with this disk.
    Met {
        id: NodeId,
        peer: NodeId,
        incarnation: u64,
        #[arg(key)]
        session: u64,
    },
    ToldRemoved {
        id: NodeId,
    },
    /// An operator asks `id` to hand over, to `to` or to the best.
    HandOver {
        id: NodeId,
        #[arg(key)]
        to: Option<NodeId>,
    },
    TakeSnapshot {
        id: NodeId,
    },
    /// This server sends its finished snapshot, though nobody needs it.
    Install {
        from: NodeId,
        to: NodeId,
    },
    /// This server's snapshots wait for `snapshot_step` and `fail_snapshot`.
    SlowSnapshots {
        id: NodeId,
    },
    /// A snapshot is written, or loaded, or a chunk of one stored.
    SnapshotStep {
        id: NodeId,
    },
    /// There was no room for the snapshot.
    FailSnapshot {
        id: NodeId,
    },
    DiskFull {
        id: NodeId,
    },
    DiskFreed {
        id: NodeId,
    },
    LeaseRead {
        id: NodeId,
    },
    OpenSession {
        id: NodeId,
    },
    /// A command under a session.
    Call {
        id: NodeId,
        session: u64,
        sequence: u64,
        command: String,
    },
    /// What each server stands on and has applied, and who belongs to the cluster.
    Standing,
}
