//! `raftkv trace --otlp-endpoint`: the picture as OpenTelemetry spans, with the feature `otel`; without it, what is missing.

use crate::{cluster::Cluster, command_line::run};

/// Fails when: the spans are not those of the call, go to another address, or their time is not the calendar's; or it is no
/// failure that nobody took them.
#[cfg(feature = "otel")]
#[tokio::test(flavor = "multi_thread")]
async fn a_traced_write_is_sent_as_spans() {
    use std::{
        collections::BTreeSet,
        time::{SystemTime, UNIX_EPOCH},
    };

    use crate::receiver::{Receiver, listen};

    let receiver = Receiver::default();
    let endpoint = listen(&receiver).await;
    let cluster = Cluster::start(&[]).await;
    cluster.leader().await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_nanos() as u64;
    let begun = now();
    let put = ["trace", "put", "ada", "1815", "--otlp-endpoint", &endpoint];
    let traced = run(&cluster.endpoints(), &put).await.exits_with(0);
    let heard = receiver.heard.lock().expect("nobody panics with it").clone();
    let resources: Vec<_> = heard.iter().flat_map(|request| &request.resource_spans).collect();
    assert_eq!(resources.len(), 3, "one resource for each node: {}", traced.stderr);
    let scopes = resources.iter().flat_map(|resource| &resource.scope_spans);
    let spans: Vec<_> = scopes.flat_map(|scope| &scope.spans).collect();
    assert!(traced.stderr.contains(&format!("{} spans sent to {endpoint}", spans.len())), "{}", traced.stderr);
    let said = traced.stderr.split("trace ").nth(1).and_then(|rest| rest.get(..16)).expect("it says the trace");
    let traces: BTreeSet<_> = spans.iter().map(|span| span.trace_id.clone()).collect();
    let id = u64::from_str_radix(said, 16).expect("hexadecimal");
    assert_eq!(traces, BTreeSet::from([u128::from(id).to_be_bytes().to_vec()]));
    for name in ["consensus Propose", "log store Persist", "consensus AppendEntries", "applier Apply"] {
        assert!(spans.iter().any(|span| span.name == name), "{name} is not in {spans:?}");
    }
    assert!(spans.iter().all(|span| (begun..=now()).contains(&span.start_time_unix_nano)), "{begun}: {spans:?}");

    let refusing = Receiver { refuses: true, ..Receiver::default() };
    let endpoint = listen(&refusing).await;
    let refused = run(&cluster.endpoints(), &["trace", "get", "ada", "--otlp-endpoint", &endpoint]).await.exits_with(1);
    assert!(refused.stderr.contains("refused the spans: 3 of them: too old"), "{}", refused.stderr);
    let nobody = ["trace", "get", "ada", "--otlp-endpoint", "http://127.0.0.1:1"];
    let nobody = run(&cluster.endpoints(), &nobody).await.exits_with(3);
    assert!(nobody.stderr.contains("127.0.0.1:1 cannot be reached: "), "{}", nobody.stderr);
    let follow = ["trace", "--follow", "--otlp-endpoint", &endpoint];
    run(&cluster.endpoints(), &follow).await.exits_with(2);
}

/// Fails when: the flag does nothing, or something, in a binary that cannot send spans; or the feature is not named.
#[cfg(not(feature = "otel"))]
#[tokio::test(flavor = "multi_thread")]
async fn without_the_feature_the_flag_says_what_is_missing() {
    let cluster = Cluster::start(&[]).await;
    cluster.leader().await;
    let put = ["trace", "put", "ada", "1815", "--otlp-endpoint", "http://127.0.0.1:4317"];
    let refused = run(&cluster.endpoints(), &put).await.exits_with(2);
    assert!(refused.stderr.contains("--features otel"), "{}", refused.stderr);
    run(&cluster.endpoints(), &["get", "ada"]).await.exits_with(4);
}
