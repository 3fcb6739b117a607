//! The file: written beside its place and moved there once it is whole and on disk; read with a look at every byte.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use prost::Message;

use super::{BackupError, Head};
use crate::rpc::{convert, pb};

const MAGIC: &[u8; 8] = b"RaftBkup";

/// The version of the layout.
const FORMAT: u32 = 1;

/// No head is longer: it has an address for each server. What claims to be longer is not read into memory.
const LONGEST_HEAD: u32 = 1 << 20;

/// Magic, format and length.
const PREAMBLE: usize = 16;

/// The head's checksum.
const CHECKSUM: usize = 4;

/// A backup on its way to the disk. Dropped unfinished, it leaves nothing: what was at its place before is still there.
pub struct Saving {
    head: Head,
    path: PathBuf,
    /// Where it is until it is finished.
    partial: PathBuf,
    /// `None` once it is finished.
    file: Option<File>,
    written: u64,
    checksum: crc32fast::Hasher,
}

impl Saving {
    /// Begins a backup that will stand at `path`, in place of what stands there now.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn begin(path: &Path, head: Head) -> Result<Self, BackupError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&partial);
        let file = file.map_err(|cause| failed(&partial, "created", cause))?;
        let mut saving =
            Saving { path: path.to_owned(), partial, file: Some(file), written: 0, checksum: Default::default(), head };
        let head = encode(&saving.head);
        saving.append(&head)?;
        Ok(saving)
    }

    /// Appends the next bytes of the snapshot.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn write(&mut self, data: &[u8]) -> Result<(), BackupError> {
        self.append(data)?;
        self.written += data.len() as u64;
        self.checksum.update(data);
        Ok(())
    }

    /// How many of the snapshot's bytes are there.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Verifies what was written, makes it durable, and moves it to its place.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if the bytes are not those that the head speaks of, or [`BackupError::File`].
    pub fn finish(mut self) -> Result<Head, BackupError> {
        let checksum = self.checksum.clone().finalize();
        check(&self.path, &self.head, self.written, checksum)?;
        let file = self.file.take().expect("it is finished once");
        let moved = file.sync_all().and_then(|()| fs::rename(&self.partial, &self.path));
        if moved.is_err() {
            let _ = fs::remove_file(&self.partial);
        }
        moved.and_then(|()| sync_directory_of(&self.path)).map_err(|cause| failed(&self.path, "written", cause))?;
        Ok(self.head.clone())
    }

    fn append(&mut self, data: &[u8]) -> Result<(), BackupError> {
        let file = self.file.as_mut().expect("it is not finished");
        file.write_all(data).map_err(|cause| failed(&self.partial, "written", cause))
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Whoever finds it later sees by its name that it is not whole.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A backup, open at the snapshot's first byte.
pub struct Backup {
    head: Head,
    path: PathBuf,
    file: File,
    read: u64,
    checksum: crc32fast::Hasher,
}

impl Backup {
    /// Opens a file, and verifies its head and its length.
    ///
    /// # Errors
    /// It is no backup, or not whole.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let mut file = File::open(path).map_err(|cause| failed(path, "opened", cause))?;
        let length = file.metadata().map_err(|cause| failed(path, "read", cause))?.len();
        let (head, head_length) = decode(path, &mut file)?;
        let expected = head_length + head.snapshot.size;
        if length != expected {
            let cause = format!("it has {length} bytes, and should have {expected}");
            return Err(BackupError::Damaged { path: path.to_owned(), cause });
        }
        Ok(Backup { head, path: path.to_owned(), file, read: 0, checksum: Default::default() })
    }

    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next bytes of the snapshot, into `buffer`; so many were there. 0 is the end, and says that all of it fits its
    /// checksum.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BackupError> {
        let read = loop {
            match self.file.read(buffer) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|cause| failed(&self.path, "read", cause))?,
            }
        };
        self.read += read as u64;
        self.checksum.update(&buffer[..read]);
        if read == 0 {
            check(&self.path, &self.head, self.read, self.checksum.clone().finalize())?;
        }
        Ok(read)
    }

    /// Reads all of it, to see whether it is whole.
    ///
    /// # Errors
    /// As for [`read`](Backup::read).
    pub fn verify(mut self) -> Result<Head, BackupError> {
        let mut buffer = vec![0; 256 << 10];
        while self.read(&mut buffer)? > 0 {}
        Ok(self.head)
    }
}

