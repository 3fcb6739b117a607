//! Passes commands on to the leader, over one connection a leader that is kept between calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    channel::{self, BadAddress},
    client::ClusterClient,
    sockets::Sockets,
};
use crate::{
    error::ProposeError,
    flow::TraceId,
    node::Applied,
    raft::{Address, NodeId, Payload},
};

/// The connections to those who lead or have led. As many as there are addresses in the cluster, at most.
pub(super) struct Leaders {
    sockets: Arc<dyn Sockets>,
    clients: Mutex<BTreeMap<Address, ClusterClient>>,
}

impl Leaders {
    pub fn new(sockets: Arc<dyn Sockets>) -> Self {
        Leaders { sockets, clients: Mutex::default() }
    }

    /// The connection to `address`, kept since the last call or new.
    pub fn client(&self, address: &str, timeout: Duration) -> Result<ClusterClient, BadAddress> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let client = ClusterClient::over(channel::lazy_over(&*self.sockets, address)?, timeout);
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// Closes the connections, once the calls on them are answered.
    pub fn clear(&self) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Proposes `payload` at node `to` of this cluster, which must not forward it again.
pub(super) async fn propose(
    client: Result<ClusterClient, BadAddress>,
    cluster_id: u64,
    to: NodeId,
    payload: Payload,
    trace: TraceId,
) -> Result<Applied, ProposeError> {
    // An address that cannot be dialled: the command has not left this node.
    let client = client.map_err(|_| ProposeError::Unavailable { node: to })?;
    match client.of_cluster(cluster_id).propose_payload(to, payload, false, trace).await {
        // A stranger at the leader's address: the leader is not there.
        Err(ProposeError::WrongCluster { .. }) => Err(ProposeError::Unavailable { node: to }),
        answer => answer,
    }
}
