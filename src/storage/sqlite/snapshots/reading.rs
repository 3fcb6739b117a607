//! Reads a snapshot's file, and passes on nothing that does not fit its checksum.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};

use super::{
    failed,
    format::{self, BLOCK, FOOTER, FORMAT, HEADER, Header, Kind},
};
use crate::{
    raft::SnapshotMetadata,
    storage::{
        SnapshotReader, StorageError,
        sqlite::{failure::corrupt, files::File},
        to_io,
    },
};

const CALL: &str = "reading of a snapshot";

/// No head or tail is longer: it may hold a membership, but not a damaged length's worth of memory.
const LARGEST_HEAD: usize = 16 << 20;

/// What the tail of a finished file says the snapshot is, and where its data begins.
pub(super) fn read_tail(file: &mut dyn File, path: &Path) -> Result<(SnapshotMetadata, u64), StorageError> {
    let error = |error: io::Error| failed(path, CALL, &error);
    let (_, start) = read_head(file, path)?;
    let size = file.size().map_err(error)?;
    let damaged = |cause: &str| corrupt(path, "the snapshot's tail", cause);
    let mut footer = [0; FOOTER];
    let footer_at = size.saturating_sub(FOOTER as u64);
    if file.read_at(footer_at, &mut footer).map_err(error)? < FOOTER {
        return Err(damaged("it is not there"));
    }
    let length = format::tail_length(footer).filter(|length| *length <= LARGEST_HEAD);
    let length = length.ok_or_else(|| damaged("what stands behind it does not fit"))?;
    let at = footer_at.checked_sub(length as u64).filter(|at| *at >= start);
    let at = at.ok_or_else(|| damaged("it would begin before the data"))?;
    let mut tail = vec![0; length];
    let read = file.read_at(at, &mut tail).map_err(error)?;
    // Its place is the snapshot's size, which only the tail knows.
    let place = tail.get(8..16).map_or(0, |place| u64::from_le_bytes(place.try_into().expect("eight bytes")));
    let bytes = format::unseal(&tail[..read], Kind::Tail, place);
    let bytes = bytes.ok_or_else(|| damaged("it does not fit its checksum"))?;
    let snapshot = format::decode_tail(bytes).map_err(|cause| damaged(&cause))?;
    if snapshot.size != place {
        return Err(damaged("it is of another size"));
    }
    Ok((snapshot, start))
}

/// What the head says of a snapshot that is being received, and where the data begins.
pub(super) fn read_head(file: &mut dyn File, path: &Path) -> Result<(Option<SnapshotMetadata>, u64), StorageError> {
    let damaged = |cause: &str| corrupt(path, "the snapshot's head", cause);
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        let read = file.read_at(0, &mut bytes).map_err(|error| failed(path, CALL, &error))?;
        bytes.truncate(read);
        Ok(bytes)
    };
    let header = Header::of(&read(HEADER)?).filter(|header| header.is(Kind::Head, 0) && header.length <= LARGEST_HEAD);
    let length = header.ok_or_else(|| damaged("there is none"))?.length;
    let head = read(HEADER + length)?;
    let bytes = format::unseal(&head, Kind::Head, 0).ok_or_else(|| damaged("it does not fit its checksum"))?;
    let (found, snapshot) = format::decode_head(bytes).map_err(|cause| damaged(&cause))?;
    if found > FORMAT {
        return Err(StorageError::Format { path: path.to_owned(), found, known: FORMAT });
    }
    Ok((snapshot, head.len() as u64))
}

/// Goes through a file block by block.
pub(super) struct Blocks {
    file: Box<dyn File>,
    path: PathBuf,
    /// Where the next block begins in the file.
    pub(super) at: u64,
    /// Where it begins in the snapshot.
    pub(super) place: u64,
    /// The record that was read last, and more.
    buffer: Vec<u8>,
    /// Bytes in the block that was read last.
    length: usize,
}

impl Blocks {
    /// From the block on that begins at `at` in the file and at `place` in the snapshot.
    pub(super) fn new(file: Box<dyn File>, path: PathBuf, at: u64, place: u64) -> Blocks {
        Blocks { file, path, at, place, buffer: Vec::new(), length: 0 }
    }

    /// Passes over blocks that end at or before `place`, without looking into them. Whether one was passed over.
    pub(super) fn skip_to(&mut self, place: u64) -> Result<bool, StorageError> {
        self.fill(HEADER)?;
        let header = Header::of(&self.buffer).filter(|header| header.is(Kind::Data, self.place) && header.length > 0);
        let Some(Header { length, .. }) = header else {
            return Err(self.damaged("no block begins here"));
        };
        if self.place + length as u64 > place {
            return Ok(false);
        }
        self.pass(length);
        self.length = 0;
        Ok(true)
    }

