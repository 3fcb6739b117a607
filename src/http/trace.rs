//! Every message of one call, from the recorders of all nodes: what `raftkv trace` shows of it.

use std::time::Duration;

use super::{view::View, words::Message};
use crate::{
    flow::{Filter, TraceId},
    raft::Address,
    rpc::flow::{self, CommonClock, Wanted},
    trace::{self, Clock, Recording, Sequence},
};

/// How long a node has to tell what it recorded.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// What the nodes recorded, each once; the own one is read without the network.
async fn recorded(view: &View, wanted: &Wanted) -> Vec<Recording> {
    let peers = view.members.iter().filter(|(id, _)| view.own(**id).is_none());
    let addresses: Vec<Address> = peers.map(|(_, address)| address.clone()).collect();
    let mut recordings = flow::collect(&addresses, wanted, PATIENCE).await.recordings;
    if let Some(node) = &view.node {
        let (flow, id) = (node.flow(), node.identity().node_id);
        let clock =
            Clock { epoch: CommonClock::start().now().saturating_sub(nanoseconds(flow.now())), error: Duration::ZERO };
        let of_node =
            |common: i64| Duration::from_nanos(u64::try_from(common.saturating_sub(clock.epoch)).unwrap_or(0));
        let filter = Filter {
            trace: wanted.trace,
            since: wanted.window.map(|(since, _)| of_node(since)),
            until: wanted.window.map(|(_, until)| of_node(until)),
            ..Filter::default()
        };
        recordings.retain(|recording| recording.node != id);
        recordings.push(Recording { node: id, events: flow.events(&filter), missed: 0, clock });
    }
    recordings
}

/// From the first message's sending to the end of the last one's handling, for all that is known of the clocks.
fn span(recordings: &[Recording]) -> Option<(i64, i64)> {
    let times = recordings.iter().flat_map(|recording| {
        let error = nanoseconds(recording.clock.error);
        let common = |time| recording.clock.common(time);
        recording
            .events
            .iter()
            .map(move |event| (common(event.sent).saturating_sub(error), common(event.ended()).saturating_add(error)))
    });
    times.reduce(|(begin, end), (sent, ended)| (begin.min(sent), end.max(ended)))
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
