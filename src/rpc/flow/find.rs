//! Where the nodes of a cluster are, from any of them.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Unreachable, answered, ask_all, client, pb};
use crate::raft::{Address, NodeId};

/// Where the nodes are, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The members, and whoever answered besides, each at an address at which it can be asked.
    pub nodes: BTreeMap<NodeId, Address>,
    /// Who leads, as the one says that knows the latest term.
    pub leader: Option<NodeId>,
    /// The addresses that were given at which nobody answered.
    pub unreachable: Vec<Unreachable>,
}

impl Found {
    /// Where they are, the leader's address first.
    pub fn addresses(&self) -> Vec<Address> {
        let leader = self.leader.and_then(|leader| self.nodes.get(&leader));
        let others = self.nodes.iter().filter(|(id, _)| Some(**id) != self.leader).map(|(_, address)| address);
        leader.into_iter().chain(others).cloned().collect()
    }
}

/// Asks all `endpoints` at once who belongs to the cluster. One that answers is known at that address from there on, whatever
/// the membership says: it may be a proxy's. `nodes` is empty if nobody answers within `patience`.
pub async fn find(endpoints: &[Address], patience: Duration) -> Found {
    let deadline = Instant::now() + patience;
    let (answers, unreachable) = ask_all(endpoints, |address| async move {
        let mut client = client(&address)?;
        Ok(answered(deadline, client.status(pb::StatusRequest {})).await?.into_inner())
    })
    .await;
    let newest = answers.iter().map(|(_, status)| status).max_by_key(|status| (status.term, status.commit));
    let Some(newest) = newest else { return Found { unreachable, ..Found::default() } };
    let members = newest.voters.iter().chain(&newest.learners);
    let mut nodes: BTreeMap<_, _> = members.map(|member| (member.id, member.address.clone())).collect();
    let of_cluster = answers.iter().filter(|(_, status)| status.cluster_id == newest.cluster_id);
    nodes.extend(of_cluster.map(|(address, status)| (status.id, address.clone())));
    let leader = (newest.leader != 0).then_some(newest.leader);
    Found { nodes, leader, unreachable }
}
