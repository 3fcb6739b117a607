//! A client that watches the tour's keys from the first write to the last, over whichever node answers.

use std::collections::BTreeSet;

use ractor_raft::kv::{Change, WatchClient, Watched};
use tokio::{
    sync::watch::{Receiver, Sender},
    task::JoinHandle,
    time::timeout,
};
use tonic::Status;

use super::{
    cluster::{Cluster, PATIENCE},
    writer::{PREFIX, Written},
};
use crate::error::Failure;

/// What it was told so far.
#[derive(Clone, Default)]
struct Told {
    changes: Vec<Written>,
    /// Everything up to here was told.
    up_to: u64,
    /// The nodes that told it.
    endpoints: BTreeSet<String>,
    /// Why it was told no more.
    failed: Option<String>,
}

/// A watch, running.
pub struct Watcher {
    task: JoinHandle<()>,
    told: Receiver<Told>,
}

impl Watcher {
    /// Watches the leader first, from now on.
    pub async fn begin(cluster: &Cluster, leader: u64) -> Result<Self, Failure> {
        let others = cluster.members.iter().filter(|(id, _)| **id != leader).map(|(_, address)| address);
        let endpoints = std::iter::once(&cluster.members[&leader]).chain(others);
        let mut watch = WatchClient::new(endpoints, PREFIX, 0).patience(PATIENCE);
        let begun = watch.next().await.map_err(|status| Failure::other("nobody can be watched", told_by(&status)))?;
        let (tell, told) = tokio::sync::watch::channel(Told::default());
        note(&tell, &watch, begun);
        let task = tokio::spawn(async move {
            loop {
                match watch.next().await {
                    Ok(watched) => note(&tell, &watch, watched),
                    Err(status) => return tell.send_modify(|told| told.failed = Some(told_by(&status))),
                }
            }
        });
        Ok(Watcher { task, told })
    }

    /// Ends it once it was told of the last of these writes, and compares: each once, in order, and nothing else.
    pub async fn compare(mut self, written: &[Written]) -> Result<String, String> {
        let mut written = written.to_vec();
        written.sort_by_key(|(_, _, revision)| *revision);
        let last = written.last().map_or(0, |(_, _, revision)| *revision);
        let seen = self.told.wait_for(|told| told.up_to >= last || told.failed.is_some());
        // What is missing is said below.
        let _ = timeout(PATIENCE, seen).await;
        self.task.abort();
        let Told { changes, endpoints, failed, .. } = self.told.borrow().clone();
        if changes == written {
            return Ok(format!(
                "a client that watched {PREFIX} saw all {} changes, in order, over {} nodes in turn",
                changes.len(),
                endpoints.len()
            ));
        }
        let at = changes.iter().zip(&written).take_while(|(seen, written)| seen == written).count();
        let (seen, expected) = (changes.get(at), written.get(at));
        let why = failed.map_or(String::new(), |why| format!("; it ended: {why}"));
        Err(format!("change {} was {seen:?}, and {expected:?} was written{why}", at + 1))
    }
}

fn note(tell: &Sender<Told>, watch: &WatchClient, Watched { changes, applied_index }: Watched) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let written = |Change { key, value, revision }: Change| {
        (text(&key), value.map_or("(deleted)".to_owned(), |value| text(&value)), revision)
    };
    tell.send_modify(|told| {
        told.changes.extend(changes.into_iter().map(written));
        told.up_to = applied_index;
        told.endpoints.insert(watch.endpoint().to_owned());
    });
}

fn told_by(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
