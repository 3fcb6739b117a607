//! A new cluster out of a backup: each of its nodes gets a store that stands on the backup's last entry.
//!
//! Every node is given the same file and the same members, and comes to the same cluster id without asking the others:
//! a hash of what the backup is of and who the members are. None of them needs to be reachable.
//!
//! The store is made beside its place and moved there when it is whole: a restoration that was cut off leaves no
//! directory that a node would start on with nothing in it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Backup, BackupError, Head, file};
use crate::{
    node::{cluster_id, fnv},
    raft::{Address, Base, HardState, LogPosition, Membership, NodeId, Write},
    storage::{Bootstrap, Identity, RESTORED, Restoration, SqliteStorage, Storage, StorageError},
};

/// Bytes of the snapshot that are in memory at a time.
const BUFFER: usize = 256 << 10;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster's.
    pub cluster_id: u64,
    /// The cluster that the backup is of.
    pub from_cluster_id: u64,
    /// The last entry that is in the state.
    pub last_included: LogPosition,
    /// Bytes of it.
    pub size: u64,
}

/// The id of the cluster of these first members (and of this name, if it has one) that is restored from a backup: the
/// same for each of them, and another for each backup, each set of members, and a cluster that was not restored.
pub fn restored_cluster_id(head: &Head, name: Option<&str>, members: &BTreeMap<NodeId, Address>) -> u64 {
    let first_members = cluster_id(name, members);
    let Head { cluster_id, snapshot, .. } = head;
    let of = format!("{cluster_id:016x} {} {} {:08x}", snapshot.last_included, snapshot.size, snapshot.checksum);
    let mut restored = fnv(&format!("restored\n{of}\n{first_members:016x}\n"));
    while [*cluster_id, first_members, 0].contains(&restored) {
        restored = restored.wrapping_add(1);
    }
    restored
}

impl Backup {
    /// Makes the data directory of node `id` of a new cluster of these `members`, all of them voters. `name` is the
    /// cluster's ([`Builder::cluster_name`](crate::node::Builder::cluster_name)), if it has one. The node must be started with the same `members`
    /// and `name`. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The backup is damaged, the directory is not empty, `id` is not among the members, or the disk fails. Nothing is
    /// left at `directory` then.
    pub fn restore(
        self,
        directory: &Path,
        id: NodeId,
        name: Option<&str>,
        members: &BTreeMap<NodeId, Address>,
    ) -> Result<Restored, BackupError> {
        if !members.contains_key(&id) {
            return Err(BackupError::NoMember { id });
        }
        expect_free(directory)?;
        let aside = aside(directory);
        let made = self.make(&aside, id, name, members).and_then(|restored| {
            let moved = fs::rename(&aside, directory).and_then(|()| file::sync_directory_of(directory));
            moved.map_err(|cause| file::failed(directory, "made", cause))?;
            Ok(restored)
        });
        if made.is_err() {
            // What is left would be in nobody's way.
            let _ = fs::remove_dir_all(&aside);
        }
        made
    }

    fn make(
        self,
        directory: &Path,
        id: NodeId,
        name: Option<&str>,
        members: &BTreeMap<NodeId, Address>,
    ) -> Result<Restored, BackupError> {
        // A restoration that was cut off, by a process of the same number.
        let _ = fs::remove_dir_all(directory);
        let restored = Restored {
            cluster_id: restored_cluster_id(self.head(), name, members),
            from_cluster_id: self.head().cluster_id,
            last_included: self.head().snapshot.last_included,
            size: self.head().snapshot.size,
        };
        let identity = Identity { cluster_id: restored.cluster_id, node_id: id };
        let restoration = Restoration { first_members: cluster_id(name, members), cluster_id: restored.cluster_id };
        self.fill(&SqliteStorage::new(directory), identity, members)?;
        write_durably(&directory.join(RESTORED), &restoration.to_line())
            .map_err(|cause| file::failed(directory, "written", cause))?;
        Ok(restored)
    }

    /// Puts the snapshot into an empty store, then the log's base: a log that stands on a snapshot must find it.
    fn fill(
        mut self,
        storage: &dyn Storage,
        identity: Identity,
        members: &BTreeMap<NodeId, Address>,
    ) -> Result<(), BackupError> {
        let membership = Arc::new(Membership::of_voters(members.clone()));
        let bootstrap = Bootstrap { identity, incarnation: incarnation(), membership: (*membership).clone() };
        let (mut store, _) = storage.open(&bootstrap)?;
        let mut writer = storage.snapshots().create()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            writer.write_all(&buffer[..length]).map_err(|error| unwritten(self.path(), error))?;
        }
        let position = self.head().snapshot.last_included;
        writer.finish(position, membership.clone())?;
        let hard_state = HardState { current_term: position.term, voted_for: None };
        let base = Some(Base { position, membership });
        store.persist(&Write { hard_state: Some(hard_state), base, ..Write::default() })?;
        Ok(())
    }
}

/// A number that was never drawn before; 0 is none.
fn incarnation() -> u64 {
    rand::random::<u64>().max(1)
}

