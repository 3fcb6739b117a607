//! The part of the tour in which single actors die, as a bug would kill them, while clients write.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    calls::scan,
    cluster::Cluster,
    load::{Load, Written},
    report::{Report, short},
    writer::Writer,
};
use crate::error::Failure;

/// The actors that fall together, and start again from disk.
const KEEPERS: [&str; 3] = ["applier", "consensus", "log store"];

/// So that the load has something to lose.
const BETWEEN_CRASHES: Duration = Duration::from_millis(400);

/// One after the other, always at whoever leads.
pub async fn run(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<(), Failure> {
    report.say("crash each kind of actor of whoever leads, while 8 clients write:");
    let load = Load::begin(cluster, "load");
    let mut crashed = Ok(());
    for kind in ["election timer", "replicator", "server", "applier", "log store", "consensus"] {
        sleep(BETWEEN_CRASHES).await;
        crashed = crash_one(cluster, report, writer, kind).await;
        if crashed.is_err() {
            break;
        }
    }
    let written = load.end().await;
    crashed?;
    nothing_lost(cluster, report, &written, "load/").await
}

/// Kills it, and checks who was restarted with it: nobody with a courier, the other keepers with a keeper.
async fn crash_one(cluster: &Cluster, report: &mut Report, writer: &mut Writer, kind: &str) -> Result<(), Failure> {
    let leader = cluster.await_leader().await?;
    let peer = cluster.another(leader);
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
    writer.put("crashed", kind).await?;
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

/// Checks what the clients of a load were told against what is there.
pub async fn nothing_lost(
    cluster: &Cluster,
    report: &mut Report,
    written: &Written,
    prefix: &str,
) -> Result<(), Failure> {
    let mut lost = 0;
    for id in cluster.nodes.keys() {
        let there = scan(&mut cluster.client_of(*id), prefix).await?;
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
