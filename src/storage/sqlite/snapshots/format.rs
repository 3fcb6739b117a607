//! What a snapshot's file consists of: records, one behind the other, each written once.
//!
//! ```text
//! record   kind (4 bytes), length (4), place (8), CRC-32 (4), and then so many bytes as `length` says
//! file     a head, any number of blocks of data, a tail, and the tail's length twice, the second time inverted
//! ```
//! Numbers are little-endian. `place` is where the record's data begins in the snapshot; the checksum covers it, so a
//! block that was moved does not fit. The head says the format and, of a snapshot that is being received, what it will
//! be. The tail says what the snapshot is: of the node's own that is only known in the end.

use prost::Message;

use crate::{
    raft::{LogPosition, Membership, SnapshotMetadata},
    storage::sqlite::record::StoredMembership,
};

/// What this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Bytes before a record's own.
pub(super) const HEADER: usize = 20;

/// Bytes of data in a block, at most.
pub(super) const BLOCK: usize = 64 << 10;

/// Bytes behind the tail.
pub(super) const FOOTER: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Head = 1,
    Data = 2,
    Tail = 3,
}

/// What stands before a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    kind: u32,
    /// Bytes behind the header.
    pub(super) length: usize,
    place: u64,
    checksum: u32,
}

impl Header {
    /// `None`: there are too few bytes for one.
    pub(super) fn of(record: &[u8]) -> Option<Header> {
        let word = |at: usize| Some(u32::from_le_bytes(record.get(at..at + 4)?.try_into().expect("four bytes")));
        let place = u64::from_le_bytes(record.get(8..16)?.try_into().expect("eight bytes"));
        Some(Header { kind: word(0)?, length: word(4)? as usize, place, checksum: word(16)? })
    }

    /// Whether it is what should stand at this place. Whether it is whole is not said by that.
    pub(super) fn is(&self, kind: Kind, place: u64) -> bool {
        self.kind == kind as u32 && self.place == place && (kind != Kind::Data || self.length <= BLOCK)
    }
}

/// Fills in the header of a record, for which its first bytes are kept free.
pub(super) fn seal(record: &mut [u8], kind: Kind, place: u64) {
    let length = u32::try_from(record.len() - HEADER).expect("a record is a block, or a few lines");
    record[0..4].copy_from_slice(&(kind as u32).to_le_bytes());
    record[4..8].copy_from_slice(&length.to_le_bytes());
    record[8..16].copy_from_slice(&place.to_le_bytes());
    let checksum = checksum(record);
    record[16..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// The bytes of the record that `file` begins with, if it is the one that should stand there, and whole.
pub(super) fn unseal(file: &[u8], kind: Kind, place: u64) -> Option<&[u8]> {
    let header = Header::of(file).filter(|header| header.is(kind, place))?;
    let record = file.get(..HEADER.checked_add(header.length)?)?;
    (header.checksum == checksum(record)).then(|| &record[HEADER..])
}

fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..16]);
    hasher.update(&record[HEADER..]);
    hasher.finalize()
}

/// A file's first record; `snapshot` if it is known what it will be.
pub(super) fn head(snapshot: Option<&SnapshotMetadata>) -> Vec<u8> {
    let head = StoredHead { format: FORMAT, snapshot: snapshot.map(StoredSnapshot::from) };
    let mut record = record_of(&head);
    seal(&mut record, Kind::Head, 0);
    record
}

/// A file's last record, and what shows where it begins.
pub(super) fn tail(snapshot: &SnapshotMetadata) -> Vec<u8> {
    let mut record = record_of(&StoredSnapshot::from(snapshot));
    seal(&mut record, Kind::Tail, snapshot.size);
    let length = record.len() as u32;
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&(!length).to_le_bytes());
    record
}

fn record_of(message: &impl Message) -> Vec<u8> {
    let mut record = vec![0; HEADER];
    message.encode(&mut record).expect("a Vec grows as needed");
    record
}

