//! Bits that flip, files that vanish, rows that somebody deletes: it is noticed, and the error says where.

use std::{fs, path::Path};

use ractor_raft::{
    raft::{Entry, HardState, Recovered, Write},
    storage::{SqliteStorage, Storage, StorageError},
    testing::disk::{Image, SimulatedDisk},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::given::{append, command, commands, open, recover, seeds, stride, try_open, vote};

const DATABASE: &str = "raft.db";
const LOG: &str = "raft.db-wal";

/// A store that was left by a crash: some of it in the database, some in SQLite's log.
fn left_by_a_crash(storage: &dyn Storage) -> Recovered {
    let (mut store, _) = open(storage);
    store.persist(&append(commands(1, 40, 1))).unwrap();
    store.persist(&append((41..90).map(|index| command(index, 1, vec![index as u8; 3_000])).collect())).unwrap();
    // Pages become free, and have to be kept apart from those in use.
    store.persist(&Write { truncate_from: Some(60), ..Write::default() }).unwrap();
    drop(store);
    // The opening moves it all to the database; what follows stays in the log.
    let (mut store, opened) = open(storage);
    let mut expected = opened.recovered;
    let hard_state = HardState { current_term: 3, voted_for: Some(2) };
    store.persist(&vote(3, Some(2))).unwrap();
    store.persist(&append(commands(60, 70, 3))).unwrap();
    store.persist(&Write { truncate_from: Some(66), entries: commands(66, 75, 3), ..Write::default() }).unwrap();
    store.persist(&append(commands(76, 77, 3))).unwrap();
    expected.hard_state = hard_state;
    expected.entries.extend(commands(60, 77, 3));
    expected
}

/// Bits to flip: all of the headers (of a quick run, every third), some of the rest.
fn bits(image: &Image) -> Vec<(&str, usize)> {
    let rng = &mut SmallRng::seed_from_u64(4);
    let (samples, stride) = (seeds(150).end as usize, stride());
    let mut bits = Vec::new();
    for (file, dense) in [(DATABASE, 100), (LOG, 32)] {
        bits.extend((0..dense * 8).step_by(stride).map(|bit| (file, bit)));
        bits.extend((0..samples).map(|_| (file, rng.random_range(0..image[file].len() * 8))));
    }
    // The first bytes of each page of the database, and the head of each frame of the log.
    let pages = (0..image[DATABASE].len()).step_by(4096).map(|page| (DATABASE, page, 12));
    let frames = (32..image[LOG].len()).step_by(4096 + 24).map(|frame| (LOG, frame, 24));
    for (file, start, length) in pages.chain(frames) {
        bits.extend((start * 8..(start + length) * 8).step_by(7 * stride).map(|bit| (file, bit)));
    }
    bits
}

/// SAFETY D04: whichever bit flips, the store says that it is damaged, or nothing is different.
/// Fails when: the log is not scanned and the writes are not counted (transactions are gone), entries or rows have no
/// checksum (other data is returned), the pages' structure is not checked (a later write harms what is there).
#[test]
fn d04_a_flipped_bit_is_noticed_or_changes_nothing() {
    let disk = SimulatedDisk::new();
    let expected = left_by_a_crash(&disk.storage());
    let image = disk.image();
    let later: Vec<Entry> = (78..110).map(|index| command(index, 4, vec![index as u8; 3_000])).collect();
    let (mut noticed, mut harmless) = (0, 0);
    for (file, bit) in bits(&image) {
        disk.restore(&image);
        disk.flip_bit(file, bit);
        let place = format!("{file}, byte {}, bit {}", bit / 8, bit % 8);
        match try_open(&disk.storage()) {
            Err(StorageError::Corrupt { .. } | StorageError::Format { .. }) => noticed += 1,
            Err(error) => panic!("{place}: {error:?}"),
            Ok((mut store, opened)) => {
                harmless += 1;
                assert!(opened.recovered == expected, "{place}: other data than was written");
                // And it does no harm later, when pages that were free are used again.
                store.persist(&append(later.clone())).unwrap_or_else(|error| panic!("{place}: {error}"));
                drop(store);
                let entries = recover(&disk.storage()).entries;
                assert!(entries == [&expected.entries[..], &later].concat(), "{place}: not later");
            }
        }
    }
    assert!(noticed > 300 && harmless > 100, "{noticed} flips noticed, {harmless} harmless");
}

/// Where the damage is, as an operator needs to know.
#[test]
fn d04_the_error_names_the_damaged_place() {
    let disk = SimulatedDisk::new();
    left_by_a_crash(&disk.storage());
    let image = disk.image();
    for (file, needle, place) in
        [(DATABASE, "put 17 in 1", "entry 17"), (LOG, "put 62 in 3", "WAL frame"), (DATABASE, "three:1", "base")]
    {
        disk.restore(&image);
        // All copies in the database: SQLite leaves some behind in the free space of its pages. In the log, the first.
        let copies = image[file].windows(needle.len()).enumerate().filter(|(_, bytes)| *bytes == needle.as_bytes());
        copies.take(if file == LOG { 1 } else { usize::MAX }).for_each(|(at, _)| disk.flip_bit(file, at * 8));
        let error = try_open(&disk.storage()).err().unwrap();
        assert!(matches!(&error, StorageError::Corrupt { place: found, .. } if found.contains(place)), "{error}");
    }
}

/// A file that is gone, or older than the others, takes acknowledged writes with it; SQLite notices none of these.
/// Fails when: the acknowledged writes are not counted in `LOCK`.
#[test]
fn files_that_vanish_or_come_back_from_a_copy_are_noticed() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 3, 1))).unwrap();
    drop(store);
    let earlier = disk.image();
    let expected = left_by_a_crash_after(&disk);
    let image = disk.image();

    let without = |name: &str| {
        let mut image = image.clone();
        image.remove(name);
        image
    };
    let mut old_database = image.clone();
    old_database.extend([(DATABASE.to_owned(), earlier[DATABASE].clone()), (LOG.to_owned(), earlier[LOG].clone())]);
    let mut with_a_journal = image.clone();
    with_a_journal.insert("raft.db-journal".to_owned(), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7".to_vec());
    let mut nothing_left = without(DATABASE);
    nothing_left.remove(LOG);
    for (what, damaged) in [
        ("no log", without(LOG)),
        ("no database", without(DATABASE)),
        ("neither", nothing_left),
        ("an older copy of both", old_database),
        ("a stray journal", with_a_journal),
    ] {
        disk.restore(&damaged);
        let error = try_open(&disk.storage()).err().unwrap_or_else(|| panic!("{what}: not noticed"));
        assert!(matches!(error, StorageError::Corrupt { .. }), "{what}: {error}");
    }
    // The lock file guards; it holds no data.
    disk.restore(&without("LOCK"));
    assert_eq!(recover(&disk.storage()).entries, expected);
}

