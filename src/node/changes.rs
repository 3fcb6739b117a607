//! The caller's side of an operator's order: other servers, another leader.
//!
//! An order goes to the leader, wherever it is given, and is given again for as long as `request_timeout` says where that
//! can do no harm: after an answer that says "not made", and, since making a change twice is making it once, after most
//! that do not know.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    NodeRef,
    admission::Denied,
    messages::ConsensusMessage,
    ports::ChangePort,
    shared::{Shared, Standing},
};
use crate::{
    error::ChangeError,
    flow::{Envelope, Origin},
    raft::{Address, Change, LogIndex, Membership, NodeId},
    transport::Order,
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a wait looks whether the node has stopped.
const GLANCE: Duration = Duration::from_millis(200);

impl NodeRef {
    /// Adds a server: it begins as a learner, and becomes a voter once it has caught up, so that availability never drops
    /// (thesis §4.2.1). Returns when it is a voter. On any node.
    ///
    /// The server may be started before or after, with [`join`](super::Builder::join).
    ///
    /// # Errors
    /// [`ChangeError`]. [`NotCaughtUp`](ChangeError::NotCaughtUp): it has come no closer for
    /// [`snapshot_timeout`](crate::Config::snapshot_timeout); it belongs to the cluster, and will still vote as soon as it
    /// has caught up.
    pub async fn add_server(&self, id: NodeId, address: impl Into<Address>) -> Result<(), ChangeError> {
        self.change_membership(Change::Add { id, address: address.into(), promote: true }).await?;
        self.shared().until_voter(id).await
    }

    /// Adds a server that receives the log and serves reads, and does not vote.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, id: NodeId, address: impl Into<Address>) -> Result<(), ChangeError> {
        self.change_membership(Change::Add { id, address: address.into(), promote: false }).await.map(drop)
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn promote_server(&self, id: NodeId) -> Result<(), ChangeError> {
        self.change_membership(Change::Promote { id }).await.map(drop)
    }

    /// Removes a server, for good: its id is never used again. A leader that removes itself hands over.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_server(&self, id: NodeId) -> Result<(), ChangeError> {
        self.change_membership(Change::Remove { id }).await.map(drop)
    }

    /// Gives an id whose disk is gone to another disk, at this address. The server leaves the voters, comes back as a
    /// learner, and votes again once it has caught up, if it did before. Returns when it votes.
    ///
    /// After an answer that does not know whether it was made, the same order may be given again: a disk that has
    /// come meanwhile leaves the voters once more, and is taken in again as it is.
    ///
    /// # Errors
    /// As for [`add_server`](NodeRef::add_server).
    pub async fn replace_server(&self, id: NodeId, address: impl Into<Address>) -> Result<(), ChangeError> {
        self.change_membership(Change::Replace { id, address: address.into() }).await?;
        let stays_learner = {
            let standing = self.shared().standing.borrow();
            let Membership { learners, staged, .. } = &standing.membership;
            learners.contains_key(&id) && !staged.contains(&id)
        };
        if stays_learner { Ok(()) } else { self.shared().until_voter(id).await }
    }

    /// Makes any change of the cluster's servers, and returns its place in the log once it is committed. On any node:
    /// it is passed on to the leader. What was made already is made again without harm.
    ///
    /// # Errors
    /// [`ChangeError`] says whether it may have been made all the same.
    pub async fn change_membership(&self, change: Change) -> Result<LogIndex, ChangeError> {
        self.order(self.identity().cluster_id, Order::Change(change), true).await
    }

    /// Hands the leadership over (thesis §3.10): to this server, or with `None` to whoever has most of the log. Returns
    /// when it leads, as far as this node knows. Writes that come meanwhile wait; none is lost.
    ///
    /// # Errors
    /// [`TransferFailed`](ChangeError::TransferFailed): the leadership stays, after an election timeout; at once, where
    /// the log does not name that server's disk yet.
    pub async fn transfer_leadership(&self, to: impl Into<Option<NodeId>>) -> Result<(), ChangeError> {
        let (shared, to) = (self.shared(), to.into());
        let before = shared.standing.borrow().leader;
        self.order(self.identity().cluster_id, Order::Transfer(to), true).await?;
        // It was answered by the one that gave way; let this node see who follows.
        let done = |standing: &Standing| match to {
            Some(to) => standing.leader == Some(to),
            None => standing.leader.is_some() && standing.leader != before,
        };
        let seen = shared.until(&shared.leader_known, |standing| done(standing).then_some(Ok(())));
        timeout(2 * shared.config.election_timeout_max, seen).await.unwrap_or(Ok(()))
    }

    /// Carries an operator's order out, if it is for this cluster (0: for any). Where this node does not lead: passes it on,
    /// or says who does.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn order(&self, cluster_id: u64, order: Order, forward: bool) -> Result<LogIndex, ChangeError> {
        let own = self.identity();
        if cluster_id != 0 && cluster_id != own.cluster_id {
            return Err(ChangeError::WrongCluster { node: own.node_id, cluster: own.cluster_id, found: cluster_id });
        }
        if let Order::Change(Change::Add { id, address, .. } | Change::Replace { id, address }) = &order
            && let Some(cause) = unroutable(address)
        {
            return Err(ChangeError::Unroutable { id: *id, address: address.clone(), cause });
        }
        self.shared().order(order, forward).await
    }
}

