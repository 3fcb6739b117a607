//! The messages of all nodes as they come.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures_util::StreamExt;
use ractor_raft::{
    rpc::flow::{self, Collected, LIMIT, Told},
    trace::Recording,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Tracer,
    render::{by_time, json_line, text},
    say_what_is_missing,
};
use crate::{
    args::TraceFormat,
    error::{Failure, exit},
    output::talk,
};

/// For ever, as far as anybody waits.
const EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// How long messages are held back, so that those of all nodes can be told in the order in which they were sent.
const HELD: Duration = Duration::from_millis(200);

/// What has come so far.
#[derive(Default)]
struct Heard {
    /// What is not told yet.
    held: Vec<Recording>,
    /// By the common clock: when the first message was sent.
    begun: Option<i64>,
    missed: u64,
    /// What a format needs that is drawn as a whole, by node.
    gathered: BTreeMap<u64, Recording>,
}

/// Prints until the time is over or it is interrupted; returns the exit code.
pub async fn run(tracer: &Tracer<'_>, duration: Option<Duration>) -> Result<u8, Failure> {
    let found = tracer.find().await?;
    let mut told = pin!(flow::follow(&found.addresses(), None, None));
    let mut over = pin!(sleep_until(Instant::now() + duration.unwrap_or(EVER).min(EVER)));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut heard = Heard::default();
    let mut silent = BTreeMap::new();
    let mut telling = tokio::time::interval(HELD);
    loop {
        let told = tokio::select! {
            biased;
            _ = &mut interrupted => break,
            () = &mut over => break,
            _ = telling.tick() => {
                heard.tell(tracer)?;
                continue;
            }
            told = told.next() => told,
        };
        match told {
            Some(Told::Messages(recording)) => heard.take(tracer, recording),
            Some(Told::Broken(unreachable)) => {
                let known = silent.insert(unreachable.address.clone(), unreachable.cause.clone());
                if known.as_ref() != Some(&unreachable.cause) {
                    say_what_is_missing(&found, &[unreachable]);
                }
            }
            None => break,
        }
    }
    heard.tell(tracer)?;
    if heard.missed > 0 {
        talk(&format!("{} messages came too fast to be told", heard.missed));
    }
    if is_drawn_as_a_whole(tracer.format) {
        let recordings = heard.gathered.into_values().collect();
        return tracer.show(&found, Collected { recordings, unreachable: Vec::new() }).await;
    }
    Ok(exit::DONE)
}

fn is_drawn_as_a_whole(format: TraceFormat) -> bool {
    matches!(format, TraceFormat::Mermaid | TraceFormat::Chrome)
}

impl Heard {
    fn take(&mut self, tracer: &Tracer<'_>, recording: Recording) {
        self.missed += recording.missed;
        if is_drawn_as_a_whole(tracer.format) {
            self.gather(recording);
        } else {
            self.held.push(recording);
        }
    }

    /// Tells what was held back.
    fn tell(&mut self, tracer: &Tracer<'_>) -> Result<(), Failure> {
        let held = std::mem::take(&mut self.held);
        let seen = by_time(&held);
        let Some(first) = seen.first() else { return Ok(()) };
        let begun = *self.begun.get_or_insert(first.sent);
        match tracer.format {
            TraceFormat::Json => seen.iter().try_for_each(|seen| tracer.output.line(json_line(seen).as_bytes())),
            _ => tracer.output.line(text(&seen, begun).trim_end().as_bytes()),
        }
    }

    /// What has no room any more was missed.
    fn gather(&mut self, recording: Recording) {
        let Recording { node, events, clock, .. } = recording;
        let empty = || Recording { node, events: Vec::new(), missed: 0, clock };
        let gathered = self.gathered.entry(node).or_insert_with(empty);
        let room = LIMIT.saturating_sub(gathered.events.len());
        self.missed += events.len().saturating_sub(room) as u64;
        gathered.events.extend(events.into_iter().take(room));
    }
}
