//! The tour: each step does something to the cluster and checks with its own eyes what comes of it.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::{
    kv::pb::{Consistency, GetRequest, HashRequest, PutRequest, ScanRequest},
    raft::NodeId,
    rpc::trace as wire,
};
use tokio::time::{Instant, sleep};
use tonic::Request;

use super::{
    cluster::{Cluster, wait_for},
    load::{Load, Written},
    report::{Report, short},
    trace,
};
use crate::{
    client::{Client, Kind},
    commands::kv,
    error::Failure,
};

/// The actors that fall together, and start again from disk.
const KEEPERS: [&str; 3] = ["applier", "consensus", "log store"];

/// So that the load has something to lose.
const BETWEEN_CRASHES: Duration = Duration::from_millis(600);

/// The whole of it.
///
/// # Errors
/// A step could not be done at all; what was done and does not hold stands in the report.
pub async fn run(cluster: &mut Cluster, report: &mut Report) -> Result<(), Failure> {
    elect(cluster, report).await?;
    write(cluster, report).await?;
    read(cluster, report, "hello").await?;
    let stopped = lose_the_leader(cluster, report).await?;
    restart(cluster, report, stopped).await?;
    crash_actors(cluster, report).await?;
    compare(cluster, report).await?;
    follow(cluster, report).await
}

async fn elect(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let begun = Instant::now();
    let leader = cluster.await_leader().await?;
    let term = cluster.node(leader).status().term;
    report.check("elect", Ok(format!("node {leader} leads term {term}, after {}", short(begun.elapsed()))));
    Ok(())
}

async fn write(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let begun = Instant::now();
    let revision = put(&mut cluster.client(None), "greeting", "hello").await?;
    let needed = cluster.members.len() / 2 + 1;
    let took = short(begun.elapsed());
    report.check("write", Ok(format!("greeting = hello, revision {revision}: on {needed} disks after {took}")));
    Ok(())
}

async fn read(cluster: &Cluster, report: &mut Report, expected: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut wrong = Vec::new();
    for id in cluster.nodes.keys() {
        let seen = get(&mut cluster.client_of(*id), "greeting", Consistency::Linearizable).await?;
        if seen.as_deref() != Some(expected) {
            wrong.push(format!("node {id} answered {seen:?}"));
        }
    }
    let took = short(begun.elapsed());
    let seen = format!("every node answers {expected}, linearizably; {took} for all {}", cluster.nodes.len());
    report.check("read", if wrong.is_empty() { Ok(seen) } else { Err(wrong.join(", ")) });
    Ok(())
}

async fn lose_the_leader(cluster: &mut Cluster, report: &mut Report) -> Result<NodeId, Failure> {
    let leader = cluster.await_leader().await?;
    // A client that is connected to another node already, as clients are.
    let other = cluster.nodes.keys().copied().find(|id| *id != leader);
    let mut client = cluster.client(other);
    put(&mut client, "before", "the leader stops").await?;
    let begun = Instant::now();
    cluster.stop_node(leader).await?;
    let stopped = begun.elapsed();
    put(&mut client, "greeting", "still here").await?;
    let took = begun.elapsed();
    let next = cluster.await_leader().await?;
    let seen = format!(
        "node {leader} stopped in {}, the next write was done {} after; node {next} leads",
        short(stopped),
        short(took)
    );
    report.check("lose the leader", if next == leader { Err("it still leads".to_owned()) } else { Ok(seen) });
    Ok(leader)
}

