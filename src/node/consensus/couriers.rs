//! The children of consensus: one election timer, and one replicator for each peer.

use std::sync::Arc;

use ractor::{ActorCell, ActorProcessingErr};

use super::{
    Consensus,
    election_timer::{ElectionTimer, ElectionTimerArguments},
    is_current,
    replicator::{Replicator, ReplicatorArguments},
};
use crate::{
    flow::{Context, Placement},
    node::{
        child::Child,
        messages::{ConsensusMessage, ElectionTimerMessage, ReplicatorMessage},
        shared::Shared,
    },
    raft::{Courier, NodeId},
    transport::Breach,
};

impl Consensus {
    pub(super) fn is_current_replicator(&self, peer: NodeId, context: &mut Context<ConsensusMessage>) -> bool {
        self.replicators.get(&peer).is_some_and(|replicator| is_current(replicator.sender(), context))
    }

    pub(super) fn courier(&self, cell: &ActorCell) -> Option<Courier> {
        if self.election_timer.is(cell.get_id()) {
            return Some(Courier::ElectionTimer);
        }
        let mut replicators = self.replicators.iter();
        replicators.find(|(_, replicator)| replicator.is(cell.get_id())).map(|(peer, _)| Courier::Replicator(*peer))
    }

    /// One replicator for each peer.
    pub(super) async fn follow_membership(
        &mut self,
        context: &mut Context<ConsensusMessage>,
    ) -> Result<(), ActorProcessingErr> {
        self.peers_changed = false;
        let membership = self.raft.membership().clone();
        let me = self.shared.id();
        let gone = self.replicators.keys().copied().filter(|peer| !membership.contains(*peer)).collect::<Vec<_>>();
        for peer in gone {
            if let Some(mut replicator) = self.replicators.remove(&peer) {
                replicator.stop(&context.cell()).await;
            }
        }
        for peer in membership.peers_of(me) {
            if !self.replicators.contains_key(&peer) {
                self.replicators.insert(peer, start_replicator(&self.shared, peer, context).await?);
            }
        }
        self.gauges = self.shared.progress.set_peers(membership.peers_of(me));
        Ok(())
    }

    pub(super) fn reached(&self, peer: NodeId) {
        if self.shared.standing.borrow().unreachable.contains_key(&peer) {
            self.shared.standing.send_modify(|standing| {
                standing.unreachable.remove(&peer);
            });
        }
    }

    pub(super) fn not_reached(&self, peer: NodeId, cause: String, why: Breach) {
        if !self.shared.standing.borrow().unreachable.contains_key(&peer) {
            match why {
                Breach::WrongPeer => tracing::warn!(peer, %cause, "another node answers at a peer's address"),
                Breach::PeerWiped => tracing::warn!(peer, %cause, "a peer has another disk than it had"),
                Breach::Wiped | Breach::Removed => tracing::warn!(peer, %cause, "a peer does not hear this node any more"),
                Breach::Lost => tracing::info!(peer, %cause, "a peer cannot be reached"),
            }
            self.shared.standing.send_modify(|standing| {
                standing.unreachable.insert(peer, cause);
            });
        }
    }
}

pub(super) async fn start_timer(
    shared: &Arc<Shared>,
    seed: u64,
    context: &Context<ConsensusMessage>,
) -> Result<Child<ElectionTimerMessage>, ActorProcessingErr> {
    let arguments = ElectionTimerArguments { shared: shared.clone(), seed, consensus: context.myself().clone() };
    let path = "consensus/election timer";
    Ok(Child::spawn::<ElectionTimer>(&shared.flow, path, Placement::Runtime, arguments, context.cell()).await?)
}

pub(super) async fn start_replicator(
    shared: &Arc<Shared>,
    peer: NodeId,
    context: &Context<ConsensusMessage>,
) -> Result<Child<ReplicatorMessage>, ActorProcessingErr> {
    let arguments = ReplicatorArguments { shared: shared.clone(), peer, consensus: context.myself().clone() };
    let path = format!("consensus/replicator {peer}");
    Ok(Child::spawn::<Replicator>(&shared.flow, path, Placement::Runtime, arguments, context.cell()).await?)
}
