//! Clients that write while things fail, and remember what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor_raft::kv::pb::PutRequest;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::cluster::{Cluster, PATIENCE};
use crate::{
    client::{Client, Kind},
    commands::kv,
    error::exit,
};

/// How many clients write at a time.
const CLIENTS: u64 = 8;

/// Between two writes of a client, so that the machine has time for more than the load.
const PAUSE: Duration = Duration::from_millis(2);

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Written>,
}

/// What the clients were told.
#[derive(Default)]
pub struct Written {
    /// Key and value of each write that was acknowledged.
    pub acknowledged: BTreeMap<String, String>,
    /// Writes whose outcome is unknown.
    pub unknown: usize,
    /// Writes that were certainly not applied.
    pub refused: usize,
    /// The longest that one call took.
    pub longest: Duration,
}

impl Load {
    /// Lets clients begin, each with another node first. Keys begin with `prefix`; each is written once.
    pub fn begin(cluster: &Cluster, prefix: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        let nodes = cluster.nodes.keys().copied().collect::<Vec<_>>();
        for (number, first) in (0..CLIENTS).zip(nodes.into_iter().cycle()) {
            let client = cluster.client(Some(first));
            clients.spawn(write(client, format!("{prefix}/{number}"), stop.clone()));
        }
        Load { stop, clients }
    }

    /// Lets them end their last call, and collects what they were told.
    pub async fn end(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        while let Some(written) = self.clients.join_next().await {
            let written = written.expect("a client does not panic");
            all.acknowledged.extend(written.acknowledged);
            all.unknown += written.unknown;
            all.refused += written.refused;
            all.longest = all.longest.max(written.longest);
        }
        all
    }
}

impl Written {
    /// Whether somebody waited for an answer that did not come.
    pub fn hung(&self) -> bool {
        self.longest >= PATIENCE
    }
}

async fn write(mut client: Client, prefix: String, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = (format!("{prefix}/{number}"), format!("{number}"));
        number += 1;
        let request = PutRequest { key: key.clone().into(), value: value.clone().into(), session: None };
        let begun = Instant::now();
        match client.call(Kind::Write, &request, |at, request| async move { kv(at).put(request).await }).await {
            Ok(_) => {
                written.acknowledged.insert(key, value);
            }
            Err(failure) if failure.exit == exit::UNKNOWN_OUTCOME => written.unknown += 1,
            Err(_) => written.refused += 1,
        }
        written.longest = written.longest.max(begun.elapsed());
        sleep(PAUSE).await;
    }
    written
}
