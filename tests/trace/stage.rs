//! Simulated clusters in which something happens that is recorded, on a network and disks that take their time.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use ractor_raft::{
    Config, Consistency,
    flow::{Crash, Event, Filter, Flow},
    raft::NodeId,
    testing::{Cluster, Ledger, Line},
    trace::{Clock, Recording},
};
use tokio::time::Instant;

/// What may happen.
pub const STORIES: [&str; 7] = ["write", "forwarded write", "read", "election", "restart", "snapshot", "change"];

/// What the nodes recorded while it did.
pub async fn recorded(story: &str) -> Vec<Recording> {
    let stage = Stage::new(config(story)).await;
    let recordings = match story {
        "write" => stage.write(stage.leader).await,
        "forwarded write" => stage.write(stage.follower()).await,
        "read" => stage.read().await,
        "election" => stage.election().await,
        "restart" => stage.restart().await,
        "snapshot" => stage.snapshot().await,
        "change" => stage.change().await,
        other => panic!("there is no story of a {other}"),
    };
    renumbered(recordings)
}

fn config(story: &str) -> Config {
    let mut config = Config::default();
    if story == "snapshot" {
        (config.snapshot_trailing, config.snapshot_chunk_bytes) = (0, 96);
    }
    config
}

/// A cluster of three that has settled.
pub struct Stage {
    pub cluster: Cluster<Ledger>,
    pub leader: NodeId,
    /// Also of nodes that are gone.
    flows: BTreeMap<NodeId, Flow>,
    began: Instant,
}

impl Stage {
    pub async fn new(config: Config) -> Stage {
        let cluster = Cluster::builder(Ledger::default).nodes(3).seed(1).config(config).start().await;
        cluster.network().set_delay(Duration::from_millis(1)..=Duration::from_millis(2));
        let leader = cluster.leader().await;
        cluster.acquainted().await;
        cluster.run_for(Duration::from_millis(500)).await;
        for id in cluster.ids() {
            // Half of it before and half after: of the leader's disk longest, so that the others can outrun it.
            let half = Duration::from_millis(if id == leader { 3 } else { id });
            cluster.slow_disk(id, half..=half);
        }
        let flows = cluster.ids().into_iter().map(|id| (id, flow(&cluster, id))).collect();
        Stage { cluster, leader, flows, began: Instant::now() }
    }

    pub fn follower(&self) -> NodeId {
        self.cluster.ids().into_iter().find(|id| *id != self.leader).expect("there are three")
    }

    /// All that every node recorded since the stage was set, and passes.
    pub fn recordings(&self, passes: impl Fn(&Event) -> bool) -> Vec<Recording> {
        let of_node = |(node, flow): (&NodeId, &Flow)| {
            let now = flow.now();
            let filter = Filter { since: Some(now.saturating_sub(self.began.elapsed())), ..Filter::default() };
            let events = flow.events(&filter).into_iter().filter(&passes).collect();
            let epoch = self.began.elapsed().as_nanos() as i64 - now.as_nanos() as i64;
            Recording { node: *node, events, missed: 0, clock: Clock { epoch, error: Duration::ZERO } }
        };
        self.flows.iter().map(of_node).collect()
    }

    pub async fn write(&self, at: NodeId) -> Vec<Recording> {
        let node = self.cluster.node(at).expect("it runs");
        let trace = node.as_ref().flow().new_trace();
        let command = Line::new("kept").encode_to_vec().into();
        let written = node.as_ref().propose(command, true, trace).await.expect("there is a leader");
        self.cluster.until_applied(written.index).await;
        self.recordings(|event| event.trace == trace)
    }

    async fn read(&self) -> Vec<Recording> {
        let read = self.cluster.read_on(self.follower(), Consistency::Linearizable, Ledger::len).await;
        read.expect("there is a leader");
        self.cluster.run_for(Duration::from_millis(20)).await;
        let asked = self.recordings(|event| event.message == "Read");
        let trace = asked.iter().flat_map(|recording| &recording.events).next().expect("it is recorded").trace;
        self.recordings(|event| event.trace == trace)
    }

    /// The leader falls, and another one is elected.
    async fn election(&self) -> Vec<Recording> {
        self.cluster.crash(self.leader).await;
        self.cluster.leader().await;
        self.cluster.run_for(Duration::from_millis(10)).await;
        self.recordings(|_| true)
    }

    /// The applier of a follower panics; the keepers fall together and start anew.
    async fn restart(&self) -> Vec<Recording> {
        let follower = self.follower();
        let node = self.cluster.node(follower).expect("it runs");
        assert!(node.as_ref().crash("applier", Crash::Panic));
        self.cluster.until("the keepers are back", |_| (node.as_ref().status().restarts > 0).then_some(())).await;
        self.cluster.run_for(Duration::from_millis(60)).await;
        self.recordings(|_| true).into_iter().filter(|recording| recording.node == follower).collect()
    }

    /// A follower misses entries that the leader has only in its snapshot.
    async fn snapshot(&self) -> Vec<Recording> {
        let (follower, leader) = (self.follower(), self.cluster.node(self.leader).expect("it runs"));
        self.cluster.crash(follower).await;
        for _ in 0..3 {
            self.cluster.propose(Line::new("missed")).await.expect("two are a majority");
        }
        let began = Instant::now();
        let index = leader.as_ref().take_snapshot().await.expect("there is room");
        let node = self.cluster.restart(follower).await;
        self.cluster.until("it caught up", |_| (node.as_ref().status().applied_index >= index).then_some(())).await;
        self.cluster.run_for(Duration::from_millis(5)).await;
        let mut flows = self.flows.clone();
        flows.insert(follower, node.as_ref().flow().clone());
        let stage = Stage { cluster: self.cluster.clone(), leader: self.leader, flows, began };
        stage.recordings(|event| !matches!(&*event.message, "Start" | "ReportTo"))
    }

    async fn change(&self) -> Vec<Recording> {
        let node = self.cluster.node(self.leader).expect("it runs");
        node.as_ref().remove_server(self.follower()).await.expect("two are left");
        self.cluster.run_for(Duration::from_millis(20)).await;
        self.recordings(|_| true)
    }
}

fn flow(cluster: &Cluster<Ledger>, id: NodeId) -> Flow {
    cluster.node(id).expect("it runs").as_ref().flow().clone()
}

/// Traces have numbers of their own in each process; in golden files they are counted from 1.
fn renumbered(mut recordings: Vec<Recording>) -> Vec<Recording> {
    let mut numbers = BTreeMap::new();
    for event in recordings.iter_mut().flat_map(|recording| &mut recording.events) {
        if event.trace != 0 {
            let next = numbers.len() as u64 + 1;
            event.trace = *numbers.entry(event.trace).or_insert(next);
        }
    }
    recordings
}
