//! What a node is and does, in figures: the text that Prometheus scrapes.
//!
//! ```
//! # use ractor_raft::{Node, kv::Kv, metrics, storage::MemoryStorage, transport::InProcess};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let node = Node::builder(1, Kv::default).cluster([(1, "here")]);
//! # let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await?;
//! // In the handler of your own GET /metrics, with the content type metrics::CONTENT_TYPE:
//! let text = metrics::text(&node);
//! assert!(text.contains("\nraft_is_leader "));
//! # node.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! `raftkv serve --http` serves it at `/metrics`, and `dashboards/raftkv.json` draws it. Names, labels and what an operator
//! reads from each stand in [`families`](self#families) below; they are an interface, and none is taken away.
//!
//! # Families
//! | name | labels | |
//! |---|---|---|
//! | `raft_term`, `raft_is_leader`, `raft_has_leader` | | what the node is; over all nodes the leaders add up to 1 |
//! | `raft_last_index`, `raft_commit_index`, `raft_applied_index`, `raft_snapshot_index` | | how far it has got |
//! | `raft_voters`, `raft_leader_changes_total`, `raft_trouble` | `trouble` | the cluster as it sees it, and what is wrong with the node itself |
//! | `raft_peer_lag_entries`, `raft_peer_reachable` | `peer` | the leader's view of the others; absent elsewhere |
//! | `raft_proposals_total` | `result` | what became of writes |
//! | `raft_proposal_seconds`, `raft_pending_calls`, `raft_pending_calls_limit` | | how long writes take, and how close the node is to saying "busy" |
//! | `raft_log_fsync_seconds`, `raft_snapshot_seconds` | | the disk |
//! | `raft_actor_mailbox_depth`, `raft_actor_mailbox_wait_seconds`, `raft_actor_running`, `raft_actor_restarts_total` | `actor` | each actor of the tree |
//! | `raft_actor_handle_seconds` | `actor`, `message` | where the time goes |
//! | `raft_recorder_bytes`, `raft_recorder_limit_bytes`, `raft_recorder_events_total`, `raft_recorder_lost_events_total` | | the flight recorder itself |
//! | `raft_build_info` | `version`, `node`, `cluster` | which program it is |
//!
//! Units are seconds, bytes and entries. Counters begin at 0 with the process and outlive the restarts of actors. The labels
//! are bounded: an `actor` is a place in the tree, of which there are nine and one for each peer that there ever was; a
//! `message` is a word of its vocabulary, a dozen or so. Five nodes have about six hundred series each. With the recorder off
//! ([`Flow::set_recording`](crate::flow::Flow::set_recording)) the waits and handling times stand still; all else goes on.
//!
//! The figures are read without a lock that any actor on the path of a write takes, and those of one text may be a moment apart.

mod encoding;
mod help;

use std::fmt::{self, Debug, Formatter};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text::encode},
    registry::Registry,
};

use self::encoding::Families;
use crate::{
    flow::Status as ActorStatus,
    node::{NodeRef, Trouble},
    raft::Role,
};

/// What the text is, as an HTTP `content-type`: OpenMetrics 1.0, which Prometheus has read since version 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that this node can tell, in the text format of OpenMetrics. Never waits for an actor.
pub fn text(node: &NodeRef) -> String {
    let mut registry = Registry::with_prefix("raft");
    registry.register_collector(Box::new(Scrape(node.clone())));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes whatever is written to it");
    text
}

/// Reads the figures where they are kept, at the moment they are asked for.
struct Scrape(NodeRef);

impl Debug for Scrape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scrape").field(self.0.identity()).finish()
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        standing(&self.0, &mut families)?;
        writes(&self.0, &mut families)?;
        actors(&self.0, &mut families)?;
        recorder(&self.0, &mut families)
    }
}

