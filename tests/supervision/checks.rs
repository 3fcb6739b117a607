//! What must hold when a blow has fallen and the act is over.

use std::collections::{BTreeMap, BTreeSet};

use ractor_raft::{
    flow::{ActorReport, Crash, Status},
    node::{Consistency, Node, NodeEvent},
    raft::{LogIndex, NodeId},
    testing::{Line, Told},
};

use super::{
    acts::Act,
    stage::{Book, Stage},
    strike::{Cell, Start, Struck},
};

const KEEPERS: [&str; 3] = ["log store", "applier", "consensus"];

/// The tree of every node is whole again, and all of them serve, the struck one too.
pub async fn serves(stage: &Stage) {
    for id in stage.present() {
        let whole = |stage: &Stage| stage.cluster.node(id).is_some_and(|node| is_whole(&node));
        if !stage.until(&format!("the tree of node {id} to be whole"), |_| whole(stage)).await {
            let tree = stage.cluster.node(id).map(|node| node.tree());
            stage.complain(format!("the tree of node {id}: {tree:#?}"));
            return;
        }
    }
    for id in stage.present() {
        let mut written = Err("it was not tried".to_owned());
        for count in 0..100 {
            let line = Line::new(format!("the last line on node {id}, try {count}"));
            written = stage.cluster.propose_on(id, line).await.map_err(|error| error.to_string());
            if written.is_ok() {
                break;
            }
            stage.cluster.run_for(std::time::Duration::from_millis(20)).await;
        }
        let last = match written {
            Ok(written) => written.index,
            Err(error) => return stage.complain(format!("node {id} takes no writes any more: {error}")),
        };
        let read = stage.cluster.read_on(id, Consistency::Linearizable, move |book| book.ledger.at(last).is_some());
        match read.await {
            Ok((true, _)) => {}
            other => stage.complain(format!("node {id} was asked for the line at {last}, and answers {other:?}")),
        }
    }
}

/// All have applied the same, and what was acknowledged is among it. To be asked when nobody writes any more.
pub async fn agree(stage: &Stage) {
    let last = stage.write("the very last line").await;
    let mut all: Option<BTreeMap<LogIndex, String>> = None;
    for id in stage.present() {
        let lines = |book: &Book| -> BTreeMap<LogIndex, String> {
            book.ledger.lines().map(|(at, text)| (at, text.to_owned())).collect()
        };
        let Ok((lines, _)) = stage.cluster.read_on(id, Consistency::AtLeast(last), lines).await else {
            stage.complain(format!("node {id} does not catch up to {last}"));
            continue;
        };
        if all.get_or_insert_with(|| lines.clone()) != &lines {
            stage.complain(format!("node {id} has applied something else than the others"));
        }
    }
    let all = all.unwrap_or_default();
    for (index, text) in stage.acknowledged() {
        if all.get(&index) != Some(&text) {
            stage.complain(format!("{text:?} was acknowledged at {index}, where {:?} stands", all.get(&index)));
        }
    }
    if let Some(contradiction) = stage.witness.contradiction() {
        stage.complain(format!("State Machine Safety: {contradiction}"));
    }
    for (term, leaders) in stage.cluster.leaders() {
        if leaders.len() > 1 {
            stage.complain(format!("Election Safety: {leaders:?} all led term {term}"));
        }
    }
}

/// Everyone who should be there runs, with one replicator for each peer.
fn is_whole(node: &Node<Book>) -> bool {
    let running = |path: &str| {
        let runs = |actor: &ActorReport| actor.path == path && actor.status == Status::Running;
        node.tree().iter().any(runs)
    };
    let others = ["node", "consensus/election timer", "consensus/snapshotter", "server"];
    let membership = node.status().membership;
    KEEPERS.iter().chain(&others).all(|path| running(path))
        && membership.peers_of(node.status().id).all(|peer| running(&format!("consensus/replicator {peer}")))
}

/// The cause can be read in the tree, and the application was told.
pub fn is_told(stage: &Stage, act: Act, cell: Cell, struck: &Struck) {
    let Struck { node: id, life, path, .. } = struck;
    let words = match cell.how {
        Crash::Panic => format!("was told to crash {:?} {}", cell.moment, cell.word),
        Crash::Kill => "killed".to_owned(),
    };
    let node = match stage.life(*id, *life) {
        Ok(node) => node,
        // It did not begin: whoever wanted it to was told.
        Err(error) if cell.word == "Start" && error.contains(&words) => return,
        Err(error) if act == Act::Begin => return stage.complain(format!("its start ended with {error:?}")),
        Err(_) => return,
    };
    let report = node.tree().into_iter().find(|actor| actor.path == *path);
    let failure = report.and_then(|actor| actor.last_failure).unwrap_or_else(|| "nothing".to_owned());
    // A root that is killed has nobody left in the tree who could write it down.
    if !failure.contains(&words) && (path != "node" || cell.how == Crash::Panic) {
        stage.complain(format!("the tree says of {path}: {failure}"));
    }
    if path == "node" {
        let told = |(of, told): &(NodeId, Told)| {
            of == id
                && match told {
                    Told::Panicked(cause) => cause.contains(&words),
                    Told::Stopped => cell.how == Crash::Kill,
                    Told::Failed(_) => false,
                }
        };
        let asked_to_stop = cell.word == "Stop" || act == Act::ShutDown;
        if !asked_to_stop && !stage.cluster.ends().iter().any(told) {
            stage.complain(format!("the supervisor of node {id} was told {:?}", stage.cluster.ends()));
        }
        return;
    }
    // One that dies on its way out is not started again for that. Who begins to listen later hears of nothing before.
    if cell.word == "Stop" || act == Act::ShutDown || !struck.listened_to {
        return;
    }
    let told = |(of, event): &(NodeId, NodeEvent)| {
        of == id
            && match event {
                NodeEvent::ActorRestarted { path: at, cause } => {
                    (at == path && cause.contains(&words)) || cause.contains(&format!("{path} did not start"))
                }
                NodeEvent::Stopped { .. } => act.ends_nodes(),
                _ => false,
            }
    };
    if !stage.cluster.events().iter().any(told) {
        let events: Vec<_> = stage.cluster.events().into_iter().filter(|(of, _)| of == id).collect();
        stage.complain(format!("the subscriber of node {id} was not told of {path}: {events:?}"));
    }
}

