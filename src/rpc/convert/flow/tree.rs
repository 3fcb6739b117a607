//! A node's supervision tree, as it is told to another process.

use std::time::Duration;

use super::{super::Malformed, nanoseconds, pb, time};
use crate::{
    flow::{ActorReport, Status},
    rpc::convert::check_id,
};

const STATUSES: [(Status, &str); 4] = [
    (Status::Starting, "starting"),
    (Status::Running, "running"),
    (Status::Stopped, "stopped"),
    (Status::Failed, "failed"),
];

/// The supervision tree of a node at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Which node.
    pub node: u64,
    /// The life of the node's process, as [`Flow::life`](crate::flow::Flow::life).
    pub life: u64,
    /// The moment, since the node's epoch.
    pub at: Duration,
    /// The actors above the node's root, the application's topmost first.
    pub above: Vec<String>,
    /// By path.
    pub actors: Vec<RemoteActor>,
}

/// One actor of another process: its [`ActorReport`], with names of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteActor {
    /// Its place in the tree ("consensus/replicator 2").
    pub path: String,
    /// Which life of it: 1 is the first.
    pub incarnation: u32,
    /// What it is doing.
    pub status: Status,
    /// Messages in its mailbox.
    pub depth: u64,
    /// Messages handled, over all its lives.
    pub handled: u64,
    /// Time spent handling them.
    pub handling: Duration,
    /// Time they stood in the mailbox, added up.
    pub waited: Duration,
    /// The longest that one stood in the mailbox.
    pub longest_wait: Duration,
    /// 99 of 100 stood in the mailbox no longer. `None`: the node does not say.
    pub wait_p99: Option<Duration>,
    /// Lives after the first.
    pub restarts: u32,
    /// What it died of the last time, if it ever did.
    pub last_failure: Option<String>,
    /// What it handles just now, and since when, since the node's epoch.
    pub current: Option<(String, Duration)>,
}

/// An actor on its way out.
pub fn actor_to_pb(report: &ActorReport) -> pb::Actor {
    let current = report.current.as_ref();
    pb::Actor {
        path: report.path.clone(),
        incarnation: report.incarnation,
        status: status_to_text(report.status).to_owned(),
        depth: report.depth,
        handled: report.handled,
        handling: nanoseconds(report.handling),
        waited: nanoseconds(report.waited),
        longest_wait: nanoseconds(report.longest_wait),
        wait_p99: nanoseconds(report.wait_p99),
        restarts: report.restarts,
        last_failure: report.last_failure.clone().unwrap_or_default(),
        current: current.map(|current| current.message.to_string()).unwrap_or_default(),
        current_since: current.map_or(0, |current| nanoseconds(current.since)),
    }
}

/// A tree as it came.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn tree_from_pb(reply: pb::ActorsReply) -> Result<Tree, Malformed> {
    let clock = reply.clock.ok_or_else(|| Malformed::new("clock", "is missing"))?;
    let node = check_id("node", reply.node)?;
    let actor = |(at, actor)| actor_from_pb(actor).map_err(|malformed| malformed.within(format_args!("actors[{at}]")));
    let actors = reply.actors.into_iter().enumerate().map(actor).collect::<Result<_, _>>()?;
    Ok(Tree { node, life: clock.life, at: time("clock.now", clock.now)?, above: reply.above, actors })
}

fn actor_from_pb(actor: pb::Actor) -> Result<RemoteActor, Malformed> {
    if actor.path.is_empty() {
        return Err(Malformed::new("path", "is empty"));
    }
    let status = STATUSES.iter().find(|(_, text)| *text == actor.status);
    let Some((status, _)) = status else {
        return Err(Malformed::new("status", format!("is {:?}", actor.status)));
    };
    let since = time("current_since", actor.current_since)?;
    Ok(RemoteActor {
        path: actor.path,
        incarnation: actor.incarnation,
        status: *status,
        depth: actor.depth,
        handled: actor.handled,
        handling: time("handling", actor.handling)?,
        waited: time("waited", actor.waited)?,
        longest_wait: time("longest_wait", actor.longest_wait)?,
        wait_p99: Some(time("wait_p99", actor.wait_p99)?).filter(|wait| !wait.is_zero()),
        restarts: actor.restarts,
        last_failure: Some(actor.last_failure).filter(|cause| !cause.is_empty()),
        current: (!actor.current.is_empty()).then_some((actor.current, since)),
    })
}

/// "starting", "running", "stopped" or "failed".
pub fn status_to_text(status: Status) -> &'static str {
    let text = STATUSES.iter().find(|(one, _)| *one == status);
    text.map_or("running", |(_, text)| text)
}
