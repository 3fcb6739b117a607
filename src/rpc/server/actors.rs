//! The supervision tree of a node on its way to an operator.

use crate::{
    node::NodeRef,
    rpc::{convert, pb},
};

pub(super) fn tree(node: &NodeRef) -> pb::ActorsReply {
    let actors = node.tree().iter().map(convert::actor_to_pb).collect();
    let (clock, id) = (convert::flow_clock(node.flow()), node.identity().node_id);
    pb::ActorsReply { clock: Some(clock), node: id, above: node.above(), actors }
}
