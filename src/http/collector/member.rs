//! Reads one node, until it is dropped: its status, its tree, what happens to it, and its messages.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout},
};
use tonic::{Status, transport::Channel};

use super::source::Source;
use crate::{
    flow::{Event, Filter},
    node::NodeRef,
    raft::NodeId,
    rpc::{
        channel,
        convert::{self, FlowReader},
        flow::{Alignment, CommonClock, Look},
        pb,
    },
};

type Client = pb::cluster_client::ClusterClient<Channel>;

/// How often a node is asked what it is.
pub(super) const STATUS: Duration = Duration::from_millis(250);

/// How often it is asked for its tree.
const ACTORS: Duration = Duration::from_secs(1);

/// How long it has to answer.
const PATIENCE: Duration = Duration::from_millis(700);

/// Before it is tried again what did not work.
const PAUSE: Duration = Duration::from_millis(300);

/// How often it is asked for its messages, and for how many of the last ones: many more than a person can follow, and few enough
/// not to be felt.
const MESSAGES: Duration = Duration::from_millis(200);
const LAST: u64 = 400;

/// The next instant of a node's clock.
const NEXT: Duration = Duration::from_nanos(1);

/// Events of a node that may wait to be taken up.
const EVENTS: usize = 256;

/// Answers from which the node's clock is read.
const LOOKS: usize = 16;

/// What is read of a node.
pub(super) struct Reported {
    pub id: NodeId,
    pub generation: u64,
    pub report: Report,
}

pub(super) enum Report {
    Status(Box<pb::StatusReply>),
    /// It does not answer, and why.
    Gone(String),
    Actors(pb::ActorsReply),
    Happened(pb::Event),
    Messages {
        /// When the node's clock began, by the common one.
        epoch: i64,
        events: Vec<Event>,
        /// Of so many calls only one was asked for.
        one_call_in: u64,
    },
}

/// What all nodes are read by.
#[derive(Clone)]
pub(super) struct Common {
    pub clock: CommonClock,
    /// When all nodes are asked what they are: this, and whole periods after it.
    pub phase: Instant,
    /// Of so many calls one is asked for. It changes with what the nodes do.
    pub one_call_in: Arc<AtomicU64>,
}

/// Where the reports go. Once nobody takes them, nothing is read any more.
#[derive(Clone)]
struct Reporter {
    id: NodeId,
    generation: u64,
    reports: mpsc::Sender<Reported>,
}

impl Reporter {
    async fn tell(&self, report: Report) {
        let Reporter { id, generation, reports } = self;
        // The round is over; this task is, too, in a moment.
        let _ = reports.send(Reported { id: *id, generation: *generation, report }).await;
    }
}

pub(super) async fn read(
    id: NodeId,
    source: Source,
    common: Common,
    (generation, reports): (u64, mpsc::Sender<Reported>),
) {
    let reporter = Reporter { id, generation, reports };
    match source {
        Source::Own(node) => own(&node, common, &reporter).await,
        Source::Peer(address) => match channel::lazy(&address) {
            Ok(channel) => {
                // The messages have a connection of their own: its window is theirs.
                let bulk = channel::lazy(&address).unwrap_or_else(|_| channel.clone());
                peer(id, &Client::new(channel), &Client::new(bulk), common, &reporter).await;
            }
            Err(error) => reporter.tell(Report::Gone(error.to_string())).await,
        },
    }
}

/// Without the network. It is over when the node has stopped: whoever comes after it is another source.
async fn own(node: &NodeRef, common: Common, reporter: &Reporter) {
    let states = async {
        let mut every = together(common.phase);
        loop {
            every.tick().await;
            reporter.tell(Report::Status(Box::new(convert::status_to_pb(&node.status())))).await;
        }
    };
    let actors = async {
        let mut every = ticks(ACTORS);
        loop {
            every.tick().await;
            reporter.tell(Report::Actors(tree(node))).await;
        }
    };
    let happenings = async {
        loop {
            let mut events = node.events(EVENTS);
            while let Some(event) = events.recv().await {
                reporter.tell(Report::Happened(convert::event_to_pb(&event))).await;
            }
            sleep(PAUSE).await;
        }
    };
    let messages = async {
        let flow = node.flow();
        let epoch = common.clock.now() - flow.now().as_nanos() as i64;
        let (mut every, mut since) = (ticks(MESSAGES), flow.now());
        loop {
            every.tick().await;
            let (until, one_call_in) = (flow.now(), common.one_call_in.load(Relaxed));
            let last = Some(LAST as usize);
            let filter = Filter { since: Some(since), until: Some(until), one_call_in, last, ..Filter::default() };
            let mut events = flow.newest(&filter);
            events.retain(|event| event.ended() <= until);
            reporter.tell(Report::Messages { epoch, events, one_call_in }).await;
            since = until + NEXT;
        }
    };
    tokio::select! {
        biased;
        _ = node.stopped() => reporter.tell(Report::Gone("it has stopped".to_owned())).await,
        ((), (), (), ()) = async { tokio::join!(states, actors, happenings, messages) } => {}
    }
}

