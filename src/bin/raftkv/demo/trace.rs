//! One write, followed through the actors of all nodes: a line a message.

use ractor_raft::{
    flow::{Event, Filter, Outcome, TraceId},
    raft::NodeId,
};
use tokio::time::Instant;

use super::{cluster::Cluster, report::short};

/// A message, with the node it was recorded on and when, on one clock.
struct Seen {
    node: NodeId,
    at: Instant,
    event: Event,
}

/// Every message of `trace` on every node, as text, in the order in which they were sent.
pub fn lines(cluster: &Cluster, trace: TraceId) -> Vec<String> {
    let mut seen = Vec::new();
    for (node, running) in &cluster.nodes {
        let flow = running.as_ref().flow();
        // Each node counts from its own epoch; in one process they share the clock.
        let epoch = Instant::now() - flow.now();
        let of_node = |event: Event| Seen { node: *node, at: epoch + event.sent, event };
        seen.extend(flow.events(&Filter::of_trace(trace)).into_iter().map(of_node));
    }
    seen.sort_by_key(|seen| seen.at);
    let Some(begun) = seen.first().map(|seen| seen.at) else { return Vec::new() };
    let ways = seen.iter().map(way).collect::<Vec<_>>();
    let words = seen.iter().map(|seen| word(&seen.event)).collect::<Vec<_>>();
    let way_width = ways.iter().map(|way| way.chars().count()).max().unwrap_or(0);
    let word_width = words.iter().map(|word| word.chars().count()).max().unwrap_or(0);
    let line = |(seen, (way, word)): (&Seen, (String, String))| {
        let after = (seen.at - begun).as_secs_f64() * 1e3;
        format!("{after:6.2} ms  {way:way_width$}  {word:word_width$}  {}", times(&seen.event)).trim_end().to_owned()
    };
    seen.iter().zip(ways.into_iter().zip(words)).map(line).collect()
}

/// How many nodes have seen it.
pub fn nodes(cluster: &Cluster, trace: TraceId) -> usize {
    let saw = |node: &&_| -> bool {
        let node: &ractor_raft::node::Node<ractor_raft::kv::Kv> = node;
        !node.as_ref().flow().events(&Filter::of_trace(trace)).is_empty()
    };
    cluster.nodes.values().filter(saw).count()
}

fn way(Seen { node, event, .. }: &Seen) -> String {
    format!("node {node} ▸ {} → {}", event.sender, event.receiver)
}

fn word(event: &Event) -> String {
    match event.mark.index {
        0 => event.message.to_string(),
        index => format!("{} {index}", event.message),
    }
}

fn times(event: &Event) -> String {
    if event.outcome == Outcome::Noted {
        return String::new();
    }
    format!("waited {:>7}  handled {:>7}", short(event.waited), short(event.handling))
}
