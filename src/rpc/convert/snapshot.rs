//! Snapshots on their way between nodes, and what they are.

use bytes::Bytes;

use super::{
    Malformed, counted,
    entry::{membership_from_pb, membership_to_pb},
    number, pb, position, sender,
};
use crate::raft::{InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, NodeId, SnapshotMetadata};

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// Which cluster's state.
    pub cluster_id: u64,
    /// Whose snapshot it was.
    pub node_id: NodeId,
    /// The snapshot: up to which entry, how many bytes, their checksum, and who belonged to the cluster.
    pub snapshot: SnapshotMetadata,
}

/// What a snapshot is.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn snapshot_from_pb(snapshot: pb::SnapshotMetadata) -> Result<SnapshotMetadata, Malformed> {
    let last_included = position("last_included", snapshot.last_included_index, snapshot.last_included_term)?;
    counted("last_included_index", last_included.index)?;
    let membership = snapshot.membership.ok_or_else(|| Malformed::new("membership", "is missing"))?;
    Ok(SnapshotMetadata {
        last_included,
        membership: membership_from_pb(membership).map_err(|error| error.within("membership"))?.into(),
        size: number("size", snapshot.size)?,
        checksum: snapshot.checksum,
    })
}

/// What a snapshot is, on its way out.
pub fn snapshot_to_pb(snapshot: &SnapshotMetadata) -> pb::SnapshotMetadata {
    pb::SnapshotMetadata {
        last_included_index: snapshot.last_included.index,
        last_included_term: snapshot.last_included.term,
        membership: Some(membership_to_pb(&snapshot.membership)),
        size: snapshot.size,
        checksum: snapshot.checksum,
    }
}

/// What a backup is of.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn backup_head_from_pb(head: pb::BackupHead) -> Result<BackupHead, Malformed> {
    let snapshot = head.snapshot.ok_or_else(|| Malformed::new("snapshot", "is missing"))?;
    Ok(BackupHead {
        cluster_id: head.cluster_id,
        node_id: counted("node_id", head.node_id)?,
        snapshot: snapshot_from_pb(snapshot).map_err(|error| error.within("snapshot"))?,
    })
}

/// What a backup is of, on its way out.
pub fn backup_head_to_pb(head: &BackupHead) -> pb::BackupHead {
    let BackupHead { cluster_id, node_id, snapshot } = head;
    pb::BackupHead { cluster_id: *cluster_id, node_id: *node_id, snapshot: Some(snapshot_to_pb(snapshot)) }
}

/// An InstallSnapshot as it came from node `from`. `stream` is the snapshot that its stream's first message named, and
/// `None` for that message itself.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn install_snapshot_from_pb(
    from: NodeId,
    stream: Option<&SnapshotMetadata>,
    request: pb::InstallSnapshotRequest,
) -> Result<InstallSnapshotRequest, Malformed> {
    let term = counted("term", request.term)?;
    let leader_id = sender("leader_id", request.leader_id, from)?;
    let snapshot = match (stream, request.snapshot) {
        (Some(snapshot), None) => snapshot.clone(),
        (Some(_), Some(_)) => return Err(Malformed::new("snapshot", "is named a second time on its stream")),
        (None, Some(snapshot)) => snapshot_from_pb(snapshot).map_err(|error| error.within("snapshot"))?,
        (None, None) => return Err(Malformed::new("snapshot", "is missing in the stream's first message")),
    };
    if snapshot.last_included.term > term {
        let problem = format!("is {}, after the leader's term {term}", snapshot.last_included.term);
        return Err(Malformed::new("snapshot.last_included_term", problem));
    }
    let offset = request.offset;
    if offset > snapshot.size {
        return Err(Malformed::new("offset", format!("is {offset}, beyond the snapshot's {} bytes", snapshot.size)));
    }
    let length = request.data.len() as u64;
    if length > snapshot.size - offset {
        let problem = format!("has {length} bytes at {offset}, beyond the snapshot's {}", snapshot.size);
        return Err(Malformed::new("data", problem));
    }
    Ok(InstallSnapshotRequest { term, leader_id, snapshot, offset, data: request.data })
}

