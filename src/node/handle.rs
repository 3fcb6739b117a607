//! What the application holds: a node with its state machine's type, and one without it.

use std::{
    any::TypeId,
    marker::PhantomData,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use prost::Message as _;
use ractor::{ActorRef, DerivedActorRef};
use tokio::sync::{mpsc, oneshot};

use super::{
    Applied, Builder, Consistency, Figures, NodeRequest, Status,
    events::{NodeEvent, Subscriber},
    messages::{ConsensusMessage, NodeMessage},
    shared::Shared,
};
use crate::{
    config::Config,
    error::{NodeError, ProposeError, ReadError},
    flow::{ActorReport, Flow, Origin, TraceId},
    raft::{Incarnation, LogIndex, NodeId, Payload, Reply, Request, SessionCommand},
    state_machine::StateMachine,
    storage::Identity,
    transport::{Caller, WrongPeer},
};

/// A node without its state machine's type: what transports and servers hold. Cheap to clone.
#[derive(Clone)]
pub struct NodeRef(Arc<Shared>, Option<Origin>);

impl NodeRef {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        NodeRef(shared, None)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Which node of which cluster it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Where it is to listen; the address in the membership unless the builder was told otherwise.
    pub fn listen_address(&self) -> &str {
        &self.0.listen_address
    }

    /// Where it really listens, with the port it was given if it asked for port 0. `None` before the server has started.
    pub fn bound_address(&self) -> Option<String> {
        self.0.bound_address()
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What it is at the moment. Never waits for an actor.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// How many calls (proposals, reads, orders) wait at this node for their answers. No more than
    /// [`max_pending`](Config::max_pending) are let in.
    pub fn pending(&self) -> usize {
        self.0.admission.pending()
    }

    /// The peers that could not be reached when they were last tried, and why.
    pub fn unreachable(&self) -> std::collections::BTreeMap<NodeId, String> {
        self.0.standing.borrow().unreachable.clone()
    }

    /// What it has counted and timed since it was built. Never waits for an actor.
    pub fn figures(&self) -> Figures {
        let Shared { progress, admission, .. } = &*self.0;
        Figures {
            leader_changes: progress.leader_changes.load(Relaxed),
            proposals: admission.answered.results(),
            proposal_times: admission.answered.times.counts(),
            fsync_times: progress.fsync_times.counts(),
            snapshot_times: progress.snapshot_times.counts(),
        }
    }

    /// Its message flow: the flight recorder and the meters.
    pub fn flow(&self) -> &Flow {
        &self.0.flow
    }

    /// The same node; what is called through this handle is said because of `origin`: in a trace it follows from that event, and
    /// belongs to its trace. For an actor of yours that takes part in the node's flow: `node.because(context.origin())` while it
    /// handles a message ([`flow`](crate::flow) has more on that). For a trace from elsewhere: [`Origin::of_trace`].
    ///
    /// Sender and cause are numbers of one node's flow. Of an origin that comes from another one's, take the trace alone.
    pub fn because(&self, origin: Origin) -> NodeRef {
        NodeRef(self.0.clone(), Some(origin))
    }

    /// The trace that a call belongs to that is made here and now: that of [`because`](NodeRef::because), else that of the
    /// present span where [`flow::layer`](crate::flow::spans) has seen it, else a new one.
    pub fn trace(&self) -> TraceId {
        self.calling(0).trace
    }

    fn calling(&self, trace: TraceId) -> Origin {
        self.0.calling(self.1, trace)
    }

    /// The supervision tree as data: each actor with its status, mailbox depth, restarts and last failure.
    pub fn tree(&self) -> Vec<ActorReport> {
        self.0.flow.tree()
    }

    /// The names of the actors above this node's tree, the topmost first: the application's supervisor, its own, and so on.
    /// One that has no name goes by its id.
    pub fn above(&self) -> Vec<String> {
        let root = self.0.root.get().map(|root| root.actor().get_cell());
        let supervisors = std::iter::successors(root, |actor| actor.try_get_supervisor()).skip(1);
        let mut above: Vec<_> =
            supervisors.map(|actor| actor.get_name().unwrap_or_else(|| actor.get_id().to_string())).collect();
        above.reverse();
        above
    }

    /// What this node's actors can be asked, as an actor that hears [`NodeRequest`]s: for actors that talk to the node
    /// without its handle. `None` while the keepers start anew, and once the node has stopped. A reference to a fallen one
    /// leads nowhere, so ask again after a failed cast.
    pub fn actor(&self) -> Option<DerivedActorRef<NodeRequest>> {
        self.0.consensus.get().map(|address| address.actor().get_derived())
    }

    /// Tells `actor` of everything that happens to this node, in order, beginning with its membership and role as they
    /// are. Nothing is dropped; what is not handled waits in its mailbox.
    pub fn subscribe<M: ractor::Message>(
        &self,
        actor: &ActorRef<M>,
        message: impl Fn(NodeEvent) -> M + Send + 'static,
    ) {
        let subscriber = Subscriber::new(actor, message);
        self.tell_root(NodeMessage::Subscribe(subscriber));
    }

    /// The number of its disk, drawn when that was created. 0 before it is opened.
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation.load(Relaxed)
    }

    /// Passes another node's request to consensus. The receiver fails if consensus falls before it answers.
    /// Cluster and ids were checked by the transport; the disks are checked here, and who was removed.
    ///
    /// # Errors
    /// R007, R008: the request is for another disk, or from one, or from a server that was removed.
    pub fn deliver(
        &self,
        from: Caller,
        request: Request,
        traces: Vec<(LogIndex, TraceId)>,
    ) -> Result<oneshot::Receiver<Reply>, WrongPeer> {
        if let Err(wrong) = self.0.admits(&from, &request) {
            if let WrongPeer::OwnDisk { known: known @ 1.., .. } = wrong {
                // Where nobody is there, the next one is told by the next request.
                let _ = self.0.consensus.send(self.0.server, ConsensusMessage::ToldWiped { peer: from.id, known });
            }
            return Err(wrong);
        }
        let (port, receiver) = oneshot::channel();
        let trace = traces.first().map_or(0, |(_, trace)| *trace);
        let origin = Origin { trace, ..self.0.server };
        // Where nobody is there the port is dropped, and the receiver fails.
        let _ = self.0.consensus.send(origin, ConsensusMessage::Request { from: from.id, request, traces, port });
        Ok(receiver)
    }

    /// Everything that happens to this node from now on, beginning with what is, for a task that reads it. Whoever is
    /// `capacity` events behind is told no more: the channel then ends without [`NodeEvent::Stopped`].
    #[cfg(feature = "grpc")]
    pub(crate) fn events(&self, capacity: usize) -> tokio::sync::mpsc::Receiver<NodeEvent> {
        let (subscriber, events) = Subscriber::of_task(capacity);
        self.tell_root(NodeMessage::Subscribe(subscriber));
        events
    }

    /// Proposes an encoded command. Where this node does not lead: forwards it, or says who does. `trace` 0:
    /// [`trace`](NodeRef::trace).
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may have been applied all the same.
    pub async fn propose(&self, command: Bytes, forward: bool, trace: TraceId) -> Result<Applied, ProposeError> {
        self.0.propose(Payload::Command(command), forward, self.calling(trace)).await
    }

    /// Opens a session, under which a command is applied once however often it is proposed. It expires when it was not
    /// used for [`EXPIRY`](super::sessions::EXPIRY) entries of the log. [`Node::client`] does this by itself.
    ///
    /// # Errors
    /// [`ProposeError`]; another try may leave a session behind that nobody uses, and does no harm besides.
    pub async fn open_session(&self) -> Result<u64, ProposeError> {
        self.open_session_traced(true, 0).await
    }

    pub(crate) async fn open_session_traced(&self, forward: bool, trace: TraceId) -> Result<u64, ProposeError> {
        Ok(self.0.propose(Payload::OpenSession, forward, self.calling(trace)).await?.index)
    }

    /// Proposes an encoded command under a session. If its sequence was applied before, the answer is the first one's, and
    /// its index is the first one's, too. It is therefore proposed again, for as long as
    /// [`request_timeout`](Config::request_timeout), when its outcome is unknown.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may have been applied all the same; another try under the same session and
    /// sequence is safe in any case.
    pub async fn propose_in_session(
        &self,
        command: SessionCommand,
        forward: bool,
        trace: TraceId,
    ) -> Result<Applied, ProposeError> {
        self.0.propose(Payload::SessionCommand(command), forward, self.calling(trace)).await
    }

    /// Whether it has ended, for whatever reason: nothing will come of asking it again.
    pub(crate) fn has_stopped(&self) -> bool {
        self.0.verdict.get().is_some()
    }

    /// Proposes whatever another node passed on.
    pub(crate) async fn propose_payload(
        &self,
        payload: Payload,
        forward: bool,
        trace: TraceId,
    ) -> Result<Applied, ProposeError> {
        self.0.propose(payload, forward, self.calling(trace)).await
    }

    /// Proposes commands of sessions together, and does not wait: the answers go to `answers`, in any order, each under its
    /// command's sequence. They are not forwarded.
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "only gRPC has streams of commands"))]
    pub(crate) fn submit_in_session(
        &self,
        commands: Vec<SessionCommand>,
        trace: TraceId,
        answers: &mpsc::UnboundedSender<(u64, Result<Applied, ProposeError>)>,
    ) {
        self.0.submit_in_session(commands, trace, answers);
    }

    /// With its type again; `None` if the node was not built with this state machine.
    pub fn typed<M: StateMachine>(&self) -> Option<Node<M>> {
        (self.0.machine == TypeId::of::<M>()).then(|| Node(self.clone(), PhantomData))
    }

    /// Lets those who are in get their answers, stops the actors, children first, and closes files and ports. Returns
    /// when no task of the node is left.
    ///
    /// # Errors
    /// The node had stopped by itself before, because of this.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        self.0.stopping.send_replace(true);
        self.tell_root(NodeMessage::Shutdown);
        self.stopped().await
    }

    /// Waits until the node has stopped, by itself or by [`shutdown`](NodeRef::shutdown).
    ///
    /// # Errors
    /// What made it stop.
    pub async fn stopped(&self) -> Result<(), NodeError> {
        if let Some(root) = self.0.root.get() {
            let _ = root.actor().wait(None).await;
        }
        // What it died of is to be found afterwards, by whoever ends the process now.
        self.0.flow.incidents_settled().await;
        // One that was killed may not have been dropped yet.
        self.0.verdict.get().cloned().unwrap_or_else(|| Err(self.0.fallen()))
    }

    fn tell_root(&self, message: NodeMessage) {
        if let Some(root) = self.0.root.get() {
            // A root that has stopped needs no telling.
            let _ = root.send(self.0.client, message);
        }
    }
}

