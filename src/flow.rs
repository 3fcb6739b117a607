//! The envelope around every message, and the recorder behind it.
//!
//! Every actor of a node's tree implements [`Actor`], a small trait of ours, and one adapter makes a ractor actor of
//! it. Its ractor message is an [`Envelope`]: the message, who sent it, in which event, under which trace, and when.
//! So the adapter alone can record what happens, and no actor has instrumentation of its own:
//!
//! ```text
//!   Address::send ──Envelope──▶ mailbox ──▶ adapter ──message, Context──▶ Actor::handle
//!        │ depth + 1                          │ depth - 1, waited, handled, failed, panicked
//!        ▼                                    ▼
//!      meters (one per place in the tree)   flight recorder (one ring per node)
//! ```
//!
//! A message that is sent while another is handled carries that event as its cause, so the recorder holds chains: from
//! the client's call, which opens a trace ([`Flow::new_trace`]), to the answer. [`Flow::tree`] returns the meters,
//! [`Flow::events`] the recorded messages, [`Flow::follow`] those to come, and [`Flow::incidents`] what was kept when something fell.
//!
//! Applications reach an actor of the tree by its [`Address`], or through ractor's own `cast!` and `call!`: an
//! [`Envelope`] is made [`From`] any message, with the sender "application".
//!
//! # Look at it
//! [`Node::flow`](crate::node::NodeRef::flow) is there from the start, and always on. A [`Filter`] picks by trace, time, actor and name:
//! ```
//! use ractor_raft::{Node, flow::Filter, kv::{Command, Kv}, storage::MemoryStorage, transport::InProcess};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder(1, Kv::default).cluster([(1, "here")]);
//! let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await?;
//! node.propose(Command::put("ada", "1815")).await?;
//!
//! // What was: the last write to the disk, and all that belongs to the same call.
//! let persist = node.flow().events(&Filter { last: Some(1), ..Filter::of_message("Persist") });
//! for event in node.flow().events(&Filter::of_trace(persist[0].trace)) {
//!     println!("{event}"); // 0.151234 consensus → log store Persist 3@1 waited 12µs took 340µs (3.17 by 2.9)
//! }
//!
//! // What comes: whatever the state machine's actor is told from now on.
//! let mut follow = node.flow().follow(Filter { last: Some(1), ..Filter::of_actor("applier") });
//! node.propose(Command::put("grace", "1906")).await?;
//! while let Some(batch) = follow.next().await {
//!     assert_eq!(batch.missed, 0, "a slow reader is told what it missed, and nobody waits for it");
//!     println!("{}", batch.events[0]);
//! }
//! # node.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! # Take part in it
//! An actor of the application may be an [`Actor`] as those of the node are, on the runtime or on a thread of its own: [`spawn`] it
//! on the node's flow, at a path such as `application/teller`. Its messages are recorded, it stands in the tree and in the
//! metrics, and it calls the node with `node.because(context.origin())`, so that one trace leads from its own message to the
//! entry that all nodes apply. Plain ractor actors and tasks take part by their `tracing` spans ([`spans`]).
//! `examples/traced_application.rs` does both.
//!
//! Architecture invariant: this module stands below all actors. It knows none of them, and nothing of Raft.

mod adapter;
mod address;
mod context;
mod event;
mod follow;
mod histogram;
mod incidents;
#[cfg(feature = "tracing-layer")]
mod layer;
mod meter;
mod names;
mod node_flow;
mod pause;
mod recorder;
mod sabotage;
pub mod spans;
#[cfg(test)]
mod tests;
mod times;
mod traceparent;

use ractor::{ActorCell, ActorProcessingErr};
use tokio::time::Instant;

#[cfg(any(test, feature = "testing"))]
pub(crate) use self::adapter::{CHILD_STOPPED, START, STOP};
#[cfg(feature = "server")]
pub(crate) use self::event::is_one_in;
#[cfg(any(test, feature = "testing"))]
pub use self::sabotage::{Moment, Saboteur};
pub use self::{
    adapter::{Placement, spawn},
    address::Address,
    context::Context,
    event::{Event, Filter, Incident, Outcome},
    follow::{Batch, Follow},
    histogram::{Counts, Histogram},
    meter::{ActorReport, ActorTimes, CurrentMessage, Lately, Status},
    node_flow::{Flow, Settings},
    sabotage::Crash,
    traceparent::{trace_of, traceparent},
};

