//! Which nodes there are to see.

use std::collections::BTreeMap;

use crate::{
    node::NodeRef,
    raft::{Address, NodeId},
};

/// The nodes of a cluster, and which of them is in this process.
#[derive(Clone, Default)]
pub struct View {
    /// The node that is read without the network, and that `/readyz` speaks for. `None`: all are read over gRPC.
    pub node: Option<NodeRef>,
    /// Where each member is, running or not.
    pub members: BTreeMap<NodeId, Address>,
}

impl View {
    /// What this node knows of its cluster.
    pub fn of(node: &NodeRef) -> Self {
        let status = node.status();
        let membership = status.membership;
        let all = [membership.outgoing, membership.learners, membership.voters];
        let mut members: BTreeMap<_, _> = all.into_iter().flatten().collect();
        members.entry(status.id).or_insert(status.address);
        View { node: Some(node.clone()), members }
    }

    /// Whether this member is the node that is read without the network.
    pub(super) fn own(&self, id: NodeId) -> Option<&NodeRef> {
        self.node.as_ref().filter(|node| node.identity().node_id == id && !node.has_stopped())
    }
}
