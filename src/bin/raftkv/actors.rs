//! actors: the supervision tree of every node, from the application's root down.
//!
//! How many messages a second an actor handles is what it has handled between two looks.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::{
    raft::NodeId,
    rpc::{
        convert::{RemoteActor, Tree, status_to_text},
        flow::{self, Found, Unreachable},
    },
};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    again,
    config::ClientSettings,
    error::{Failure, exit},
    output::{Output, printable, talk},
    status::PATIENCE,
    trace::{nobody, short},
};

/// Between the two looks of one call.
const A_MOMENT: Duration = Duration::from_millis(500);

/// The trees of all nodes at a moment.
struct Look {
    found: Found,
    trees: Vec<Tree>,
    unreachable: Vec<Unreachable>,
}

/// Prints them, once or again and again; returns the exit code.
pub async fn run(watch: bool, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    if watch {
        let mut before = Vec::new();
        let look = async || {
            let now = look(settings).await;
            let rates = Rates::between(&before, &now.trees);
            before.clone_from(&now.trees);
            (now, rates)
        };
        return again::and_again(look, |(now, rates)| show(&now, &rates, &output)).await;
    }
    let first = look(settings).await;
    if first.trees.is_empty() {
        return Err(nobody(&first.unreachable));
    }
    sleep(A_MOMENT).await;
    let now = look(settings).await;
    show(&now, &Rates::between(&first.trees, &now.trees), &output)
}

async fn look(settings: &ClientSettings) -> Look {
    let patience = settings.timeout.min(PATIENCE);
    let found = flow::find(&settings.endpoints, patience).await;
    if found.nodes.is_empty() {
        let unreachable = found.unreachable.clone();
        return Look { found, trees: Vec::new(), unreachable };
    }
    let (trees, unreachable) = flow::actors(&found.addresses(), patience).await;
    Look { found, trees, unreachable }
}

/// Messages a second, of each actor of each node.
struct Rates(BTreeMap<(NodeId, String), f64>);

impl Rates {
    /// Those of a node that was started anew between the looks are not known.
    fn between(before: &[Tree], now: &[Tree]) -> Rates {
        let mut rates = BTreeMap::new();
        for tree in now {
            let Some(earlier) = before.iter().find(|earlier| (earlier.node, earlier.life) == (tree.node, tree.life))
            else {
                continue;
            };
            let seconds = tree.at.saturating_sub(earlier.at).as_secs_f64();
            for actor in &tree.actors {
                let handled =
                    earlier.actors.iter().find(|other| other.path == actor.path).map_or(0, |other| other.handled);
                if seconds > 0.0 {
                    let rate = actor.handled.saturating_sub(handled) as f64 / seconds;
                    rates.insert((tree.node, actor.path.clone()), rate);
                }
            }
        }
        Rates(rates)
    }

    fn of(&self, node: NodeId, path: &str) -> Option<f64> {
        self.0.get(&(node, path.to_owned())).copied()
    }
}

fn show(look: &Look, rates: &Rates, output: &Output) -> Result<u8, Failure> {
    if look.trees.is_empty() {
        return Err(nobody(&look.unreachable));
    }
    if output.json {
        look.trees.iter().try_for_each(|tree| output.object(&node_line(look, tree, rates)))?;
        for Unreachable { address, cause } in &look.unreachable {
            output.object(&MissingLine { v: 1, node: node_at(look, address), address, reachable: false, cause })?;
        }
    } else {
        print_table(look, rates, output)?;
    }
    for Unreachable { address, cause } in &look.unreachable {
        talk(&format!("{} cannot be reached: {cause}", named(look, address)));
    }
    Ok(exit::DONE)
}

fn node_at(look: &Look, address: &str) -> Option<NodeId> {
    look.found.nodes.iter().find(|(_, at)| *at == address).map(|(node, _)| *node)
}

fn named(look: &Look, address: &str) -> String {
    node_at(look, address).map_or(address.to_owned(), |node| format!("node {node} at {address}"))
}

