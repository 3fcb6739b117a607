//! One trace from a request of yours, through an actor of yours, to the entry that three nodes apply.
//!
//! `cargo run --example traced_application`
//!
//! A request comes in with a W3C `traceparent`, as a web framework would hand it over, and is handled in a `tracing` span. An
//! actor of the application, the teller, is told of it and proposes a command to its node, which does not lead and passes it on.
//! What comes out is one sequence: the span, the teller's message, and the messages of all three nodes up to the applied entry.
//! It ends with an error where one of these is missing.
//!
//! Three things make it so, each of which may be used alone:
//! 1. [`flow::layer`] puts the application's spans into the node's message flow.
//! 2. The teller is a [`flow::Actor`], started with [`flow::spawn`] on the node's flow: its messages are recorded like those
//!    of the node's own actors, and it stands in `node.tree()` and in the metrics.
//! 3. `node.because(context.origin())` makes the proposal follow from the message that the teller handles.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use ractor::ActorProcessingErr;
use ractor_raft::{
    Consistency, Node,
    flow::{self, Actor, Address, Context, Filter, Mark, Message, Placement, TraceId},
    kv::{Command, Kv},
    raft::{NodeId, Role},
    storage::MemoryStorage,
    trace::{Clock, Recording, Sequence},
    transport::InProcess,
};
use tokio::{sync::oneshot, time::timeout};
use tracing::Instrument;
use tracing_subscriber::{filter::LevelFilter, prelude::*};

/// Longer than any step here may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a caller sent along with the request. Its low half is the trace's id in here.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What the teller is told.
enum TellerMessage {
    Deposit { to: String, amount: u64, done: oneshot::Sender<Result<(), String>> },
}

impl Message for TellerMessage {
    fn name(&self) -> &'static str {
        match self {
            TellerMessage::Deposit { .. } => "Deposit",
        }
    }

    /// It is about no place in the log yet.
    fn mark(&self) -> Mark {
        Mark::default()
    }
}

#[cfg(feature = "cluster")]
impl ractor::Message for TellerMessage {}

/// Writes deposits down, one after the other.
struct Teller {
    node: Node<Kv>,
}

impl Actor for Teller {
    type Message = TellerMessage;
    type Arguments = Node<Kv>;

    async fn start(node: Node<Kv>, _: &mut Context<TellerMessage>) -> Result<Self, ActorProcessingErr> {
        Ok(Teller { node })
    }

    async fn handle(
        &mut self,
        message: TellerMessage,
        context: &mut Context<TellerMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TellerMessage::Deposit { to, amount, done } => {
                let written = self.node.because(context.origin()).propose(Command::put(to, amount.to_string())).await;
                // Whoever asked may have gone.
                let _ = done.send(written.map(|_| ()).map_err(|error| error.to_string()));
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    timeout(Duration::from_secs(60), run()).await?
}

async fn run() -> Result<(), Box<dyn Error>> {
    let nodes = start_nodes().await?;
    // One that does not lead, so that there is more to see.
    let home = nodes.iter().find(|node| node.status().role != Role::Leader).ok_or("they cannot all lead")?;
    tracing_subscriber::registry().with(flow::layer(home.flow()).with_filter(LevelFilter::INFO)).init();
    let (teller, _) =
        flow::spawn::<Teller>(home.flow(), "application/teller", Placement::Runtime, home.clone(), None).await?;

    let trace = flow::trace_of(TRACEPARENT).ok_or("it is a traceparent")?;
    // What must come, each of it once, is waited for in the flow itself.
    let first = |node: &Node<Kv>, message: &str| {
        let wanted = Filter { trace: Some(trace), last: Some(1), ..Filter::of_message(message) };
        node.flow().follow(wanted)
    };
    let mut awaited = vec![first(home, "Deposit")];
    awaited.extend(nodes.iter().flat_map(|node| [first(node, "Persist"), first(node, "Apply")]));

    let request = tracing::info_span!("Request", actor = "door", traceparent = TRACEPARENT);
    handle_request(home, &teller).instrument(request).await?;
    for message in &mut awaited {
        timeout(DEADLINE, message.next()).await?.ok_or("the flow has no end")?;
    }

    let common = Instant::now();
    let recordings: Vec<_> = nodes.iter().map(|node| recording(node, trace, common)).collect();
    print!("{}", Sequence::of(&recordings).text(140));
    check(&recordings, home.identity().node_id)?;
    println!("\none trace, from the request to the entry that three nodes applied");

    teller.actor().stop_and_wait(None, Some(DEADLINE)).await?;
    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

/// What a web framework would call.
async fn handle_request(home: &Node<Kv>, teller: &Address<TellerMessage>) -> Result<(), Box<dyn Error>> {
    let (done, answer) = oneshot::channel();
    let deposit = TellerMessage::Deposit { to: "ada".to_owned(), amount: 100, done };
    // Said because of the span that this runs in.
    teller.send(home.flow().current(), deposit).map_err(|_| "the teller is gone")?;
    Ok(answer.await??)
}

async fn start_nodes() -> Result<Vec<Node<Kv>>, Box<dyn Error>> {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let node = Node::builder(id, Kv::default).cluster([(1, "one"), (2, "two"), (3, "three")]);
        nodes.push(node.storage(MemoryStorage::new()).transport(network.clone()).spawn().await?);
    }
    // They have elected somebody, and all of them know it.
    for node in &nodes {
        node.read(Consistency::Linearizable, |_| ()).await?;
    }
    Ok(nodes)
}

/// What a node recorded of a trace. All of them share this process's clock, so that two looks at it tell where a node's epoch
/// stands; the quickest of some pairs of looks was not interrupted.
fn recording(node: &Node<Kv>, trace: TraceId, common: Instant) -> Recording {
    let flow = node.flow();
    let look = |_| {
        let now = flow.now();
        common.elapsed().as_nanos() as i64 - now.as_nanos() as i64
    };
    let clock = Clock { epoch: (0..100).map(look).min().unwrap_or_default(), error: Duration::from_micros(1) };
    Recording { node: node.identity().node_id, events: flow.events(&Filter::of_trace(trace)), missed: 0, clock }
}

/// Whether it is one trace.
fn check(recordings: &[Recording], home: NodeId) -> Result<(), Box<dyn Error>> {
    let at_home = recordings.iter().find(|recording| recording.node == home).ok_or("the teller's node")?;
    let find = |name: &str, receiver: &str| {
        let found = at_home.events.iter().find(|event| event.message == name && &*event.receiver == receiver);
        found.ok_or_else(|| format!("{receiver} was not told {name}"))
    };
    let request = find("Request", "application/door")?;
    let deposit = find("Deposit", "application/teller")?;
    let propose = find("Propose", "consensus")?;
    if (deposit.cause, propose.cause) != (request.id, deposit.id) {
        return Err(format!("the chain is broken: {request}, {deposit}, {propose}").into());
    }
    for recording in recordings {
        for name in ["Persist", "Apply"] {
            let found = recording.events.iter().any(|event| event.message == name);
            if !found {
                return Err(format!("node {} has no {name} in this trace", recording.node).into());
            }
        }
    }
    Ok(())
}
