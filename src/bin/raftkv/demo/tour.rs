//! The tour: each step does something to the cluster and checks with its own eyes what comes of it.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::{
    backup::{Backup, Head},
    kv::pb::{Consistency, PutRequest},
    raft::NodeId,
    rpc::trace as wire,
};
use tokio::time::Instant;
use tonic::Request;

use super::{
    calls::{get, hash, put_request},
    cluster::{Cluster, wait_for},
    crashes, newcomer,
    report::{Report, short},
    retry::Retried,
    trace,
    watcher::Watcher,
    writer::{Writer, key},
};
use crate::{client::Kind, commands::kv, error::Failure, snapshot};

/// For an answer that is not to come.
const MOMENT: Duration = Duration::from_millis(200);

/// The whole of it.
///
/// # Errors
/// A step could not be done at all; what was done and does not hold stands in the report.
pub async fn run(cluster: &mut Cluster, report: &mut Report) -> Result<(), Failure> {
    report.say("the nodes elect one that leads; a write counts once most of them have it on disk:");
    let leader = elect(cluster, report).await?;
    let watcher = Watcher::begin(cluster, leader).await?;
    let mut writer = Writer::new(cluster)?;
    write(cluster, report, &mut writer).await?;
    read(cluster, report, "hello").await?;
    read_elsewhere(cluster, report, &mut writer).await?;
    read_by_lease(cluster, report, "hello, all").await?;
    let retried = Retried::twice(cluster, report, &mut writer).await?;

    report.say("stop the leader, start it again; cut the next one off from the others:");
    let stopped = lose_the_leader(cluster, report, &mut writer).await?;
    restart(cluster, report, stopped).await?;
    cut_off(cluster, report, &mut writer).await?;

    crashes::run(cluster, report, &mut writer).await?;
    newcomer::run(cluster, report, &mut writer, &retried).await?;

    report.say("after all of that:");
    compare(cluster, report).await?;
    back_up(cluster, report, &mut writer).await?;
    report.check("watch", watcher.compare(writer.written()).await);
    follow(cluster, report).await
}

async fn elect(cluster: &Cluster, report: &mut Report) -> Result<NodeId, Failure> {
    let leader = cluster.await_leader().await?;
    let (term, took) = (cluster.node(leader).status().term, short(cluster.age()));
    report.check("elect", Ok(format!("node {leader} leads term {term}: {took} after the first node began to start")));
    Ok(leader)
}

