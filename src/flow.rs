//! The envelope around every message, and the recorder behind it. (Signatures agreed; bodies to come.)
#![allow(unused_variables, dead_code, missing_docs)]

use std::{marker::PhantomData, sync::Arc};

use ractor::{ActorCell, ActorProcessingErr, ActorRef, SpawnErr};

/// Follows one client's call through all actors of all nodes. 0: none.
pub type TraceId = u64;
/// A recorded event of one node. 0: none.
pub type EventId = u64;

/// What an actor is sent: one word of its vocabulary.
pub trait Message: Send + 'static {
    /// The word, as in the code: `Persist`, `Persisted`, …
    fn name(&self) -> &'static str;
    /// The term and index it is about, where it is about one.
    fn mark(&self) -> Mark {
        Mark::default()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub term: u64,
    pub index: u64,
}

/// An actor of one node's tree, by its place in the tree ("consensus/replicator 2"); the same over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u16);

/// Who sent a message: which actor, and which life of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    pub actor: ActorId,
    pub incarnation: u32,
}

/// What every message carries besides itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    pub sender: Sender,
    /// The event in which it was sent.
    pub cause: EventId,
    pub trace: TraceId,
}

/// A message on its way.
pub struct Envelope<M> {
    pub message: M,
    pub origin: Origin,
    // plus: when it was sent
}

/// What an actor of the tree implements. Its state is `self`.
pub trait Actor: Sized + Send + 'static {
    type Message: Message;
    type Arguments: Send + 'static;
    fn start(
        arguments: Self::Arguments,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<Self, ActorProcessingErr>> + Send;
    fn handle(
        &mut self,
        message: Self::Message,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send;
    /// A child died or stopped without being told to. The default: fail as well.
    fn child_stopped(
        &mut self,
        child: ActorCell,
        cause: String,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        async move { Err(cause.into()) }
    }
    /// Asked to stop: release what must be released in order.
    fn stop(&mut self, context: &mut Context<Self::Message>) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What an actor knows while it handles a message.
pub struct Context<M: Message>(PhantomData<fn(M)>);

impl<M: Message> Context<M> {
    pub fn myself(&self) -> &Address<M> {
        todo!()
    }
    pub fn cell(&self) -> ActorCell {
        todo!()
    }
    /// What messages sent now carry: this actor, this event, the trace of the message being handled.
    pub fn origin(&self) -> Origin {
        todo!()
    }
    /// Who sent the message being handled.
    pub fn sender(&self) -> Sender {
        todo!()
    }
    pub fn flow(&self) -> &Flow {
        todo!()
    }
    /// Handles a message that came by another way than the mailbox (the admission queue) and records it like any other.
    pub fn within(&mut self, envelope: Envelope<M>, handle: impl FnOnce(M, &mut Self)) {
        todo!()
    }
}

/// Where an actor is reached. Cloning is cheap.
pub struct Address<M: Message>(PhantomData<fn(M)>);

impl<M: Message> Clone for Address<M> {
    fn clone(&self) -> Self {
        todo!()
    }
}

impl<M: Message> Address<M> {
    /// Never waits. Gives the message back if the actor has stopped.
    pub fn send(&self, origin: Origin, message: M) -> Result<(), M> {
        todo!()
    }
    pub fn actor(&self) -> &ActorRef<Envelope<M>> {
        todo!()
    }
}

/// Where an actor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the runtime, like any task.
    Runtime,
    /// On a thread of its own, because it blocks.
    OwnThread,
}

/// Starts an actor under `supervisor`. `path` is its place in the tree ("consensus/replicator 2"); its process-wide
/// ractor name is derived from it and the flow's node ("raft/<cluster>/<id>/consensus/replicator 2").
pub async fn spawn<A: Actor>(
    flow: &Flow,
    path: &str,
    placement: Placement,
    arguments: A::Arguments,
    supervisor: Option<ActorCell>,
) -> Result<(Address<A::Message>, tokio::task::JoinHandle<()>), SpawnErr> {
    todo!()
}

/// One node's message flow: the flight recorder and the meters of its actors.
#[derive(Clone)]
pub struct Flow(Arc<()>);

impl Flow {
    /// `name` is "raft/<cluster>/<id>".
    pub fn new(name: String) -> Flow {
        todo!()
    }
    /// The id of the actor at this place in the tree, given out at its first asking.
    pub fn actor(&self, path: &str) -> ActorId {
        todo!()
    }
    /// What a message from outside the tree (a gRPC handler, a library call) carries.
    pub fn outside(&self, path: &str, trace: TraceId) -> Origin {
        todo!()
    }
    pub fn new_trace(&self) -> TraceId {
        todo!()
    }
}