fn tree(node: &NodeRef) -> pb::ActorsReply {
    let actors = node.tree().iter().map(convert::actor_to_pb).collect();
    let clock = Some(convert::flow_clock(node.flow()));
    pb::ActorsReply { clock, node: node.identity().node_id, above: node.above(), actors }
}

/// Over gRPC, for as long as it is wanted.
async fn peer(id: NodeId, client: &Client, bulk: &Client, common: Common, reporter: &Reporter) {
    let clock = common.clock;
    let (aligned, alignment) = tokio::sync::watch::channel(None);
    let states = async {
        let mut every = together(common.phase);
        let mut looks = VecDeque::new();
        loop {
            every.tick().await;
            let asked = clock.now();
            match answered(client.clone().status(pb::StatusRequest {})).await {
                Ok(status) if status.id != id => {
                    reporter.tell(Report::Gone(format!("node {} answers at its address", status.id))).await;
                }
                Ok(status) => {
                    if let Some(pb::FlowClock { life, now: showed }) = status.clock {
                        looks.truncate(LOOKS - 1);
                        looks.push_front(Look { asked, life, showed, answered: clock.now() });
                        let oldest_first: Vec<_> = looks.iter().rev().copied().collect();
                        aligned.send_replace(Alignment::of(&oldest_first));
                    }
                    reporter.tell(Report::Status(Box::new(status))).await;
                }
                Err(why) => reporter.tell(Report::Gone(why)).await,
            }
        }
    };
    let actors = async {
        let mut every = ticks(ACTORS);
        loop {
            every.tick().await;
            if let Ok(reply) = answered(client.clone().actors(pb::ActorsRequest {})).await {
                reporter.tell(Report::Actors(reply)).await;
            }
        }
    };
    let happenings = async {
        loop {
            if let Ok(events) = client.clone().events(pb::EventsRequest {}).await {
                let mut events = events.into_inner();
                while let Ok(Some(event)) = events.message().await {
                    reporter.tell(Report::Happened(event)).await;
                }
            }
            sleep(PAUSE).await;
        }
    };
    let messages = async {
        loop {
            let mut alignment = alignment.clone();
            // Without its clock, nobody knows when its messages were.
            if alignment.wait_for(Option::is_some).await.is_ok() {
                let _ = follow(bulk.clone(), &alignment, &common.one_call_in, reporter).await;
            }
            sleep(PAUSE).await;
        }
    };
    let ((), (), (), ()) = tokio::join!(states, actors, happenings, messages);
}

/// Again and again, for what ended since the time before. Nothing is followed: what the page does not show is not even read.
async fn follow(
    mut client: Client,
    alignment: &tokio::sync::watch::Receiver<Option<Alignment>>,
    one_call_in: &AtomicU64,
    reporter: &Reporter,
) -> Result<(), Status> {
    let (mut every, mut since) = (ticks(MESSAGES), None);
    loop {
        every.tick().await;
        let last = if since.is_some() { LAST } else { 1 };
        let one_call_in = one_call_in.load(Relaxed);
        let request = pb::FlowRequest { since: since.map(nanoseconds), last, one_call_in, ..Default::default() };
        let mut stream = client.flow(request).await?.into_inner();
        let (mut names, mut events, mut told) = (FlowReader::default(), Vec::new(), None);
        while let Some(reply) = stream.message().await? {
            let part = names.read(reply).map_err(|malformed| Status::internal(malformed.to_string()))?;
            told.get_or_insert((part.life, part.now));
            events.extend(part.events);
        }
        let Some((life, until)) = told else { return Ok(()) };
        let is_first = since.replace(until + NEXT).is_none();
        // What ended meanwhile comes with the next look.
        events.retain(|event| event.ended() <= until);
        let epoch = alignment.borrow().as_ref().filter(|at| at.life == life).map(|at| at.clock.epoch);
        // A node that has just been started again says so with its next status.
        if let Some(epoch) = epoch.filter(|_| !is_first) {
            reporter.tell(Report::Messages { epoch, events, one_call_in }).await;
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

async fn answered<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, String> {
    match timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(in_words(&status)),
        Err(_) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
    }
}

/// The innermost cause says most.
fn in_words(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = match std::error::Error::source(status) {
        Some(source) => source,
        None => return status.message().to_owned(),
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = cause.to_string();
    // The number of the system's error says nothing to a reader of the page.
    cause.split(" (os error").next().unwrap_or_default().to_owned()
}

/// When all nodes are asked what they are: together, or one would seem to be behind another that was asked later.
fn together(phase: Instant) -> tokio::time::Interval {
    let past = phase.elapsed().as_nanos() / STATUS.as_nanos() + 1;
    let mut ticks = interval_at(phase + STATUS * u32::try_from(past).unwrap_or(u32::MAX), STATUS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
