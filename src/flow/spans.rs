//! The message flow and `tracing`: how an application's spans and those of the node's messages find each other.
//!
//! **The node's messages in the application's traces.** Each message that an actor handles is a span of the level `trace`, with
//! the target `ractor_raft::flow` and the name `message`. Its fields: `node` (the flow's name), `actor`, `message`, `trace`,
//! `event`, `term`, `index`. While a call of the application (a proposal, a read) is under way, the spans of the messages that
//! belong to it are, on the node that was called, children of the span in which it was made. On other nodes, and after the
//! answer, they stand alone, and the field `trace` is what joins them. Where nobody listens to that level this costs a look
//! at one word a message.
//!
//! **The application's spans in the node's flow**: `flow::layer` (feature `tracing-layer`).
//!
//! **The application's trace id.** A call belongs to the trace of the span it is made in, where there is such a layer; else it
//! opens one of its own. Whoever has an id from elsewhere (an OpenTelemetry context, a header) takes its low half, for instance by
//! [`trace_of`](super::trace_of), and calls through
//! [`because`](crate::node::Node::because)`(`[`Origin::of_trace`](super::Origin::of_trace)`(id))`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use tracing::{Level, Span};

use super::{EventId, Flow, Mark, Origin, TraceId, meter::NEVER_POISONED};

/// The target of the spans of messages.
pub(super) const TARGET: &str = "ractor_raft::flow";

/// Whether anybody wants the spans of messages.
fn wanted() -> bool {
    tracing::span_enabled!(target: TARGET, Level::TRACE)
}

/// The spans in which calls are under way that somebody listens to, by trace.
#[derive(Default)]
pub(super) struct Calls(Mutex<BTreeMap<TraceId, (Span, usize)>>);

impl Calls {
    fn all(&self) -> MutexGuard<'_, BTreeMap<TraceId, (Span, usize)>> {
        self.0.lock().expect(NEVER_POISONED)
    }
}

/// A call that is under way in a span. Its end is its drop.
pub(crate) struct Call {
    flow: Flow,
    trace: TraceId,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.flow.calls().all();
        let last = calls.get_mut(&self.trace).is_some_and(|(_, calls)| {
            *calls -= 1;
            *calls == 0
        });
        let over = if last { calls.remove(&self.trace) } else { None };
        drop(calls);
        // Dropping a span may call into the application's subscriber: not under the lock.
        drop(over);
    }
}

impl Flow {
    /// Until its drop, the spans of messages of this trace are children of the present span. `None`: nobody would see it.
    pub(crate) fn call(&self, trace: TraceId) -> Option<Call> {
        if trace == 0 || !wanted() {
            return None;
        }
        let span = Span::current();
        if span.is_none() {
            return None;
        }
        self.calls().all().entry(trace).or_insert((span, 0)).1 += 1;
        Some(Call { flow: self.clone(), trace })
    }

    /// The span of a message that is handled; disabled where nobody wants it.
    pub(super) fn message_span(&self, actor: &str, name: &str, mark: Mark, origin: Origin, event: EventId) -> Span {
        if !wanted() {
            return Span::none();
        }
        let call = self.calls().all().get(&origin.trace).map(|(span, _)| span.clone());
        let (node, Origin { trace, .. }, Mark { term, index }) = (self.name(), origin, mark);
        match call {
            Some(parent) => tracing::trace_span!(
                target: TARGET, parent: &parent, "message", node, actor, message = name, trace, event, term, index
            ),
            None => {
                tracing::trace_span!(target: TARGET, "message", node, actor, message = name, trace, event, term, index)
            }
        }
    }
}
