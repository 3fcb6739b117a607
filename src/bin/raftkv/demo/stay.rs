//! What a person at a terminal may do after the tour.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{
    calls,
    cluster::{Cluster, PATIENCE, wait_for},
    load::Load,
    report::short,
};
use crate::error::Failure;

const KEYS: &str =
    "k stop the leader   c crash an actor   p cut the leader off, or heal that   w write load   s status   q quit
(a letter, then Enter)";

/// How long a spell of load lasts.
const SPELL: Duration = Duration::from_secs(2);

/// The actors of the leader that `c` crashes in turn.
const VICTIMS: [&str; 5] = ["applier", "consensus/election timer", "log store", "consensus", "server"];

/// Takes keys until there are no more.
pub async fn run(cluster: &mut Cluster) -> Result<(), Failure> {
    println!("\n{KEYS}");
    let mut keys = keys();
    let mut victims = VICTIMS.into_iter().cycle();
    let mut spells = 0;
    while let Some(key) = next_key(&mut keys).await {
        let done = match key.as_str() {
            "q" => return Ok(()),
            "k" => stop_the_leader(cluster).await,
            "p" => cut(cluster).await,
            "c" => crash(cluster, victims.next().expect("it goes round for ever")).await,
            "w" => {
                spells += 1;
                write(cluster, spells).await
            }
            "s" => Ok(status(cluster)),
            _ => Ok(KEYS.to_owned()),
        };
        // What fails here is to be seen, not to end the show.
        println!("  {}", done.unwrap_or_else(|failure| failure.to_string()));
    }
    Ok(())
}

/// Lines of the terminal. The thread that reads them ends with the process: a read cannot be called off.
fn keys() -> mpsc::UnboundedReceiver<String> {
    let (sender, keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        lines.map(|line| line.trim().to_lowercase()).try_for_each(|key| sender.send(key))
    });
    keys
}

async fn next_key(keys: &mut mpsc::UnboundedReceiver<String>) -> Option<String> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => None,
        key = keys.recv() => key,
    }
}

/// Whoever was stopped or cut off before comes back first, so that a majority is left.
async fn stop_the_leader(cluster: &mut Cluster) -> Result<String, Failure> {
    come_back(cluster).await?;
    let leader = cluster.await_leader().await?;
    let begun = Instant::now();
    cluster.stop_node(leader).await?;
    calls::put(&mut cluster.client(None), "stay", "written on").await?;
    let next = cluster.await_leader().await?;
    Ok(format!("node {leader} is stopped; the next write took {}; node {next} leads", short(begun.elapsed())))
}

/// Cuts the leader off from the others; or, where somebody is cut off, heals that.
async fn cut(cluster: &mut Cluster) -> Result<String, Failure> {
    if let Some(cut) = cluster.network.node() {
        cluster.network.cut_off(None);
        let leader = cluster.await_leader().await?;
        return Ok(format!("node {cut} reaches the others again, and follows what they decided: node {leader} leads"));
    }
    come_back(cluster).await?;
    let cut = cluster.await_leader().await?;
    let begun = Instant::now();
    cluster.network.cut_off(Some(cut));
    let next = wait_for("the others to elect one of them", || cluster.leader().filter(|next| *next != cut)).await?;
    let elected = short(begun.elapsed());
    calls::put(&mut cluster.client(Some(next)), "stay", "without it").await?;
    Ok(format!("node {cut} led, and is cut off; node {next} leads the others after {elected} and takes writes"))
}

async fn come_back(cluster: &mut Cluster) -> Result<(), Failure> {
    cluster.network.cut_off(None);
    let stopped = cluster.members.keys().copied().filter(|id| !cluster.nodes.contains_key(id)).collect::<Vec<_>>();
    for id in stopped {
        cluster.restart(id).await?;
        println!("  node {id} is started again from its disk");
    }
    Ok(())
}

async fn crash(cluster: &Cluster, path: &str) -> Result<String, Failure> {
    let leader = cluster.await_leader().await?;
    let took = cluster.crash(leader, path).await?;
    Ok(format!("{path} of node {leader}, the leader, was killed and is back after {}", short(took)))
}

async fn write(cluster: &Cluster, spell: u32) -> Result<String, Failure> {
    let load = Load::begin(cluster, &format!("stay/{spell}"));
    tokio::time::sleep(SPELL).await;
    let written = load.end().await;
    let count = written.acknowledged.len();
    let per_second = count as f64 / SPELL.as_secs_f64();
    Ok(format!(
        "{count} writes acknowledged, {per_second:.0} a second; {} unknown, {} refused (a call ends within {PATIENCE:?})",
        written.unknown, written.refused
    ))
}

fn status(cluster: &Cluster) -> String {
    let line = |id: &u64| match cluster.nodes.get(id).map(|node| node.status()) {
        Some(status) => format!(
            "node {id}  {:13}  term {}  commit {}  applied {}  restarts {}{}",
            status.role.to_string(),
            status.term,
            status.commit_index,
            status.applied_index,
            status.restarts,
            if cluster.network.node() == Some(*id) { "  cut off" } else { "" }
        ),
        None => format!("node {id}  stopped"),
    };
    cluster.members.keys().map(line).collect::<Vec<_>>().join("\n  ")
}