/// A chunk of what `request` began, on its way out; `first` on its stream or not.
pub fn install_snapshot_to_pb(
    header: pb::Header,
    first: bool,
    request: &InstallSnapshotRequest,
    offset: u64,
    data: Bytes,
) -> pb::InstallSnapshotRequest {
    pb::InstallSnapshotRequest {
        header: Some(header),
        term: request.term,
        leader_id: request.leader_id,
        snapshot: first.then(|| snapshot_to_pb(&request.snapshot)),
        offset,
        data,
    }
}

/// The answer to a stream of InstallSnapshot.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn install_reply_from_pb(reply: &pb::InstallSnapshotReply) -> Result<InstallSnapshotReply, Malformed> {
    use pb::install_snapshot_reply::Outcome;
    let outcome = match reply.outcome {
        Some(Outcome::StoredOffset(offset)) => InstallOutcome::Stored { offset: number("stored_offset", offset)? },
        Some(Outcome::MatchIndex(index)) => InstallOutcome::Installed { match_index: number("match_index", index)? },
        None => InstallOutcome::Stale,
    };
    Ok(InstallSnapshotReply { term: counted("term", reply.term)?, outcome })
}

/// The answer to a stream of InstallSnapshot on its way out.
pub fn install_reply_to_pb(header: pb::Header, reply: &InstallSnapshotReply) -> pb::InstallSnapshotReply {
    use pb::install_snapshot_reply::Outcome;
    let outcome = match reply.outcome {
        InstallOutcome::Stored { offset } => Some(Outcome::StoredOffset(offset)),
        InstallOutcome::Installed { match_index } => Some(Outcome::MatchIndex(match_index)),
        InstallOutcome::Stale => None,
    };
    pb::InstallSnapshotReply { header: Some(header), term: reply.term, outcome }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost::Message;

    use super::*;
    use crate::{
        raft::{LogPosition, Membership},
        rpc::convert::LARGEST,
    };

    const HEADER: pb::Header =
        pb::Header { cluster_id: 7, from: 2, to: 1, session: 9, from_incarnation: 0, to_incarnation: 0 };

    prop_compose! {
        fn request()(
            (term, last_term) in (1..=LARGEST).prop_flat_map(|term| (Just(term), 1..=term)),
            index in 1..=LARGEST,
            before in 0..1000u64,
            data in vec(any::<u8>(), 0..64),
            behind in 0..1000u64,
            checksum: u32,
        ) -> InstallSnapshotRequest {
            let snapshot = SnapshotMetadata {
                last_included: LogPosition { term: last_term, index },
                membership: Membership::of_voters([(1, "a:1"), (2, "b:2")]).into(),
                size: before + data.len() as u64 + behind,
                checksum,
            };
            InstallSnapshotRequest { term, leader_id: HEADER.from, snapshot, offset: before, data: Bytes::from(data) }
        }
    }

    fn outcome() -> impl Strategy<Value = InstallOutcome> {
        prop_oneof![
            (0..=LARGEST).prop_map(|offset| InstallOutcome::Stored { offset }),
            (0..=LARGEST).prop_map(|match_index| InstallOutcome::Installed { match_index }),
            Just(InstallOutcome::Stale),
        ]
    }

    fn carried<M: Message + Default>(message: &M) -> M {
        M::decode(message.encode_to_vec().as_slice()).expect("what was encoded is decoded")
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(request in request(), first: bool) {
            let message = carried(&install_snapshot_to_pb(HEADER, first, &request, request.offset, request.data.clone()));
            prop_assert_eq!(message.header, Some(HEADER));
            let stream = (!first).then_some(&request.snapshot);
            prop_assert_eq!(install_snapshot_from_pb(HEADER.from, stream, message), Ok(request.clone()));
        }

        #[test]
        fn replies_survive_the_wire(term in 1..=LARGEST, outcome in outcome()) {
            let reply = InstallSnapshotReply { term, outcome };
            prop_assert_eq!(install_reply_from_pb(&carried(&install_reply_to_pb(HEADER, &reply))), Ok(reply));
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), from: u64) {
            let _ = pb::InstallSnapshotRequest::decode(&bytes[..]).map(|it| install_snapshot_from_pb(from, None, it));
            let _ = pb::InstallSnapshotReply::decode(&bytes[..]).map(|it| install_reply_from_pb(&it));
            let _ = pb::BackupHead::decode(&bytes[..]).map(backup_head_from_pb);
        }

        // Random bytes seldom parse; what parses and means nothing is the more interesting half.
        #[test]
        fn no_numbers_panic(numbers in vec(prop_oneof![0..9u64, Just(u64::MAX), Just(LARGEST), any::<u64>()], 6), named: bool) {
            let snapshot = pb::SnapshotMetadata {
                last_included_index: numbers[0], last_included_term: numbers[1], size: numbers[2], checksum: 0,
                membership: Some(pb::Membership {
                    voters: vec![pb::Member { id: numbers[3], address: String::new() }], ..Default::default()
                }),
            };
            let message = pb::InstallSnapshotRequest {
                header: Some(HEADER), term: numbers[4], leader_id: 2, snapshot: named.then_some(snapshot),
                offset: numbers[5], data: Bytes::from_static(b"four"),
            };
            if let Ok(request) = install_snapshot_from_pb(2, None, message) {
                // What the core computes without a look.
                prop_assert!(request.offset + 4 <= request.snapshot.size);
            }
        }
    }

    /// A first message that is in order: the last four bytes of ten, of a snapshot that ends at 5@2.
    fn in_order() -> pb::InstallSnapshotRequest {
        let snapshot = SnapshotMetadata {
            last_included: LogPosition { term: 2, index: 5 },
            membership: Membership::of_voters([(1, "a:1")]).into(),
            size: 10,
            checksum: 3,
        };
        let begun = InstallSnapshotRequest { term: 3, leader_id: 2, snapshot, offset: 0, data: Bytes::new() };
        install_snapshot_to_pb(HEADER, true, &begun, 6, Bytes::from_static(b"four"))
    }

    /// The field that is named once `change` was made to a message in order.
    fn named(change: impl FnOnce(&mut pb::InstallSnapshotRequest, &mut pb::SnapshotMetadata)) -> String {
        let mut message = in_order();
        let mut snapshot = message.snapshot.take().expect("the first message names it");
        change(&mut message, &mut snapshot);
        message.snapshot = Some(snapshot);
        install_snapshot_from_pb(2, None, message).expect_err("malformed").field
    }

    // Fails when: any one of the checks is left out; each line is one.
    #[test]
    fn a_malformed_request_names_its_field() {
        let request = install_snapshot_from_pb(2, None, in_order()).expect("in order");
        assert_eq!(named(|message, _| message.term = 0), "term");
        assert_eq!(named(|message, _| message.leader_id = 3), "leader_id");
        assert_eq!(named(|message, _| message.offset = 11), "offset");
        assert_eq!(named(|message, _| message.offset = 7), "data");
        assert_eq!(named(|_, snapshot| snapshot.size = 9), "data");
        assert_eq!(named(|_, snapshot| snapshot.size = u64::MAX), "snapshot.size");
        assert_eq!(named(|_, snapshot| snapshot.last_included_index = 0), "snapshot.last_included_term");
        assert_eq!(named(|_, snapshot| snapshot.last_included_term = 0), "snapshot.last_included_term");
        assert_eq!(named(|_, snapshot| snapshot.last_included_term = 4), "snapshot.last_included_term");
        let nothing = |_: &mut _, snapshot: &mut pb::SnapshotMetadata| {
            (snapshot.last_included_index, snapshot.last_included_term) = (0, 0);
        };
        assert_eq!(named(nothing), "snapshot.last_included_index");
        assert_eq!(named(|_, snapshot| snapshot.membership = None), "snapshot.membership");
        let nobody = |_: &mut _, snapshot: &mut pb::SnapshotMetadata| {
            snapshot.membership = Some(pb::Membership::default());
        };
        assert_eq!(named(nobody), "snapshot.membership.voters");

        let mut unnamed = in_order();
        unnamed.snapshot = None;
        assert_eq!(install_snapshot_from_pb(2, None, unnamed).expect_err("malformed").field, "snapshot");
        let again = install_snapshot_from_pb(2, Some(&request.snapshot), in_order());
        assert_eq!(again.expect_err("malformed").field, "snapshot");
    }
}