/// What the node is, and how it sees the others.
fn standing(node: &NodeRef, families: &mut Families<'_>) -> fmt::Result {
    let status = node.status();
    families.gauge("term", status.term)?;
    let leads = u64::from(status.role == Role::Leader);
    families.gauge("is_leader", leads)?;
    families.gauge("has_leader", u64::from(status.leader.is_some()))?;
    families.counter("leader_changes", node.figures().leader_changes)?;
    families.gauge("last_index", status.last_index)?;
    families.gauge("commit_index", status.commit_index)?;
    families.gauge("applied_index", status.applied_index)?;
    families.gauge("snapshot_index", status.snapshot_index)?;
    families.gauge("voters", status.membership.voters.len() as u64)?;
    let troubles = [("disk_full", Trouble::DiskFull), ("wiped", Trouble::Wiped), ("removed", Trouble::Removed)];
    let troubles = troubles.map(|(name, trouble)| ([("trouble", name)], u64::from(status.trouble == Some(trouble))));
    families.gauges("trouble", &troubles)?;
    let lag: Vec<_> = status
        .peers
        .iter()
        .map(|peer| ([("peer", peer.id)], status.last_index.saturating_sub(peer.match_index)))
        .collect();
    families.gauges("peer_lag_entries", &lag)?;
    let reachable: Vec<_> = status.peers.iter().map(|peer| ([("peer", peer.id)], u64::from(peer.reachable))).collect();
    families.gauges("peer_reachable", &reachable)?;
    let cluster = format!("{:016x}", status.cluster_id);
    families.info(
        "build",
        &[("version", env!("CARGO_PKG_VERSION")), ("node", &status.id.to_string()), ("cluster", &cluster)],
    )
}

/// What became of writes, and what they wait for.
fn writes(node: &NodeRef, families: &mut Families<'_>) -> fmt::Result {
    let figures = node.figures();
    let results: Vec<_> = figures.proposals.iter().map(|(result, count)| ([("result", *result)], *count)).collect();
    families.counters("proposals", &results)?;
    families.histogram("proposal", &figures.proposal_times, 16..=35)?;
    families.gauge("pending_calls", node.pending() as u64)?;
    families.gauge("pending_calls_limit", node.config().max_pending as u64)?;
    families.histogram("log_fsync", &figures.fsync_times, 16..=35)?;
    families.histogram("snapshot", &figures.snapshot_times, 20..=40)
}

/// The supervision tree.
fn actors(node: &NodeRef, families: &mut Families<'_>) -> fmt::Result {
    let tree = node.tree();
    let by_actor = |value: fn(&crate::flow::ActorReport) -> u64| {
        let values = tree.iter().map(move |actor| ([("actor", actor.path.as_str())], value(actor)));
        values.collect::<Vec<_>>()
    };
    families.gauges("actor_mailbox_depth", &by_actor(|actor| actor.depth))?;
    families.gauges("actor_running", &by_actor(|actor| u64::from(actor.status == ActorStatus::Running)))?;
    families.counters("actor_restarts", &by_actor(|actor| actor.restarts.into()))?;
    let times = node.flow().times();
    let waits: Vec<_> = times.iter().map(|actor| ([("actor", actor.path.as_str())], &actor.waits)).collect();
    families.histograms("actor_mailbox_wait", &waits, (10..=34).step_by(2))?;
    let handling: Vec<_> = times
        .iter()
        .flat_map(|actor| {
            actor
                .handling
                .iter()
                .map(|(message, counts)| ([("actor", actor.path.as_str()), ("message", *message)], counts))
        })
        .collect();
    families.histograms("actor_handle", &handling, (14..=34).step_by(4))
}

/// What the figures above and the message flow cost.
fn recorder(node: &NodeRef, families: &mut Families<'_>) -> fmt::Result {
    let flow = node.flow();
    families.gauge_in("recorder", "bytes", flow.recorder_bytes() as u64)?;
    families.gauge_in("recorder_limit", "bytes", flow.recorder_limit() as u64)?;
    families.counter("recorder_events", flow.recorded_events())?;
    families.counter("recorder_lost_events", flow.lost_events())
}
