//! What is said to a page, as JSON. What stands in it is text to the page, whatever it looks like.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{faults::Fault, timeline::Kind};
use crate::{flow::Event, raft::NodeId, rpc::pb, trace::Step};

/// What a page is told first.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Hello {
    /// The version of the library.
    pub version: &'static str,
    /// The node that serves the page.
    pub serving: Option<NodeId>,
    /// The shortest and the longest election timeout, and the time between heartbeats, in milliseconds.
    pub election_ms: [u64; 2],
    pub heartbeat_ms: u64,
    pub faults: Vec<Fault>,
    pub nodes: Vec<Node>,
    pub trees: BTreeMap<NodeId, Tree>,
    pub timeline: Vec<Happened>,
}

/// What is new.
#[derive(Debug, Default, Serialize)]
pub(super) struct Frame {
    /// Milliseconds of the collector's clock, which all times of messages are in.
    pub at: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub trees: BTreeMap<NodeId, Tree>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Happened>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flow: Vec<Message>,
}

/// A page was too slow.
#[derive(Debug, Serialize)]
pub(super) struct Lag {
    /// So many frames.
    pub missed: u64,
}

/// A line of the Timeline.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Happened {
    pub id: u64,
    /// Milliseconds since 1970.
    pub at: u64,
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    pub text: String,
}

/// A node as it is.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Node {
    pub id: NodeId,
    pub address: String,
    /// Why it cannot be read. `None`: it can.
    pub gone: Option<String>,
    pub role: String,
    pub term: u64,
    pub leader: u64,
    pub commit: u64,
    pub applied: u64,
    pub last: u64,
    pub snapshot: u64,
    pub restarts: u64,
    pub writes: u64,
    pub trouble: String,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub peers: Vec<Peer>,
    /// Milliseconds since its election timer was last set. `None`: not seen.
    pub timer: Option<f64>,
}

/// How a leader sees another node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Peer {
    pub id: NodeId,
    pub matched: u64,
    pub reachable: bool,
}

impl Node {
    /// One of which nothing is known but where it should be.
    pub(super) fn unknown(id: NodeId, address: &str, why: String) -> Self {
        Node { id, address: address.to_owned(), gone: Some(why), ..Node::default() }
    }

    pub(super) fn read(id: NodeId, status: pb::StatusReply) -> Self {
        let ids = |members: Vec<pb::Member>| members.into_iter().map(|member| member.id).collect();
        let peer = |peer: pb::PeerStatus| Peer { id: peer.id, matched: peer.match_index, reachable: peer.reachable };
        Node {
            id,
            address: status.address,
            gone: None,
            role: status.role,
            term: status.term,
            leader: status.leader,
            commit: status.commit,
            applied: status.applied,
            last: status.last,
            snapshot: status.snapshot,
            restarts: status.restarts,
            writes: status.log_writes,
            trouble: status.trouble,
            voters: ids(status.voters),
            learners: ids(status.learners),
            peers: status.peers.into_iter().map(peer).collect(),
            timer: None,
        }
    }
}

/// A supervision tree. Times are milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tree {
    /// The actors above the node's root, the application's topmost first.
    pub above: Vec<String>,
    /// When it was so, by the collector's clock.
    pub at: f64,
    pub actors: Vec<Actor>,
}

/// An actor of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Actor {
    pub path: String,
    pub life: u32,
    pub status: String,
    pub depth: u64,
    pub handled: u64,
    pub handling: f64,
    pub waited: f64,
    pub longest: f64,
    pub p99: f64,
    pub restarts: u32,
    pub failure: String,
    pub current: String,
    /// How long it has been at it.
    pub since: f64,
}

impl Tree {
    pub(super) fn read(reply: pb::ActorsReply, at: f64) -> Self {
        let now = reply.clock.map_or(0, |clock| clock.now);
        let actor = |actor: pb::Actor| Actor {
            since: millis(now.saturating_sub(actor.current_since)),
            path: actor.path,
            life: actor.incarnation,
            status: actor.status,
            depth: actor.depth,
            handled: actor.handled,
            handling: millis(actor.handling),
            waited: millis(actor.waited),
            longest: millis(actor.longest_wait),
            p99: millis(actor.wait_p99),
            restarts: actor.restarts,
            failure: actor.last_failure,
            current: actor.current,
        };
        Tree { above: reply.above, at, actors: reply.actors.into_iter().map(actor).collect() }
    }
}

/// One message. Ids are hexadecimal, since numbers of JavaScript have 53 bits. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Message {
    pub node: NodeId,
    pub id: String,
    pub cause: String,
    pub trace: String,
    pub from: String,
    pub to: String,
    /// Which lives of them.
    pub lives: [u32; 2],
    pub name: String,
    pub term: u64,
    pub index: u64,
    /// By the collector's clock.
    pub sent: f64,
    pub waited: f64,
    pub handled: f64,
    pub outcome: String,
}

impl Message {
    /// `begun` is when the node's clock began, by the collector's.
    pub(super) fn read(node: NodeId, event: &Event, begun: f64) -> Self {
        let hex = |id: u64| if id == 0 { String::new() } else { format!("{id:x}") };
        Message {
            node,
            id: hex(event.id),
            cause: hex(event.cause),
            trace: hex(event.trace),
            from: event.sender.to_string(),
            to: event.receiver.to_string(),
            lives: [event.sender_incarnation, event.receiver_incarnation],
            name: event.message.to_string(),
            term: event.mark.term,
            index: event.mark.index,
            sent: rounded(begun + event.sent.as_secs_f64() * 1e3),
            waited: rounded(event.waited.as_secs_f64() * 1e3),
            handled: rounded(event.handling.as_secs_f64() * 1e3),
            outcome: event.outcome.to_string(),
        }
    }
}

impl Message {
    /// Of several nodes' messages on one clock, which begins with the first.
    pub(super) fn of_step(step: &Step) -> Self {
        let millis = |nanoseconds: i64| rounded(nanoseconds as f64 / 1e6);
        Message {
            sent: millis(step.sent),
            waited: millis(step.waited()),
            handled: millis(step.handling()),
            ..Message::read(step.node, &step.event, 0.0)
        }
    }
}

/// Nanoseconds.
fn millis(nanoseconds: u64) -> f64 {
    rounded(nanoseconds as f64 / 1e6)
}

/// To tenths of a microsecond: what is beyond is noise, and takes room.
pub(super) fn rounded(millis: f64) -> f64 {
    (millis * 1e4).round() / 1e4
}

/// One server-sent event. JSON has no bare line break, so it is one line of data.
pub(super) fn sse(event: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).expect("texts and numbers have a JSON form");
    format!("event: {event}\ndata: {data}\n\n").into()
}
