//! A first member whose disk is empty asks the others whether they know it by another disk (SAFETY: M06).
//!
//! Its former disk may hold a vote that it has forgotten. Whoever knows that disk would say so at the first request between
//! them; but a vote may be asked for before that, by one who does not know it. So the node asks by itself, as it starts. For
//! that long, the minimum election timeout, a server that has just started votes for nobody: whoever answers in
//! time is heard before any vote is given.
//!
//! Whoever never heard of that disk counts no vote of this one either (`raft::quorum`), so that nothing rests on this. It is
//! quicker: the operator reads at once what is wrong. And where a majority of empty disks would begin another cluster, one
//! word of a server that knows better prevents it.
//!
//! In a cluster that begins nobody knows anybody, and nobody that is not there yet is waited for longer than that.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

use super::{NodeRef, messages::ConsensusMessage};
use crate::raft::{Address, Incarnation, NodeId};

impl NodeRef {
    /// Right after its start: asks who else is named, if it remembers nothing.
    pub(super) async fn ask_for_former_disk(&self) {
        let (shared, status) = (self.shared(), self.status());
        if status.term > 0 || status.last_index > 0 {
            return;
        }
        let patience = shared.config.election_timeout_min;
        // Where the time is over, it is told by the first request, as any other node.
        if let Ok(Some((peer, known))) = timeout(patience, self.known_by_another_disk()).await {
            let _ = shared.consensus.send(shared.server, ConsensusMessage::ToldWiped { peer, known });
        }
    }

    /// The first who says so, and which disk it knows.
    async fn known_by_another_disk(&self) -> Option<(NodeId, Incarnation)> {
        let (shared, me) = (self.shared(), self.identity().node_id);
        let membership = self.status().membership;
        let peers = membership.addresses().filter(|(id, _)| *id != me);
        let asked = peers.map(|(id, address)| {
            let address: &Address = shared.peer_addresses.get(&id).unwrap_or(address);
            shared.transport.status(me, address)
        });
        let mut answers = asked.collect::<FuturesUnordered<_>>();
        while let Some(answer) = answers.next().await {
            let Ok(answer) = answer else { continue };
            let known = answer.membership.incarnations.get(&me).copied().unwrap_or(0);
            let another = known != 0 && known != shared.incarnation.load(Relaxed);
            if another && answer.cluster_id == self.identity().cluster_id {
                return Some((answer.id, known));
            }
        }
        None
    }
}
