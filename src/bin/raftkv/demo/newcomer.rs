//! The part of the tour in which a node comes, catches up from a snapshot, leads, and goes again, while clients write.

use ractor_raft::{
    error::{ChangeError, SnapshotError},
    kv::pb::Consistency,
    node::Trouble,
    raft::NodeId,
};
use tokio::time::Instant;

use super::{
    calls::get,
    cluster::{Cluster, wait_for},
    crashes::nothing_lost,
    load::Load,
    report::{Report, short},
    retry::Retried,
    writer::{Writer, key},
};
use crate::error::Failure;

/// From the snapshot that it is to be sent to its end.
pub async fn run(
    cluster: &mut Cluster,
    report: &mut Report,
    writer: &mut Writer,
    retried: &Retried,
) -> Result<(), Failure> {
    report.say("add a node, let it lead, and take it away again, while 8 clients write:");
    let index = snapshot(cluster, report).await?;
    let load = Load::begin(cluster, "change");
    let gone = come_and_go(cluster, report, writer, retried, index).await;
    let written = load.end().await;
    gone?;
    nothing_lost(cluster, report, &written, "change/").await
}

async fn come_and_go(
    cluster: &mut Cluster,
    report: &mut Report,
    writer: &mut Writer,
    retried: &Retried,
    snapshot: u64,
) -> Result<(), Failure> {
    let id = join(cluster, report, snapshot).await?;
    vote(cluster, report, id).await?;
    lead(cluster, report, writer, id).await?;
    retried.again(cluster, report, id).await?;
    leave(cluster, report, writer, id).await
}

/// Has every node take one, so that whoever leads next has no old entries to send.
async fn snapshot(cluster: &Cluster, report: &mut Report) -> Result<u64, Failure> {
    let begun = Instant::now();
    let mut oldest = u64::MAX;
    for node in cluster.nodes.values() {
        let failed = |error: SnapshotError| Failure::other("a snapshot could not be taken", error.to_string());
        oldest = oldest.min(node.take_snapshot().await.map_err(failed)?);
    }
    let trailing = cluster.node(cluster.await_leader().await?).config().snapshot_trailing;
    let has_it = || cluster.nodes.values().all(|node| node.status().snapshot_index >= oldest).then_some(());
    wait_for("every node to have its snapshot", has_it).await?;
    let took = short(begun.elapsed());
    let seen = format!("each node put its state up to entry {oldest} on disk, after {took}, and forgets older entries");
    let few = format!("entry {oldest} is the last: too few were written for anything to be forgotten");
    report.check("snapshot", if oldest > trailing { Ok(seen) } else { Err(few) });
    Ok(oldest)
}

/// Nobody has the first entries any more: the snapshot is the only way to them, and it takes none by itself so soon.
async fn join(cluster: &mut Cluster, report: &mut Report, snapshot: u64) -> Result<NodeId, Failure> {
    let begun = Instant::now();
    let id = cluster.join().await?;
    let has_caught_up = || (cluster.node(id).status().applied_index >= snapshot).then_some(());
    wait_for(&format!("node {id} to have all that the snapshot has"), has_caught_up).await?;
    let took = short(begun.elapsed());
    let installed = cluster.node(id).status().snapshot_index;
    let greeting = get(&mut cluster.client_of(id), &key("greeting"), Consistency::Stale).await?;
    let seen = format!("node {id} started empty, was sent the snapshot up to entry {installed}: after {took}");
    let failed = format!("node {id} has a snapshot up to entry {installed}, greeting = {greeting:?}");
    let holds = installed >= snapshot && greeting.is_some();
    report.check("join", if holds { Ok(seen) } else { Err(failed) });
    Ok(id)
}

async fn vote(cluster: &Cluster, report: &mut Report, id: NodeId) -> Result<(), Failure> {
    let begun = Instant::now();
    let votes = |node: &_| -> bool {
        let node: &ractor_raft::Node<ractor_raft::kv::Kv> = node;
        let membership = node.status().membership;
        membership.voters.contains_key(&id) && !membership.is_joint()
    };
    wait_for(&format!("node {id} to vote"), || cluster.nodes.values().all(votes).then_some(())).await?;
    let (took, voters) = (short(begun.elapsed()), cluster.node(id).status().membership.voters);
    let seen = format!("it has caught up, and votes by itself: one of {} now, after {took} more", voters.len());
    let failed = format!("the voters are {:?}", voters.keys());
    report.check("vote", if voters.len() == cluster.members.len() { Ok(seen) } else { Err(failed) });
    Ok(())
}

async fn lead(cluster: &Cluster, report: &mut Report, writer: &mut Writer, id: NodeId) -> Result<(), Failure> {
    let before = cluster.await_leader().await?;
    let begun = Instant::now();
    let failed = |error: ChangeError| Failure::other(format!("node {id} could not be made leader"), error.to_string());
    cluster.node(before).transfer_leadership(id).await.map_err(failed)?;
    let leads = cluster.await_leader().await?;
    let took = short(begun.elapsed());
    writer.put("leader", &leads.to_string()).await?;
    let wrote = short(begun.elapsed());
    let seen = format!("node {before} hands over: node {id} leads after {took}, the next write is done after {wrote}");
    report.check("hand over", if leads == id { Ok(seen) } else { Err(format!("node {leads} leads, not node {id}")) });
    Ok(())
}

async fn leave(cluster: &mut Cluster, report: &mut Report, writer: &mut Writer, id: NodeId) -> Result<(), Failure> {
    let begun = Instant::now();
    let failed = |error: ChangeError| Failure::other(format!("node {id} could not be removed"), error.to_string());
    cluster.node(cluster.another(id)).remove_server(id).await.map_err(failed)?;
    let removed = short(begun.elapsed());
    writer.put("leader", "another one").await?;
    let wrote = short(begun.elapsed());
    let knows = || (cluster.node(id).status().trouble == Some(Trouble::Removed)).then_some(());
    wait_for(&format!("node {id} to be told that it was removed"), knows).await?;
    cluster.dismiss(id).await?;
    let leader = cluster.await_leader().await?;
    let voters = cluster.node(leader).status().membership.voters;
    let seen =
        format!("node {id} is removed after {removed}; node {leader} leads, the next write is done after {wrote}");
    let failed = format!("node {leader} leads the voters {:?}", voters.keys());
    let holds = leader != id && voters.keys().eq(cluster.members.keys());
    report.check("leave", if holds { Ok(seen) } else { Err(failed) });
    Ok(())
}
