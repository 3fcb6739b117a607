//! The tour's own client: each of its writes is applied once, and it remembers them all.

use ractor_raft::{
    kv::SessionKv,
    rpc::{SessionClient, channel::BadAddress},
};

use super::cluster::{Cluster, PATIENCE};
use crate::error::Failure;

/// The keys of the tour begin with this.
pub const PREFIX: &str = "tour/";

/// A key and its value after a write, and the revision of that.
pub type Written = (String, String, u64);

/// Writes under a session, over whichever node leads.
pub struct Writer {
    kv: SessionKv,
    written: Vec<Written>,
}

impl Writer {
    /// Knows the nodes that run now, and asks those who leads.
    pub fn new(cluster: &Cluster) -> Result<Self, Failure> {
        let unusable = |error: BadAddress| Failure::other("the nodes cannot be dialled", error.to_string());
        let session = SessionClient::connect(cluster.members.values()).map_err(unusable)?.with_timeout(PATIENCE);
        Ok(Writer { kv: SessionKv::new(session), written: Vec::new() })
    }

    /// Writes, once; returns the revision.
    pub async fn put(&mut self, name: &str, value: &str) -> Result<u64, Failure> {
        let key = key(name);
        let put = self.kv.put(key.clone(), value.to_owned()).await;
        let put = put.map_err(|error| Failure::other(format!("{key} was not written"), error.to_string()))?;
        self.note(&key, value, put.revision);
        Ok(put.revision)
    }

    /// Remembers what somebody else wrote.
    pub fn note(&mut self, key: &str, value: &str, revision: u64) {
        self.written.push((key.to_owned(), value.to_owned(), revision));
    }

    /// All writes so far.
    pub fn written(&self) -> &[Written] {
        &self.written
    }
}

/// A key of the tour.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}
