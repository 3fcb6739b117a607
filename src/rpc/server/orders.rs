//! What operators order over gRPC: checked, translated, and given to the node.

use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::wants_forwarding;
use crate::{
    node::NodeRef,
    raft::{Change, NodeId},
    rpc::{
        convert::{Malformed, check_id},
        pb,
    },
    transport::Order,
};

pub(super) async fn add_server(
    node: &NodeRef,
    request: Request<pb::AddServerRequest>,
) -> Result<Response<pb::ChangeReply>, Status> {
    let (metadata, _, pb::AddServerRequest { id, address, learner, cluster_id }) = request.into_parts();
    let change = Change::Add { id: check_id("id", id)?, address: check_address(address)?, promote: !learner };
    carry_out(node, &metadata, cluster_id, change).await
}

pub(super) async fn remove_server(
    node: &NodeRef,
    request: Request<pb::RemoveServerRequest>,
) -> Result<Response<pb::ChangeReply>, Status> {
    let (metadata, _, pb::RemoveServerRequest { id, cluster_id }) = request.into_parts();
    carry_out(node, &metadata, cluster_id, Change::Remove { id: check_id("id", id)? }).await
}

pub(super) async fn promote_server(
    node: &NodeRef,
    request: Request<pb::PromoteServerRequest>,
) -> Result<Response<pb::ChangeReply>, Status> {
    let (metadata, _, pb::PromoteServerRequest { id, cluster_id }) = request.into_parts();
    carry_out(node, &metadata, cluster_id, Change::Promote { id: check_id("id", id)? }).await
}

pub(super) async fn replace_server(
    node: &NodeRef,
    request: Request<pb::ReplaceServerRequest>,
) -> Result<Response<pb::ChangeReply>, Status> {
    let (metadata, _, pb::ReplaceServerRequest { id, address, cluster_id }) = request.into_parts();
    let change = Change::Replace { id: check_id("id", id)?, address: check_address(address)? };
    carry_out(node, &metadata, cluster_id, change).await
}

async fn carry_out(
    node: &NodeRef,
    metadata: &MetadataMap,
    cluster_id: u64,
    change: Change,
) -> Result<Response<pb::ChangeReply>, Status> {
    let index = node.order(cluster_id, Order::Change(change), wants_forwarding(metadata)).await?;
    Ok(Response::new(pb::ChangeReply { index }))
}

pub(super) async fn transfer_leadership(
    node: &NodeRef,
    request: Request<pb::TransferLeadershipRequest>,
) -> Result<Response<pb::TransferLeadershipReply>, Status> {
    let (metadata, _, pb::TransferLeadershipRequest { to, cluster_id }) = request.into_parts();
    let to: Option<NodeId> = (to != 0).then_some(to);
    node.order(cluster_id, Order::Transfer(to), wants_forwarding(&metadata)).await?;
    Ok(Response::new(pb::TransferLeadershipReply {}))
}

/// What gRPC can dial; whether it leads anywhere the node judges.
fn check_address(address: String) -> Result<String, Malformed> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(address),
        None => Err(Malformed::new("address", format!("is {address:?}, which is not HOST:PORT"))),
    }
}
