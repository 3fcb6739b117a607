//! What the tests start from.

use std::time::Duration;

use ractor_raft::{
    error::ProposeError,
    raft::{LogIndex, NodeId},
    testing::{Cluster, Committed, Ledger, Line, Witness, Written},
};

/// The longest election timeout of the default configuration.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// A cluster whose every applied entry is watched.
pub struct Watched {
    pub cluster: Cluster<Ledger>,
    pub witness: Witness,
}

pub async fn cluster(nodes: u64, seed: u64) -> Watched {
    let witness = Witness::default();
    let factory = ledgers(&witness);
    Watched { cluster: Cluster::builder(factory).nodes(nodes).seed(seed).start().await, witness }
}

#[cfg(feature = "sqlite")]
pub async fn cluster_on_disks(nodes: u64, seed: u64) -> Watched {
    let witness = Witness::default();
    let factory = ledgers(&witness);
    Watched { cluster: Cluster::builder(factory).nodes(nodes).seed(seed).simulated_disks().start().await, witness }
}

pub fn ledgers(witness: &Witness) -> impl Fn() -> Ledger + Send + Sync + 'static {
    let witness = witness.clone();
    move || Ledger::watched_by(&witness)
}

impl std::ops::Deref for Watched {
    type Target = Cluster<Ledger>;

    fn deref(&self) -> &Cluster<Ledger> {
        &self.cluster
    }
}

impl Watched {
    /// Writes through the leader, and again until it is told "applied".
    pub async fn write(&self, text: &str) -> LogIndex {
        for _ in 0..100 {
            if let Ok(committed) = self.propose(Line::new(text)).await {
                return committed.index;
            }
            self.run_for(Duration::from_millis(20)).await;
        }
        panic!("{text:?} cannot be written\n{}", self.describe());
    }

    /// Somebody writes in the background.
    pub fn writing(&self, node: NodeId, text: impl Into<String>) -> Answer {
        let (cluster, line) = (self.cluster.clone(), Line::new(text));
        tokio::spawn(async move { cluster.propose_on(node, line).await })
    }

    pub async fn lines(&self, node: NodeId) -> Vec<(LogIndex, String)> {
        self.look(node, |ledger| ledger.lines().map(|(index, text)| (index, text.to_owned())).collect()).await
    }

    /// Waits until all running nodes have all that was ever applied, and compares them: with each other, and with what was
    /// acknowledged.
    pub async fn agree_on(&self, acknowledged: &[(LogIndex, String)]) {
        let last = self.write("the last line").await;
        self.until_applied(last).await;
        let running: Vec<_> = self.ids().into_iter().filter(|id| self.node(*id).is_some()).collect();
        let lines = self.lines(running[0]).await;
        for id in &running[1..] {
            assert_eq!(self.lines(*id).await, lines, "node {id} and node {} differ", running[0]);
        }
        for (index, text) in acknowledged {
            let found = lines.iter().find(|(at, _)| at == index).map(|(_, text)| text);
            assert_eq!(found, Some(text), "acknowledged at {index}");
        }
        self.check();
    }

    /// Election Safety and State Machine Safety, over all that has happened.
    pub fn check(&self) {
        for (term, leaders) in self.leaders() {
            assert!(leaders.len() == 1, "Election Safety: {leaders:?} all led term {term}");
        }
        assert_eq!(self.witness.contradiction(), None, "State Machine Safety");
    }
}

pub type Answer = tokio::task::JoinHandle<Result<Committed<Written>, ProposeError>>;

/// The answer that must come.
pub async fn answered(answer: Answer) -> Result<Committed<Written>, ProposeError> {
    answer.await.expect("a client's call does not panic")
}
