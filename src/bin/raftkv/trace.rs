//! trace: the messages between the actors of all nodes, on one clock.
//!
//! | file | idea |
//! |---|---|
//! | `call` | a put or a get, and its way |
//! | `episodes` | which messages belong to the last election, restart, snapshot or membership change |
//! | `incident` | what was kept when something fell |
//! | `live` | messages as they come |
//! | `render` | how it is shown |
//! | `spans` | as OpenTelemetry spans, to whoever receives them |

mod call;
mod episodes;
mod incident;
mod live;
mod render;
mod spans;

use std::time::Duration;

use ractor_raft::{
    flow::TraceId,
    rpc::flow::{self, Collected, Found, Unreachable, Wanted},
    trace::Recording,
};

use crate::{
    args::{Trace, TraceCall, TraceFormat},
    config::{ClientSettings, time_of_flag},
    error::{Failure, exit},
    output::{Output, talk},
    status::PATIENCE,
};

/// What all of them need.
struct Tracer<'a> {
    settings: &'a ClientSettings,
    output: Output,
    format: TraceFormat,
    /// Where the spans are sent, if anywhere.
    otlp_endpoint: Option<String>,
}

/// Shows what was asked for; returns the exit code.
pub async fn run(trace: Trace, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    let format = trace.format.unwrap_or(if output.json { TraceFormat::Json } else { TraceFormat::Text });
    if trace.otlp_endpoint.is_some() {
        spans::check()?;
    }
    if trace.otlp_endpoint.is_some() && trace.follow {
        return Err(one_of_them("spans are sent of what is over, and --follow goes on"));
    }
    let tracer = Tracer { settings, output, format, otlp_endpoint: trace.otlp_endpoint };
    let others = trace.follow || trace.last.is_some() || trace.incident.is_some() || trace.id.is_some();
    match (trace.call, trace.last, trace.incident, trace.id) {
        (Some(_), ..) if others => Err(one_of_them("a call is made and something else asked for")),
        (Some(TraceCall::Put { key, value }), ..) => call::put(&tracer, key, value).await,
        (Some(TraceCall::Get { key, freshness }), ..) => call::get(&tracer, key, &freshness).await,
        (None, Some(what), ..) => episodes::run(&tracer, what).await,
        (None, None, Some(which), _) => incident::run(&tracer, &which).await,
        (None, None, None, Some(id)) => by_id(&tracer, &id).await,
        _ if trace.follow => {
            let duration = trace.duration.map(|text| time_of_flag("--for", &text)).transpose()?;
            live::run(&tracer, duration).await
        }
        _ => Err(one_of_them("nothing is asked for")),
    }
}

fn one_of_them(why: &str) -> Failure {
    let fix = "give one of: put K V, get K, --follow, --last election|restart|snapshot|membership, --incident last, --id TRACEID";
    Failure::new(20, exit::USAGE, "trace shows one thing at a time", why, fix)
}

async fn by_id(tracer: &Tracer<'_>, id: &str) -> Result<u8, Failure> {
    let trace = trace_of(id)?;
    let (found, collected) = tracer.collect(&Wanted { trace: Some(trace), ..Wanted::default() }).await?;
    if collected.recordings.iter().all(|recording| recording.events.is_empty()) {
        let why = "each node remembers its last messages only, and none of them are of this call";
        let fix = "trace a call while it is made: raftkv trace put K V";
        return Err(Failure {
            fix: fix.to_owned(),
            ..Failure::other(format!("no node knows the trace {trace:016x}"), why)
        });
    }
    tracer.show(&found, collected).await
}

