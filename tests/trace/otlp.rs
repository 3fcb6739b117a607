//! Spans, as a real receiver gets them: a tonic server with OpenTelemetry's own service.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use ractor_raft::{
    flow::Outcome,
    trace::{Sequence, otlp},
};
use tokio::time::timeout;

use crate::{
    receiver::{Receiver, listen},
    stage::recorded,
};

/// A run in simulated time, on a thread of its own: the receiver here lives in real time.
fn story(story: &'static str) -> Sequence {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("there is a runtime").block_on(async { Sequence::of(&recorded(story).await) })
    };
    std::thread::spawn(run).join().expect("the run does not panic")
}

/// Fails when: a handled message is no span, or its trace, parent, times or node are not what was recorded.
#[tokio::test]
async fn a_receiver_gets_a_span_for_each_handled_message() {
    let sequence = story("forwarded write");
    let receiver = Receiver::default();
    let endpoint = listen(&receiver).await;
    let begin = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let sent = timeout(Duration::from_secs(20), otlp::export(&sequence, &endpoint, begin)).await;
    let sent = sent.expect("in time").expect("it is taken");

    let handled: Vec<_> = sequence.steps().iter().filter(|step| step.event.outcome != Outcome::Noted).collect();
    let heard = receiver.heard.lock().expect("nobody panics with it").clone();
    let resources: Vec<_> = heard.iter().flat_map(|request| &request.resource_spans).collect();
    let spans: Vec<&Span> =
        resources.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).collect();
    assert_eq!((sent, spans.len()), (handled.len(), handled.len()));
    assert_eq!(resources.len(), 3, "one resource for each node");

    // One trace, whose low half is ours; one root, under which all hang that the write led to.
    let traces: BTreeSet<_> = spans.iter().map(|span| span.trace_id.clone()).collect();
    assert_eq!(traces, BTreeSet::from([u128::from(1_u64).to_be_bytes().to_vec()]));
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (&span.span_id, *span)).collect();
    assert_eq!(by_id.len(), spans.len(), "each has its own id");
    let mut crossed = 0;
    for span in &spans {
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert!(
            span.start_time_unix_nano >= 1_700_000_000_000_000_000
                && span.start_time_unix_nano <= span.end_time_unix_nano
        );
        if let Some(parent) = by_id.get(&span.parent_span_id) {
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{} before {}", span.name, parent.name);
            crossed += usize::from(node_of(parent) != node_of(span));
        } else {
            assert!(span.parent_span_id.is_empty(), "a parent that is not there: {span:?}");
        }
    }
    assert!(crossed >= 5, "{crossed} spans have a parent on another node");
    let persist = spans.iter().filter(|span| span.name == "log store Persist").count();
    assert_eq!(persist, 3);
}

/// Fails when: messages without a client's call share one trace, or have none.
#[tokio::test]
async fn an_election_is_a_trace_of_its_own() {
    let sequence = story("election");
    let receiver = Receiver::default();
    let endpoint = listen(&receiver).await;
    otlp::export(&sequence, &endpoint, SystemTime::now()).await.expect("it is taken");
    let heard = receiver.heard.lock().expect("nobody panics with it").clone();
    let spans = heard.iter().flat_map(|request| &request.resource_spans).flat_map(|resource| &resource.scope_spans);
    let spans: Vec<_> = spans.flat_map(|scope| &scope.spans).collect();
    let vote = spans.iter().find(|span| span.name == "consensus RequestVote").expect("one was asked");
    let of_vote: BTreeSet<_> =
        spans.iter().filter(|span| span.trace_id == vote.trace_id).map(|span| &*span.name).collect();
    for name in ["consensus Timeout", "consensus PreVote", "log store Persist", "consensus AppendEntries"] {
        assert!(of_vote.contains(name), "{name} is not in {of_vote:?}");
    }
    assert!(spans.iter().all(|span| span.trace_id.iter().any(|byte| *byte != 0)));
}

/// Fails when: spans that were not taken count as sent, or a receiver that is not there hangs the call.
#[tokio::test]
async fn what_is_not_taken_is_said() {
    let sequence = story("read");
    let receiver = Receiver { refuses: true, ..Receiver::default() };
    let endpoint = listen(&receiver).await;
    let refused = otlp::export(&sequence, &endpoint, SystemTime::now()).await.expect_err("it refuses");
    assert_eq!(refused.to_string(), format!("{endpoint} refused the spans: 3 of them: too old"));
    let nobody = otlp::export(&sequence, "http://127.0.0.1:1", SystemTime::now()).await;
    assert!(matches!(nobody, Err(otlp::ExportError::Unreachable { .. })), "{nobody:?}");
}

fn node_of(span: &Span) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == "raft.node");
    format!("{:?}", attribute.expect("it says which").value)
}
