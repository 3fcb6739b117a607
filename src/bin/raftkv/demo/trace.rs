//! One write, followed through the actors of all nodes.

use std::time::Duration;

use ractor_raft::{
    flow::{Filter, TraceId},
    trace::{Clock, Recording, Sequence, of_call},
};
use tokio::time::Instant;

use super::cluster::Cluster;
use crate::output::width;

/// What every node recorded since `since`.
pub fn recordings(cluster: &Cluster, since: Instant) -> Vec<Recording> {
    // Each node counts from its own epoch; in one process they share the clock, so that no error is left.
    let nodes = cluster.nodes.iter().map(|(node, running)| {
        let flow = running.flow();
        let begun = flow.now().saturating_sub(since.elapsed());
        let events = flow.events(&Filter { since: Some(begun), ..Filter::default() });
        let epoch = -i64::try_from(begun.as_nanos()).unwrap_or(i64::MAX);
        Recording { node: *node, events, missed: 0, clock: Clock { epoch, error: Duration::ZERO } }
    });
    nodes.collect()
}

/// The messages of one call among them, as a picture as wide as the terminal less the margin.
pub fn picture(recordings: &[Recording], trace: TraceId, margin: usize) -> String {
    Sequence::of(&of_call(recordings, trace)).text(width().saturating_sub(margin))
}

/// How many nodes have seen it.
pub fn nodes(recordings: &[Recording], trace: TraceId) -> usize {
    of_call(recordings, trace).iter().filter(|recording| !recording.events.is_empty()).count()
}
