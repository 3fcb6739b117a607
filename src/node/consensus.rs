//! Drives the rules: turns messages into inputs of [`Raft`], and its effects into messages.
//!
//! Parent: node. Restart: with the other keepers, from disk.
//! Hears: Propose, OpenSession, ProposeInSession, Read, ChangeMembership, TransferLeadership (by the admission queue, after
//! CallsWaiting), TakeSnapshot; Request and ToldWiped from the server; Timeout from the election timer; Delivered,
//! Undelivered from the replicators; Persisted, DiskFull, DiskFreed, ChunkStored from the log store; Applied, Restored from
//! the applier; SnapshotWritten, SnapshotFailed from the snapshotter.
//! Says: SetTimer, Deliver, DeliverSnapshot, Persist, Condemn, StoreChunk, Apply, TakeSnapshot, Restore; RoleChanged,
//! MembershipChanged, CourierRestarted, Happened to node.
//! Lost in a crash: the ports of the calls under way. Each answers by itself when it is dropped.
//!
//! A courier that dies is started again at once, the core is told, and so is the root, who keeps the budget. What an
//! earlier life of a courier reported is dropped.

mod calls;
mod chunks;
mod couriers;
mod effects;
mod election_timer;
mod identity;
mod observed;
mod orders;
mod proposals;
mod replicator;
mod snapshots;
mod snapshotter;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ractor::{ActorCell, ActorProcessingErr};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::oneshot;

use self::{
    calls::Call,
    couriers::{start_snapshotter, start_timer},
    proposals::Gathered,
    snapshots::Stopping,
    snapshotter::SnapshotterArguments,
};
use crate::{
    flow::{self, Actor, ActorId, Context, Sender, TraceId},
    node::{
        admission::TakenCalls,
        applier::Factory,
        child::Child,
        messages::{
            ApplierMessage, ConsensusMessage, ElectionTimerMessage, LogStoreMessage, NodeMessage, ReplicatorMessage,
            SnapshotterMessage,
        },
        ports::ReadPort,
        shared::{PeerGauge, Shared},
        traces::Traces,
    },
    raft::{Address, CallId, Effect, Input, LogIndex, NodeId, Payload, Raft, Recovered, Reply, Request, Settings},
    storage::Storage,
};

pub(crate) struct ConsensusArguments {
    pub shared: Arc<Shared>,
    pub recovered: Recovered,
    /// All chance below comes from it.
    pub seed: u64,
    pub root: flow::Address<NodeMessage>,
    pub log_store: flow::Address<LogStoreMessage>,
    pub applier: flow::Address<ApplierMessage>,
    pub storage: Arc<dyn Storage>,
    pub factory: Factory,
}

pub(crate) struct Consensus {
    shared: Arc<Shared>,
    raft: Raft,
    /// Who waits for an answer of the core.
    calls: BTreeMap<CallId, Call>,
    last_call: CallId,
    /// What is to be done when the write of this number is on disk.
    after_write: Option<(u64, Vec<Effect>)>,
    traces: Traces,
    intake: TakenCalls,
    random: SmallRng,
    root: flow::Address<NodeMessage>,
    log_store: flow::Address<LogStoreMessage>,
    applier: flow::Address<ApplierMessage>,
    election_timer: Child<ElectionTimerMessage>,
    replicators: BTreeMap<NodeId, Child<ReplicatorMessage>>,
    snapshotter: Child<SnapshotterMessage>,
    /// What each life of it starts from.
    snapshotter_arguments: SnapshotterArguments,
    stopping: Stopping,
    /// The last entry of the snapshot that came from the leader in this life and is not restored yet.
    received: Option<LogIndex>,
    gauges: BTreeMap<NodeId, Arc<PeerGauge>>,
    /// Where each replicator delivers.
    addresses: BTreeMap<NodeId, Address>,
    /// What the other servers are called in the message flow.
    doors: BTreeMap<NodeId, ActorId>,
    /// Empty between two steps; kept for its room.
    effects: Vec<Effect>,
    /// Empty between two messages; kept for its room.
    gathered: Gathered,
    /// The membership changed: the replicators must follow.
    peers_changed: bool,
    /// When the calls that nobody waits for were let go last.
    swept: Duration,
}

impl Actor for Consensus {
    type Message = ConsensusMessage;
    type Arguments = ConsensusArguments;