/// 16 or 32 hexadecimal digits, or a whole `traceparent`.
fn trace_of(text: &str) -> Result<TraceId, Failure> {
    let mut parts = text.split('-');
    let digits = if text.contains('-') { parts.nth(1).unwrap_or("") } else { text };
    let is_hex = (1..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let low = &digits[digits.len().saturating_sub(16)..];
    let trace = if is_hex { TraceId::from_str_radix(low, 16).unwrap_or(0) } else { 0 };
    match trace {
        0 => Err(Failure::bad_setting(
            "id",
            text,
            "the flag --id",
            "a trace id: 16 or 32 hexadecimal digits, or a traceparent",
        )),
        trace => Ok(trace),
    }
}

impl Tracer<'_> {
    fn patience(&self) -> Duration {
        self.settings.timeout.min(PATIENCE)
    }

    /// Where the nodes are.
    async fn find(&self) -> Result<Found, Failure> {
        let found = flow::find(&self.settings.endpoints, self.patience()).await;
        if found.nodes.is_empty() { Err(nobody(&found.unreachable)) } else { Ok(found) }
    }

    /// What all of them recorded.
    async fn collect(&self, wanted: &Wanted) -> Result<(Found, Collected), Failure> {
        let found = self.find().await?;
        let collected = flow::collect(&found.addresses(), wanted, self.settings.timeout).await;
        if collected.recordings.is_empty() {
            return Err(nobody(&collected.unreachable));
        }
        Ok((found, collected))
    }

    /// Prints it, says what is missing of it and how sure the clocks are, and sends its spans where they are wanted.
    async fn show(&self, found: &Found, collected: Collected) -> Result<u8, Failure> {
        let Collected { recordings, unreachable } = collected;
        self.output.line(render::render(&recordings, self.format).trim_end().as_bytes())?;
        say_what_is_missing(found, &unreachable);
        say_clocks(&recordings);
        if let Some(endpoint) = &self.otlp_endpoint {
            let sent = spans::send(&recordings, endpoint).await?;
            talk(&format!("{sent} spans sent to {endpoint}"));
        }
        Ok(exit::DONE)
    }
}

fn say_what_is_missing(found: &Found, unreachable: &[Unreachable]) {
    for Unreachable { address, cause } in unreachable {
        let node = found.nodes.iter().find(|(_, at)| *at == address);
        let named = node.map_or(address.clone(), |(node, at)| format!("node {node} at {at}"));
        talk(&format!("{named} tells nothing: {cause}"));
    }
}

/// An arrow between two nodes may be longer or shorter by that.
fn say_clocks(recordings: &[Recording]) {
    let errors =
        recordings.iter().map(|recording| format!("node {} ± {}", recording.node, short(recording.clock.error)));
    let errors = errors.collect::<Vec<_>>().join(", ");
    if recordings.len() > 1 {
        talk(&format!("clocks: {errors}"));
    }
}

/// R002: there is nobody to ask.
pub fn nobody(unreachable: &[Unreachable]) -> Failure {
    let causes = unreachable.iter().map(|Unreachable { address, cause }| format!("{address}: {cause}"));
    let why = causes.collect::<Vec<_>>().join("; ");
    let fix = "start the nodes (raftkv serve), or say with --endpoints where they are";
    Failure::new(2, exit::UNAVAILABLE, "no endpoint can be reached", why, fix)
}

/// A time with three digits and its unit.
pub fn short(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (number, unit) = match nanoseconds {
        ..1e3 => return format!("{nanoseconds:.0} ns"),
        1e3..1e6 => (nanoseconds / 1e3, "µs"),
        1e6..1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    match number {
        ..10.0 => format!("{number:.2} {unit}"),
        ..100.0 => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: the high half of a W3C trace id is taken, or nonsense for a trace.
    #[test]
    fn a_trace_id_is_the_low_half_of_a_w3c_one() {
        let id = 0xa3ce_929d_0e0e_4736;
        for text in [
            "a3ce929d0e0e4736",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_of(text), Ok(id), "{text}");
        }
        for text in ["", "0", "x", "é", "00-", &"1".repeat(33)] {
            assert_eq!(trace_of(text).map_err(|failure| failure.exit), Err(exit::USAGE), "{text}");
        }
    }

    #[test]
    fn times_have_three_digits() {
        let times =
            [0, 999, 1_500, 12_340, 123_400, 2_250_000, 1_080_000_000].map(|time| short(Duration::from_nanos(time)));
        assert_eq!(times, ["0 ns", "999 ns", "1.50 µs", "12.3 µs", "123 µs", "2.25 ms", "1.08 s"]);
    }
}
