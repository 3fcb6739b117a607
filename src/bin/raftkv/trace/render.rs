//! How recordings are shown: as a whole, by the library's own pictures; message by message, while one follows.

use ractor_raft::{
    flow::{Event, Outcome},
    trace::{Recording, Sequence},
};

use super::short;
use crate::{
    args::TraceFormat,
    output::{printable, width},
};

/// A message with the node it was recorded on, and when it was sent by the common clock.
pub struct Seen<'a> {
    pub node: u64,
    pub sent: i64,
    pub event: &'a Event,
}

/// All messages by the time they were sent.
pub fn by_time(recordings: &[Recording]) -> Vec<Seen<'_>> {
    fn of_node(recording: &Recording) -> Vec<Seen<'_>> {
        let (node, clock) = (recording.node, recording.clock);
        recording.events.iter().map(move |event| Seen { node, sent: clock.common(event.sent), event }).collect()
    }
    let mut seen: Vec<_> = recordings.iter().flat_map(of_node).collect();
    seen.sort_by_key(|seen| seen.sent);
    seen
}

/// In this format. JSON is one object on one line.
pub fn render(recordings: &[Recording], format: TraceFormat) -> String {
    let sequence = Sequence::of(recordings);
    match format {
        TraceFormat::Text => sequence.text(width()),
        TraceFormat::Json => sequence.json().replace('\n', ""),
        TraceFormat::Mermaid => sequence.mermaid(),
        TraceFormat::Chrome => sequence.chrome(),
    }
}

/// A line a message.
pub fn text(seen: &[Seen<'_>], begun: i64) -> String {
    let ways: Vec<_> = seen
        .iter()
        .map(|seen| format!("node {} ▸ {} → {}", seen.node, plain(&seen.event.sender), plain(&seen.event.receiver)))
        .collect();
    let words: Vec<_> = seen.iter().map(|seen| word(seen.event)).collect();
    let width = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let (way_width, word_width) = (width(&ways), width(&words));
    let line = |((seen, way), word): ((&Seen<'_>, &String), &String)| {
        let after = (seen.sent - begun) as f64 / 1e6;
        let times = times(seen.event);
        format!("{after:9.3} ms  {way:way_width$}  {word:word_width$}  {times}").trim_end().to_owned() + "\n"
    };
    seen.iter().zip(&ways).zip(&words).map(line).collect()
}

/// Names are another process's, and a terminal obeys what is in them.
fn plain(name: &str) -> String {
    printable(name.as_bytes())
}

fn word(event: &Event) -> String {
    let message = plain(&event.message);
    match (event.mark.index, event.mark.term) {
        (0, 0) => message,
        (0, term) => format!("{message} term {term}"),
        (index, _) => format!("{message} {index}"),
    }
}

fn times(event: &Event) -> String {
    match event.outcome {
        Outcome::Noted => String::new(),
        Outcome::Handled => format!("waited {:>7}  handled {:>7}", short(event.waited), short(event.handling)),
        other => format!("waited {:>7}  {other} after {}", short(event.waited), short(event.handling)),
    }
}

/// An object a message.
pub fn json_line(seen: &Seen<'_>) -> String {
    let Seen { node, sent, event } = seen;
    serde_json::json!({
        "v": 1, "node": node, "at_unix_ns": sent, "id": event.id.to_string(), "cause": event.cause.to_string(),
        "trace": format!("{:016x}", event.trace), "sender": &*event.sender, "receiver": &*event.receiver,
        "receiver_incarnation": event.receiver_incarnation, "message": &*event.message,
        "term": event.mark.term, "index": event.mark.index, "waited_ns": event.waited.as_nanos() as u64,
        "handling_ns": event.handling.as_nanos() as u64, "outcome": event.outcome.to_string(),
    })
    .to_string()
}
