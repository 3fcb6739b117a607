//! What all nodes recorded, on one clock.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tonic::Streaming;

use super::{
    Alignment, Client, CommonClock, Look, Unreachable, answered, ask_all, client, malformed,
    pb::{self, FlowReply, FlowRequest},
};
use crate::{
    flow::{Event, TraceId},
    raft::Address,
    rpc::convert::FlowReader,
    trace::{Clock, Recording},
};

/// How often a node is asked what time it is.
const LOOKS: usize = 5;

/// How often it is begun anew with a node that was started again meanwhile.
const TRIES: usize = 3;

/// The most messages that are taken from one node: as many as its recorder may hold, and more.
pub const LIMIT: usize = 1 << 17;

/// Which of the recorded messages one wants to see. The default: all that the nodes still hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only those of this client's call.
    pub trace: Option<TraceId>,
    /// Only those within this time of the common clock, or what may be within it, for all that is known of the clocks.
    pub window: Option<(i64, i64)>,
    /// Only the last so many of each node.
    pub last: Option<u64>,
}

/// What the nodes told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// By node, each once.
    pub recordings: Vec<Recording>,
    /// Who did not answer in time, or not as it should.
    pub unreachable: Vec<Unreachable>,
}

/// Asks the nodes at these addresses at once for what they recorded, and lines their clocks up by what they say of the time.
/// Whoever does not tell all of it within `patience` is unreachable.
pub async fn collect(addresses: &[Address], wanted: &Wanted, patience: Duration) -> Collected {
    let (clock, deadline) = (CommonClock::start(), Instant::now() + patience);
    let ask = |address: Address| async move { recording(&address, wanted, clock, deadline).await };
    let (recordings, unreachable) = ask_all(addresses, ask).await;
    // Where two addresses lead to one node, it told everything twice.
    let by_node: BTreeMap<_, _> = recordings.into_iter().map(|(_, recording)| (recording.node, recording)).collect();
    Collected { recordings: by_node.into_values().collect(), unreachable }
}

async fn recording(address: &str, wanted: &Wanted, clock: CommonClock, deadline: Instant) -> Result<Recording, String> {
    let mut client = client(address)?;
    for _ in 0..TRIES {
        let alignment = align(&mut client, clock, deadline).await?;
        let mut reading = Reading::begin(&mut client, wanted.request(&alignment.clock), deadline).await?;
        if reading.life == alignment.life {
            reading.all(deadline).await?;
            return Ok(reading.into_recording(alignment.clock));
        }
    }
    Err("it is started again and again".to_owned())
}

impl Wanted {
    fn request(&self, clock: &Clock) -> FlowRequest {
        let error = i64::try_from(clock.error.as_nanos()).unwrap_or(i64::MAX);
        let of_node = |common: i64| u64::try_from(common.saturating_sub(clock.epoch)).unwrap_or(0);
        FlowRequest {
            trace: self.trace.unwrap_or(0),
            since: self.window.map(|(since, _)| of_node(since.saturating_sub(error))),
            until: self.window.map(|(_, until)| of_node(until.saturating_add(error))),
            last: self.last.unwrap_or(0),
            ..FlowRequest::default()
        }
    }
}

/// Asks a node several times what time it is.
pub(super) async fn align(client: &mut Client, clock: CommonClock, deadline: Instant) -> Result<Alignment, String> {
    let mut looks = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let asked = clock.now();
        let status = answered(deadline, client.status(pb::StatusRequest {})).await?.into_inner();
        let answered = clock.now();
        let shown = status.clock.ok_or("it is of a version that does not tell its clock")?;
        looks.push(Look { asked, life: shown.life, showed: shown.now, answered });
    }
    Alignment::of(&looks).ok_or_else(|| "it did not tell its clock".to_owned())
}

/// One node's stream of messages.
pub(super) struct Reading {
    stream: Streaming<FlowReply>,
    names: FlowReader,
    pub(super) node: u64,
    /// Which life of the node tells.
    pub(super) life: u64,
    events: Vec<Event>,
    missed: u64,
}

impl Reading {
    /// Asks, and waits for who tells.
    pub(super) async fn begin(client: &mut Client, request: FlowRequest, deadline: Instant) -> Result<Self, String> {
        let mut stream = answered(deadline, client.flow(request)).await?.into_inner();
        let head = answered(deadline, stream.message()).await?.ok_or("it told nothing")?;
        let mut names = FlowReader::default();
        let head = names.read(head).map_err(malformed)?;
        let (node, life) = (head.node, head.life);
        Ok(Reading { stream, names, node, life, events: head.events, missed: head.missed })
    }

    /// Reads to the end, or to the limit.
    pub(super) async fn all(&mut self, deadline: Instant) -> Result<(), String> {
        while let Some(reply) = answered(deadline, self.stream.message()).await? {
            self.take(reply)?;
            if self.events.len() >= LIMIT {
                self.events.truncate(LIMIT);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Some more, when there are; `None`: the node has ended it.
    pub(super) async fn more(&mut self) -> Result<Option<()>, String> {
        match self.stream.message().await.map_err(|status| super::in_words(&status))? {
            Some(reply) => self.take(reply).map(Some),
            None => Ok(None),
        }
    }

    fn take(&mut self, reply: FlowReply) -> Result<(), String> {
        let part = self.names.read(reply).map_err(malformed)?;
        self.events.extend(part.events);
        self.missed = self.missed.saturating_add(part.missed);
        Ok(())
    }

    /// What was read since the last time.
    pub(super) fn read(&mut self, clock: Clock) -> Recording {
        let (events, missed) = (std::mem::take(&mut self.events), std::mem::take(&mut self.missed));
        Recording { node: self.node, events, missed, clock }
    }

    pub(super) fn into_recording(mut self, clock: Clock) -> Recording {
        self.read(clock)
    }
}
