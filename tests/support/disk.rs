//! What a server remembers over a crash: its log, its finished snapshot, and the one it is receiving.

use std::sync::Arc;

use bytes::Bytes;
use ractor_raft::raft::*;

/// So much of a snapshot travels at once.
pub const CHUNK: usize = 8;

/// As a log store keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// Its number; 0: it has none.
    pub incarnation: Incarnation,
    pub hard_state: HardState,
    /// What the log stands on.
    pub base: LogPosition,
    /// Who belonged to the cluster as of `base`.
    pub membership: Arc<Membership>,
    /// The log behind `base`.
    pub entries: Vec<Entry>,
    pub finished: Option<SnapshotMetadata>,
    pub receiving: Option<(SnapshotMetadata, Vec<u8>)>,
}

impl Disk {
    /// An empty disk of a server that starts in `membership`.
    pub fn of(membership: &Membership) -> Self {
        Disk { membership: Arc::new(membership.clone()), ..Disk::default() }
    }

    /// Carries out one transaction: hard state, truncation, base, entries.
    pub fn write(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(index) = write.truncate_from {
            assert!(index > self.base.index, "entry {index} is to be truncated, the log stands on {}", self.base);
            self.entries.retain(|entry| entry.index < index);
        }
        if let Some(Base { position, membership }) = &write.base {
            assert!(position.index > self.base.index, "the log stands on {}, and is to stand on {position}", self.base);
            let finished = self.finished.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
            assert!(finished >= position.index, "the log is to stand on {position}, the snapshot ends at {finished}");
            self.entries.retain(|entry| entry.index > position.index);
            (self.base, self.membership) = (*position, membership.clone());
        }
        for entry in &write.entries {
            assert_eq!(entry.index, self.last_index() + 1, "the disk's log has no gaps");
            self.entries.push(entry.clone());
        }
    }

    pub fn last_index(&self) -> LogIndex {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }

    /// The term of the entry at `index`; 0 for index 0. `None`: it is not in the log.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
    }

    /// Whether the entry is here, in the log or in what stands in for it.
    pub fn holds(&self, entry: LogPosition) -> bool {
        let finished = self.finished.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
        entry.index <= self.base.index.max(finished) || self.term_at(entry.index) == Some(entry.term)
    }

    /// The latest configuration on it.
    pub fn current_membership(&self) -> Membership {
        let found = self.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        Membership::clone(&found.unwrap_or_else(|| self.membership.clone()))
    }

    /// What a core starts from.
    pub fn recovered(&self) -> Recovered {
        let finished = self.finished.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
        assert!(finished >= self.base.index, "the log stands on {}, the snapshot ends at {finished}", self.base);
        let receiving = self.receiving.as_ref().map(|(snapshot, bytes)| (snapshot.clone(), bytes.len() as u64));
        Recovered {
            hard_state: self.hard_state,
            base: self.base,
            membership: Membership::clone(&self.membership),
            entries: self.entries.clone(),
            snapshot: self.finished.clone(),
            receiving: receiving.filter(|(snapshot, _)| snapshot.last_included.index > finished),
        }
    }

    /// It is whole. One that reaches farther stays.
    pub fn finish(&mut self, snapshot: &SnapshotMetadata) {
        let finished = self.finished.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
        if snapshot.last_included.index >= finished {
            self.finished = Some(snapshot.clone());
        }
    }

    /// A chunk from elsewhere. Returns how many bytes are there, and whether that is all.
    pub fn store(&mut self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> (u64, bool) {
        if offset == 0 {
            self.receiving = Some((snapshot.clone(), Vec::new()));
        }
        let receiving = self.receiving.as_mut().filter(|(receiving, _)| receiving == snapshot);
        let Some((_, bytes)) = receiving else { return (0, false) };
        if offset != bytes.len() as u64 {
            return (bytes.len() as u64, false);
        }
        bytes.extend_from_slice(data);
        let stored = bytes.len() as u64;
        if stored < snapshot.size {
            return (stored, false);
        }
        let whole = checksum(bytes) == snapshot.checksum;
        self.receiving = None;
        if whole {
            self.finish(snapshot);
        }
        if whole { (stored, true) } else { (0, false) }
    }
}

/// A snapshot of a state machine that has applied `prefix`, as `maker` writes it: two servers write the same state down
/// differently.
pub fn snapshot_of(prefix: &[Entry], membership: Arc<Membership>, maker: u64) -> SnapshotMetadata {
    let last_included = prefix.last().expect("nobody takes a snapshot of nothing").position();
    let chunks = 1 + (last_included.index + maker) % 4;
    let size = chunks * CHUNK as u64 - (last_included.index % 3);
    let seed = prefix.iter().fold(maker, |seed, entry| mix(seed ^ digest(&entry.to_string())));
    let mut snapshot = SnapshotMetadata { last_included, membership, size, checksum: 0 };
    snapshot.checksum = checksum(&stream(seed, size));
    snapshot
}

/// The bytes of [`snapshot_of`].
pub fn bytes_of(prefix: &[Entry], size: u64, maker: u64) -> Bytes {
    let seed = prefix.iter().fold(maker, |seed, entry| mix(seed ^ digest(&entry.to_string())));
    stream(seed, size).into()
}

fn stream(seed: u64, size: u64) -> Vec<u8> {
    (0..size).map(|at| mix(seed.wrapping_add(at)) as u8).collect()
}

fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(17, |sum, byte| mix(sum ^ u64::from(*byte))) as u32
}

fn digest(text: &str) -> u64 {
    text.bytes().fold(7, |sum, byte| mix(sum ^ u64::from(byte)))
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
