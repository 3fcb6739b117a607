//! Every message of one call, from the recorders of all nodes.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Status;

use super::{view::View, words::Message};
use crate::{
    flow::{Event, Filter, TraceId},
    raft::NodeId,
    rpc::{
        channel,
        convert::FlowReader,
        flow::{Alignment, CommonClock, Look},
        pb::{self, cluster_client::ClusterClient},
    },
};

/// How long a node has to tell what it recorded.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a node is asked what time it is.
const LOOKS: usize = 4;

/// No call has more of them on one node that anyone would read.
const MESSAGES: u64 = 2000;

/// What one node recorded, and when its clock began.
type Recorded = (NodeId, i64, Vec<Event>);

/// In the order in which they were sent. Times are milliseconds since the first. A node that does not answer in time is left
/// out.
pub(super) async fn of_call(trace: TraceId, view: View) -> Vec<Message> {
    let clock = CommonClock::start();
    let peers = view.members.iter().filter(|(id, _)| view.own(**id).is_none());
    let asked = peers.map(|(_, address)| timeout(PATIENCE, recorded(address.clone(), trace, clock)));
    let answers = join_all(asked.collect::<Vec<_>>()).await;
    let mut found: Vec<Recorded> = answers.into_iter().filter_map(|answer| answer.ok()?.ok()).collect();
    if let Some(node) = &view.node {
        let flow = node.flow();
        let epoch = clock.now() - flow.now().as_nanos() as i64;
        found.push((node.identity().node_id, epoch, flow.events(&Filter::of_trace(trace))));
    }
    let sent = |epoch: i64, event: &Event| epoch + event.sent.as_nanos() as i64;
    let all = found.iter().flat_map(|(_, epoch, events)| events.iter().map(|event| sent(*epoch, event)));
    let begun = all.min().unwrap_or(0);
    let told = |(node, epoch, events): &Recorded| {
        let epoch = (epoch - begun) as f64 / 1e6;
        events.iter().map(|event| Message::read(*node, event, epoch)).collect::<Vec<_>>()
    };
    let mut messages: Vec<_> = found.iter().flat_map(told).collect();
    messages.sort_by(|one, other| one.sent.total_cmp(&other.sent));
    messages
}

async fn recorded(address: String, trace: TraceId, clock: CommonClock) -> Result<Recorded, Status> {
    let channel = channel::lazy(&address).map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = ClusterClient::new(channel);
    let mut looks = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let asked = clock.now();
        let status = client.status(pb::StatusRequest {}).await?.into_inner();
        let shown = status.clock.ok_or_else(|| Status::unimplemented("it does not tell its clock"))?;
        looks.push(Look { asked, life: shown.life, showed: shown.now, answered: clock.now() });
    }
    let aligned = Alignment::of(&looks).ok_or_else(|| Status::unavailable("it does not tell its clock"))?;
    let request = pb::FlowRequest { trace, last: MESSAGES, ..Default::default() };
    let mut stream = client.flow(request).await?.into_inner();
    let (mut names, mut node, mut events) = (FlowReader::default(), 0, Vec::new());
    while let Some(reply) = stream.message().await? {
        let part = names.read(reply).map_err(|malformed| Status::internal(malformed.to_string()))?;
        node = part.node;
        events.extend(part.events);
    }
    Ok((node, aligned.clock.epoch, events))
}
