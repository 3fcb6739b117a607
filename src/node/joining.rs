//! How a node that nobody named as a first member gets into a cluster: it asks any member which cluster that is, starts
//! with an empty log and an empty membership, so that it is nobody's voter, and asks to be added.
//!
//! What it did once it need not do again: a store that exists says which cluster it belongs to, and a log that names its own
//! node says that it was added.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::NodeRef;
use crate::{
    error::{ChangeError, NodeError},
    node::Status,
    raft::{Address, Change, Incarnation, Membership, NodeId},
    storage::{Storage, StorageError},
    transport::{Order, Transport},
};

/// How long one member may take to say what it is, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Which cluster node `id` joins: the one its store belongs to, or that of the members.
pub(super) async fn cluster_to_join(
    id: NodeId,
    storage: &Arc<dyn Storage>,
    transport: &Arc<dyn Transport>,
    members: &[Address],
    deadline: Instant,
) -> Result<u64, NodeError> {
    if let Some(cluster_id) = owner_of(storage).await? {
        return Ok(cluster_id);
    }
    loop {
        if let Some(status) = newest_status(id, transport, members, deadline).await {
            return match obstacle(id, 0, &status.membership) {
                None => Ok(status.cluster_id),
                Some(cause) => Err(join_error(id, status.cluster_id, cause)),
            };
        }
        if Instant::now() + PAUSE >= deadline {
            let what = format!("node {id} cannot join the cluster of {}", members.join(", "));
            return Err(NodeError::Join { what, cause: ChangeError::Unavailable { node: 0 } });
        }
        sleep(PAUSE).await;
    }
}

/// Whose the store is, if it was ever created.
async fn owner_of(storage: &Arc<dyn Storage>) -> Result<Option<u64>, StorageError> {
    let owner = match storage.blocks() {
        false => storage.owner()?,
        true => {
            let storage = storage.clone();
            let looked = tokio::task::spawn_blocking(move || storage.owner()).await;
            looked.expect("a store that cannot be read is an error, not a panic")?
        }
    };
    Ok(owner.map(|owner| owner.cluster_id))
}

/// Sees to it that the node belongs to its cluster: as a learner at first.
///
/// Who is known to lead is asked first. Nobody gets more than a third of the time that is left: one that does not answer,
/// or that passes the order on to somebody who does not, must not stand in the way of the others.
pub(super) async fn be_added(node: &NodeRef, address: &str, members: &[Address]) -> Result<(), NodeError> {
    let (identity, shared) = (node.identity().clone(), node.shared().clone());
    let id = identity.node_id;
    let deadline = Instant::now() + shared.config.request_timeout;
    let add = Order::Change(Change::Add { id, address: address.to_owned(), promote: true });
    loop {
        let known = shared.standing.borrow().membership.clone();
        if known.contains(id) || known.removed.contains(&id) {
            return Ok(());
        }
        let mut refused = ChangeError::Unavailable { node: 0 };
        let mut asked = members.to_vec();
        if let Some(status) = newest_status(id, &shared.transport, members, deadline).await {
            if status.cluster_id != identity.cluster_id {
                let (node, cluster, found) = (status.id, status.cluster_id, identity.cluster_id);
                return Err(join_error(id, found, ChangeError::WrongCluster { node, cluster, found }));
            }
            if let Some(cause) = obstacle(id, node.incarnation(), &status.membership) {
                return Err(join_error(id, identity.cluster_id, cause));
            }
            if status.membership.contains(id) {
                return Ok(());
            }
            if let Some(leader) = status.leader
                && let Some(address) = shared.peer_addresses.get(&leader).or(status.membership.address(leader))
            {
                asked.retain(|member| member != address);
                asked.insert(0, address.clone());
            }
        }
        for member in &asked {
            let patience = share_of(deadline);
            let answer = timeout(patience, shared.transport.order(&identity, member, add.clone(), true)).await;
            let late = |_| Err(ChangeError::Unknown { reason: format!("{member} did not answer within {patience:?}") });
            let Err(error) = answer.unwrap_or_else(late) else { return Ok(()) };
            // A member that takes no part itself; another one may.
            let out_of_place = matches!(error, ChangeError::NodeWiped { .. } | ChangeError::NodeRemoved { .. });
            if !error.may_pass() && !error.may_have_been_made() && !out_of_place {
                return Err(join_error(id, identity.cluster_id, error));
            }
            // What one of them may have done is not undone by another one that has not.
            if !refused.may_have_been_made() {
                refused = error;
            }
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(join_error(id, identity.cluster_id, refused));
        }
        sleep(PAUSE).await;
    }
}

/// Why a node with this disk cannot be `id` in a cluster with these servers. 0: the disk is yet to be created.
fn obstacle(id: NodeId, incarnation: Incarnation, membership: &Membership) -> Option<ChangeError> {
    if membership.removed.contains(&id) {
        return Some(ChangeError::Removed { id });
    }
    let known = membership.incarnations.get(&id)?;
    let address = membership.address(id)?.clone();
    (*known != incarnation).then_some(ChangeError::DiskReplaced { id, address })
}

fn join_error(id: NodeId, cluster_id: u64, cause: ChangeError) -> NodeError {
    NodeError::Join { what: format!("node {id} cannot join cluster {cluster_id:016x}"), cause }
}

/// How long one may take of the time that is left, so that enough of it is left for the others.
fn share_of(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 3
}

/// What the one says that knows most.
async fn newest_status(
    id: NodeId,
    transport: &Arc<dyn Transport>,
    members: &[Address],
    deadline: Instant,
) -> Option<Status> {
    let patience = share_of(deadline).min(PATIENCE);
    let asked = members.iter().map(|member| timeout(patience, transport.status(id, member)));
    let answers = join_all(asked).await.into_iter().filter_map(|answer| answer.ok()?.ok());
    // One that was never started, or waits to be added itself, knows nothing.
    answers.filter(|status| !status.membership.voters.is_empty()).max_by_key(|status| status.commit_index)
}
