//! Writers that go on while something happens to the cluster, and what they were told.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ractor_raft::{
    error::ProposeError,
    node::Status,
    raft::LogIndex,
    testing::{Cluster, Ledger, Line},
};
use tokio::{task::JoinHandle, time::Instant};

/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(5);

/// Some writers. Each writes to one node after the other, and what may have been applied it does not write again.
pub struct Load {
    said: Arc<Mutex<Said>>,
    writers: Vec<JoinHandle<()>>,
}

/// What the writers were told.
#[derive(Default)]
struct Said {
    acknowledged: Vec<(LogIndex, String)>,
    /// Not applied, each with why.
    refused: Vec<ProposeError>,
    /// The longest that a write took that was acknowledged.
    slowest: Duration,
    stop: bool,
}

impl Load {
    pub fn start(cluster: &Cluster<Ledger>, writers: u64) -> Load {
        let said = Arc::<Mutex<Said>>::default();
        let writers = (0..writers).map(|writer| tokio::spawn(write(cluster.clone(), said.clone(), writer))).collect();
        Load { said, writers }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.said).acknowledged.len()
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn goes_on(&self, cluster: &Cluster<Ledger>, writes: usize) {
        let enough = self.acknowledged() + writes;
        let what = format!("{writes} more writes to be acknowledged");
        cluster.until(&what, |_| (self.acknowledged() >= enough).then_some(())).await;
    }

    /// Lets the writers end. Returns what was acknowledged, what was refused, and the slowest acknowledgement.
    pub async fn stop(self) -> (Vec<(LogIndex, String)>, Vec<ProposeError>, Duration) {
        lock(&self.said).stop = true;
        for writer in self.writers {
            writer.await.expect("a writer does not panic");
        }
        let said = std::mem::take(&mut *lock(&self.said));
        (said.acknowledged, said.refused, said.slowest)
    }
}

async fn write(cluster: Cluster<Ledger>, said: Arc<Mutex<Said>>, writer: u64) {
    for count in 0.. {
        if lock(&said).stop {
            return;
        }
        // One that waits to be told who leads can pass nothing on.
        let belongs = |status: &Status| status.membership.is_voter(status.id);
        let running: Vec<_> =
            cluster.ids().into_iter().filter(|id| cluster.status(*id).as_ref().is_some_and(belongs)).collect();
        let node = running[(writer as usize + count) % running.len()];
        let text = format!("{count} of writer {writer}");
        let began = Instant::now();
        match cluster.propose_on(node, Line::new(text.as_str())).await {
            Ok(written) => {
                let mut said = lock(&said);
                said.acknowledged.push((written.index, text));
                said.slowest = said.slowest.max(began.elapsed());
            }
            Err(ProposeError::Unknown { .. }) => {}
            Err(refused) => lock(&said).refused.push(refused),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