impl Shared {
    /// Gives the order until it is carried out, refused for good, or the time is up.
    async fn order(&self, order: Order, forward: bool) -> Result<LogIndex, ChangeError> {
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        // A change that another one stands in the way of waits for as long as an ordinary one takes; where nobody leads, for an
        // election. A node that was wiped would wait for ever: whoever asked goes to another one.
        let patience = began + self.patience();
        let mut may_be_ours = false;
        loop {
            let refused = match self.order_once(order.clone(), deadline).await {
                Err(ChangeError::NotLeader { leader, .. }) if forward => {
                    self.pass_on(leader, order.clone(), deadline).await
                }
                answer => answer,
            };
            let again = match &refused {
                Ok(_) => return refused,
                Err(ChangeError::NotLeader { .. }) => forward,
                Err(ChangeError::UnderWay { .. } | ChangeError::NoLeader { .. }) => {
                    may_be_ours || Instant::now() < patience
                }
                Err(ChangeError::Unknown { .. }) => {
                    may_be_ours = true;
                    may_be_repeated(&order)
                }
                Err(error) => error.may_pass(),
            };
            if !again || self.verdict.get().is_some() || Instant::now() + PAUSE >= deadline {
                return refused;
            }
            sleep(PAUSE).await;
        }
    }

    async fn order_once(&self, order: Order, deadline: Instant) -> Result<LogIndex, ChangeError> {
        let node = self.id();
        let permit = self.admission.admit(0).map_err(|denied| match denied {
            Denied::Closed => ChangeError::Unavailable { node },
            Denied::Busy(limit) => self.change_busy(limit),
        })?;
        let (port, answer) = ChangePort::new(permit, node);
        let message = match order {
            Order::Change(change) => ConsensusMessage::ChangeMembership { change, port },
            Order::Transfer(to) => ConsensusMessage::TransferLeadership { to, port },
        };
        self.submit(Envelope::new(Origin { trace: self.flow.new_trace(), ..self.client }, message));
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ChangeError::Unknown { reason: format!("node {node} dropped the order") }),
            Err(_) => Err(self.order_late("it was not committed")),
        }
    }

    async fn pass_on(&self, leader: NodeId, order: Order, deadline: Instant) -> Result<LogIndex, ChangeError> {
        let Some(address) = self.address_of(leader) else { return Err(self.change_not_leader(None)) };
        match self.order_of(leader, &address, order.clone(), deadline).await {
            // Whoever was removed hears of no later leader: the one that it took for the leader knows more.
            Err(ChangeError::NotLeader { leader: next, address, .. }) if next != leader && next != self.id() => {
                self.order_of(next, &address, order, deadline).await
            }
            answer => answer,
        }
    }

    /// Gives the order to another node, which carries it out itself or refuses it.
    async fn order_of(
        &self,
        id: NodeId,
        address: &Address,
        order: Order,
        deadline: Instant,
    ) -> Result<LogIndex, ChangeError> {
        let address = self.peer_addresses.get(&id).unwrap_or(address);
        match timeout_at(deadline, self.transport.order(&self.identity, address, order, false)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.order_late(&format!("node {id} did not answer"))),
        }
    }

    fn order_late(&self, what: &str) -> ChangeError {
        ChangeError::Unknown { reason: format!("{what} within {:?} (request_timeout)", self.config.request_timeout) }
    }

    /// Waits until this node's log says that `id` votes, for as long as it comes closer.
    async fn until_voter(&self, id: NodeId) -> Result<(), ChangeError> {
        let (mut closest, mut progressed) = (0, Instant::now());
        loop {
            let voter = self.until(&self.membership_known, |standing| {
                let membership = &standing.membership;
                if membership.removed.contains(&id) {
                    return Some(Err(ChangeError::Removed { id }));
                }
                (membership.voters.contains_key(&id) && !membership.is_joint()).then_some(Ok(()))
            });
            if let Ok(done) = timeout(GLANCE, voter).await {
                return done;
            }
            let match_index = self.match_index(id).await;
            if match_index > closest {
                (closest, progressed) = (match_index, Instant::now());
            } else if progressed.elapsed() >= self.config.snapshot_timeout {
                return Err(ChangeError::NotCaughtUp { id, match_index: closest });
            }
        }
    }

    /// How much of the log a server has, as the leader knows it. 0: it is not known.
    async fn match_index(&self, id: NodeId) -> LogIndex {
        let mut status = self.status();
        if let Some((leader, address)) = self.other_leader() {
            let address = self.peer_addresses.get(&leader).unwrap_or(&address);
            let asked = timeout(self.config.election_timeout_max, self.transport.status(self.id(), address)).await;
            let Ok(Ok(answer)) = asked else { return 0 };
            status = answer;
        }
        status.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.match_index)
    }

    fn other_leader(&self) -> Option<(NodeId, Address)> {
        let leader = self.standing.borrow().leader.filter(|leader| *leader != self.id())?;
        Some((leader, self.address_of(leader)?))
    }

    /// Waits until `condition` gives something about what this node is. It is looked at when `told`, and now and then.
    async fn until<T>(
        &self,
        told: &Notify,
        mut condition: impl FnMut(&Standing) -> Option<Result<T, ChangeError>>,
    ) -> Result<T, ChangeError> {
        loop {
            let changed = told.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let standing = self.standing.borrow().clone();
            if let Some(done) = condition(&standing) {
                return done;
            }
            if self.verdict.get().is_some() {
                return Err(ChangeError::Unavailable { node: self.id() });
            }
            let _ = timeout(GLANCE, changed).await;
        }
    }
}

/// A second replacement would take the vote away from the disk that the first one has brought, until it has caught up again:
/// whether that is worth it is for whoever gave the order.
fn may_be_repeated(order: &Order) -> bool {
    matches!(order, Order::Change(Change::Add { .. } | Change::Promote { .. } | Change::Remove { .. }))
}

/// Why nobody could dial this (R012). Names are for the network to judge.
pub(crate) fn unroutable(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "1"));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Some("it names no host".to_owned());
    }
    if bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Some(format!("{host} says where to listen, not where to dial"));
    }
    if port == "0" {
        return Some("port 0 lets the system choose a port, and the others cannot know which".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: either comparison is left out.
    #[test]
    fn what_nobody_could_dial_is_refused() {
        for address in ["0.0.0.0:7001", "[::]:7001", ":7001", "", "10.0.0.1:0"] {
            assert!(unroutable(address).is_some(), "{address}");
        }
        for address in ["10.0.0.1:7001", "[::1]:7001", "node-4.example:7001", "n4:1", "typed/1"] {
            assert_eq!(unroutable(address), None, "{address}");
        }
    }
}
