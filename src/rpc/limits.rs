//! How large a message may be: what a node admits, it can also send and receive.

use crate::config::{Config, LARGEST_SNAPSHOT_CHUNK};

/// Room for what stands around one command in a client's message: keys of fields, sessions, lengths.
const AROUND_A_COMMAND: usize = 4 << 10;

/// The most that index, term, session, lengths and trace of one entry take.
const AROUND_AN_ENTRY: usize = 96;

/// The largest message a client may send. Larger commands are refused by their exact size before they are proposed;
/// this bounds what is read into memory before that.
pub fn client_message(config: &Config) -> usize {
    config.max_entry_bytes.saturating_add(AROUND_A_COMMAND)
}

/// Room for what stands around a chunk in its stream's first message: the membership, with an address for each server.
const AROUND_A_CHUNK: usize = 64 << 10;

/// The largest message a peer may send: twice what this node itself would, so that the limits can be raised one node
/// at a time, or the largest chunk of a snapshot. One entry of `max_entry_bytes` may exceed `max_batch_bytes` alone.
pub fn peer_message(config: &Config) -> usize {
    let payload = config.max_entry_bytes.max(config.max_batch_bytes);
    let around = config.max_batch_entries.saturating_mul(AROUND_AN_ENTRY).saturating_add(AROUND_A_COMMAND);
    payload.saturating_add(around).saturating_mul(2).max(LARGEST_SNAPSHOT_CHUNK + AROUND_A_CHUNK)
}

/// The command that fitted just into a [`client_message`] of this size.
pub(super) fn command_within(client_message: usize) -> usize {
    client_message.saturating_sub(AROUND_A_COMMAND)
}
