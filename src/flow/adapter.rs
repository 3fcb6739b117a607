//! Makes any of our actors a ractor actor, and records what it does.
//!
//! ractor gives every [`ractor::Actor`] with a `Default` the trait of the actors that are bound to a thread as well, so
//! one adapter serves both placements.

use std::{
    any::Any,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::FutureExt;
use ractor::{
    ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent,
    thread_local::{ThreadLocalActor, ThreadLocalActorSpawner},
};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{
    Actor, Address, Context, Envelope, Flow, Mark, Message, Origin, Outcome, Sender,
    meter::{Life, Meter, Status},
    sabotage::Moment,
};

/// What no mailbox holds is handled, recorded and struck all the same, under these names.
pub(crate) const START: &str = "Start";
/// See [`START`].
pub(crate) const STOP: &str = "Stop";
/// See [`START`].
pub(crate) const CHILD_STOPPED: &str = "ChildStopped";

/// Where an actor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the runtime, like any task.
    Runtime,
    /// On a thread of its own, because it blocks. The thread ends with the actor.
    OwnThread,
}

/// Starts an actor under `supervisor`. `path` is its place in the tree ("consensus/replicator 2"); its process-wide
/// ractor name is derived from it and the flow's node (`raft/<cluster>/<id>/consensus/replicator 2`).
///
/// A restarted actor takes the path of the former one, which must have ended, and the next incarnation number.
///
/// # Errors
/// `ActorAlreadyRegistered` if an actor lives at this path; `StartupFailed` with its error or its panic if it could not
/// start, if the supervisor is about to stop, or if there is no thread for it.
pub async fn spawn<A: Actor>(
    flow: &Flow,
    path: &str,
    placement: Placement,
    arguments: A::Arguments,
    supervisor: Option<ActorCell>,
) -> Result<(Address<A::Message>, JoinHandle<()>), SpawnErr> {
    let meter = flow.meter(path);
    let life = meter.conceive();
    let name = Some(format!("{}/{path}", flow.name()));
    let start = Start::<A> { flow: flow.clone(), meter, life: life.clone(), arguments };
    let (actor, handle) = match (placement, supervisor) {
        (Placement::Runtime, Some(supervisor)) => {
            <Adapter<A> as ractor::Actor>::spawn_linked(name, Adapter::default(), start, supervisor).await?
        }
        (Placement::Runtime, None) => <Adapter<A> as ractor::Actor>::spawn(name, Adapter::default(), start).await?,
        (Placement::OwnThread, Some(supervisor)) => {
            <Adapter<A> as ThreadLocalActor>::spawn_linked(name, start, supervisor, new_thread()?).await?
        }
        (Placement::OwnThread, None) => <Adapter<A> as ThreadLocalActor>::spawn(name, start, new_thread()?).await?,
    };
    Ok((Address::new(actor, flow.clone(), life), handle))
}

/// A thread that ends once this and the actors on it are gone.
fn new_thread() -> Result<ThreadLocalActorSpawner, SpawnErr> {
    catch_unwind(ThreadLocalActorSpawner::new).map_err(|panic| {
        let cause = format!("there is no thread for it: {}", panic_text(&*panic));
        SpawnErr::StartupFailed(cause.into())
    })
}

/// What an adapter starts from.
pub(super) struct Start<A: Actor> {
    flow: Flow,
    meter: Arc<Meter>,
    life: Arc<Life>,
    arguments: A::Arguments,
}

/// Stands for an actor of ours before ractor. All that changes is in its [`Seat`].
pub(super) struct Adapter<A>(PhantomData<fn() -> A>);

impl<A> Default for Adapter<A> {
    fn default() -> Self {
        Adapter(PhantomData)
    }
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl<A: Actor> ractor::Actor for Adapter<A> {
    type Msg = Envelope<A::Message>;
    type State = Seat<A>;
    type Arguments = Start<A>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        start: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Seat::take(myself, start).await
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        seat: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        seat.handle(envelope).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        seat: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, state, reason) => {
                drop(state);
                let cause = reason.unwrap_or_else(|| "stopped".to_string());
                // One that failed has said so itself; one that was killed could not.
                seat.context.flow().note_end(child.get_name().as_deref(), &cause);
                seat.child_stopped(child, cause).await
            }
            SupervisionEvent::ActorFailed(child, error) => seat.child_stopped(child, error.to_string()).await,
            _ => Ok(()),
        }
    }

    async fn post_stop(&self, _myself: ActorRef<Self::Msg>, seat: &mut Self::State) -> Result<(), ActorProcessingErr> {
        seat.stop().await
    }
}

/// An actor and its context.
pub(super) struct Seat<A: Actor> {
    /// `None` once it failed or stopped: it is gone before its supervisor hears of it.
    actor: Option<A>,
    context: Context<A::Message>,
}

const SEATED: &str = "ractor hands nothing to an actor that failed or stopped";