    /// Reads the next block and verifies it.
    pub(super) fn next(&mut self) -> Result<(), StorageError> {
        self.fill(HEADER + BLOCK)?;
        self.length = match format::unseal(&self.buffer, Kind::Data, self.place) {
            Some(bytes) if !bytes.is_empty() => bytes.len(),
            _ => return Err(self.damaged("the block does not fit its checksum")),
        };
        self.pass(self.length);
        Ok(())
    }

    /// The bytes of the block that was read last.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(HEADER..HEADER + self.length).unwrap_or_default()
    }

    /// Where the block that was read last begins in the snapshot.
    fn begin(&self) -> u64 {
        self.place - self.length as u64
    }

    /// Goes on with the block that begins at `at` in the file and at `place` in the snapshot.
    fn go_to(&mut self, at: u64, place: u64) {
        (self.at, self.place, self.length) = (at, place, 0);
    }

    pub(super) fn into_file(self) -> Box<dyn File> {
        self.file
    }

    fn pass(&mut self, length: usize) {
        self.place += length as u64;
        self.at += (HEADER + length) as u64;
    }

    /// Reads so many bytes, if there are so many.
    fn fill(&mut self, bytes: usize) -> Result<(), StorageError> {
        self.buffer.resize(bytes, 0);
        let read = self.file.read_at(self.at, &mut self.buffer).map_err(|error| failed(&self.path, CALL, &error))?;
        self.buffer.truncate(read);
        Ok(())
    }

    fn damaged(&self, cause: &str) -> StorageError {
        corrupt(&self.path, format!("byte {} of the snapshot (byte {} of the file)", self.place, self.at), cause)
    }
}

/// Chunks of a snapshot, from any place on. The file stays open, so that they are there also when it was replaced.
pub(super) struct Chunks {
    blocks: Blocks,
    size: u64,
    /// Where its data begins in the file.
    start: u64,
}

impl Chunks {
    pub(super) fn new(blocks: Blocks, size: u64) -> Chunks {
        Chunks { start: blocks.at, blocks, size }
    }
}

impl SnapshotReader for Chunks {
    fn chunk(&mut self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let Chunks { blocks, size, start } = self;
        let end = offset.saturating_add(length as u64).min(*size);
        if blocks.begin() > offset {
            blocks.go_to(*start, 0);
        }
        let length = end.saturating_sub(offset) as usize;
        let mut chunk = BytesMut::with_capacity(length);
        while chunk.len() < length {
            let at = offset + chunk.len() as u64;
            if at >= blocks.place {
                while blocks.skip_to(at)? {}
                blocks.next()?;
            }
            let bytes = &blocks.bytes()[(at - blocks.begin()) as usize..];
            chunk.extend_from_slice(&bytes[..bytes.len().min(length - chunk.len())]);
        }
        Ok(chunk.freeze())
    }
}

/// All of a snapshot's bytes, the whole of them verified before the last is passed on.
pub(super) struct Reading {
    blocks: Blocks,
    snapshot: SnapshotMetadata,
    hasher: crc32fast::Hasher,
    /// How much of the current block was passed on.
    passed_on: usize,
    /// The first error, for ever after.
    damage: Option<StorageError>,
}

impl Reading {
    pub(super) fn new(blocks: Blocks, snapshot: SnapshotMetadata) -> Reading {
        Reading { blocks, snapshot, hasher: crc32fast::Hasher::new(), passed_on: 0, damage: None }
    }

    fn next_block(&mut self) -> Result<(), StorageError> {
        self.blocks.next()?;
        self.hasher.update(self.blocks.bytes());
        self.passed_on = 0;
        let is_whole = self.blocks.place >= self.snapshot.size;
        if is_whole && self.hasher.clone().finalize() != self.snapshot.checksum {
            let path = &self.blocks.path;
            return Err(corrupt(path, "the whole snapshot", "each of its blocks fits its checksum, and it does not"));
        }
        Ok(())
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(damage) = &self.damage {
            return Err(to_io(damage.clone()));
        }
        if self.passed_on == self.blocks.bytes().len() && self.blocks.place < self.snapshot.size {
            self.next_block().map_err(|error| to_io(self.damage.insert(error).clone()))?;
        }
        let rest = &self.blocks.bytes()[self.passed_on..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.passed_on += length;
        Ok(length)
    }
}
