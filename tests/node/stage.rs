//! What the tests start from: a state machine that adds, and clusters of it in memory.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use prost::Message;
use ractor_raft::{
    config::Config,
    node::{Builder, Consistency, Node, RestartPolicy},
    raft::{LogIndex, NodeId, Role},
    state_machine::{RestoreError, Snapshot, StateMachine},
    storage::MemoryStorage,
    transport::InProcess,
};

/// Adds to a total. Adding `poison` panics.
#[derive(Clone, PartialEq, Message)]
pub struct Add {
    #[prost(uint64, tag = "1")]
    pub amount: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Total {
    #[prost(uint64, tag = "1")]
    pub total: u64,
}

pub const POISON: u64 = 666;
/// Panics the first time only.
pub const SCARE: u64 = 333;

#[derive(Default)]
pub struct Sum {
    pub total: u64,
    pub scares: Arc<AtomicU64>,
}

impl StateMachine for Sum {
    type Command = Add;
    type Output = Total;

    fn apply(&mut self, _: LogIndex, Add { amount }: Add) -> Total {
        assert_ne!(amount, POISON, "poison");
        assert!(amount != SCARE || self.scares.fetch_add(1, SeqCst) > 0, "scared");
        self.total += amount;
        Total { total: self.total }
    }

    fn snapshot(&self) -> impl Snapshot {
        Nothing
    }

    fn restore(&mut self, _: impl Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

struct Nothing;

impl Snapshot for Nothing {
    fn write(self, _: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing in here takes a minute, simulated or not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(Duration::from_secs(60), future).await;
    within.unwrap_or_else(|_| panic!("{what} did not happen within a minute"))
}

/// Each test has its own cluster, so that tests run side by side in one process.
pub struct Cluster {
    pub name: &'static str,
    pub members: Vec<(NodeId, String)>,
    pub network: InProcess,
    pub disks: Vec<MemoryStorage>,
    pub config: Config,
    pub policy: RestartPolicy,
    pub scares: Arc<AtomicU64>,
}

impl Cluster {
    pub fn new(name: &'static str, size: u64) -> Self {
        Cluster {
            name,
            members: (1..=size).map(|id| (id, format!("{name}/{id}"))).collect(),
            network: InProcess::new(),
            disks: (1..=size).map(|_| MemoryStorage::new()).collect(),
            config: Config::default(),
            policy: RestartPolicy::default(),
            scares: Arc::default(),
        }
    }

    pub fn builder(&self, id: NodeId) -> Builder<Sum> {
        let scares = self.scares.clone();
        Node::builder(id, move || Sum { total: 0, scares: scares.clone() })
            .cluster(self.members.clone())
            .cluster_name(self.name)
            .storage(self.disks[id as usize - 1].clone())
            .transport(self.network.clone())
            .config(self.config.clone())
            .restart_policy(self.policy)
            .seed(id)
    }

    pub async fn start(&self, id: NodeId) -> Node<Sum> {
        soon("the start", self.builder(id).spawn()).await.expect("it starts")
    }

    pub async fn start_all(&self) -> Vec<Node<Sum>> {
        let mut nodes = Vec::new();
        for (id, _) in &self.members {
            nodes.push(self.start(*id).await);
        }
        nodes
    }
}

/// Lets a call reach the node and gives it back unanswered.
pub async fn begin<F: Future>(call: F) -> std::pin::Pin<Box<F>> {
    let mut call = Box::pin(call);
    tokio::select! {
        biased;
        _ = &mut call => panic!("it was answered at once"),
        () = std::future::ready(()) => {}
    }
    call
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, reached).await;
}

pub async fn leader(nodes: &[Node<Sum>]) -> usize {
    let leads = |node: &Node<Sum>| node.status().role == Role::Leader;
    until("an election", || nodes.iter().any(leads)).await;
    nodes.iter().position(leads).expect("one leads")
}

pub async fn add(node: &Node<Sum>, amount: u64) -> u64 {
    soon("a write", node.propose(Add { amount })).await.expect("it is written").total
}

/// Waits until the log says which disk each has: from then on only what is proposed adds entries.
pub async fn acquainted(leader: &Node<Sum>) {
    let settled = || {
        let status = leader.status();
        let known = &status.membership.incarnations;
        status.membership.voters.keys().all(|id| known.contains_key(id)) && status.applied_index == status.last_index
    };
    until("all to know each other", settled).await;
}

pub async fn total(node: &Node<Sum>) -> u64 {
    soon("a read", node.read(Consistency::Linearizable, |sum| sum.total)).await.expect("it is read")
}

pub async fn shut_down(nodes: Vec<Node<Sum>>) {
    for node in nodes {
        soon("the shutdown", node.shutdown()).await.expect("an orderly end");
    }
}
