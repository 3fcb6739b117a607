//! The settings of one node, with the defaults and the bounds they must keep.

use std::time::Duration;

use crate::error::NodeError;

/// The most bytes of a snapshot that a node takes in one message, whatever its own `snapshot_chunk_bytes` is: so that
/// this one can be changed one node at a time.
pub(crate) const LARGEST_SNAPSHOT_CHUNK: usize = 8 << 20;

/// No time in the settings is longer: a day. Several of them are added up, and some are multiplied.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How a node behaves. The defaults suit a local network.
///
/// Settings will be added, so it is made from its defaults:
///
/// ```
/// let mut config = ractor_raft::Config::default();
/// config.max_entry_bytes = 64 << 10;
/// assert!(config.validate().is_ok());
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// How often a leader is heard from when there is nothing to replicate. 100 ms.
    pub heartbeat_interval: Duration,
    /// A follower that has heard no leader for a random time from here… 150 ms. Leases last nine tenths of it, so give all nodes
    /// the same.
    pub election_timeout_min: Duration,
    /// …to here starts an election. 300 ms.
    pub election_timeout_max: Duration,
    /// The most entries in one AppendEntries. 1024.
    pub max_batch_entries: usize,
    /// The most payload bytes in one AppendEntries (one entry may exceed it alone). 1 MiB.
    pub max_batch_bytes: usize,
    /// The most AppendEntries to one peer that are not yet answered. 16.
    pub max_in_flight_batches: usize,
    /// The most payload bytes to one peer that are not yet answered. 8 MiB.
    pub max_in_flight_bytes: usize,
    /// The largest command, in bytes. 1 MiB.
    pub max_entry_bytes: usize,
    /// The most proposals and reads that wait at this node. 4096.
    pub max_pending: usize,
    /// The most command bytes that wait at this node. 64 MiB.
    pub max_pending_bytes: usize,
    /// A snapshot is taken after so many entries. 50,000.
    pub snapshot_threshold: u64,
    /// …or after entries of so many bytes. 64 MiB. Neither counts before the log since the last snapshot is half as large
    /// as that snapshot: a large state is not written again and again (thesis §5.1.3).
    pub snapshot_threshold_bytes: u64,
    /// So many entries are kept behind a snapshot, so that a slow follower need not be sent all of it. 10,000.
    pub snapshot_trailing: u64,
    /// Bytes of a snapshot in one message, and in memory. 256 KiB, at most 8 MiB.
    pub snapshot_chunk_bytes: usize,
    /// How fast a snapshot is sent to a peer at most, in bytes a second. 64 MiB.
    pub snapshot_bytes_per_second: u64,
    /// A snapshot on its way that makes no progress for so long is sent anew, from where it stopped. 10 s.
    pub snapshot_timeout: Duration,
    /// A leader whose disk has not finished a write for so long steps down. 1 s.
    pub disk_timeout: Duration,
    /// How long a proposal or read is waited for before its outcome is called unknown. 5 s.
    pub request_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            max_batch_entries: 1024,
            max_batch_bytes: 1 << 20,
            max_in_flight_batches: 16,
            max_in_flight_bytes: 8 << 20,
            max_entry_bytes: 1 << 20,
            max_pending: 4096,
            max_pending_bytes: 64 << 20,
            snapshot_threshold: 50_000,
            snapshot_threshold_bytes: 64 << 20,
            snapshot_trailing: 10_000,
            snapshot_chunk_bytes: 256 << 10,
            snapshot_bytes_per_second: 64 << 20,
            snapshot_timeout: Duration::from_secs(10),
            disk_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Checks what the rules rest on.
    ///
    /// # Errors
    /// [`NodeError::Config`] (R020) with the key, its value and what would do.
    pub fn validate(&self) -> Result<(), NodeError> {
        let refuse = |key, value: String, fix: String| Err(NodeError::Config { key, value, fix });
        let Config { heartbeat_interval: heartbeat, election_timeout_min: min, election_timeout_max: max, .. } = *self;
        if heartbeat.is_zero() {
            return refuse("heartbeat_interval", format!("{heartbeat:?}"), "it must be longer than 0".to_owned());
        }
        if min <= heartbeat {
            let fix = format!("it must be longer than heartbeat_interval ({heartbeat:?}), better three times as long");
            return refuse("election_timeout_min", format!("{min:?}"), fix);
        }
        if max <= min {
            let fix = format!("it must be longer than election_timeout_min ({min:?}), or votes split for ever");
            return refuse("election_timeout_max", format!("{max:?}"), fix);
        }
        for (key, value) in [
            ("max_batch_entries", self.max_batch_entries),
            ("max_batch_bytes", self.max_batch_bytes),
            ("max_in_flight_batches", self.max_in_flight_batches),
            ("max_in_flight_bytes", self.max_in_flight_bytes),
            ("max_entry_bytes", self.max_entry_bytes),
            ("max_pending", self.max_pending),
            ("max_pending_bytes", self.max_pending_bytes),
            ("snapshot_threshold", self.snapshot_threshold.min(1) as usize),
            ("snapshot_threshold_bytes", self.snapshot_threshold_bytes.min(1) as usize),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes),
            ("snapshot_bytes_per_second", self.snapshot_bytes_per_second.min(1) as usize),
            ("snapshot_timeout", self.snapshot_timeout.as_nanos().min(1) as usize),
            ("disk_timeout", self.disk_timeout.as_nanos().min(1) as usize),
        ] {
            if value == 0 {
                return refuse(key, "0".to_owned(), "it must be at least 1".to_owned());
            }
        }
        for (key, value) in [
            ("election_timeout_max", max),
            ("snapshot_timeout", self.snapshot_timeout),
            ("disk_timeout", self.disk_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if value > LONGEST {
                return refuse(key, format!("{value:?}"), format!("it must not be longer than {LONGEST:?}"));
            }
        }
        if self.max_entry_bytes > self.max_pending_bytes {
            let fix = format!("it must not exceed max_pending_bytes ({})", self.max_pending_bytes);
            return refuse("max_entry_bytes", self.max_entry_bytes.to_string(), fix);
        }
        if self.snapshot_chunk_bytes > LARGEST_SNAPSHOT_CHUNK {
            let fix = format!("it must not exceed {LARGEST_SNAPSHOT_CHUNK}: no node takes more in one message");
            return refuse("snapshot_chunk_bytes", self.snapshot_chunk_bytes.to_string(), fix);
        }
        Ok(())
    }
}