/// A running node. Cheap to clone; the node runs until it is shut down or its supervisor stops.
pub struct Node<M>(NodeRef, PhantomData<fn() -> M>);

impl<M> Clone for Node<M> {
    fn clone(&self) -> Self {
        Node(self.0.clone(), PhantomData)
    }
}

/// Without its type.
impl<M> AsRef<NodeRef> for Node<M> {
    fn as_ref(&self) -> &NodeRef {
        &self.0
    }
}

/// What can be asked of any node can be asked of this one.
impl<M> std::ops::Deref for Node<M> {
    type Target = NodeRef;

    fn deref(&self) -> &NodeRef {
        &self.0
    }
}

impl<M: StateMachine> Node<M> {
    pub(crate) fn new(node: NodeRef) -> Self {
        Node(node, PhantomData)
    }

    /// Begins to build node `id`. `factory` makes an empty state machine; the tree calls it again after a fall.
    pub fn builder<F: Fn() -> M + Send + Sync + 'static>(id: NodeId, factory: F) -> Builder<M> {
        Builder::new(id, factory)
    }

    /// As [`NodeRef::because`], with the type of the state machine.
    pub fn because(&self, origin: Origin) -> Node<M> {
        Node(self.0.because(origin), PhantomData)
    }

    /// Replicates a command and returns what the state machine made of it. On any node: it is forwarded to the leader.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may have been applied all the same.
    pub async fn propose(&self, command: M::Command) -> Result<M::Output, ProposeError> {
        let applied = self.0.propose(command.encode_to_vec().into(), true, 0).await?;
        M::Output::decode(applied.output).map_err(|error| {
            let reason = format!("applied at {}, but its result cannot be read here: {error}", applied.index);
            ProposeError::Unknown { reason }
        })
    }

    /// Asks the state machine, as fresh as `consistency` says. `query` runs between two commands, so it should be quick;
    /// its panic is the caller's.
    ///
    /// # Errors
    /// [`ReadError`]; it may always be tried again.
    pub async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        Ok(self.read_at(consistency, query).await?.0)
    }

    /// As [`read`](Node::read), and also tells which index the state was of.
    ///
    /// # Errors
    /// As for [`read`](Node::read).
    pub async fn read_at<R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        self.read_traced(consistency, 0, query).await
    }

    /// As [`read_at`](Node::read_at), under a trace that the caller has begun: see [`Flow::new_trace`]. 0: as [`read_at`](Node::read_at).
    ///
    /// # Errors
    /// As for [`read`](Node::read).
    pub async fn read_traced<R: Send + 'static>(
        &self,
        consistency: Consistency,
        trace: TraceId,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        self.0.0.read_at(consistency, query, self.0.calling(trace)).await
    }
}