fn print_table(look: &Look, rates: &Rates, output: &Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for tree in &look.trees {
        let leads = if look.found.leader == Some(tree.node) { " (leader)" } else { "" };
        let mut head = vec![format!("NODE {}{leads}", tree.node)];
        head.resize(9, String::new());
        rows.push(head);
        for (level, above) in tree.above.iter().enumerate() {
            let mut row =
                vec![format!("{}{}", indent(level), printable(above.as_bytes())), "the application's".to_owned()];
            row.resize(9, String::new());
            rows.push(row);
        }
        let base = tree.above.len();
        for actor in in_order(&tree.actors) {
            rows.push(row(tree, actor, base, rates.of(tree.node, &actor.path)));
        }
    }
    let head = ["ACTOR", "STATUS", "WAITING", "WAIT P99", "HANDLED", "MSG/S", "NOW", "RESTARTS", "LAST CAUSE"];
    output.table(&head, rows)
}

/// The root, and then the others by path: each below the one above it.
fn in_order(actors: &[RemoteActor]) -> impl Iterator<Item = &RemoteActor> {
    let (root, others): (Vec<_>, Vec<_>) = actors.iter().partition(|actor| actor.path == ROOT);
    root.into_iter().chain(others)
}

/// Where the node's root stands in its tree; all others stand below it, whatever their path says.
const ROOT: &str = "node";

fn row(tree: &Tree, actor: &RemoteActor, base: usize, rate: Option<f64>) -> Vec<String> {
    let name = actor.path.rsplit('/').next().unwrap_or(&actor.path);
    let level = if actor.path == ROOT { base } else { base + 1 + actor.path.matches('/').count() };
    let now = actor
        .current
        .as_ref()
        .map(|(message, since)| format!("{message} for {}", short(tree.at.saturating_sub(*since))));
    vec![
        format!("{}{}", indent(level), printable(name.as_bytes())),
        status_to_text(actor.status).to_owned(),
        actor.depth.to_string(),
        actor.wait_p99.map_or("-".to_owned(), short),
        actor.handled.to_string(),
        rate.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        now.unwrap_or_else(|| "-".to_owned()),
        actor.restarts.to_string(),
        actor.last_failure.as_ref().map_or("-".to_owned(), |cause| printable(cause.as_bytes())),
    ]
}

/// Tables trim what they hold, but not this.
fn indent(level: usize) -> String {
    format!("  {}", "· ".repeat(level))
}

#[derive(Serialize)]
struct MissingLine<'a> {
    v: u8,
    node: Option<NodeId>,
    address: &'a str,
    reachable: bool,
    cause: &'a str,
}

#[derive(Serialize)]
struct NodeLine<'a> {
    v: u8,
    node: NodeId,
    address: Option<&'a str>,
    reachable: bool,
    above: &'a [String],
    actors: Vec<ActorLine<'a>>,
}

#[derive(Serialize)]
struct ActorLine<'a> {
    path: &'a str,
    status: &'static str,
    incarnation: u32,
    depth: u64,
    handled: u64,
    messages_per_second: Option<f64>,
    wait_p99_us: Option<f64>,
    longest_wait_us: f64,
    current: Option<&'a str>,
    current_for_us: Option<f64>,
    restarts: u32,
    last_cause: Option<&'a str>,
}

fn node_line<'a>(look: &'a Look, tree: &'a Tree, rates: &Rates) -> NodeLine<'a> {
    let microseconds = |time: Duration| time.as_nanos() as f64 / 1e3;
    let actor = |actor: &'a RemoteActor| ActorLine {
        path: &actor.path,
        status: status_to_text(actor.status),
        incarnation: actor.incarnation,
        depth: actor.depth,
        handled: actor.handled,
        messages_per_second: rates.of(tree.node, &actor.path),
        wait_p99_us: actor.wait_p99.map(microseconds),
        longest_wait_us: microseconds(actor.longest_wait),
        current: actor.current.as_ref().map(|(message, _)| message.as_str()),
        current_for_us: actor.current.as_ref().map(|(_, since)| microseconds(tree.at.saturating_sub(*since))),
        restarts: actor.restarts,
        last_cause: actor.last_failure.as_deref(),
    };
    NodeLine {
        v: 1,
        node: tree.node,
        address: look.found.nodes.get(&tree.node).map(String::as_str),
        reachable: true,
        above: &tree.above,
        actors: in_order(&tree.actors).map(actor).collect(),
    }
}