/// Bytes of the tail, if `footer` is what stands behind one.
pub(super) fn tail_length(footer: [u8; FOOTER]) -> Option<usize> {
    let [length, inverted] = [0, 4].map(|at| u32::from_le_bytes(footer[at..at + 4].try_into().expect("four bytes")));
    (length == !inverted).then_some(length as usize)
}

/// What the bytes of a head say: the format, and what a snapshot that is being received will be.
pub(super) fn decode_head(bytes: &[u8]) -> Result<(u32, Option<SnapshotMetadata>), String> {
    let head = StoredHead::decode(bytes).map_err(|error| error.to_string())?;
    Ok((head.format, head.snapshot.map(SnapshotMetadata::from)))
}

/// What the bytes of a tail say.
pub(super) fn decode_tail(bytes: &[u8]) -> Result<SnapshotMetadata, String> {
    StoredSnapshot::decode(bytes).map(SnapshotMetadata::from).map_err(|error| error.to_string())
}

#[derive(Clone, PartialEq, Message)]
struct StoredHead {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "2")]
    snapshot: Option<StoredSnapshot>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSnapshot {
    #[prost(uint64, tag = "1")]
    last_included_index: u64,
    #[prost(uint64, tag = "2")]
    last_included_term: u64,
    #[prost(message, optional, tag = "3")]
    membership: Option<StoredMembership>,
    #[prost(uint64, tag = "4")]
    size: u64,
    #[prost(fixed32, tag = "5")]
    checksum: u32,
}

impl From<&SnapshotMetadata> for StoredSnapshot {
    fn from(snapshot: &SnapshotMetadata) -> Self {
        StoredSnapshot {
            last_included_index: snapshot.last_included.index,
            last_included_term: snapshot.last_included.term,
            membership: Some((&*snapshot.membership).into()),
            size: snapshot.size,
            checksum: snapshot.checksum,
        }
    }
}

impl From<StoredSnapshot> for SnapshotMetadata {
    fn from(stored: StoredSnapshot) -> Self {
        SnapshotMetadata {
            last_included: LogPosition { index: stored.last_included_index, term: stored.last_included_term },
            membership: Membership::from(stored.membership.unwrap_or_default()).into(),
            size: stored.size,
            checksum: stored.checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> SnapshotMetadata {
        let last_included = LogPosition { index: 7, term: 2 };
        SnapshotMetadata { last_included, membership: Membership::of_voters([(1, "a:1")]).into(), size: 3, checksum: 9 }
    }

    #[test]
    fn records_come_back_as_they_were_and_not_with_a_bit_flipped() {
        let head = head(Some(&snapshot()));
        assert_eq!(decode_head(unseal(&head, Kind::Head, 0).unwrap()), Ok((FORMAT, Some(snapshot()))));
        let tail = tail(&snapshot());
        assert_eq!(decode_tail(unseal(&tail, Kind::Tail, 3).unwrap()), Ok(snapshot()));
        for bit in 0..head.len() * 8 {
            let mut flipped = head.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&flipped, Kind::Head, 0), None, "bit {bit}");
        }
        let footer: [u8; FOOTER] = tail[tail.len() - FOOTER..].try_into().unwrap();
        assert_eq!(tail_length(footer), Some(tail.len() - FOOTER));
        for bit in 0..FOOTER * 8 {
            let mut flipped = footer;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tail_length(flipped), None, "bit {bit}");
        }
    }

    /// Fails when: the encoding changes, so that an older version's snapshots cannot be read any more.
    #[test]
    fn the_encoding_is_stable() {
        let mut record = [vec![0; HEADER], b"put".to_vec()].concat();
        seal(&mut record, Kind::Data, 5);
        assert_eq!(record[..16], *b"\x02\0\0\0\x03\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(
            &tail(&snapshot())[HEADER..],
            b"\x08\x07\x10\x02\x1a\x09\x0a\x07\x08\x01\x12\x03a:1\x20\x03\x2d\x09\0\0\0\x2a\0\0\0\xd5\xff\xff\xff"
        );
    }
}
