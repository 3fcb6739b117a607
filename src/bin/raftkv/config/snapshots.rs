//! What is set about snapshots: how `serve` takes and sends them, and what `snapshot restore` needs: who the node will be,
//! as `serve` is told it.

use std::{collections::BTreeMap, path::PathBuf};

use ractor_raft::{config::Config, raft::NodeId};

use super::{Setting, Settings, addresses::check_routable, not_in_the_cluster};
use crate::error::Failure;

/// Whose data directory is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSettings {
    /// The node.
    pub id: NodeId,
    /// Its directory, which is not there yet.
    pub data: PathBuf,
    /// The new cluster's members; the node is one of them.
    pub cluster: BTreeMap<NodeId, String>,
    /// What tells it apart from others with the same members.
    pub cluster_name: Option<String>,
}

impl Settings {
    /// What `serve` was told.
    pub(super) fn set_snapshots(&self, config: &mut Config) -> Result<(), Failure> {
        if let Some(setting) = self.get("snapshot_threshold") {
            config.snapshot_threshold = setting.number()?;
            // Else a small threshold would leave the log as long as it was.
            config.snapshot_trailing = config.snapshot_trailing.min(config.snapshot_threshold / 2);
        }
        if let Some(setting) = self.get("snapshot_threshold_bytes") {
            config.snapshot_threshold_bytes = setting.number()?;
        }
        if let Some(setting) = self.get("snapshot_trailing") {
            config.snapshot_trailing = setting.number()?;
        }
        if let Some(setting) = self.get("snapshot_chunk_bytes") {
            config.snapshot_chunk_bytes = setting.number()?;
        }
        if let Some(setting) = self.get("snapshot_bytes_per_second") {
            config.snapshot_bytes_per_second = setting.number()?;
        }
        Ok(())
    }

    /// What `snapshot restore` needs.
    pub fn restore(&self) -> Result<RestoreSettings, Failure> {
        let id: NodeId = self.required("id", "this node's number in --cluster, from 1 on")?.number()?;
        let data = PathBuf::from(&self.required("data", "a directory that is not there yet")?.value);
        let cluster =
            self.required("cluster", "all members of the new cluster: 1=HOST:PORT,2=HOST:PORT,…")?.members()?;
        let Some(own) = cluster.get(&id) else { return Err(not_in_the_cluster(id, &cluster, "HOST:PORT")) };
        for (member, address) in &cluster {
            check_routable(*member, address, own)?;
        }
        let cluster_name = self.get("cluster_name").map(Setting::name).transpose()?;
        Ok(RestoreSettings { id, data, cluster, cluster_name })
    }
}
