//! The children of consensus: one election timer, one replicator for each peer, and one snapshotter.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{ActorCell, ActorProcessingErr, SpawnErr};
use rand::RngExt;

use super::{
    Consensus,
    election_timer::{ElectionTimer, ElectionTimerArguments},
    is_current,
    replicator::{Replicator, ReplicatorArguments},
    snapshotter::{Snapshotter, SnapshotterArguments},
};
use crate::{
    flow::{self, Context, Placement},
    node::{
        child::Child,
        messages::{ConsensusMessage, ElectionTimerMessage, LogStoreMessage, ReplicatorMessage, SnapshotterMessage},
        shared::Shared,
    },
    raft::{Address, Courier, Input, NodeId},
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
        if self.snapshotter.is(cell.get_id()) {
            return Some(Courier::Snapshotter);
        }
        let mut replicators = self.replicators.iter();
        replicators.find(|(_, replicator)| replicator.is(cell.get_id())).map(|(peer, _)| Courier::Replicator(*peer))
    }

    /// Puts another one in the place of a courier that died. Returns the place, and whether it started.
    pub(super) async fn start_again(
        &mut self,
        courier: Courier,
        context: &Context<ConsensusMessage>,
    ) -> (String, Result<(), ActorProcessingErr>) {
        match courier {
            Courier::ElectionTimer => {
                self.election_timer.gone().await;
                let next = start_timer(&self.shared, self.random.random(), context).await;
                (self.election_timer.path.clone(), next.map(|next| self.election_timer = next))
            }
            Courier::Replicator(peer) => {
                if let Some(former) = self.replicators.get_mut(&peer) {
                    former.gone().await;
                }
                let address = self.addresses.get(&peer).cloned().unwrap_or_default();
                let next = start_replicator(&self.shared, peer, address, &self.log_store, context).await;
                let started = next.map(|next| drop(self.replicators.insert(peer, next)));
                (replicator_path(peer), started)
            }
            Courier::Snapshotter => {
                self.snapshotter.gone().await;
                let next = start_snapshotter(&self.snapshotter_arguments, context).await;
                (self.snapshotter.path.clone(), next.map(|next| self.snapshotter = next))
            }
        }
    }

    /// One replicator for each peer, and for who was removed until it knows. One whose peer has moved starts anew.
    pub(super) async fn follow_membership(
        &mut self,
        context: &mut Context<ConsensusMessage>,
    ) -> Result<(), ActorProcessingErr> {
        self.peers_changed = false;
        let membership = self.raft.membership().clone();
        let mut peers: BTreeMap<_, _> = membership
            .peers_of(self.shared.id())
            .map(|peer| (peer, membership.address(peer).cloned().unwrap_or_default()))
            .collect();
        for (peer, ..) in self.raft.peers() {
            let known = self.addresses.get(&peer).cloned().unwrap_or_default();
            peers.entry(peer).or_insert(known);
        }
        let former = std::mem::replace(&mut self.addresses, peers.clone());
        let mut moved = Vec::new();
        for (peer, address) in former {
            if peers.get(&peer) == Some(&address) {
                continue;
            }
            if let Some(mut replicator) = self.replicators.remove(&peer) {
                replicator.stop(&context.cell()).await;
                moved.push(peer);
            }
        }
        for (peer, address) in &peers {
            if !self.replicators.contains_key(peer) {
                let replicator =
                    start_replicator(&self.shared, *peer, address.clone(), &self.log_store, context).await?;
                self.replicators.insert(*peer, replicator);
            }
        }
        self.doors = peers.keys().map(|peer| (*peer, context.flow().actor(&format!("node {peer}")))).collect();
        self.gauges = self.shared.progress.set_peers(peers.keys().copied());
        self.shared.standing.send_if_modified(|standing| {
            let before = standing.unreachable.len();
            standing.unreachable.retain(|peer, _| peers.contains_key(peer) && !moved.contains(peer));
            standing.unreachable.len() != before
        });
        // What was on its way to the former address may be lost.
        for peer in moved.into_iter().filter(|peer| peers.contains_key(peer)) {
            self.step(Input::Lost(Courier::Replicator(peer)), context);
        }
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
                Breach::Wiped | Breach::Removed => {
                    tracing::warn!(peer, %cause, "a peer does not hear this node any more")
                }
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
    let spawned =
        Child::spawn::<ElectionTimer>(&shared.flow, path, Placement::Runtime, arguments, context.cell()).await;
    spawned.map_err(|error| did_not_start(path, &error))
}

pub(super) async fn start_replicator(
    shared: &Arc<Shared>,
    peer: NodeId,
    address: Address,
    log_store: &flow::Address<LogStoreMessage>,
    context: &Context<ConsensusMessage>,
) -> Result<Child<ReplicatorMessage>, ActorProcessingErr> {
    let (log_store, consensus) = (log_store.clone(), context.myself().clone());
    let arguments = ReplicatorArguments { shared: shared.clone(), peer, address, consensus, log_store };
    let path = replicator_path(peer);
    let spawned = Child::spawn::<Replicator>(&shared.flow, &*path, Placement::Runtime, arguments, context.cell()).await;
    spawned.map_err(|error| did_not_start(&path, &error))
}

pub(super) async fn start_snapshotter(
    arguments: &SnapshotterArguments,
    context: &Context<ConsensusMessage>,
) -> Result<Child<SnapshotterMessage>, ActorProcessingErr> {
    let placement = if arguments.own_thread { Placement::OwnThread } else { Placement::Runtime };
    let (flow, path) = (arguments.shared.flow.clone(), "consensus/snapshotter");
    let spawned = Child::spawn::<Snapshotter>(&flow, path, placement, arguments.clone(), context.cell()).await;
    spawned.map_err(|error| did_not_start(path, &error))
}

fn replicator_path(peer: NodeId) -> String {
    format!("consensus/replicator {peer}")
}

/// A courier that does not start takes consensus with it, and this is what consensus then died of.
fn did_not_start(path: &str, error: &SpawnErr) -> ActorProcessingErr {
    format!("{path} did not start: {error}").into()
}
