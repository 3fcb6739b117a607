//! What a person at a terminal may do after the tour.

use std::time::Duration;

use ractor_raft::{
    http::{Kind, Order, Server},
    raft::NodeId,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    buttons::{Pressed, Presses},
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

/// Takes keys, and buttons of the page, until there are no more keys.
pub async fn run(cluster: &mut Cluster, page: &Server, mut presses: Presses) -> Result<(), Failure> {
    println!("\n{KEYS}\nthe page has buttons for them: {}", page.url());
    presses.begin();
    let mut keys = keys();
    let mut show = Show { victims: 0, spells: 0 };
    while let Some(wish) = next_wish(&mut keys, &mut presses).await {
        let (order, answer) = match wish {
            Wish::Key(key) => match key.as_str() {
                "q" => return Ok(()),
                "k" => (named("kill"), None),
                "c" => (named("crash"), None),
                "p" => (named("partition"), None),
                "w" => (named("write"), None),
                "s" => {
                    println!("  {}", status(cluster));
                    continue;
                }
                _ => {
                    println!("  {KEYS}");
                    continue;
                }
            },
            Wish::Button(Pressed { order, answer }) => (order, Some(answer)),
        };
        // What fails here is to be seen, not to end the show.
        let kind = if order.name == "write" { Kind::Note } else { Kind::Fault };
        let done = show.does(cluster, page, order).await.map_err(|failure| failure.to_string());
        let (Ok(said) | Err(said)) = &done;
        println!("  {said}");
        page.note(kind, sentence(said));
        if let Some(answer) = answer {
            // Whoever pressed may have closed the page.
            let _ = answer.send(done);
        }
    }
    Ok(())
}

/// What is wanted next.
enum Wish {
    Key(String),
    Button(Pressed),
}

fn named(name: &str) -> Order {
    Order { name: name.to_owned(), ..Order::default() }
}

/// With a capital letter.
fn sentence(said: &str) -> String {
    let mut letters = said.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// How far the show has come.
struct Show {
    victims: usize,
    spells: u32,
}

impl Show {
    async fn does(&mut self, cluster: &mut Cluster, page: &Server, order: Order) -> Result<String, Failure> {
        let Order { name, node, actor } = order;
        if let Some(id) = node.filter(|id| !cluster.members.contains_key(id)) {
            return Err(Failure::other(format!("there is no node {id}"), ""));
        }
        match name.as_str() {
            "kill" => stop(cluster, page, node).await,
            "partition" => cut(cluster, page, node).await,
            "crash" => {
                let victim = VICTIMS[self.victims % VICTIMS.len()];
                self.victims += usize::from(actor.is_none());
                crash(cluster, page, node, actor.as_deref().unwrap_or(victim)).await
            }
            _ => {
                self.spells += 1;
                write(cluster, page, self.spells).await
            }
        }
    }
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

async fn next_wish(keys: &mut mpsc::UnboundedReceiver<String>, presses: &mut Presses) -> Option<Wish> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => None,
        key = keys.recv() => key.map(Wish::Key),
        Some(pressed) = presses.next() => Some(Wish::Button(pressed)),
    }
}

/// Whoever was stopped or cut off before comes back first, so that a majority is left. One that is named and does not run is
/// started again.
async fn stop(cluster: &mut Cluster, page: &Server, node: Option<NodeId>) -> Result<String, Failure> {
    let was_stopped = node.filter(|id| !cluster.nodes.contains_key(id));
    come_back(cluster, page).await?;
    if let Some(id) = was_stopped {
        return Ok(format!("node {id} runs again"));
    }
    let leader = cluster.await_leader().await?;
    let id = node.unwrap_or(leader);
    page.note(Kind::Fault, format!("Node {id}{} is being stopped", if id == leader { ", the leader," } else { "" }));
    let begun = Instant::now();
    cluster.stop_node(id).await?;
    calls::put(&mut cluster.client(None), "stay", "written on").await?;
    let next = cluster.await_leader().await?;
    Ok(format!("node {id} is stopped; the next write took {}; node {next} leads", short(begun.elapsed())))
}

/// Cuts the leader, or whoever is named, off from the others; or, where somebody is cut off, heals that.
async fn cut(cluster: &mut Cluster, page: &Server, node: Option<NodeId>) -> Result<String, Failure> {
    if let Some(cut) = cluster.network.node() {
        cluster.network.cut_off(None);
        let leader = cluster.await_leader().await?;
        return Ok(format!("node {cut} reaches the others again, and follows what they decided: node {leader} leads"));
    }
    come_back(cluster, page).await?;
    let leader = cluster.await_leader().await?;
    let cut = node.unwrap_or(leader);
    page.note(Kind::Fault, format!("Node {cut} is cut off: no message reaches it, and none of its own arrives"));
    let begun = Instant::now();
    cluster.network.cut_off(Some(cut));
    if cut != leader {
        return Ok(format!("node {cut} is cut off; node {leader} leads on, with one vote less"));
    }
    let next = wait_for("the others to elect one of them", || cluster.leader().filter(|next| *next != cut)).await?;
    let elected = short(begun.elapsed());
    calls::put(&mut cluster.client(Some(next)), "stay", "without it").await?;
    Ok(format!("node {cut} led, and is cut off; node {next} leads the others after {elected} and takes writes"))
}

async fn come_back(cluster: &mut Cluster, page: &Server) -> Result<(), Failure> {
    if let Some(cut) = cluster.network.node() {
        cluster.network.cut_off(None);
        page.note(Kind::Fault, format!("Node {cut} reaches the others again"));
    }
    let stopped = cluster.members.keys().copied().filter(|id| !cluster.nodes.contains_key(id)).collect::<Vec<_>>();
    for id in stopped {
        cluster.restart(id).await?;
        let said = format!("node {id} is started again from its disk");
        println!("  {said}");
        page.note(Kind::Fault, sentence(&said));
    }
    Ok(())
}

async fn crash(cluster: &Cluster, page: &Server, node: Option<NodeId>, path: &str) -> Result<String, Failure> {
    let id = match node {
        Some(id) => id,
        None => cluster.await_leader().await?,
    };
    if !cluster.nodes.contains_key(&id) {
        return Err(Failure::other(format!("node {id} does not run"), ""));
    }
    page.note(Kind::Fault, sentence(&format!("{path} of node {id} is killed, as a bug would do it")));
    let took = cluster.crash(id, path).await?;
    Ok(format!("{path} of node {id} was killed and is back after {}", short(took)))
}

async fn write(cluster: &Cluster, page: &Server, spell: u32) -> Result<String, Failure> {
    page.note(Kind::Note, "Eight clients write for two seconds");
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
