//! What can go wrong for a caller, each with its number, what, why and the fix.
//!
//! The same code stands in the Rust error, the gRPC `reason`, the JSON and the terminal.

use std::time::Duration;

use crate::raft::NodeId;

mod change;
mod node;
mod propose;
mod read;
mod snapshot;
mod watch;

pub use self::{
    change::ChangeError, node::NodeError, propose::ProposeError, read::ReadError, snapshot::SnapshotError,
    watch::WatchError,
};

/// An error's number, `R001` to `R023`. Never reused, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "R{:03}", self.0)
    }
}

fn fix_no_leader(unreachable: &[NodeId], needed: usize) -> String {
    if unreachable.is_empty() {
        return "try again: an election takes a few hundred milliseconds; if it lasts, see with `raftkv status` who is up"
            .to_owned();
    }
    format!("start {} or repair the network, so that {needed} voters reach each other", list(unreachable))
}

fn fix_busy(retry_after: Duration) -> String {
    format!("try again after {retry_after:?}, with fewer calls at a time")
}

fn fix_unavailable(node: NodeId) -> String {
    format!("try again, or ask another node; if it lasts, start node {node}")
}

fn fix_disk_full(node: NodeId) -> String {
    format!("make room on the disk of node {node}; it goes on by itself")
}

/// R007. Which of the two disks is the newer one, the node cannot tell.
pub(crate) fn fix_wiped(node: NodeId) -> String {
    format!(
        "if node {node} was started from a directory that was replaced, stop it and discard that directory; if its disk \
         was lost or exchanged: `raftkv member replace {node} ADDR`"
    )
}

/// R008.
pub(crate) fn fix_removed(node: NodeId) -> String {
    format!("stop node {node}, and ask another one; an empty one needs an id that was never used")
}

fn reach(node: NodeId, unreachable: &[NodeId]) -> String {
    if unreachable.is_empty() {
        return format!("no peer has failed to answer node {node}; it may not have found out yet");
    }
    format!("node {node} cannot reach {}", list(unreachable))
}

fn list(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("node {id}")).collect::<Vec<_>>().join(", ")
}
