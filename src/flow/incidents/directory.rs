//! The files that incidents are kept in: one each, `incident-0000000007`, written whole or not at all.
//!
//! A file is written under another name, synced, and takes its own name only then; so what has the name is whole, unless the
//! disk damaged it, and that shows by its checksum.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{INCIDENTS, format};
use crate::flow::Incident;

const PREFIX: &str = "incident-";

/// Of a file that is not whole yet.
const UNFINISHED: &str = ".new";

pub(super) struct Directory(PathBuf);

impl Directory {
    /// Nothing need be there yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Directory(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The highest number in use; 0: none.
    pub(super) fn last_id(&self) -> u64 {
        self.ids().last().copied().unwrap_or(0)
    }

    /// Writes it in the place of an earlier version of it, and removes those that are too many then.
    pub(super) fn write(&self, incident: &Incident) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let path = self.file(incident.id);
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let mut file = File::create(&unfinished)?;
        file.write_all(&format::encode(incident))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&unfinished, &path)?;
        File::open(&self.0)?.sync_all()?;
        self.remove_what_is_too_much()
    }

    fn remove_what_is_too_much(&self) -> io::Result<()> {
        let ids = self.ids();
        for id in &ids[..ids.len().saturating_sub(INCIDENTS)] {
            fs::remove_file(self.file(*id))?;
        }
        for name in self.names().into_iter().filter(|name| name.ends_with(UNFINISHED)) {
            fs::remove_file(self.0.join(name))?;
        }
        Ok(())
    }

    /// All that can be read, the oldest first.
    pub(super) fn read_all(&self) -> Vec<Incident> {
        self.ids().into_iter().filter_map(|id| self.read(id)).collect()
    }

    /// `None`: it is not there, or cannot be read, which is said in the log.
    pub(super) fn read(&self, id: u64) -> Option<Incident> {
        let path = self.file(id);
        let read = match read_bounded(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
            Ok(bytes) => format::decode(&bytes).map_err(str::to_owned),
        };
        match read {
            Ok(incident) if incident.id == id => Some(incident),
            Ok(other) => {
                tracing::warn!(path = %path.display(), found = other.id, "an incident is skipped: its file has another's name");
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an incident is skipped: its file cannot be read");
                None
            }
        }
    }

    /// Rising.
    fn ids(&self) -> Vec<u64> {
        let ids = self.names().into_iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let mut ids: Vec<u64> = ids.collect();
        ids.sort_unstable();
        ids
    }

    /// None where there is no directory.
    fn names(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(&self.0) else { return Vec::new() };
        files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect()
    }

    fn file(&self, id: u64) -> PathBuf {
        self.0.join(format!("{PREFIX}{id:010}"))
    }
}

/// What is larger than any incident is none.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > format::MAX_BYTES as u64 {
        return Err(io::Error::other(format!("it has {length} bytes, more than {}", format::MAX_BYTES)));
    }
    fs::read(path)
}
