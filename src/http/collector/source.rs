//! Where a node is read.

use std::sync::Arc;

use crate::{node::NodeRef, raft::Address};

/// A node of this process, or one that is reached over gRPC.
#[derive(Clone)]
pub(super) enum Source {
    Own(NodeRef),
    Peer(Address),
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Source::Own(one), Source::Own(other)) => Arc::ptr_eq(one.shared(), other.shared()),
            (Source::Peer(one), Source::Peer(other)) => one == other,
            _ => false,
        }
    }
}