fn encode(head: &Head) -> Vec<u8> {
    let body = convert::backup_head_to_pb(head).encode_to_vec();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The head at the beginning of `file`, and how many bytes it takes there.
fn decode(path: &Path, file: &mut File) -> Result<(Head, u64), BackupError> {
    let no_backup = |cause: &str| BackupError::NoBackup { path: path.to_owned(), cause: cause.to_owned() };
    let damaged = |cause: String| BackupError::Damaged { path: path.to_owned(), cause };
    let unreadable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends within its head".to_owned()),
        _ => failed(path, "read", cause),
    };
    let mut bytes = vec![0; PREAMBLE];
    file.read_exact(&mut bytes).map_err(|cause| match cause.kind() {
        io::ErrorKind::UnexpectedEof => no_backup("it is too short"),
        _ => failed(path, "read", cause),
    })?;
    if bytes[..MAGIC.len()] != MAGIC[..] {
        return Err(no_backup("it does not begin as one"));
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (format, length) = (number(8), number(12));
    if format > FORMAT {
        return Err(BackupError::Format { path: path.to_owned(), found: format, known: FORMAT });
    }
    if length > LONGEST_HEAD {
        return Err(damaged(format!("its head claims to have {length} bytes")));
    }
    let body_end = PREAMBLE + length as usize;
    bytes.resize(body_end + CHECKSUM, 0);
    file.read_exact(&mut bytes[PREAMBLE..]).map_err(unreadable)?;
    let (guarded, checksum) = bytes.split_at(body_end);
    if crc32fast::hash(guarded).to_le_bytes() != *checksum {
        return Err(damaged("its head does not fit its checksum".to_owned()));
    }
    let body = pb::BackupHead::decode(&guarded[PREAMBLE..]).map_err(|error| damaged(error.to_string()))?;
    let head = convert::backup_head_from_pb(body).map_err(|malformed| damaged(malformed.to_string()))?;
    Ok((head, bytes.len() as u64))
}

/// Whether the snapshot's bytes are those that `head` speaks of.
fn check(path: &Path, head: &Head, size: u64, checksum: u32) -> Result<(), BackupError> {
    let expected = (head.snapshot.size, head.snapshot.checksum);
    if (size, checksum) == expected {
        return Ok(());
    }
    let cause = format!(
        "the snapshot has {size} bytes with checksum {checksum:08x}, and should have {} with {:08x}",
        expected.0, expected.1
    );
    Err(BackupError::Damaged { path: path.to_owned(), cause })
}

pub(super) fn failed(path: &Path, call: &'static str, cause: io::Error) -> BackupError {
    BackupError::File { path: path.to_owned(), call, cause }
}

/// Makes it durable that `path` is there.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Code,
        raft::{LogPosition, Membership, SnapshotMetadata},
    };

    fn head(bytes: &[u8]) -> Head {
        let snapshot = SnapshotMetadata {
            last_included: LogPosition { term: 3, index: 8 },
            membership: Membership::of_voters([(1, "a:1"), (2, "b:2")]).into(),
            size: bytes.len() as u64,
            checksum: crc32fast::hash(bytes),
        };
        Head { cluster_id: 7, node_id: 2, snapshot }
    }

    fn saved(directory: &Path, bytes: &[u8]) -> PathBuf {
        let path = directory.join("backup");
        let mut saving = Saving::begin(&path, head(bytes)).expect("it begins");
        bytes.chunks(7).for_each(|chunk| saving.write(chunk).expect("there is room"));
        saving.finish().expect("it is whole");
        path
    }

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory).expect("it is there").count()
    }

    #[test]
    fn what_is_saved_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        for bytes in [&b""[..], b"x", &[5; 100_000]] {
            let path = saved(directory.path(), bytes);
            let mut backup = Backup::open(&path).expect("it is a backup");
            assert_eq!(*backup.head(), head(bytes));
            let (mut read, mut buffer) = (Vec::new(), [0; 1000]);
            loop {
                match backup.read(&mut buffer).expect("it is whole") {
                    0 => break,
                    length => read.extend_from_slice(&buffer[..length]),
                }
            }
            assert!(read == bytes);
            assert_eq!(files(directory.path()), 1);
        }
    }

    // Fails when: any part of the file is not covered by a checksum or its length.
    #[test]
    fn each_flipped_bit_and_each_missing_byte_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = saved(directory.path(), b"forty bytes of a snapshot, more or less.");
        let whole = fs::read(&path).expect("it is there");
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("there is room");
            Backup::open(&path).and_then(Backup::verify).map(|_| ()).expect_err("it is not whole")
        };
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(refused(&flipped).code(), Code(17));
        }
        for length in 0..whole.len() {
            assert_eq!(refused(&whole[..length]).code(), Code(17));
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(refused(&longer).code(), Code(17));
        assert!(matches!(refused(b"PNG and no backup at all"), BackupError::NoBackup { .. }));
    }

    // Fails when: `finish` moves first and looks later, or the drop leaves the file.
    #[test]
    fn a_backup_that_is_not_whole_never_takes_the_place_of_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = saved(directory.path(), b"the first");
        let mut torn = Saving::begin(&path, head(b"the second")).expect("it begins");
        torn.write(b"the sec").expect("there is room");
        assert!(matches!(torn.finish(), Err(BackupError::Damaged { .. })));
        let dropped = Saving::begin(&path, head(b"the third")).expect("it begins");
        drop(dropped);
        assert_eq!(Backup::open(&path).and_then(Backup::verify).expect("still whole"), head(b"the first"));
        assert_eq!(files(directory.path()), 1);
    }
}
