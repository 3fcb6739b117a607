//! Every message of one call, from the recorders of all nodes: what `raftkv trace` shows of it.

use super::{
    recorders::{nanoseconds, recorded},
    view::View,
    words::Message,
};
use crate::{
    flow::TraceId,
    rpc::flow::Wanted,
    trace::{self, Recording, Sequence},
};

/// How long after the last message of the call the others hear that its entry is committed: with the next heartbeat.
const FOLLOWING: i64 = 1_000_000_000;

/// In one order, on one clock. Times are milliseconds since the first. A node that does not answer in time is left out.
pub(super) async fn of_call(call: TraceId, view: View) -> Vec<Message> {
    let of_trace = recorded(&view, &Wanted { trace: Some(call), ..Wanted::default() }).await;
    let Some((begin, end)) = span(&of_trace) else { return Vec::new() };
    // What carried its entry behind the entries of others is recorded under another trace: so all of that time is asked for.
    let around = Wanted { window: Some((begin, end.saturating_add(FOLLOWING))), ..Wanted::default() };
    let whole = trace::of_call(&recorded(&view, &around).await, call);
    Sequence::of(&whole).steps().iter().map(Message::of_step).collect()
}

/// From the first message's sending to the end of the last one's handling, for all that is known of the clocks.
fn span(recordings: &[Recording]) -> Option<(i64, i64)> {
    let times = recordings.iter().flat_map(|recording| {
        let error = nanoseconds(recording.clock.error);
        let common = |time| recording.clock.common(time);
        let ends = move |sent, ended| (common(sent).saturating_sub(error), common(ended).saturating_add(error));
        recording.events.iter().map(move |event| ends(event.sent, event.ended()))
    });
    times.reduce(|(begin, end), (sent, ended)| (begin.min(sent), end.max(ended)))
}
