//! An application's spans and a node's messages in one trace, whichever of the two one looks from.
#![cfg(all(feature = "tracing-layer", feature = "testing"))]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ractor_raft::{
    Consistency, Node,
    flow::{self, Event, Filter, TraceId},
    kv::{Command, Kv},
    storage::MemoryStorage,
    testing::{Cluster, Ledger, Line},
    transport::InProcess,
};
use tracing::{
    Id, Instrument, Subscriber,
    field::{Field, Visit},
    span::Attributes,
};
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::Context as LayerContext, prelude::*, registry::LookupSpan,
};

async fn node(address: &'static str) -> Node<Kv> {
    let node = Node::builder(1, Kv::default).cluster([(1, address)]).seed(1);
    let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await.expect("it starts");
    node.propose(Command::put("first", "1")).await.expect("it leads");
    node
}

fn named<'a>(events: &'a [Event], name: &str) -> &'a Event {
    events.iter().find(|event| event.message == name).unwrap_or_else(|| panic!("no {name} in {events:#?}"))
}

/// Fails when: a call does not take the span's trace, or its message not the span as its cause; a span is recorded under another
/// actor, name or cause; or one that nobody sees opens a trace.
#[tokio::test(start_paused = true)]
async fn a_call_continues_the_trace_of_the_span_it_is_made_in() {
    let node = node("layer").await;
    let subscriber = tracing_subscriber::registry().with(flow::layer(node.flow()).with_filter(LevelFilter::INFO));
    let _guard = tracing::subscriber::set_default(subscriber);
    let request = tracing::info_span!("Request", actor = "door");
    let deposit = tracing::info_span!(parent: &request, "Deposit", actor = %"teller", amount = 100);
    async {
        tokio::time::sleep(Duration::from_millis(3)).await;
        node.propose(Command::put("ada", "100")).await.expect("it is applied");
        node.read(Consistency::Linearizable, |_| ()).await.expect("it leads");
    }
    .instrument(deposit)
    .await;
    drop(request);
    let client = node.client();
    client.propose(Command::put("bob", "1")).instrument(tracing::info_span!("Session")).await.expect("it is applied");

    let flow = node.flow();
    let request = named(&flow.events(&Filter::of_message("Request")), "Request").clone();
    let events = flow.events(&Filter::of_trace(request.trace));
    let deposit = named(&events, "Deposit");
    assert_eq!((&*request.receiver, request.cause), ("application/door", 0));
    assert_eq!((&*deposit.sender, &*deposit.receiver), ("application/door", "application/teller"));
    assert_eq!((deposit.cause, deposit.handling), (request.id, Duration::from_millis(3)));
    for (name, receiver) in [("Propose", "consensus"), ("Read", "consensus"), ("Query", "applier")] {
        let said = named(&events, name);
        assert_eq!(
            (&*said.sender, said.cause, &*said.receiver),
            ("application/teller", deposit.id, receiver),
            "{name}"
        );
    }
    for (name, receiver) in [("Persist", "log store"), ("Apply", "applier")] {
        assert_eq!(&*named(&events, name).receiver, receiver);
    }
    let session = named(&flow.events(&Filter::of_message("Session")), "Session").clone();
    assert_eq!(&*session.receiver, "application/tracing", "its target, where it names no actor");
    assert_ne!(session.trace, request.trace);
    let events = flow.events(&Filter::of_trace(session.trace));
    assert_eq!(named(&events, "ProposeInSession").cause, session.id);

    let before = flow.recorded_events();
    tracing::debug_span!("unseen").in_scope(|| assert_eq!(flow.current(), flow::Origin::default()));
    assert_eq!(flow.recorded_events(), before);
    node.shutdown().await.expect("it stops");
}

/// Fails when: an id from outside is not taken, or is not handed down.
#[tokio::test(start_paused = true)]
async fn a_trace_from_elsewhere_is_continued() {
    let node = node("traceparent").await;
    let subscriber = tracing_subscriber::registry().with(flow::layer(node.flow()));
    let _guard = tracing::subscriber::set_default(subscriber);
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = flow::trace_of(header).expect("it is one");
    let request = tracing::info_span!("Request", traceparent = header);
    let inner = tracing::info_span!(parent: &request, "Inner");
    inner.in_scope(|| assert_eq!((node.trace(), node.flow().current().trace), (trace, trace)));
    // Without a span, or besides one.
    let handle = node.because(flow::Origin::of_trace(7));
    inner.in_scope(|| assert_eq!(handle.trace(), 7));
    handle.propose(Command::put("ada", "100")).await.expect("it is applied");
    let events = node.flow().events(&Filter::of_trace(7));
    assert_eq!(&*named(&events, "Propose").sender, "client");
    assert_eq!(&*named(&events, "Apply").receiver, "applier");
    node.shutdown().await.expect("it stops");
}