fn left_by_a_crash_after(disk: &SimulatedDisk) -> Vec<Entry> {
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(4, 6, 1))).unwrap();
    store.persist(&append(commands(7, 9, 1))).unwrap();
    commands(1, 9, 1)
}

fn real_store(directory: &Path) -> SqliteStorage {
    let storage = SqliteStorage::new(directory);
    let (mut store, _) = open(&storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    storage
}

/// SAFETY D04, for damage that SQLite itself would call sound.
/// Fails when: gaps are not looked for, rows have no checksum, or the state row does not say where the log ends.
#[test]
fn rows_that_somebody_changed_are_noticed() {
    for (sql, place) in [
        ("DELETE FROM entries WHERE idx = 1", "entry 1"),
        ("DELETE FROM entries WHERE idx = 5", "entry 5"),
        ("DELETE FROM entries WHERE idx >= 9", "entry 9"),
        ("DELETE FROM entries", "entry 1"),
        ("UPDATE entries SET term = 2 WHERE idx = 7", "entry 7"),
        ("UPDATE entries SET payload = x'0a00' WHERE idx = 10", "entry 10"),
        ("INSERT INTO entries SELECT 11, term, payload, chain FROM entries WHERE idx = 10", "entry 11"),
        ("UPDATE state SET voted_for = 3", "term and vote"),
        ("UPDATE state SET current_term = 3", "term and vote"),
        ("DELETE FROM state", "term and vote"),
        ("UPDATE identity SET incarnation = 1", "the identity"),
        ("UPDATE base SET membership = x''", "the log's base"),
        ("DROP TABLE entries", "the schema"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let storage = real_store(directory.path());
        rusqlite::Connection::open(directory.path().join(DATABASE)).unwrap().execute_batch(sql).unwrap();
        let error = try_open(&storage).err().unwrap_or_else(|| panic!("{sql}: not noticed"));
        assert!(matches!(&error, StorageError::Corrupt { place: found, .. } if found == place), "{sql}: {error}");
    }
}

#[test]
fn a_store_of_a_later_version_is_refused_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let storage = real_store(directory.path());
    rusqlite::Connection::open(directory.path().join(DATABASE))
        .unwrap()
        .execute_batch("PRAGMA user_version = 2")
        .unwrap();
    let error = try_open(&storage).err().unwrap();
    assert!(matches!(error, StorageError::Format { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = b"this is somebody's letter, not a database".repeat(200);
    fs::write(directory.path().join(DATABASE), &bytes).unwrap();
    let error = try_open(&SqliteStorage::new(directory.path())).err().unwrap();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    assert_eq!(fs::read(directory.path().join(DATABASE)).unwrap(), bytes);
}

/// The index of SQLite's log is kept in memory, so no second process can share the database behind the lock's back.
/// Fails when: anything reads the database before `locking_mode` is set.
#[test]
fn a_store_on_real_files_is_a_database_a_log_and_a_lock() {
    let directory = tempfile::tempdir().unwrap();
    let storage = real_store(directory.path());
    let (_store, _) = open(&storage);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["LOCK", DATABASE, LOG]);
    let lock = fs::read_to_string(directory.path().join("LOCK")).unwrap();
    assert!(lock.starts_with(&format!("process {:010} ", std::process::id())), "{lock}");
}
