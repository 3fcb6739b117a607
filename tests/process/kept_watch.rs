//! A watch that is taken up again wherever it breaks off, and what it was told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ractor_raft::kv::pb::{Change, WatchRequest};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{client, cluster::LOOK_AGAIN, server::PATIENCE};

/// From the first revision on.
pub struct KeptWatch {
    changes: Arc<Mutex<Vec<Change>>>,
    told: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl KeptWatch {
    /// At one of the nodes after the other.
    pub fn start(addresses: &BTreeMap<u64, String>, prefix: &'static str) -> KeptWatch {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let (telling, told) = watch::channel(0);
        let addresses: Vec<_> = addresses.values().cloned().collect();
        let task = tokio::spawn({
            let changes = changes.clone();
            async move {
                for address in addresses.iter().cycle() {
                    watch_one(address, prefix, &changes, &telling).await;
                    sleep(LOOK_AGAIN).await;
                }
            }
        });
        KeptWatch { changes, told, task }
    }

    /// Waits until it was told of everything up to here; all that it was told.
    pub async fn up_to(self, index: u64) -> Vec<Change> {
        let mut told = self.told.clone();
        let reached = timeout(PATIENCE, told.wait_for(|told| *told >= index)).await;
        let reached = reached.unwrap_or_else(|_| panic!("a watch is told only up to {}", *self.told.borrow()));
        reached.expect("the watch found nothing wrong");
        self.task.abort();
        std::mem::take(&mut *self.changes.lock().expect("nobody panics with it"))
    }
}

/// Until it ends, for whatever reason.
async fn watch_one(address: &str, prefix: &str, changes: &Mutex<Vec<Change>>, telling: &watch::Sender<u64>) {
    let from = *telling.borrow() + 1;
    let request = WatchRequest { prefix: prefix.to_owned().into(), from };
    let Ok(Ok(reply)) = timeout(PATIENCE, client::kv(address).watch(request)).await else { return };
    let mut stream = reply.into_inner();
    while let Ok(Some(response)) = stream.message().await {
        let mut newest = *telling.borrow();
        for change in response.changes {
            assert!(change.revision > newest, "a watch goes back from {newest} to {change:?}");
            newest = change.revision;
            changes.lock().expect("nobody panics with it").push(change);
        }
        assert!(response.applied_index >= newest, "what was told of is said not to be: {}", response.applied_index);
        telling.send_replace(response.applied_index);
    }
}