impl<A: Actor> Seat<A> {
    async fn take(myself: ActorRef<Envelope<A::Message>>, start: Start<A>) -> Result<Self, ActorProcessingErr> {
        let Start { flow, meter, life, arguments } = start;
        flow.awake().await;
        meter.begin(&life);
        let address = Address::new(myself, flow.clone(), life.clone());
        let origin = Origin { sender: life.sender, ..Origin::default() };
        let mut seat = Seat { actor: None, context: Context::new(flow, meter, life, address) };
        seat.context.begin(START, Mark::default(), origin, None);
        let starting = async {
            seat.context.survive(START, Moment::Before).await;
            let started = A::start(arguments, &mut seat.context).await;
            seat.context.survive(START, Moment::After).await;
            started
        };
        let started = AssertUnwindSafe(starting).catch_unwind().await;
        match started {
            Ok(Ok(actor)) => seat.actor = Some(actor),
            Ok(Err(error)) => return Err(seat.failed(error)),
            Err(panic) => return Err(seat.panicked(START, &*panic)),
        }
        seat.context.finish(Outcome::Handled);
        seat.context.life().set_status(Status::Running);
        Ok(seat)
    }

    async fn handle(&mut self, envelope: Envelope<A::Message>) -> Result<(), ActorProcessingErr> {
        self.context.flow().awake().await;
        let Envelope { message, origin, sent, counted } = envelope;
        if counted {
            self.context.life().count_taken();
        }
        let name = message.name();
        let mark = message.mark();
        self.context.begin(name, mark, origin, sent);
        let span = self.context.span(name, mark, origin);
        let actor = self.actor.as_mut().expect(SEATED);
        let context = &mut self.context;
        let handling = async {
            context.survive(name, Moment::Before).await;
            let result = actor.handle(message, context).await;
            context.survive(name, Moment::After).await;
            result
        };
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let result = if span.is_disabled() { handling.await } else { handling.instrument(span).await };
        self.context.meter().count_handled();
        self.conclude(name, result)
    }

    async fn child_stopped(&mut self, child: ActorCell, cause: String) -> Result<(), ActorProcessingErr> {
        self.context.flow().awake().await;
        let sender = Sender { actor: self.context.flow().actor_named(child.get_name().as_deref()), incarnation: 0 };
        self.context.begin(CHILD_STOPPED, Mark::default(), Origin { sender, ..Origin::default() }, None);
        let actor = self.actor.as_mut().expect(SEATED);
        let context = &mut self.context;
        let handling = async {
            context.survive(CHILD_STOPPED, Moment::Before).await;
            let result = actor.child_stopped(child, cause, context).await;
            context.survive(CHILD_STOPPED, Moment::After).await;
            result
        };
        let result = AssertUnwindSafe(handling).catch_unwind().await;
        self.conclude(CHILD_STOPPED, result)
    }

    async fn stop(&mut self) -> Result<(), ActorProcessingErr> {
        self.context.flow().awake().await;
        self.context.begin(STOP, Mark::default(), Origin::default(), None);
        let mut actor = self.actor.take().expect(SEATED);
        let context = &mut self.context;
        let stopping = AssertUnwindSafe(async {
            context.survive(STOP, Moment::Before).await;
            actor.stop(context).await;
            drop(actor);
            context.survive(STOP, Moment::After).await;
            Ok(())
        });
        let result = stopping.catch_unwind().await;
        self.conclude(STOP, result)?;
        self.context.life().set_status(Status::Stopped);
        Ok(())
    }

    fn conclude(
        &mut self,
        name: &'static str,
        result: Result<Result<(), ActorProcessingErr>, Box<dyn Any + Send>>,
    ) -> Result<(), ActorProcessingErr> {
        match result {
            Ok(Ok(())) => {
                self.context.finish(Outcome::Handled);
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(panic) => Err(self.panicked(name, &*panic)),
        }
    }

    fn failed(&mut self, error: ActorProcessingErr) -> ActorProcessingErr {
        self.fall(Outcome::Failed, error.to_string());
        error
    }

    fn panicked(&mut self, name: &'static str, panic: &(dyn Any + Send)) -> ActorProcessingErr {
        let cause = format!("panicked at {name}: {}", panic_text(panic));
        self.fall(Outcome::Panicked, cause.clone());
        let meter = self.context.meter();
        self.context.flow().keep_incident(format!("{} {cause}", meter.path));
        cause.into()
    }

    fn fall(&mut self, outcome: Outcome, cause: String) {
        self.context.finish(outcome);
        self.context.meter().set_last_failure(cause);
        self.context.life().set_status(Status::Failed);
        self.actor = None;
    }
}

impl<A: Actor> Drop for Seat<A> {
    fn drop(&mut self) {
        // Still at it: ractor dropped the handler at an await, because the actor was killed. Where that was at its start or at
        // its end, nobody is told, and nobody else could write it down.
        if self.context.is_handling() {
            self.context.meter().set_last_failure("killed".to_owned());
        }
        self.context.finish(Outcome::Killed);
        self.context.life().end();
    }
}

/// What `panic!` was told.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
