//! What the recorders of all nodes hold, on one clock.

use std::time::Duration;

use super::view::View;
use crate::{
    flow::Filter,
    raft::Address,
    rpc::flow::{self, CommonClock, Wanted},
    trace::{Clock, Recording},
};

/// How long a node has to tell what it recorded.
const PATIENCE: Duration = Duration::from_secs(1);

/// Each node's once, that of the own one without the network. A node that does not answer in time is left out.
pub(super) async fn recorded(view: &View, wanted: &Wanted) -> Vec<Recording> {
    let own = view.node.as_ref().filter(|node| !node.has_stopped());
    let peers = view.members.iter().filter(|(id, _)| view.own(**id).is_none());
    let addresses: Vec<Address> = peers.map(|(_, address)| address.clone()).collect();
    let mut recordings = flow::collect(&addresses, wanted, PATIENCE).await.recordings;
    if let Some(node) = own {
        let (flow, id) = (node.flow(), node.identity().node_id);
        let epoch = CommonClock::start().now().saturating_sub(nanoseconds(flow.now()));
        let of_node = |common: i64| Duration::from_nanos(u64::try_from(common.saturating_sub(epoch)).unwrap_or(0));
        let filter = Filter {
            trace: wanted.trace,
            since: wanted.window.map(|(since, _)| of_node(since)),
            until: wanted.window.map(|(_, until)| of_node(until)),
            ..Filter::default()
        };
        let clock = Clock { epoch, error: Duration::ZERO };
        recordings.retain(|recording| recording.node != id);
        recordings.push(Recording { node: id, events: flow.events(&filter), missed: 0, clock });
    }
    recordings
}

pub(super) fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