async fn restart(cluster: &mut Cluster, report: &mut Report, id: NodeId) -> Result<(), Failure> {
    let leader = cluster.await_leader().await?;
    let written = cluster.node(leader).status().commit_index;
    let begun = Instant::now();
    cluster.restart(id).await?;
    let has_caught_up = || (cluster.node(id).status().applied_index >= written).then_some(());
    wait_for(&format!("node {id} to catch up to {written}"), has_caught_up).await?;
    let took = short(begun.elapsed());
    let greeting = get(&mut cluster.client_of(id), "greeting", Consistency::Stale).await?;
    let before = get(&mut cluster.client_of(id), "before", Consistency::Stale).await?;
    let holds = greeting.as_deref() == Some("still here") && before.is_some();
    let seen = format!("node {id} is back from its disk and has what it missed, after {took}");
    let failed = format!("node {id} has greeting = {greeting:?}, before = {before:?}");
    report.check("restart", if holds { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn crash_actors(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    report.say("crash each kind of actor of whoever leads, while 8 clients write:");
    let load = Load::begin(cluster, "load");
    let mut crashed = Ok(());
    for kind in ["election timer", "replicator", "server", "applier", "log store", "consensus"] {
        sleep(BETWEEN_CRASHES).await;
        crashed = crash_one(cluster, report, kind).await;
        if crashed.is_err() {
            break;
        }
    }
    let written = load.end().await;
    crashed?;
    check_nothing_lost(cluster, report, &written).await
}

/// Kills it, and checks who was restarted with it: nobody with a courier, the other keepers with a keeper.
async fn crash_one(cluster: &Cluster, report: &mut Report, kind: &str) -> Result<(), Failure> {
    let leader = cluster.await_leader().await?;
    let peer = cluster.nodes.keys().find(|id| **id != leader).expect("the demo has three nodes or more");
    let path = match kind {
        "election timer" => "consensus/election timer".to_owned(),
        "replicator" => format!("consensus/replicator {peer}"),
        kind => kind.to_owned(),
    };
    let lives = || KEEPERS.map(|keeper| cluster.actor(leader, keeper).map_or(0, |actor| actor.incarnation));
    let before = lives();
    let took = cluster.crash(leader, &path).await?;
    let begun = Instant::now();
    // Something is written again, whoever leads by now.
    put(&mut cluster.client(Some(leader)), "crash", kind).await?;
    let wrote = begun.elapsed();
    cluster.await_leader().await?;
    let fallen = before.iter().zip(lives()).filter(|(before, after)| *before < after).count();
    let (expected, with) = if KEEPERS.contains(&kind) { (3, "with the other keepers") } else { (0, "alone") };
    let (took, wrote) = (short(took), short(wrote));
    let seen = format!("node {leader}: back after {took:>7} {with:23} next write after {wrote:>7}");
    let failed = format!("node {leader}: {fallen} keepers were restarted with it, not {expected}");
    report.check(kind, if fallen == expected { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn check_nothing_lost(cluster: &Cluster, report: &mut Report, written: &Written) -> Result<(), Failure> {
    let mut lost = 0;
    for id in cluster.nodes.keys() {
        let there = scan(&mut cluster.client_of(*id), "load/").await?;
        lost += written.acknowledged.iter().filter(|(key, value)| there.get(*key) != Some(value)).count();
    }
    let Written { acknowledged, unknown, refused, longest, .. } = written;
    let count = acknowledged.len();
    let seen = format!("{count} acknowledged writes are on every node ({unknown} unknown, {refused} refused)");
    let holds = lost == 0 && count > 0;
    report.check("nothing lost", if holds { Ok(seen) } else { Err(format!("{lost} of {count} are missing")) });
    let longest = short(*longest);
    let seen = format!("every call was answered, the slowest after {longest}");
    report.check("nobody hung", if written.hung() { Err(format!("a call took {longest}")) } else { Ok(seen) });
    Ok(())
}

async fn compare(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let applied = || cluster.nodes.values().map(|node| node.status().applied_index).collect::<Vec<_>>();
    let level = || {
        let applied = applied();
        applied.iter().all(|index| *index == applied[0]).then_some(())
    };
    wait_for("all nodes to have applied the same", level).await?;
    let mut hashes = BTreeMap::new();
    for id in cluster.nodes.keys() {
        let mut client = cluster.client_of(*id);
        let reply =
            client.call(Kind::Read, &HashRequest {}, |at, request| async move { kv(at).hash(request).await }).await?;
        let hash = reply.hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        hashes.entry((reply.applied_index, hash)).or_insert_with(Vec::new).push(*id);
    }
    let seen = match hashes.first_key_value() {
        Some(((index, hash), _)) if hashes.len() == 1 => Ok(format!("every node has hash {hash} at index {index}")),
        _ => Err(format!("the nodes differ: {hashes:?}")),
    };
    report.check("same state", seen);
    Ok(())
}

async fn follow(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let leader = cluster.await_leader().await?;
    let follower = cluster.nodes.keys().copied().find(|id| *id != leader).expect("the demo has three nodes or more");
    let trace = cluster.node(follower).as_ref().flow().new_trace();
    let message = PutRequest { key: "followed".into(), value: "through the nodes".into(), session: None };
    let traced = |at, mut request: Request<PutRequest>| {
        wire::write(trace, request.metadata_mut());
        async move { kv(at).put(request).await }
    };
    let revision = cluster.client_of(follower).call(Kind::Write, &message, traced).await?.revision;
    let applied = || cluster.nodes.values().all(|node| node.status().applied_index >= revision).then_some(());
    wait_for("all nodes to apply it", applied).await?;
    report.say(&format!("one write, sent to node {follower}, which does not lead; the message flow of all nodes:"));
    println!();
    for line in trace::lines(cluster, trace) {
        println!("  {line}");
    }
    println!();
    let (nodes, all) = (trace::nodes(cluster, trace), cluster.nodes.len());
    let seen = format!("trace {trace:016x} was seen on {nodes} of {all} nodes");
    report.check("message flow", if nodes == all { Ok(seen) } else { Err(seen) });
    Ok(())
}

/// Writes; returns the revision.
pub async fn put(client: &mut Client, key: &str, value: &str) -> Result<u64, Failure> {
    let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), session: None };
    // To write the same twice does no harm here, so that an unknown outcome may be tried again.
    let reply = client.call(Kind::Read, &request, |at, request| async move { kv(at).put(request).await }).await?;
    Ok(reply.revision)
}

async fn get(client: &mut Client, key: &str, consistency: Consistency) -> Result<Option<String>, Failure> {
    let request = GetRequest { key: key.to_owned().into(), consistency: consistency.into(), at_least: 0 };
    let reply = client.call(Kind::Read, &request, |at, request| async move { kv(at).get(request).await }).await?;
    Ok(reply.found.then(|| String::from_utf8_lossy(&reply.value).into_owned()))
}

async fn scan(client: &mut Client, prefix: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut request = ScanRequest { prefix: prefix.to_owned().into(), ..ScanRequest::default() };
    let mut pairs = BTreeMap::new();
    loop {
        let page = client.call(Kind::Read, &request, |at, request| async move { kv(at).scan(request).await }).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        pairs.extend(page.pairs.iter().map(|pair| (text(&pair.key), text(&pair.value))));
        if page.next.is_empty() {
            return Ok(pairs);
        }
        request.from = page.next;
    }
}
