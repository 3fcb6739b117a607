//! Which cluster a client means: `raft-cluster-id` beside what rests on the cluster's log.
//!
//! A session's number and a revision are places in a log. A cluster that was restored from a backup may stand at the
//! addresses of the one it was made of, with a log that went another way; there they would mean something else. So the
//! answers that begin a session or a watch say which cluster they are of, and whoever goes on says it in turn (R004).
//! So do the answers to commands and to reads of the store: a client without a session stays with one cluster, too.

use tonic::{
    Response, Status,
    metadata::{MetadataMap, MetadataValue},
};

use super::identity::WrongPeer;
use crate::{node::NodeRef, storage::Identity};

/// The metadata key. Its value is the cluster's id in 16 hexadecimal digits, as `status` shows it.
pub const CLUSTER_ID: &str = "raft-cluster-id";

/// Says which cluster is meant. 0 is none and says nothing.
pub fn write(cluster_id: u64, metadata: &mut MetadataMap) {
    if cluster_id != 0 {
        let value = MetadataValue::try_from(format!("{cluster_id:016x}")).expect("hexadecimal digits are ASCII");
        metadata.insert(CLUSTER_ID, value);
    }
}

/// An answer that says which cluster it is of.
pub fn answer<T>(node: &NodeRef, message: T) -> Response<T> {
    let mut response = Response::new(message);
    write(node.identity().cluster_id, response.metadata_mut());
    response
}

/// The cluster that is meant. 0: none is, or nothing that can be read.
pub fn read(metadata: &MetadataMap) -> u64 {
    let text = metadata.get(CLUSTER_ID).and_then(|value| value.to_str().ok());
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
}

/// Whether a call that came with this metadata is for this node's cluster, or for whichever.
///
/// # Errors
/// R004.
pub fn check(node: &NodeRef, metadata: &MetadataMap) -> Result<(), Status> {
    let Identity { cluster_id, node_id } = *node.identity();
    match read(metadata) {
        0 => Ok(()),
        found if found == cluster_id => Ok(()),
        found => Err(WrongPeer::Cluster { node: node_id, cluster: cluster_id, found }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_is_none() {
        let mut metadata = MetadataMap::new();
        write(0, &mut metadata);
        assert!(metadata.is_empty());
        for cluster_id in [1, 0x00ab_cdef, u64::MAX] {
            write(cluster_id, &mut metadata);
            assert_eq!(read(&metadata), cluster_id);
        }
        for nonsense in ["", "x", "-1", "10000000000000000"] {
            metadata.insert(CLUSTER_ID, nonsense.parse().expect("ASCII"));
            assert_eq!(read(&metadata), 0, "{nonsense:?}");
        }
    }
}