/// The right actors have started again, and no others.
pub fn restarts(stage: &Stage, act: Act, cell: Cell, struck: &Struck, starts: &[Start]) {
    let Struck { node: id, life, path, starts: before, .. } = struck;
    let Ok(node) = stage.life(*id, *life) else { return };
    if path == "node" || (cell.actor == "server" && cell.word == "Start" && act == Act::Begin) {
        return;
    }
    let ours = starts.iter().skip(*before).filter(|(of, at, _)| of == id && at == life);
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    ours.for_each(|(.., path)| *begun.entry(path).or_default() += 1);
    let peers: Vec<String> =
        node.tree().into_iter().map(|actor| actor.path).filter(|path| path.contains("replicator")).collect();
    let keepers = || -> BTreeSet<&str> {
        let couriers = ["consensus/election timer", "consensus/snapshotter"];
        KEEPERS.into_iter().chain(couriers).chain(peers.iter().map(String::as_str)).collect()
    };
    let of = |actor: &str, path: &'_ str| -> BTreeSet<String> {
        if KEEPERS.contains(&actor) {
            keepers().into_iter().map(str::to_owned).collect()
        } else {
            BTreeSet::from([path.to_owned()])
        }
    };
    // A courier that does not start again takes consensus with it.
    let escalates = cell.word == "Start" && cell.actor.starts_with("consensus/");
    let mut right = of(if escalates { "consensus" } else { cell.actor }, path);
    let must = if cell.word == "Stop" { BTreeSet::new() } else { right.clone() };
    let mut most = 1;
    if let Act::Fall(fallen) = act {
        let leader = fallen.replace('*', &(id % 3 + 1).to_string());
        right.extend(of(fallen, &format!("consensus/{}", leader.rsplit('/').next().unwrap_or_default())));
        right.insert(leader);
        most += 1;
    }
    if act.changes_members() {
        right.extend(peers.iter().cloned());
        // One comes with an entry of the log, goes where that is overwritten, and comes again.
        most += 2;
    }
    for (path, count) in &begun {
        if !right.contains(*path) || *count > most {
            stage.complain(format!("{path} was started {count} times for it; right were {right:?}"));
        }
    }
    let ended = act.ends_nodes() || act == Act::Begin || stage.plan.lives(*id) > *life;
    // One whose peer has left need not come back.
    let members: Vec<_> =
        node.status().membership.peers_of(*id).map(|peer| format!("consensus/replicator {peer}")).collect();
    let left = |path: &String| peers.contains(path) && !members.contains(path);
    for path in must.into_iter().filter(|path| !left(path)) {
        if !ended && !begun.contains_key(path.as_str()) {
            stage.complain(format!("{path} was not started again, only {begun:?}"));
        }
    }
}

/// Nobody waits any more, and in the end nothing of the cluster is left.
pub async fn leaves_nothing(stage: &Stage, tasks: usize) {
    for id in stage.present() {
        let idle = |stage: &Stage| stage.cluster.node(id).is_none_or(|node| node.pending() == 0);
        stage.until(&format!("the permits of node {id} to come back"), |_| idle(stage)).await;
    }
    for id in stage.cluster.ids() {
        let ended = stage.cluster.stop(id).await;
        if let Err(error) = ended
            && stage.present().contains(&id)
        {
            stage.complain(format!("node {id} was shut down at last, and said {error}"));
        }
    }
    let ours = || {
        let lives =
            stage.cluster.ids().into_iter().flat_map(|id| (1..=stage.plan.lives(id)).map(move |life| (id, life)));
        let trees = lives.filter_map(|(id, life)| stage.life(id, life).ok());
        let names: BTreeSet<_> = trees.map(|node| format!("{}/", node.flow().name())).collect();
        let left = |name: &String| names.iter().any(|prefix| name.starts_with(prefix));
        ractor::registry::registered().into_iter().filter(left).collect::<Vec<_>>()
    };
    stage.until("all actors to be gone", |_| ours().is_empty()).await;
    if !ours().is_empty() {
        stage.complain(format!("there are still {:?}", ours()));
    }
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    stage.until("all tasks to be gone", |_| alive() <= tasks).await;
}
