//! Watching a prefix: one watcher on a follower that sees every change once, in order, while the leader is stopped; then
//! one that comes back on another node and goes on where the first one was; then one that asks for what is forgotten.
//!
//! `cargo run --example watch`: three nodes in this process, in memory. It ends by itself.

use std::time::Duration;

use futures_util::{StreamExt, stream::BoxStream};
use ractor_raft::{
    Node, WatchError,
    kv::{self, Change, Command, Kv, Watched},
    raft::{LogIndex, NodeId, Role},
    storage::MemoryStorage,
    transport::InProcess,
};

type Error = Box<dyn std::error::Error>;
type Stream = BoxStream<'static, Result<Watched, WatchError>>;

const MEMBERS: [(NodeId, &str); 3] = [(1, "one"), (2, "two"), (3, "three")];

/// So many changes each node remembers here: few, to show what happens to a watcher that is slower.
const REMEMBERED: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Error> {
    let mut nodes = start().await?;
    let begun = write(&nodes[0], "users/ada", "1815").await?;
    let follows = |node: &&Node<Kv>| node.status().role == Role::Follower;
    let follower = nodes.iter().find(follows).expect("two of three follow").clone();

    // 0 is "from now on". What was written before does not come; the first item says where it begins.
    let mut stream = kv::watch(&follower, "users/", 0);
    let first = stream.next().await.expect("the stream goes on")?;
    assert!(first.changes.is_empty() && first.applied_index >= begun);
    println!("node {} is watched, behind revision {}", follower.status().id, first.applied_index);

    write(&nodes[0], "users/grace", "1906").await?;
    write(&nodes[1], "cities/london", "is of no interest here").await?;
    write(&nodes[2], "users/ada", "1852").await?;
    let leader = nodes.iter().position(|node| node.status().role == Role::Leader).expect("somebody leads");
    let stopped = nodes.remove(leader);
    stopped.shutdown().await?;
    println!("node {} led, and was stopped", stopped.status().id);
    write(&nodes[0], "users/edsger", "1930").await?;
    let deleted = delete(&nodes[1], "users/grace").await?;

    let (seen, told) = until(&mut stream, deleted).await?;
    seen.iter().for_each(say);
    assert_eq!(names(&seen), ["+users/grace", "+users/ada", "+users/edsger", "-users/grace"]);
    drop(stream);

    // A revision is the same on every node: whoever goes on elsewhere misses nothing and sees nothing twice.
    let written = write(&nodes[0], "users/barbara", "1939").await?;
    let other = nodes.iter().find(|node| node.status().id != follower.status().id).expect("two are left");
    println!("now node {} is watched, from revision {} on", other.status().id, told + 1);
    let (seen, _) = until(&mut kv::watch(other, "users/", told + 1), written).await?;
    seen.iter().for_each(say);
    assert_eq!(names(&seen), ["+users/barbara"]);

    // Nothing is kept for a watcher. Who comes too late is told so, and from where on it could go on.
    let mut last = 0;
    for n in 0..REMEMBERED {
        last = write(&nodes[0], "cities/paris", &n.to_string()).await?;
    }
    nodes[0].applied_past(last - 1).await?;
    match kv::watch(&nodes[0], "users/", begun).next().await.expect("an answer") {
        Err(error @ WatchError::Compacted { .. }) => println!("{}: {error}; {}", error.code(), error.fix()),
        other => panic!("{other:?}"),
    }

    for node in nodes {
        node.shutdown().await?;
    }
    println!("each change came once, in order");
    Ok(())
}

async fn start() -> Result<Vec<Node<Kv>>, Error> {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for (id, _) in MEMBERS {
        let builder = Node::builder(id, || Kv::with_history(REMEMBERED, 1 << 20)).cluster(MEMBERS);
        nodes.push(builder.storage(MemoryStorage::new()).transport(network.clone()).spawn().await?);
    }
    Ok(nodes)
}

/// What comes until everything up to `revision` has been told, and how far that is.
async fn until(stream: &mut Stream, revision: LogIndex) -> Result<(Vec<Change>, LogIndex), Error> {
    let mut seen = Vec::new();
    loop {
        let Watched { changes, applied_index } = stream.next().await.expect("the stream goes on")?;
        seen.extend(changes);
        if applied_index >= revision {
            return Ok((seen, applied_index));
        }
    }
}

fn say(Change { key, value, revision }: &Change) {
    let key = String::from_utf8_lossy(key);
    match value {
        Some(value) => println!("  {revision}: {key} is {}", String::from_utf8_lossy(value)),
        None => println!("  {revision}: {key} is gone"),
    }
}

fn names(changes: &[Change]) -> Vec<String> {
    let sign = |change: &Change| if change.value.is_some() { '+' } else { '-' };
    changes.iter().map(|change| format!("{}{}", sign(change), String::from_utf8_lossy(&change.key))).collect()
}

async fn write(node: &Node<Kv>, key: &'static str, value: &str) -> Result<LogIndex, Error> {
    propose(node, Command::put(key, value.to_owned())).await
}

async fn delete(node: &Node<Kv>, key: &'static str) -> Result<LogIndex, Error> {
    propose(node, Command::delete(key)).await
}

/// Proposes until somebody leads, on any node; returns the revision. Only what is certainly not applied is proposed again.
async fn propose(node: &Node<Kv>, command: Command) -> Result<LogIndex, Error> {
    loop {
        match node.propose(command.clone()).await.map(|output| output.outcome) {
            Ok(Some(kv::Outcome::Put(put))) => return Ok(put.revision),
            Ok(Some(kv::Outcome::Delete(delete))) => return Ok(delete.revision),
            Ok(other) => panic!("a put or a delete was proposed, {other:?} came back"),
            Err(error) if error.may_have_been_applied() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