async fn write(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<(), Failure> {
    let begun = Instant::now();
    let revision = writer.put("greeting", "hello").await?;
    let needed = cluster.members.len() / 2 + 1;
    let took = short(begun.elapsed());
    let there = || cluster.nodes.values().filter(|node| node.status().last_index >= revision).count();
    let seen = format!("greeting = hello, revision {revision}: on {needed} disks after {took}");
    let failed = format!("it was answered, and {} nodes have it", there());
    report.check("write", if there() >= needed { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn read(cluster: &Cluster, report: &mut Report, expected: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut wrong = Vec::new();
    for id in cluster.nodes.keys() {
        let seen = get(&mut cluster.client_of(*id), &key("greeting"), Consistency::Linearizable).await?;
        if seen.as_ref().is_none_or(|(value, _)| value != expected) {
            wrong.push(format!("node {id} answered {seen:?}"));
        }
    }
    let took = short(begun.elapsed());
    let seen = format!("every node answers {expected}, linearizably; {took} for all {}", cluster.nodes.len());
    report.check("read", if wrong.is_empty() { Ok(seen) } else { Err(wrong.join(", ")) });
    Ok(())
}

/// A follower asks the leader how far it must be, and answers itself.
async fn read_elsewhere(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<(), Failure> {
    let follower = cluster.another(cluster.await_leader().await?);
    let mut client = cluster.client_of(follower);
    // Connected before, so that what is measured is the read.
    get(&mut client, &key("greeting"), Consistency::Stale).await?;
    let revision = writer.put("greeting", "hello, all").await?;
    let begun = Instant::now();
    let answer = get(&mut client, &key("greeting"), Consistency::Linearizable).await?;
    let took = short(begun.elapsed());
    let seen =
        format!("node {follower} only follows, and sees revision {revision} as soon as it is acknowledged: {took}");
    let holds = answer == Some(("hello, all".to_owned(), revision));
    let failed = format!("node {follower} answered {answer:?} after revision {revision} was acknowledged");
    report.check("follower read", if holds { Ok(seen) } else { Err(failed) });
    Ok(())
}

/// A leader that heard from most of the others a moment ago need not ask whether it still leads.
async fn read_by_lease(cluster: &Cluster, report: &mut Report, expected: &str) -> Result<(), Failure> {
    let leader = cluster.await_leader().await?;
    let mut client = cluster.client_of(leader);
    get(&mut client, &key("greeting"), Consistency::Stale).await?;
    let begun = Instant::now();
    let answer = get(&mut client, &key("greeting"), Consistency::Lease).await?;
    let took = short(begun.elapsed());
    let seen = format!("node {leader} answers as the leader, by its lease: {took}");
    let holds = answer.as_ref().is_some_and(|(value, _)| value == expected);
    report.check("lease read", if holds { Ok(seen) } else { Err(format!("node {leader} answered {answer:?}")) });
    Ok(())
}

async fn lose_the_leader(cluster: &mut Cluster, report: &mut Report, writer: &mut Writer) -> Result<NodeId, Failure> {
    let leader = cluster.await_leader().await?;
    writer.put("before", "the leader stops").await?;
    let begun = Instant::now();
    cluster.stop_node(leader).await?;
    let stopped = begun.elapsed();
    writer.put("greeting", "still here").await?;
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
    let greeting = get(&mut cluster.client_of(id), &key("greeting"), Consistency::Stale).await?;
    let before = get(&mut cluster.client_of(id), &key("before"), Consistency::Stale).await?;
    let holds = greeting.as_ref().is_some_and(|(value, _)| value == "still here") && before.is_some();
    let seen = format!("node {id} is back from its disk and has what it missed, after {took}");
    let failed = format!("node {id} has greeting = {greeting:?}, before = {before:?}");
    report.check("restart", if holds { Ok(seen) } else { Err(failed) });
    Ok(())
}

/// Whoever leads without knowing that others have gone on must not answer as if it knew.
async fn cut_off(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<(), Failure> {
    let cut = cluster.await_leader().await?;
    let begun = Instant::now();
    cluster.network.cut_off(Some(cut));
    let next = wait_for("the others to elect one of them", || cluster.leader().filter(|next| *next != cut)).await?;
    let took = short(begun.elapsed());
    let revision = writer.put("greeting", "without it").await?;
    let mut client = cluster.hasty_client_of(cut, MOMENT);
    let answer = get(&mut client, &key("greeting"), Consistency::Linearizable).await;
    cluster.network.cut_off(None);
    let again = get(&mut cluster.client_of(cut), &key("greeting"), Consistency::Linearizable).await?;
    cluster.await_leader().await?;
    let seen = format!("node {next} leads after {took}; node {cut} answers no read until it has heard of it");
    let holds = answer.is_err() && again == Some(("without it".to_owned(), revision));
    let failed = format!("node {cut} answered {answer:?} while it was cut off, and {again:?} after");
    report.check("cut off", if holds { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn compare(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let level = || {
        let applied = cluster.nodes.values().map(|node| node.status().applied_index).collect::<Vec<_>>();
        applied.iter().all(|index| *index == applied[0]).then_some(())
    };
    wait_for("all nodes to have applied the same", level).await?;
    let mut hashes = BTreeMap::new();
    for id in cluster.nodes.keys() {
        hashes.entry(hash(&mut cluster.client_of(*id)).await?).or_insert_with(Vec::new).push(*id);
    }
    let seen = match hashes.first_key_value() {
        Some(((index, hash), _)) if hashes.len() == 1 => Ok(format!("every node has hash {hash} at index {index}")),
        _ => Err(format!("the nodes differ: {hashes:?}")),
    };
    report.check("same state", seen);
    Ok(())
}

/// Before each line of a picture.
const MARGIN: &str = "  ";

/// To a file, and reads that from its first byte to its last.
async fn back_up(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<(), Failure> {
    let revision = writer.put("backup", "this is in it").await?;
    let file = cluster.data().join("backup");
    let begun = Instant::now();
    snapshot::fetch(&mut cluster.client(None), &file, false).await?;
    let verified = tokio::task::spawn_blocking(move || Backup::open(&file)?.verify()).await;
    let verified = verified.map_err(|error| Failure::other("the backup was not verified", error.to_string()))?;
    let Head { node_id, snapshot, .. } = verified?;
    let took = short(begun.elapsed());
    let (size, index) = (snapshot.size.div_ceil(1024), snapshot.last_included.index);
    let seen = format!("{size} KiB of node {node_id} up to entry {index}, in a file; each byte verified: {took}");
    let failed = format!("it ends at entry {index}, and {revision} was acknowledged before");
    report.check("backup", if index >= revision { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn follow(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let follower = cluster.another(cluster.await_leader().await?);
    let trace = cluster.node(follower).as_ref().flow().new_trace();
    let message = put_request("followed", "through the nodes");
    let begun = Instant::now();
    let traced = |at, mut request: Request<PutRequest>| {
        wire::write(trace, request.metadata_mut());
        async move { kv(at).put(request).await }
    };
    let revision = cluster.client_of(follower).call(Kind::Write, &message, traced).await?.revision;
    let applied = || cluster.nodes.values().all(|node| node.status().applied_index >= revision).then_some(());
    wait_for("all nodes to apply it", applied).await?;
    report.say(&format!("one write, sent to node {follower}, which does not lead; the message flow of all nodes:"));
    println!();
    let recordings = trace::recordings(cluster, begun);
    for line in trace::picture(&recordings, trace, MARGIN.len()).lines() {
        println!("{MARGIN}{line}");
    }
    println!();
    let (nodes, all) = (trace::nodes(&recordings, trace), cluster.nodes.len());
    let seen = format!("trace {trace:016x} was seen on {nodes} of {all} nodes");
    report.check("message flow", if nodes == all { Ok(seen) } else { Err(seen) });
    Ok(())
}
