//! What happens to a node, as a stream. A reader that does not keep up is dropped with an error: nothing is left out in
//! silence, and nothing grows.

use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tonic::Status;

use super::gone;
use crate::{
    node::{NodeEvent, NodeRef},
    rpc::{convert, listener::Signal, pb},
};

/// How many events a reader may be behind.
const CAPACITY: usize = 256;

struct Reading {
    node: NodeRef,
    events: mpsc::Receiver<NodeEvent>,
    closing: Signal,
}

pub(super) fn events(node: NodeRef, closing: Signal) -> impl Stream<Item = Result<pb::Event, Status>> {
    let events = node.events(CAPACITY);
    stream::unfold(Some(Reading { node, events, closing }), |reading| async {
        let mut reading = reading?;
        let event = tokio::select! {
            biased;
            event = reading.events.recv() => event,
            _ = &mut reading.closing => return Some((Err(gone(&reading.node)), None)),
        };
        let Some(event) = event else {
            let status = if reading.node.has_stopped() { gone(&reading.node) } else { too_slow() };
            return Some((Err(status), None));
        };
        let last = matches!(event, NodeEvent::Stopped { .. });
        Some((Ok(convert::event_to_pb(&event)), (!last).then_some(reading)))
    })
}

fn too_slow() -> Status {
    Status::resource_exhausted(format!(
        "this reader was more than {CAPACITY} events behind; read the status and begin anew"
    ))
}
