//! What an actor knows while it handles a message, and where the handling is measured.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use ractor::ActorCell;
use tokio::time::Instant;
use tracing::Span;

use super::{
    ActorId, Address, Envelope, EventId, Flow, Mark, Message, Origin, Outcome, Sender, TraceId,
    meter::{Life, Meter},
    recorder::{Record, event_id},
    sabotage::Moment,
};

/// How many event numbers an actor takes from its meter at once.
const EVENTS_RESERVED: u64 = 64;

/// What an actor knows while it handles a message.
pub struct Context<M: Message> {
    flow: Flow,
    meter: Arc<Meter>,
    life: Arc<Life>,
    myself: Address<M>,
    handling: Option<Handling>,
    /// Numbers reserved for the next events: one by one would cost an atomic addition each.
    events: Range<u64>,
}

/// The message being handled.
#[derive(Clone, Copy)]
pub(super) struct Handling {
    origin: Origin,
    /// 0: the recorder is off.
    event: EventId,
    message: u16,
    mark: Mark,
    sent: u64,
    began: u64,
    /// Nanoseconds of it that count for messages handled within.
    within: u64,
    /// Whether it stood in a mailbox, and one knows since when.
    waited: bool,
    stale: bool,
}

impl<M: Message> Context<M> {
    pub(super) fn new(flow: Flow, meter: Arc<Meter>, life: Arc<Life>, myself: Address<M>) -> Self {
        Context { flow, meter, life, myself, handling: None, events: 0..0 }
    }

    /// Where this life of this actor is reached.
    pub fn myself(&self) -> &Address<M> {
        &self.myself
    }

    /// This actor as ractor knows it: the supervisor that children are spawned under.
    pub fn cell(&self) -> ActorCell {
        self.myself.actor().get_cell()
    }

    /// The node's flow.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Which life of this actor it is: 1 is the first.
    pub fn incarnation(&self) -> u32 {
        self.life.sender.incarnation
    }

    /// What messages sent now carry: this actor, this event, the trace of the message being handled.
    pub fn origin(&self) -> Origin {
        Origin { sender: self.life.sender, cause: self.event(), trace: self.trace() }
    }

    /// Who sent the message being handled.
    pub fn sender(&self) -> Sender {
        self.handling.map_or_else(Sender::default, |handling| handling.origin.sender)
    }

    /// The trace of the message being handled. 0: none.
    pub fn trace(&self) -> TraceId {
        self.handling.map_or(0, |handling| handling.origin.trace)
    }

    /// The event of the message being handled. 0: the recorder is off.
    pub fn event(&self) -> EventId {
        self.handling.map_or(0, |handling| handling.event)
    }

    /// Sends because of the message being handled. Never waits.
    ///
    /// # Errors
    /// Gives the message back if the actor has stopped.
    pub fn send<T: Message>(&self, to: &Address<T>, message: T) -> Result<(), T> {
        to.send(self.origin(), message)
    }

    /// Whether the message being handled was sent by an earlier life of its sender than the one that lives now.
    pub fn is_stale(&self) -> bool {
        let Sender { actor, incarnation } = self.sender();
        incarnation != 0 && incarnation < self.flow.incarnation(actor)
    }

    /// Says that the message being handled counts for nothing, so that the recorder shows it as dropped.
    pub fn drop_as_stale(&mut self) {
        if let Some(handling) = &mut self.handling {
            handling.stale = true;
        }
    }

    /// Says who the message being handled really comes from, where its envelope names only the way that it came.
    pub fn came_from(&mut self, actor: ActorId) {
        if let Some(handling) = &mut self.handling {
            handling.origin.sender = Sender { actor, incarnation: 0 };
        }
    }

    /// Says which client's call the message being handled belongs to, where its envelope could not. What is sent from here on
    /// because of it belongs there, too.
    pub fn belongs_to(&mut self, trace: TraceId) {
        if let Some(handling) = &mut self.handling {
            handling.origin.trace = trace;
        }
    }

