//! A sequence as OpenTelemetry spans, sent to a receiver over OTLP (gRPC): Jaeger, Tempo, a collector.
//!
//! A handled message is a span. Its trace is the client's call, whose number is the low half of the W3C trace id; what belongs
//! to no call has the trace of the alarm, or whatever else it began with. Its parent is the message that it was sent in, or,
//! for what came from another node, the one by which it left there: so a write over three nodes is one waterfall. Where those
//! belong to another call, because they carried several, there is a link instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span, status},
};
use tonic::transport::Endpoint;

use super::{Sequence, names, sequence::Step};
use crate::flow::Outcome;

/// A receiver takes 4 MiB at once; a span is some hundred bytes.
const BATCH: usize = 2048;

/// How long the receiver may take for each batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is nobody, or it is no address.
    #[error("{endpoint} cannot be reached: {source}")]
    Unreachable {
        /// As it was given.
        endpoint: String,
        /// What the transport says.
        source: tonic::transport::Error,
    },
    /// It answered with an error.
    #[error("{endpoint} refused the spans: {message}")]
    Refused {
        /// As it was given.
        endpoint: String,
        /// What it says.
        message: String,
    },
}

/// Sends the spans of `sequence` to `endpoint` (`http://127.0.0.1:4317`), and returns how many it took. `begin` is when the first
/// message was sent, by the calendar.
///
/// # Errors
/// The receiver cannot be reached, or does not take them all.
pub async fn export(sequence: &Sequence, endpoint: &str, begin: SystemTime) -> Result<usize, ExportError> {
    let unreachable = |source| ExportError::Unreachable { endpoint: endpoint.to_owned(), source };
    let refused = |message| ExportError::Refused { endpoint: endpoint.to_owned(), message };
    let address = Endpoint::from_shared(endpoint.to_owned()).map_err(unreachable)?;
    let channel = address.timeout(TIMEOUT).connect_timeout(TIMEOUT).connect().await.map_err(unreachable)?;
    let mut receiver = TraceServiceClient::new(channel);
    let mut sent = 0;
    for (resource, spans) in spans(sequence, begin) {
        for batch in spans.chunks(BATCH) {
            let answer = receiver.export(request(&resource, batch)).await;
            let answer = answer.map_err(|status| refused(status.message().to_owned()))?.into_inner();
            if let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_spans > 0) {
                return Err(refused(format!("{} of them: {}", partial.rejected_spans, partial.error_message)));
            }
            sent += batch.len();
        }
    }
    Ok(sent)
}

fn request(resource: &Resource, spans: &[Span]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans { scope: Some(scope), spans: spans.to_vec(), ..ScopeSpans::default() };
    let resource_spans =
        ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// The spans of each node, and what names the node.
fn spans(sequence: &Sequence, begin: SystemTime) -> Vec<(Resource, Vec<Span>)> {
    let begin = begin.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let writing = Writing { steps: sequence.steps(), begin };
    let of_node = |node: u64| {
        let attributes = vec![text("service.name", "raft"), text("service.instance.id", &format!("node {node}"))];
        let handled = (0..writing.steps.len())
            .filter(|number| writing.steps[*number].node == node && writing.is_span(*number))
            .map(|number| writing.span(number));
        (Resource { attributes, ..Resource::default() }, handled.collect())
    };
    sequence.lanes().iter().map(|lane| of_node(lane.node)).collect()
}

struct Writing<'a> {
    steps: &'a [Step],
    /// Nanoseconds since 1970.
    begin: u64,
}

impl Writing<'_> {
    fn is_span(&self, number: usize) -> bool {
        self.steps[number].event.outcome != Outcome::Noted
    }

    fn span(&self, number: usize) -> Span {
        let (step, event) = (&self.steps[number], &self.steps[number].event);
        let trace_id = self.trace(number);
        let (parents, links): (Vec<_>, Vec<_>) =
            self.before(number).into_iter().partition(|before| self.trace(*before) == trace_id);
        let parent = parents.first().map_or(Vec::new(), |parent| self.id(*parent));
        let link = |number: usize| span::Link {
            trace_id: self.trace(number),
            span_id: self.id(number),
            ..span::Link::default()
        };
        let mut attributes = vec![
            text("raft.actor", &event.receiver),
            text("raft.from", &event.sender),
            text("raft.outcome", &event.outcome.to_string()),
            count("raft.node", step.node),
            count("raft.waited_ns", step.waited().unsigned_abs()),
        ];
        let mark = event.mark;
        attributes.extend((mark.term > 0).then(|| count("raft.term", mark.term)));
        attributes.extend((mark.index > 0).then(|| count("raft.index", mark.index)));
        let broke = matches!(event.outcome, Outcome::Failed | Outcome::Panicked | Outcome::Killed);
        let status =
            broke.then(|| Status { message: event.outcome.to_string(), code: status::StatusCode::Error.into() });
        Span {
            trace_id,
            span_id: self.id(number),
            parent_span_id: parent,
            name: format!("{} {}", names::short(&event.receiver), event.message),
            kind: span::SpanKind::Internal.into(),
            start_time_unix_nano: self.time(step.began),
            end_time_unix_nano: self.time(step.ended),
            attributes,
            links: parents.into_iter().skip(1).chain(links).map(link).collect(),
            status,
            ..Span::default()
        }
    }

    /// The handled messages that this one comes from: by the network first, then by its cause.
    fn before(&self, number: usize) -> Vec<usize> {
        let step = &self.steps[number];
        let mut before: Vec<_> =
            step.left.into_iter().chain(step.cause).filter_map(|from| self.handled(from)).collect();
        before.dedup();
        before
    }

    /// This, or what a message that no actor handled came from.
    fn handled(&self, from: usize) -> Option<usize> {
        let mut at = from;
        for _ in 0..self.steps.len() {
            if self.is_span(at) {
                return Some(at);
            }
            at = self.steps[at].left.or(self.steps[at].cause)?;
        }
        None
    }

    fn trace(&self, number: usize) -> Vec<u8> {
        let trace = self.steps[number].event.trace;
        if trace != 0 {
            return u128::from(trace).to_be_bytes().to_vec();
        }
        let mut root = number;
        for _ in 0..self.steps.len() {
            match self.before(root).first() {
                Some(before) if self.steps[*before].event.trace == 0 => root = *before,
                _ => break,
            }
        }
        let high = u128::from(self.begin | 1) << 64;
        (high | u128::from(self.number(root))).to_be_bytes().to_vec()
    }

    fn id(&self, number: usize) -> Vec<u8> {
        self.number(number).to_be_bytes().to_vec()
    }

    /// Differs from one step to the next and from one export to the next. Never 0.
    fn number(&self, number: usize) -> u64 {
        let mixed = (self.begin ^ number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 32).max(1)
    }

    fn time(&self, since_begin: i64) -> u64 {
        self.begin.saturating_add(since_begin.unsigned_abs())
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn count(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
