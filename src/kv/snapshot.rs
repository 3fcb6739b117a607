//! The store as a stream of bytes: a header, then its pairs by rising key, each a prost message behind its length.
//!
//! Writing needs memory for one pair, reading for one pair and the store that it builds. The header says how many pairs
//! follow, after which command it is taken, and what all that hashes to; what does not fit is refused, so that a truncated or mixed-up snapshot is never served.

use std::io::{self, BufWriter, Read, Write};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::state::{Kv, Value};
use crate::state_machine::{RestoreError, Snapshot};

/// The version of the layout.
const FORMAT: u32 = 2;

/// No record can be longer: a pair came in one log entry, and prost's messages end at 2 GiB.
const MAX_RECORD_BYTES: u64 = 2 << 30;

/// The store at one moment, shared with it.
pub(super) struct KvSnapshot(pub(super) Kv);

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    pairs: u64,
    /// Of the state and of `applied`.
    #[prost(bytes = "bytes", tag = "3")]
    hash: Bytes,
    /// The last command in it: a watcher can go on behind this, and not before.
    #[prost(uint64, tag = "4")]
    applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint64, tag = "3")]
    revision: u64,
}

impl Snapshot for KvSnapshot {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let KvSnapshot(store) = self;
        let mut to = BufWriter::new(to);
        let mut buffer = BytesMut::new();
        let applied = store.applied();
        let hash = Bytes::copy_from_slice(&store.sealed_hash());
        write_record(&Header { format: FORMAT, pairs: store.len() as u64, hash, applied }, &mut buffer, &mut to)?;
        for (key, Value { bytes, revision }) in store.iter() {
            let pair = Pair { key: key.clone(), value: bytes.clone(), revision: *revision };
            write_record(&pair, &mut buffer, &mut to)?;
        }
        to.flush()
    }
}

fn write_record(record: &impl Message, buffer: &mut BytesMut, to: &mut impl Write) -> io::Result<()> {
    buffer.clear();
    record.encode_length_delimited(buffer).map_err(io::Error::other)?;
    to.write_all(buffer)
}

pub(super) fn read(from: impl Read) -> Result<Kv, RestoreError> {
    let mut from = io::BufReader::new(from);
    let header: Header = read_record(&mut from)?.ok_or_else(|| RestoreError("it is empty".to_owned()))?;
    if header.format != FORMAT {
        let reason = format!("it has format {}, this program knows {FORMAT}", header.format);
        return Err(RestoreError(reason));
    }
    let mut store = Kv::default();
    let mut last_key = None;
    while let Some(Pair { key, value, revision }) = read_record(&mut from)? {
        if last_key.as_ref() >= Some(&key) {
            return Err(RestoreError(format!("key {} of it is out of order", store.len() + 1)));
        }
        store.insert(&key, Value { bytes: value, revision });
        last_key = Some(key);
    }
    if store.len() as u64 != header.pairs {
        return Err(RestoreError(format!("it has {} pairs, its header says {}", store.len(), header.pairs)));
    }
    store.set_applied(header.applied);
    if store.sealed_hash() != header.hash[..] {
        return Err(RestoreError("its pairs do not have the hash that its header says".to_owned()));
    }
    Ok(store)
}

/// The next record. `None`: the stream ends here, between records.
fn read_record<M: Message + Default>(from: &mut impl Read) -> Result<Option<M>, RestoreError> {
    let Some(length) = read_length(from)? else { return Ok(None) };
    if length > MAX_RECORD_BYTES {
        return Err(RestoreError(format!("it has a record of {length} bytes")));
    }
    // Grown as bytes arrive: a damaged length must not be believed to the extent of its memory.
    let mut record = Vec::new();
    from.take(length).read_to_end(&mut record)?;
    if record.len() as u64 != length {
        return Err(RestoreError(format!("it ends {} bytes into a record of {length}", record.len())));
    }
    record.shrink_to_fit();
    Ok(Some(M::decode(Bytes::from(record))?))
}

/// A base-128 varint, as protobuf writes lengths.
fn read_length(from: &mut impl Read) -> Result<Option<u64>, RestoreError> {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let mut byte = [0];
        if from.read(&mut byte)? == 0 {
            return if shift == 0 { Ok(None) } else { Err(RestoreError("it ends within a length".to_owned())) };
        }
        length |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(Some(length));
        }
    }
    Err(RestoreError("it has a length that is none".to_owned()))
}
