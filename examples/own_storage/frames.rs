//! How records stand in the journal, one behind the other: length, checksum of the length, checksum of the message (four
//! bytes each, little-endian), message. So a record is whole or it is none, and where it ends is not believed unchecked.

use std::{fs, io, path::Path};

use bytes::{Buf, Bytes};
use prost::Message;
use ractor_raft::storage::StorageError;

use super::{
    journal::{corrupt, failed},
    records::{Record, What},
};

/// What stands before a message.
const HEADER: usize = 12;

/// What a journal says.
#[derive(Default)]
pub struct Journal {
    /// In order.
    pub records: Vec<What>,
    /// So many bytes are whole records. Behind them stands what a power cut left of the last write, if anything.
    pub whole: u64,
}

/// All that is whole. A journal that is not there says nothing.
pub fn read(path: &Path) -> Result<Journal, StorageError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Journal::default()),
        Err(cause) => return Err(failed(path, "read", &cause)),
    };
    let (mut records, mut rest) = (Vec::new(), bytes.clone());
    while let Some(message) = first_message(&rest) {
        rest.advance(HEADER + message.len());
        let what = Record::decode(message).ok().and_then(|record| record.what);
        records.push(what.ok_or_else(|| corrupt(path, records.len(), "it says nothing that is known"))?);
    }
    // A record that was synced stands behind the damage: that is none of a write that never ended.
    let later = (1..rest.len()).find(|at| first_message(&rest.slice(at..)).is_some());
    match later {
        Some(_) => Err(corrupt(path, records.len(), "its checksum does not fit, and whole records stand behind it")),
        None => Ok(Journal { records, whole: (bytes.len() - rest.len()) as u64 }),
    }
}

/// The message of the record at the beginning, if that is whole.
fn first_message(bytes: &Bytes) -> Option<Bytes> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (length, of_length, of_message) = (number(0)?, number(4)?, number(8)?);
    if crc32fast::hash(&length.to_le_bytes()) != of_length {
        return None;
    }
    let end = HEADER.checked_add(length as usize).filter(|end| *end <= bytes.len())?;
    let message = bytes.slice(HEADER..end);
    (crc32fast::hash(&message) == of_message).then_some(message)
}

/// The record's bytes.
pub fn framed(what: What) -> Vec<u8> {
    let message = Record { what: Some(what) }.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a state of 4 GiB is beyond an example").to_le_bytes();
    let mut record = Vec::with_capacity(HEADER + message.len());
    record.extend(length);
    record.extend(crc32fast::hash(&length).to_le_bytes());
    record.extend(crc32fast::hash(&message).to_le_bytes());
    record.extend(message);
    record
}