    async fn start(
        arguments: ConsensusArguments,
        context: &mut Context<ConsensusMessage>,
    ) -> Result<Self, ActorProcessingErr> {
        let ConsensusArguments { shared, recovered, seed, root, log_store, applier, storage, factory } = arguments;
        let intake = shared.intake.take().ok_or("an earlier consensus has not ended")?;
        let mut random = SmallRng::seed_from_u64(seed);
        let timer = start_timer(&shared, random.random(), context).await?;
        let stopping = Stopping(Arc::default());
        let snapshotter_arguments = SnapshotterArguments {
            shared: shared.clone(),
            snapshots: storage.snapshots(),
            factory,
            own_thread: storage.blocks(),
            stopping: stopping.0.clone(),
            root: root.clone(),
            consensus: context.myself().clone(),
            applier: applier.clone(),
        };
        let snapshotter = start_snapshotter(&snapshotter_arguments, context).await?;
        let mut effects = Vec::new();
        let raft = Raft::new(settings(&shared), recovered, shared.clock.now(), &mut effects);
        let mut consensus = Consensus {
            shared,
            raft,
            calls: BTreeMap::new(),
            last_call: 0,
            after_write: None,
            traces: Traces::default(),
            intake,
            random,
            root,
            log_store,
            applier,
            election_timer: timer,
            replicators: BTreeMap::new(),
            snapshotter,
            snapshotter_arguments,
            stopping,
            received: None,
            gauges: BTreeMap::new(),
            addresses: BTreeMap::new(),
            doors: BTreeMap::new(),
            effects: Vec::new(),
            gathered: Gathered::default(),
            peers_changed: false,
            swept: Duration::ZERO,
        };
        let myself = context.myself();
        let _ = context.send(&consensus.log_store, LogStoreMessage::ReportTo(myself.clone()));
        let _ = context.send(&consensus.applier, ApplierMessage::ReportTo(myself.clone()));
        consensus.follow_membership(context).await?;
        consensus.show_observer(&effects, None, true, context);
        consensus.carry_out(effects, context);
        consensus.show();
        Ok(consensus)
    }

    async fn handle(
        &mut self,
        message: ConsensusMessage,
        context: &mut Context<ConsensusMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConsensusMessage::CallsWaiting => self.take_calls(context),
            other => self.hear(other, context),
        }
        self.propose_gathered(context);
        if self.peers_changed {
            self.follow_membership(context).await?;
        }
        self.show();
        Ok(())
    }

    async fn child_stopped(
        &mut self,
        child: ActorCell,
        cause: String,
        context: &mut Context<ConsensusMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(courier) = self.courier(&child) else { return Ok(()) };
        tracing::warn!(%courier, %cause, "a courier died and is started again");
        let (path, started) = self.start_again(courier, context).await;
        // Where it did not start it is started with the keepers, since consensus falls for it, and says why.
        started.map_err(|error| format!("{error} (it had died before: {cause})"))?;
        let _ = context.send(&self.root, NodeMessage::CourierRestarted { path, cause });
        self.step(Input::Lost(courier), context);
        self.show();
        Ok(())
    }

    async fn stop(&mut self, context: &mut Context<ConsensusMessage>) {
        let me = context.cell();
        self.stopping.say();
        for (_, mut replicator) in std::mem::take(&mut self.replicators).into_iter().rev() {
            replicator.stop(&me).await;
        }
        self.snapshotter.stop(&me).await;
        self.election_timer.stop(&me).await;
    }
}

impl Consensus {
    fn hear(&mut self, message: ConsensusMessage, context: &mut Context<ConsensusMessage>) {
        match message {
            ConsensusMessage::Propose { command, port } => self.propose(Payload::Command(command), port, context),
            ConsensusMessage::OpenSession { port } => self.propose(Payload::OpenSession, port, context),
            ConsensusMessage::ProposeInSession { commands } => self.gather(commands, context),
            ConsensusMessage::Read { lease, port } => self.read(lease, port, context),
            ConsensusMessage::ChangeMembership { change, port } => {
                self.order(port, context, |call| Input::ChangeMembership { call, change });
            }
            ConsensusMessage::TransferLeadership { to, port } => {
                self.order(port, context, |call| Input::TransferLeadership { call, to });
            }
            ConsensusMessage::Request { from, request, traces, port } => {
                self.request(from, request, traces, port, context);
            }
            ConsensusMessage::Timeout { epoch } => {
                if is_current(self.election_timer.sender(), context) {
                    self.let_go_of_abandoned();
                    self.step(Input::Timeout { epoch }, context);
                }
            }
            ConsensusMessage::Delivered { peer, session, incarnation, reply } => {
                if self.is_current_replicator(peer, context) {
                    self.reached(peer);
                    // First whose disk it is: what the answer leads to may rest on it.
                    self.met(peer, session, incarnation, context);
                    self.step(Input::Response { from: peer, session, reply }, context);
                }
            }
            ConsensusMessage::Undelivered { peer, cause, why } => {
                if self.is_current_replicator(peer, context) {
                    self.not_reached(peer, cause, why);
                    self.step(Input::Undelivered { peer }, context);
                    self.refused(peer, why, context);
                }
            }
            ConsensusMessage::ToldWiped { peer, known } => self.told_wiped(peer, known, context),
            ConsensusMessage::DiskFull => {
                if is_current(self.log_store.identity(), context) {
                    self.step(Input::DiskFull, context);
                }
            }
            ConsensusMessage::DiskFreed => {
                if is_current(self.log_store.identity(), context) {
                    self.step(Input::DiskFreed, context);
                }
            }
            ConsensusMessage::Persisted { seq, .. } => {
                if is_current(self.log_store.identity(), context) {
                    self.persisted(seq, context);
                }
            }
            ConsensusMessage::Applied { index } => {
                if is_current(self.applier.identity(), context) {
                    self.traces.forget_up_to(index);
                    self.step(Input::Applied { index }, context);
                }
            }
            ConsensusMessage::TakeSnapshot { port } => self.snapshot_asked(port, context),
            ConsensusMessage::SnapshotWritten { snapshot } => self.snapshot_written(snapshot, context),
            ConsensusMessage::SnapshotFailed => self.snapshot_failed(context),
            ConsensusMessage::ChunkStored { call, snapshot, stored, complete } => {
                self.chunk_stored(call, &snapshot, stored, complete, context);
            }
            ConsensusMessage::Restored { index } => self.restored(index, context),
            ConsensusMessage::CallsWaiting => unreachable!("it is never put into the admission queue"),
            ConsensusMessage::Crash => panic!("consensus was told to crash"),
        }
    }

