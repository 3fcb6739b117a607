//! What a node kept when something fell, on its way to an operator. It is read from the disk, apart from the runtime's workers.

use futures_util::{Stream, stream};
use tonic::Status;

use super::{Handlers, pb};
use crate::{
    node::NodeRef,
    rpc::convert::{self, FlowNames},
};

/// Messages in one reply.
const BATCH: usize = 1024;

pub(super) async fn list(node: &NodeRef) -> Result<pb::IncidentsReply, Status> {
    let flow = node.flow().clone();
    let incidents = apart(move || flow.all_incidents()).await?;
    let incidents = incidents.iter().map(convert::incident_to_pb).collect();
    Ok(pb::IncidentsReply { clock: Some(convert::flow_clock(node.flow())), node: node.identity().node_id, incidents })
}

/// The messages of one. The clock is that of the process that it happened in, as it stood then.
pub(super) async fn messages(
    handlers: &Handlers,
    id: u64,
) -> Result<impl Stream<Item = Result<pb::FlowReply, Status>> + use<>, Status> {
    let flow = handlers.node.flow().clone();
    let node = handlers.node.identity().node_id;
    let incident = apart(move || flow.incident(id)).await?;
    let incident = incident.ok_or_else(|| {
        Status::not_found(format!(
            "node {node} keeps no incident {id}; `raftkv trace --incident list` tells those it keeps"
        ))
    })?;
    let begin = (incident, FlowNames::default(), 0, false);
    Ok(stream::unfold(begin, move |(incident, mut names, at, told)| async move {
        if told && at == incident.events.len() {
            return None;
        }
        let end = incident.events.len().min(at + BATCH);
        let events = incident.events[at..end].iter().map(|event| names.event_to_pb(event)).collect();
        let clock = pb::FlowClock { life: incident.life, now: incident.at.as_nanos() as u64 };
        let reply = pb::FlowReply { clock: Some(clock), node, names: names.take_new(), events, missed: 0 };
        Some((Ok(reply), (incident, names, end, true)))
    }))
}

/// Where the disk may be waited for.
async fn apart<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(read).await.map_err(|error| Status::internal(format!("incidents: {error}")))
}
