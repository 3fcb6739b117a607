//! The application's own spans in a node's message flow, so that one sequence shows its actors and the node's.

use std::{collections::BTreeMap, fmt::Debug, sync::Mutex};

use tokio::time::Instant;
use tracing::{
    Id, Metadata, Subscriber,
    field::{Field, Visit},
    span::Attributes,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    ActorId, EventId, Flow, Origin, Outcome, Sender, TraceId,
    meter::NEVER_POISONED,
    recorder::{Record, event_parts},
    spans::TARGET,
    traceparent::trace_of,
};

/// The most places that spans may take in the flow; the surplus share the application's. An actor's name is a field, which the
/// application might fill with anything.
const PLACES: usize = 256;

/// Records the spans of an application in the flow of `flow`'s node. Add it to your subscriber, which must be built on
/// [`Registry`]:
///
/// ```
/// # use ractor_raft::{Node, flow::{self, Filter}, kv::{Command, Kv}, storage::MemoryStorage, transport::InProcess};
/// use tracing::Instrument;
/// use tracing_subscriber::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = Node::builder(1, Kv::default).cluster([(1, "here")]);
/// # let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await?;
/// let subscriber = tracing_subscriber::registry().with(flow::layer(node.flow()));
/// let _guard = tracing::subscriber::set_default(subscriber); // or .init(), for the whole process
///
/// let span = tracing::info_span!("Deposit", actor = "teller");
/// node.propose(Command::put("ada", "100")).instrument(span).await?;
///
/// let deposit = &node.flow().events(&Filter::of_message("Deposit"))[0];
/// let trace = node.flow().events(&Filter::of_trace(deposit.trace));
/// assert_eq!(&*deposit.receiver, "application/teller");
/// assert!(trace.iter().any(|event| event.message == "Propose" && event.cause == deposit.id));
/// # node.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// A span becomes one event when it closes: its name is the message's, the place is `application/` and its field `actor`,
/// or its target where it has none. It waited from its creation until it was entered first, and was handled until it closed. What is called within it
/// (proposals, reads, spans) has it as its cause and belongs to its trace. A span that has no such span above it opens a trace, unless a
/// field `traceparent` names one. A span that is the state machine's, entered while the node applies an entry, continues the
/// entry's trace where the node's own spans are listened to ([module docs](super::spans)).
///
/// A span over the whole program would make one trace of all: filter it out (`with_filter`). At most 256 different actors get
/// places of their own. Spans are recorded in one node's flow; calls through other nodes' handles take the trace alone.
pub fn layer(flow: &Flow) -> FlowLayer {
    FlowLayer { flow: flow.clone(), places: Mutex::default() }
}

/// Made by [`layer`].
#[derive(Debug)]
pub struct FlowLayer {
    flow: Flow,
    places: Mutex<BTreeMap<String, ActorId>>,
}

/// What is kept with a span.
struct Seen {
    /// Which node's flow the numbers in here are of.
    flow: String,
    /// What is said within it carries this.
    within: Origin,
    /// `None` for the span of a node's message, which is recorded already.
    own: Option<Own>,
}

/// A span of the application.
struct Own {
    name: &'static str,
    origin: Origin,
    created: Instant,
    entered: Option<Instant>,
}

/// The fields that mean something here.
#[derive(Default)]
struct Fields {
    actor: Option<String>,
    traceparent: Option<String>,
    node: Option<String>,
    trace: TraceId,
    event: EventId,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "trace" => self.trace = value,
            "event" => self.event = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "actor" => self.actor = Some(value.to_owned()),
            "traceparent" => self.traceparent = Some(value.to_owned()),
            "node" => self.node = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if matches!(field.name(), "actor" | "traceparent") {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

impl FlowLayer {
    /// The place of a span.
    fn place(&self, metadata: &Metadata<'_>, actor: Option<String>) -> ActorId {
        let name = actor.unwrap_or_else(|| metadata.target().to_owned());
        let mut places = self.places.lock().expect(NEVER_POISONED);
        if let Some(place) = places.get(&name) {
            return *place;
        }
        if places.len() >= PLACES {
            return ActorId::default();
        }
        let place = self.flow.actor(&format!("application/{name}"));
        places.insert(name, place);
        place
    }

    fn begin(&self, metadata: &'static Metadata<'static>, fields: Fields, above: Option<Origin>) -> Seen {
        let place = self.place(metadata, fields.actor);
        let given = fields.traceparent.as_deref().and_then(trace_of);
        let above = above.unwrap_or_default();
        let trace = given.or(Some(above.trace).filter(|trace| *trace != 0)).unwrap_or_else(|| self.flow.new_trace());
        let within =
            Origin { sender: Sender { actor: place, incarnation: 0 }, cause: self.flow.next_event(place), trace };
        let own =
            Own { name: metadata.name(), origin: Origin { trace, ..above }, created: Instant::now(), entered: None };
        Seen { flow: self.flow.name().to_owned(), within, own: Some(own) }
    }

    fn end(&self, event: EventId, own: &Own) {
        let now = self.flow.nanoseconds(Instant::now());
        let created = self.flow.nanoseconds(own.created);
        let entered = own.entered.map_or(now, |entered| self.flow.nanoseconds(entered));
        self.flow.record(&Record {
            id: event,
            cause: own.origin.cause,
            trace: own.origin.trace,
            sent: created,
            waited: entered.saturating_sub(created),
            handling: now.saturating_sub(entered),
            sender: own.origin.sender,
            message: self.flow.number(own.name),
            outcome: Outcome::Handled,
            ..Record::default()
        });
    }
}

impl Seen {
    /// As a flow may take it: of another node's flow the trace alone.
    fn for_flow(&self, flow: &Flow) -> Origin {
        if self.flow == flow.name() { self.within } else { Origin::of_trace(self.within.trace) }
    }

    /// The span of a message that a node handles. `None`: it was not recorded.
    fn of_message(fields: Fields) -> Option<Seen> {
        let (cause, trace, flow) = (fields.event, fields.trace, fields.node?);
        let sender = Sender { actor: event_parts(cause).0, incarnation: 0 };
        (cause != 0 && trace != 0).then_some(Seen { flow, within: Origin { sender, cause, trace }, own: None })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for FlowLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let seen = if attributes.metadata().target() == TARGET {
            Seen::of_message(fields)
        } else {
            let above = span
                .scope()
                .skip(1)
                .find_map(|above| above.extensions().get::<Seen>().map(|seen| seen.for_flow(&self.flow)));
            Some(self.begin(attributes.metadata(), fields, above))
        };
        if let Some(seen) = seen {
            span.extensions_mut().replace(seen);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(Seen { own: Some(own), .. }) = span.extensions_mut().get_mut::<Seen>() {
            own.entered.get_or_insert_with(Instant::now);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if let Some(Seen { own: Some(own), within, .. }) = span.extensions().get::<Seen>()
            && self.flow.is_recording()
        {
            self.end(within.cause, own);
        }
    }
}

/// What the present span gives to what is said within it, in this flow. The default: there is no span that a layer has seen.
pub(super) fn current(flow: &Flow) -> Origin {
    tracing::dispatcher::get_default(|dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let present = dispatch.current_span();
        let span = registry.span(present.id()?)?;
        span.scope().find_map(|span| span.extensions().get::<Seen>().map(|seen| seen.for_flow(flow)))
    })
    .unwrap_or_default()
}
