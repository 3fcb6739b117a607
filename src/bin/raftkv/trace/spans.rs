//! The picture as OpenTelemetry spans, sent to whoever receives them.

use ractor_raft::trace::Recording;

use crate::error::{Failure, exit};

/// Sends them, and returns how many were taken.
#[cfg(feature = "otel")]
pub async fn send(recordings: &[Recording], endpoint: &str) -> Result<usize, Failure> {
    use std::time::{Duration, UNIX_EPOCH};

    use ractor_raft::trace::{
        Sequence,
        otlp::{self, ExportError},
    };

    use crate::client::root_cause;

    let sent = |recording: &Recording| recording.events.iter().map(|event| recording.clock.common(event.sent)).min();
    let begin = recordings.iter().filter_map(sent).min().unwrap_or(0);
    let begin = UNIX_EPOCH + Duration::from_nanos(u64::try_from(begin).unwrap_or(0));
    // "transport error" alone helps nobody.
    let why = |error: &ExportError| match error {
        ExportError::Unreachable { endpoint, source } => {
            format!("{endpoint} cannot be reached: {}", root_cause(source))
        }
        other => other.to_string(),
    };
    otlp::export(&Sequence::of(recordings), endpoint, begin).await.map_err(|error| {
        let exit = if matches!(error, ExportError::Unreachable { .. }) { exit::UNAVAILABLE } else { exit::OTHER };
        let fix = "start an OTLP/gRPC receiver there, or give its address with --otlp-endpoint (http://127.0.0.1:4317)";
        Failure { fix: fix.to_owned(), exit, ..Failure::other("the spans were not sent", why(&error)) }
    })
}

/// Says what would be needed.
#[cfg(not(feature = "otel"))]
pub async fn send(_: &[Recording], _: &str) -> Result<usize, Failure> {
    Err(missing())
}

/// Before anything is done for nothing: whether spans can be sent.
pub fn check() -> Result<(), Failure> {
    if cfg!(feature = "otel") { Ok(()) } else { Err(missing()) }
}

fn missing() -> Failure {
    let why = "--otlp-endpoint needs the feature `otel`";
    let fix = "build it with that: cargo install ractor-raft --features otel; or take --format json or chrome";
    Failure::new(20, exit::USAGE, "this raftkv was built without OpenTelemetry", why, fix)
}