    /// Says which place in the log the message being handled got, which it could not say itself.
    pub fn is_about(&mut self, mark: Mark) {
        if let Some(handling) = &mut self.handling {
            handling.mark = mark;
        }
    }

    /// Stops this actor once the message being handled is done. What waits in the mailbox is dropped.
    pub fn stop(&self) {
        self.cell().stop(None);
    }

    /// As [`stop`](Context::stop), and tells the supervisor why.
    pub fn stop_because(&self, cause: impl Into<String>) {
        self.cell().stop(Some(cause.into()));
    }

    /// Handles a message that came by another way than the mailbox (the admission queue) and records it like any other.
    pub fn within(&mut self, envelope: Envelope<M>, handle: impl FnOnce(M, &mut Self)) {
        let outer = self.handling;
        let Envelope { message, origin, sent, .. } = envelope;
        let name = message.name();
        let mark = message.mark();
        self.begin(name, mark, origin, sent);
        let span = self.span(name, mark, origin).entered();
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.is_struck(name, Moment::Before);
            handle(message, self);
            self.is_struck(name, Moment::After);
        }));
        drop(span);
        let outcome = if result.is_ok() { Outcome::Handled } else { Outcome::Panicked };
        self.meter.count_handled();
        let taken = self.finish(outcome);
        self.handling = outer;
        if let Some(outer) = &mut self.handling {
            outer.within += taken;
            self.life.show(outer.message, outer.began);
        }
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }

    /// The handling of a message begins.
    pub(super) fn begin(&mut self, name: &'static str, mark: Mark, origin: Origin, sent: Option<Instant>) {
        let mut handling = Handling {
            origin,
            event: 0,
            message: 0,
            mark,
            sent: 0,
            began: 0,
            within: 0,
            waited: sent.is_some(),
            stale: false,
        };
        if self.flow.is_recording() {
            handling.event = self.next_event();
            handling.message = self.flow.number(name);
            handling.began = self.flow.nanoseconds(Instant::now());
            handling.sent = sent.map_or(handling.began, |sent| self.flow.nanoseconds(sent).min(handling.began));
            self.life.show(handling.message, handling.began);
        }
        self.handling = Some(handling);
    }

    /// The `tracing` span of the message being handled.
    pub(super) fn span(&self, name: &'static str, mark: Mark, origin: Origin) -> Span {
        self.flow.message_span(&self.meter.path, name, mark, origin, self.event())
    }

    /// The handling of a message ended. Returns the nanoseconds it took. Does nothing if none is being handled.
    pub(super) fn finish(&mut self, outcome: Outcome) -> u64 {
        let Some(handling) = self.handling.take() else { return 0 };
        if handling.event == 0 {
            return 0;
        }
        let ended = self.flow.nanoseconds(Instant::now());
        let took = ended.saturating_sub(handling.began);
        let waited = handling.began - handling.sent;
        self.life.show(0, 0);
        let own = took.saturating_sub(handling.within);
        self.meter.add_times(ended, handling.message, handling.waited.then_some(waited), own);
        self.flow.record(&Record {
            id: handling.event,
            cause: handling.origin.cause,
            trace: handling.origin.trace,
            mark: handling.mark,
            sent: handling.sent,
            waited,
            handling: took,
            sender: handling.origin.sender,
            receiver_incarnation: self.life.sender.incarnation,
            message: handling.message,
            outcome: if handling.stale && outcome == Outcome::Handled { Outcome::Stale } else { outcome },
        });
        took
    }

    pub(super) fn is_handling(&self) -> bool {
        self.handling.is_some()
    }

    fn next_event(&mut self) -> EventId {
        let number = self.events.next().unwrap_or_else(|| {
            self.events = self.meter.reserve_events(EVENTS_RESERVED);
            self.events.next().expect("some were reserved")
        });
        event_id(self.meter.actor, number)
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }
}