    fn read(&mut self, lease: bool, port: ReadPort, context: &mut Context<ConsensusMessage>) {
        let Some(port) = self.let_in(port, 0, |shared, limit| Err(shared.read_busy(limit))) else { return };
        let call = self.wait(Call::Read(port));
        self.step(Input::Read { call, lease }, context);
    }

    fn request(
        &mut self,
        from: NodeId,
        request: Request,
        traces: Vec<(LogIndex, TraceId)>,
        port: oneshot::Sender<Reply>,
        context: &mut Context<ConsensusMessage>,
    ) {
        for (index, trace) in traces {
            if index > self.raft.commit_index() {
                self.traces.set(index, trace);
            }
        }
        if let Some(door) = self.doors.get(&from) {
            context.came_from(*door);
        }
        let call = self.wait(Call::Request(from, port));
        self.step(Input::Request { call, from, request }, context);
    }

    fn persisted(&mut self, seq: u64, context: &mut Context<ConsensusMessage>) {
        if let Some((_, effects)) = self.after_write.take_if(|(waits_for, _)| *waits_for == seq) {
            self.show_observer(&effects, Some(seq), false, context);
            self.carry_out(effects, context);
        }
        self.step(Input::Persisted { seq }, context);
    }

    fn step(&mut self, input: Input, context: &mut Context<ConsensusMessage>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(self.shared.clock.now(), input, &mut effects);
        // A lease that was dropped is known to be before the one who may take over is told.
        self.shared.progress.set_lease(self.raft.lease_until());
        self.show_observer(&effects, None, false, context);
        self.carry_out(effects.drain(..), context);
        self.effects = effects;
    }

    /// What everyone may see of this message's outcome.
    fn show(&self) {
        let progress = &self.shared.progress;
        progress.commit_index.store(self.raft.commit_index(), Relaxed);
        let last_index = self.raft.last_index();
        progress.last_index.store(last_index, Relaxed);
        let last_term = self.raft.entry(last_index).map_or(self.raft.base().term, |entry| entry.term);
        progress.last_term.store(last_term, Relaxed);
        for (peer, match_index, reachable) in self.raft.peers() {
            if let Some(gauge) = self.gauges.get(&peer) {
                gauge.match_index.store(match_index, Relaxed);
                gauge.reachable.store(reachable, Relaxed);
            }
        }
    }
}

/// Whether the message being handled was sent by this life; else it is shown as dropped.
fn is_current(sender: Sender, context: &mut Context<ConsensusMessage>) -> bool {
    let current = context.sender() == sender;
    if !current {
        context.drop_as_stale();
    }
    current
}

fn settings(shared: &Shared) -> Settings {
    let config = &shared.config;
    Settings {
        id: shared.id(),
        incarnation: shared.incarnation.load(Relaxed),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        max_batch_entries: config.max_batch_entries,
        max_batch_bytes: config.max_batch_bytes,
        max_in_flight_batches: config.max_in_flight_batches,
        max_in_flight_bytes: config.max_in_flight_bytes,
        snapshot_threshold: config.snapshot_threshold,
        snapshot_threshold_bytes: config.snapshot_threshold_bytes,
        snapshot_trailing: config.snapshot_trailing,
        disk_timeout: config.disk_timeout,
    }
}