/// Fails when: spans in another node's flow lend that flow's numbers to this one.
#[tokio::test(start_paused = true)]
async fn another_nodes_flow_takes_the_trace_alone() {
    let (one, two) = (node("one").await, node("two").await);
    let subscriber = tracing_subscriber::registry().with(flow::layer(one.flow()));
    let _guard = tracing::subscriber::set_default(subscriber);
    let span = tracing::info_span!("Request");
    let trace = span.in_scope(|| one.trace());
    two.propose(Command::put("ada", "100")).instrument(span).await.expect("it is applied");
    let events = two.flow().events(&Filter::of_trace(trace));
    let proposed = named(&events, "Propose");
    assert_eq!((&*proposed.sender, proposed.cause), ("client", 0));
    one.shutdown().await.expect("it stops");
    two.shutdown().await.expect("it stops");
}

/// Fails when: whoever fills the name of an actor with anything fills the node's memory.
#[tokio::test(start_paused = true)]
async fn the_places_of_spans_are_bounded() {
    let node = node("places").await;
    let subscriber = tracing_subscriber::registry().with(flow::layer(node.flow()));
    let _guard = tracing::subscriber::set_default(subscriber);
    for n in 0..1000 {
        tracing::info_span!("Request", actor = %format!("connection {n}")).in_scope(|| ());
    }
    let events = node.flow().events(&Filter::of_message("Request"));
    let places: std::collections::BTreeSet<_> = events.iter().map(|event| &*event.receiver).collect();
    assert_eq!((events.len(), places.len()), (1000, 257));
    assert!(places.contains("application"));
    node.shutdown().await.expect("it stops");
}

/// What an application's own subscriber sees: each span with its parent's name and its text fields.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SeenSpan>>>);

#[derive(Clone, Debug, Default)]
struct SeenSpan {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for SeenSpan {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: LayerContext<'_, S>) {
        let parent = context.span(id).and_then(|span| span.parent()).map(|parent| parent.name());
        let mut span = SeenSpan { name: attributes.metadata().name(), parent, ..SeenSpan::default() };
        attributes.record(&mut span);
        self.0.lock().expect("no panic").push(span);
    }
}

/// A state machine's own span while the node applies an entry.
#[derive(Default)]
struct Audited(Ledger);

impl ractor_raft::StateMachine for Audited {
    type Command = Line;
    type Output = ractor_raft::testing::Written;

    fn apply(&mut self, at: ractor_raft::raft::LogIndex, line: Line) -> Self::Output {
        let _span = tracing::info_span!("Audit", actor = "auditor").entered();
        self.0.apply(at, line)
    }

    fn snapshot(&self) -> impl ractor_raft::state_machine::Snapshot {
        self.0.snapshot()
    }

    fn restore(&mut self, bytes: impl std::io::Read) -> Result<(), ractor_raft::state_machine::RestoreError> {
        self.0.restore(bytes)
    }
}

/// Fails when: the spans of a call's messages are not below the span it was made in, on the node that was called; carry another
/// trace; stay below it after its end; or the state machine's own span does not join the entry's trace.
#[tokio::test(start_paused = true)]
async fn the_applications_subscriber_sees_the_nodes_messages_below_its_own_span() {
    let cluster = Cluster::builder(Audited::default).nodes(3).seed(3).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(flow::layer(node.flow())).with(seen.clone());
    let guard = tracing::subscriber::set_default(subscriber);
    let span = tracing::info_span!("Deposit");
    let trace: TraceId = span.in_scope(|| node.trace());
    let index = node.propose(Line::new("a line")).instrument(span).await.map(|_| node.status().commit_index);
    cluster.until_applied(index.expect("it is applied")).await;
    drop(guard);

    let spans = seen.0.lock().expect("no panic").clone();
    let traced = |span: &&SeenSpan| span.fields.get("trace") == Some(&trace.to_string());
    let of = |node: &Node<Audited>, message: &str| {
        let wanted = |span: &&SeenSpan| span.fields["node"] == node.flow().name() && span.fields["message"] == message;
        spans.iter().filter(traced).find(wanted).unwrap_or_else(|| panic!("no {message} in {spans:#?}")).clone()
    };
    for message in ["Propose", "Deliver", "Persist", "Persisted", "Apply"] {
        let span = of(&node, message);
        assert_eq!((span.name, span.parent), ("message", Some("Deposit")), "{message}");
    }
    for follower in cluster.ids().into_iter().filter(|id| *id != leader) {
        let follower = cluster.node(follower).expect("it runs");
        for message in ["Persist", "Apply"] {
            assert_eq!(of(&follower, message).parent, None, "it is another node's");
        }
    }
    // The state machine of the node whose flow it is says it as an event of that Apply.
    let events = node.flow().events(&Filter::of_trace(trace));
    let apply = named(&events, "Apply");
    let audits: Vec<_> = events.iter().filter(|event| event.message == "Audit").collect();
    assert_eq!(audits.len(), 3, "{events:#?}");
    let own = audits.iter().find(|audit| audit.cause == apply.id).expect("one is of this node's Apply");
    assert_eq!((&*own.sender, &*own.receiver), ("applier", "application/auditor"));
}