#[cfg(feature = "tracing-layer")]
pub use self::layer::{FlowLayer, layer};

/// Follows one client's call through all actors of all nodes. 0: none.
pub type TraceId = u64;

/// A recorded event of one node: the receiver's [`ActorId`] in the upper 16 bits, its own count of events below. 0: none.
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

/// The place in the replicated log that a message is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The term. 0: about none.
    pub term: u64,
    /// The log index. 0: about none.
    pub index: u64,
}

/// An actor of one node's tree, by its place in the tree ("consensus/replicator 2"); the same over restarts.
///
/// 0, the default, is everything outside the tree: "application".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u16);

/// Who sent a message: which actor, and which life of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    /// The actor's place in the tree.
    pub actor: ActorId,
    /// Its life: 1 is the first, and a restart adds 1. 0: not an actor of the tree.
    pub incarnation: u32,
}

/// What every message carries besides itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Who sent it.
    pub sender: Sender,
    /// The event in which it was sent. 0: none that was recorded.
    pub cause: EventId,
    /// The client's call that it belongs to. 0: none.
    pub trace: TraceId,
}

impl Origin {
    /// What belongs to a trace and was said by nobody that is known.
    pub fn of_trace(trace: TraceId) -> Self {
        Origin { trace, ..Origin::default() }
    }
}

/// A message on its way.
#[derive(Debug)]
pub struct Envelope<M> {
    /// What is said.
    pub message: M,
    /// By whom, and why.
    pub origin: Origin,
    /// `None`: the recorder was off.
    sent: Option<Instant>,
    /// Whether the receiver's depth counts it.
    counted: bool,
}

impl<M> Envelope<M> {
    /// Puts a message into an envelope now, for a way other than [`Address::send`]: the admission queue, for instance.
    pub fn new(origin: Origin, message: M) -> Self {
        Envelope { message, origin, sent: Some(Instant::now()), counted: false }
    }
}

/// A message from outside the tree. So an application's actor may `cast!(node, message.into())`.
///
/// For a [`DerivedActorRef`](ractor::DerivedActorRef) of plain messages, ractor asks for the way back as well, which
/// only the crate of the message type may write:
/// `impl From<Envelope<Word>> for Word { fn from(envelope: Envelope<Word>) -> Word { envelope.message } }`.
impl<M: Message> From<M> for Envelope<M> {
    fn from(message: M) -> Self {
        Envelope::new(Origin::default(), message)
    }
}

#[cfg(feature = "cluster")]
impl<M: Message> ractor::Message for Envelope<M> {}

/// What an actor of the tree implements. Its state is `self`.
///
/// An actor that stopped, returned an error or panicked is dropped before its supervisor hears of it, so that what it
/// held (a file, a connection) is free for its successor. One that is killed cannot: ractor hands it to its supervisor
/// with the news, which drops it just before [`child_stopped`](Actor::child_stopped). So stop what holds something, and
/// await its join handle; kill only what does not.
pub trait Actor: Sized + Send + 'static {
    /// Its vocabulary.
    type Message: Message;
    /// What it starts from.
    type Arguments: Send + 'static;

    /// Starts. An error or a panic here is an error of [`spawn`] and no supervision event.
    fn start(
        arguments: Self::Arguments,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<Self, ActorProcessingErr>> + Send;

    /// Handles one message. An error or a panic ends the actor; its supervisor is told.
    fn handle(
        &mut self,
        message: Self::Message,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send;

    /// A child ended: it failed, was killed, or stopped, told to or not. The default: fail as well.
    ///
    /// A child that is `unlink`ed before it is stopped ends without this.
    fn child_stopped(
        &mut self,
        child: ActorCell,
        cause: String,
        context: &mut Context<Self::Message>,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        let _ = (child, context);
        async move { Err(cause.into()) }
    }

    /// Asked to stop: release what must be released in order. Not called for an actor that failed or was killed.
    fn stop(&mut self, context: &mut Context<Self::Message>) -> impl Future<Output = ()> + Send {
        let _ = context;
        async {}
    }
}
