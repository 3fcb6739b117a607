//! The files around the database: who has the store, and how far it got.
//!
//! `LOCK` is held from the opening of a store to its end, so that no second process or node opens it. It names the
//! process, and it counts the acknowledged writes: SQLite and [`wal`](super::wal) cannot tell the damaged last
//! transaction of a log from one that was never finished, nor see that a whole file was deleted or put back from a
//! backup. The count can. It is not synced, so a power cut may take it back: it proves that writes are missing, never
//! that none is.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::storage::StorageError;

/// What the store needs of a disk besides SQLite's own file access.
pub(crate) trait Files: Send + Sync + 'static {
    /// The database as SQLite knows it.
    fn database(&self) -> PathBuf;

    /// SQLite's name for the disk; `None` for the operating system's.
    fn vfs(&self) -> Option<&str>;

    /// Takes the store, creating its directory, until the lock is dropped.
    fn lock(&self) -> Result<Box<dyn Lock>, StorageError>;

    /// The file `name`, beside the database, or its first `limit` bytes if it is longer; `None` if there is none.
    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>>;

    /// Makes it durable which files there are.
    fn sync_directory(&self) -> io::Result<()>;

    /// Lengthens the file `name` with zeros to `size`, durably; on an error it is as long as before.
    fn lengthen(&self, name: &str, size: u64) -> io::Result<()>;

    /// The names of all files beside the database.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates the file `name`, empty, in the place of one that may be there: who has that open keeps it.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens the file `name`; `None` if there is none.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn File>>>;

    /// Renames a file, over one that may have the name. A power cut may undo it until the directory is synced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the file `name`, if it is there. A power cut may undo it until the directory is synced.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// An open file. It can be read under whatever name it has by now, or none.
pub(crate) trait File: Send {
    /// Bytes in it.
    fn size(&mut self) -> io::Result<u64>;

    /// Reads from `offset` on, as much as there is and fits in.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset`, which is not behind the end.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts off what is behind `size`.
    fn truncate(&mut self, size: u64) -> io::Result<()>;

    /// Makes durable what was written and cut off.
    fn sync(&mut self) -> io::Result<()>;
}

/// A store that is taken.
pub(crate) trait Lock: Send {
    /// What an earlier holder wrote down last, if it could be read.
    fn found(&self) -> &[u8];

    /// Writes `line`, always of the same length, over what was there; does not wait for the disk.
    fn note(&mut self, line: &[u8]) -> io::Result<()>;
}

/// What a lock file says: a line for people, with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// The process that holds the store, or did.
    pub(crate) process: u32,
    /// How many writes are on disk, at least.
    pub(crate) writes: u64,
}

impl Note {
    pub(crate) fn to_line(self) -> Vec<u8> {
        let text = format!("process {:010} writes {:020}", self.process, self.writes);
        format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes()
    }

    /// `None` for what is not such a line, or not whole.
    pub(crate) fn of_line(line: &[u8]) -> Option<Note> {
        let (text, checksum) = std::str::from_utf8(line).ok()?.trim_end().rsplit_once(' ')?;
        if u32::from_str_radix(checksum, 16).ok()? != crc32fast::hash(text.as_bytes()) {
            return None;
        }
        let (process, writes) = text.strip_prefix("process ")?.split_once(" writes ")?;
        Some(Note { process: process.parse().ok()?, writes: writes.parse().ok()? })
    }
}

/// A directory of the operating system.
pub(super) struct Directory(pub(super) PathBuf);

impl Files for Directory {
    fn database(&self) -> PathBuf {
        self.0.join(super::DATABASE)
    }

    fn vfs(&self) -> Option<&str> {
        None
    }

    fn lock(&self) -> Result<Box<dyn Lock>, StorageError> {
        let path = self.0.join("LOCK");
        let failed = |path: &Path, call, error: io::Error| StorageError::Failed {
            path: path.to_owned(),
            call,
            cause: error.to_string(),
        };
        create_directory(&self.0).map_err(|error| failed(&self.0, "creation of the directory", error))?;
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&path, "open", error))?;
        let held = file.try_lock();
        let mut found = Vec::new();
        file.read_to_end(&mut found).map_err(|error| failed(&path, "read", error))?;
        match held {
            Ok(()) => Ok(Box::new(LockFile { file, found })),
            Err(TryLockError::WouldBlock) => {
                Err(StorageError::InUse { path: self.0.clone(), owner: Note::of_line(&found).map(|note| note.process) })
            }
            Err(TryLockError::Error(error)) => Err(failed(&path, "lock", error)),
        }
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        match fs::File::open(self.0.join(name)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(limit as u64).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync(&self.0)
    }

    fn lengthen(&self, name: &str, size: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.0.join(name))?;
        // What was cut off before must not come back between the zeros.
        file.sync_all()?;
        let before = file.seek(SeekFrom::End(0))?;
        // Written, not only reserved: blocks that were never written cost another write of metadata at their first sync.
        let lengthened = io::copy(&mut io::repeat(0).take(size.saturating_sub(before)), &mut file);
        match lengthened.and_then(|_| file.sync_all()) {
            Ok(()) => Ok(()),
            Err(error) => file.set_len(before).and(Err(error)),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.remove(name)?;
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn File>>> {
        match OpenOptions::new().read(true).write(true).open(self.0.join(name)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl File for fs::File {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.seek(SeekFrom::Start(offset))?;
        let mut read = 0;
        while read < buffer.len() {
            match self.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    /// A file that grew has its new size on disk too: reading needs it.
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Creates a directory with its parents, and makes them durable.
fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync(parent)
}

/// Makes a directory's list of files durable. Only Unix can open a directory; elsewhere the file system has to do it.
fn sync(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Holds the operating system's lock until it is closed.
struct LockFile {
    file: fs::File,
    found: Vec<u8>,
}

impl Lock for LockFile {
    fn found(&self) -> &[u8] {
        &self.found
    }

    fn note(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_not_otherwise() {
        let note = Note { process: 4711, writes: u64::MAX };
        let line = note.to_line();
        assert_eq!(Note::of_line(&line), Some(note));
        assert_eq!(line.len(), Note { process: 1, writes: 1 }.to_line().len());
        for at in 0..line.len() - 1 {
            let mut damaged = line.clone();
            damaged[at] ^= 1;
            assert_eq!(Note::of_line(&damaged), None, "byte {at}");
        }
        assert_eq!(Note::of_line(b""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Fails when: a note is believed that was not written so: nothing else guards the number of writes.
        #[test]
        fn whatever_stands_in_a_lock_file_is_the_note_or_none(
            process in any::<u32>(), writes in any::<u64>(), bytes in vec(any::<u8>(), 0..60), bit in any::<Index>(), cut in any::<Index>(),
        ) {
            let note = Note { process, writes };
            let line = note.to_line();
            prop_assert_eq!(Note::of_line(&line), Some(note));
            let mut flipped = line.clone();
            let bit = bit.index(8 * line.len());
            flipped[bit / 8] ^= 1 << (bit % 8);
            for line in [&flipped, &line[..cut.index(line.len())]] {
                prop_assert!(Note::of_line(line).is_none_or(|found| found == note), "{:?}", line);
            }
            prop_assert_eq!(Note::of_line(&bytes), None);
        }
    }
}