fn expect_free(directory: &Path) -> Result<(), BackupError> {
    match fs::read_dir(directory).map(|entries| entries.count()) {
        Ok(0) => Ok(()),
        Ok(_) => Err(BackupError::Occupied { path: directory.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            let made = parent.map_or(Ok(()), fs::create_dir_all);
            made.map_err(|cause| file::failed(directory, "made", cause))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(BackupError::Occupied { path: directory.to_owned() })
        }
        Err(cause) => Err(file::failed(directory, "read", cause)),
    }
}

/// Where the directory is made, on the same file system.
fn aside(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.restoring", std::process::id()));
    directory.with_file_name(name)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    file::sync_directory_of(path)
}

fn unwritten(path: &Path, error: io::Error) -> BackupError {
    match error.downcast::<StorageError>() {
        Ok(error) => error.into(),
        Err(error) => file::failed(path, "copied", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backup::Saving, raft::SnapshotMetadata, storage::MemoryStorage};

    const BYTES: &[u8] = b"a state";

    fn members(port: u16) -> BTreeMap<NodeId, Address> {
        (1..=3).map(|id| (id, format!("127.0.0.1:{port}{id}"))).collect()
    }

    fn head(index: u64) -> Head {
        let snapshot = SnapshotMetadata {
            last_included: LogPosition { term: 3, index },
            membership: Membership::of_voters(members(700)).into(),
            size: BYTES.len() as u64,
            checksum: crc32fast::hash(BYTES),
        };
        Head { cluster_id: cluster_id(None, &members(700)), node_id: 2, snapshot }
    }

    fn backup(directory: &Path) -> Backup {
        let path = directory.join("backup");
        let mut saving = Saving::begin(&path, head(8)).expect("it begins");
        saving.write(BYTES).expect("there is room");
        saving.finish().expect("it is whole");
        Backup::open(&path).expect("it is a backup")
    }

    // Fails when: anything in `restored_cluster_id` changes (nodes of one cluster may be restored by several versions), or
    // it leaves out one of what makes the cluster another one.
    #[test]
    fn the_new_clusters_id_tells_it_from_all_others() {
        let restored = restored_cluster_id(&head(8), None, &members(800));
        assert_eq!(format!("{restored:016x}"), "a5c1d19821001069");
        let others = [
            head(8).cluster_id,
            cluster_id(None, &members(800)),
            restored_cluster_id(&head(9), None, &members(800)),
            restored_cluster_id(&head(8), None, &members(900)),
            restored_cluster_id(&head(8), Some("bank"), &members(800)),
            restored_cluster_id(&Head { cluster_id: 5, ..head(8) }, None, &members(800)),
        ];
        assert!(!others.contains(&restored));
        // Who saved it makes no difference.
        assert_eq!(restored_cluster_id(&Head { node_id: 1, ..head(8) }, None, &members(800)), restored);
    }

    // Fails when: the base keeps the old membership, the term is not kept, or the base is written first.
    #[test]
    fn the_store_stands_on_the_backup_with_the_new_members() {
        let directory = tempfile::tempdir().expect("a directory");
        let (storage, identity) = (MemoryStorage::new(), Identity { cluster_id: 5, node_id: 2 });
        backup(directory.path()).fill(&storage, identity.clone(), &members(800)).expect("there is room");
        let bootstrap = Bootstrap { identity, incarnation: 1, membership: Membership::of_voters(members(900)) };
        let (_store, opened) = storage.open(&bootstrap).expect("it is whole");
        let recovered = opened.recovered;
        assert_ne!(opened.incarnation, 1, "it has one of its own");
        assert_eq!(recovered.hard_state, HardState { current_term: 3, voted_for: None });
        assert_eq!(recovered.base, LogPosition { term: 3, index: 8 });
        assert_eq!(recovered.membership, Membership::of_voters(members(800)));
        let snapshot = recovered.snapshot.expect("the log stands on it");
        assert_eq!(*snapshot.membership, Membership::of_voters(members(800)));
        assert_eq!((snapshot.size, snapshot.checksum), (head(8).snapshot.size, head(8).snapshot.checksum));
        let opened = storage.snapshots().open(&snapshot).expect("it is whole");
        assert_eq!(opened.expect("it is the finished one").chunk(0, 100).expect("it is whole"), BYTES);
    }

    #[test]
    fn a_backup_is_never_restored_over_something() {
        let directory = tempfile::tempdir().expect("a directory");
        let backup = || backup(directory.path());
        let there = directory.path().join("there");
        fs::create_dir(&there).expect("there is room");
        fs::write(there.join("raft.db"), "precious").expect("there is room");
        let over = backup().restore(&there, 1, None, &members(800));
        assert!(matches!(over, Err(BackupError::Occupied { .. })), "{over:?}");
        let over = backup().restore(&directory.path().join("backup"), 1, None, &members(800));
        assert!(matches!(over, Err(BackupError::Occupied { .. })), "{over:?}");
        let stranger = backup().restore(&directory.path().join("new"), 4, None, &members(800));
        assert!(matches!(stranger, Err(BackupError::NoMember { id: 4 })), "{stranger:?}");
        assert_eq!(fs::read_to_string(there.join("raft.db")).expect("still there"), "precious");
    }
}
