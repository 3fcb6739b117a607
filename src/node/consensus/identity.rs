//! Who this node and its peers are: their disks, and who was removed (SAFETY: M05, M06, L08).
//!
//! A disk is known by the number that was drawn when it was created. The leader writes into the log which disk each
//! server has, as soon as it has heard it; from then on another disk under that id is refused by all who know.
//!
//! - *A wiped node* is told by the first one that knows its former disk. What it has forgotten may be a vote, so it gives
//!   none from then on, until its own log says that its new disk is the one that is meant: after a replacement.
//! - *A removed node* is told when it campaigns, since those that removed it send it nothing more.

use std::sync::atomic::Ordering::Relaxed;

use super::Consensus;
use crate::{
    error::fix_wiped,
    flow::{Context, Origin},
    node::{
        NodeEvent,
        messages::{ConsensusMessage, NodeMessage},
    },
    raft::{Incarnation, Input, Membership, NodeId, Role},
    transport::Breach,
};

impl Consensus {
    /// A peer answered, and said which disk it has. Where this node leads, or may yet, and the log does not have it, it is
    /// written there.
    pub(super) fn met(
        &mut self,
        peer: NodeId,
        session: u64,
        incarnation: Incarnation,
        context: &mut Context<ConsensusMessage>,
    ) {
        let unknown = || !self.raft.membership().incarnations.contains_key(&peer);
        if incarnation != 0 && self.raft.role() != Role::Follower && unknown() {
            self.step(Input::Met { peer, session, incarnation }, context);
        }
    }

    /// A peer refused a request of this node.
    pub(super) fn refused(&mut self, peer: NodeId, why: Breach, context: &mut Context<ConsensusMessage>) {
        match why {
            Breach::Removed => {
                self.step(Input::ToldRemoved, context);
                self.say_removed(context.origin());
            }
            Breach::Wiped => self.told_wiped(peer, 0, context),
            Breach::Lost | Breach::WrongPeer | Breach::PeerWiped => {}
        }
    }

    /// A peer knows this node by another disk. Where this node's own log knows it by this one, the peer is behind.
    pub(super) fn told_wiped(&mut self, peer: NodeId, known: Incarnation, context: &mut Context<ConsensusMessage>) {
        let (me, own) = (self.shared.id(), self.shared.incarnation.load(Relaxed));
        if self.raft.membership().incarnations.get(&me) == Some(&own) {
            return;
        }
        // It votes for nobody, and that is for itself as well.
        self.step(Input::ToldWiped, context);
        if !self.shared.troubles.wiped.swap(true, Relaxed) {
            tracing::warn!(
                code = "R007",
                peer,
                known = format!("{known:016x}"),
                fix = fix_wiped(me),
                "the cluster knows node {me} by another disk than it has"
            );
            let _ = self.root.send(context.origin(), NodeMessage::Happened(NodeEvent::Wiped));
        }
    }

    /// The membership in force is another: what was said of this node may hold no more, or only now.
    pub(super) fn recognised_by(&self, membership: &Membership, origin: Origin) {
        let (me, own) = (self.shared.id(), self.shared.incarnation.load(Relaxed));
        let troubles = &self.shared.troubles;
        if membership.incarnations.get(&me) == Some(&own) && troubles.wiped.swap(false, Relaxed) {
            tracing::info!(node = me, "the cluster knows this disk now");
        }
        if membership.contains(me) {
            troubles.removed.store(false, Relaxed);
        } else if membership.removed.contains(&me) {
            self.say_removed(origin);
        }
    }

    fn say_removed(&self, origin: Origin) {
        if !self.shared.troubles.removed.swap(true, Relaxed) {
            let me = self.shared.id();
            tracing::warn!(
                code = "R008",
                fix = format!("stop node {me}; an empty one needs an id that was never used"),
                "node {me} was removed from the cluster"
            );
            let _ = self.root.send(origin, NodeMessage::Happened(NodeEvent::Removed));
        }
    }

    /// A peer's disk has less than it acknowledged (L08). It gets nothing more until it is replaced.
    pub(super) fn peer_lost_data(&self, peer: NodeId, origin: Origin) {
        tracing::warn!(
            code = "R007",
            peer,
            fix = format!("`raftkv member replace {peer} ADDR`, then start it with an empty directory and --join"),
            "node {peer} has lost entries that it had acknowledged"
        );
        let _ = self.root.send(origin, NodeMessage::Happened(NodeEvent::PeerLostData { peer }));
    }
}
