//! What every store does when the log's base moves, and when its entries are found to be lost.

use ractor_raft::{
    raft::{HardState, Write},
    storage::StorageError,
};

#[cfg(feature = "sqlite")]
use ractor_raft::storage::{SqliteStorage, Storage};

use crate::given::{
    Disk, append, command, commands, membership_at, open, position, recover, stand_on, take_snapshot, try_open,
};

/// Something to stand on.
fn with_snapshot(disk: &Disk, index: u64, term: u64) {
    take_snapshot(&*disk.storage.snapshots(), index, term, b"state");
}

fn the_log_goes_on_behind_a_base_that_it_has(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    with_snapshot(disk, 6, 1);
    store.persist(&stand_on(6, 1)).unwrap();
    store.persist(&append(commands(11, 12, 2))).unwrap();
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!(opened.recovered.base, position(6, 1));
    assert_eq!(opened.recovered.membership, *membership_at(6));
    assert_eq!(opened.recovered.snapshot.unwrap().last_included, position(6, 1));
    assert_eq!(opened.recovered.entries, [commands(7, 10, 1), commands(11, 12, 2)].concat());
    // And to its end, and on from there.
    with_snapshot(disk, 12, 2);
    store.persist(&stand_on(12, 2)).unwrap();
    store.persist(&append(commands(13, 13, 2))).unwrap();
    store.persist(&Write { truncate_from: Some(13), entries: commands(13, 14, 3), ..Write::default() }).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!((recovered.base, recovered.entries), (position(12, 2), commands(13, 14, 3)));
}

fn a_base_beyond_the_log_leaves_it_empty(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    with_snapshot(disk, 50, 3);
    store.persist(&stand_on(50, 3)).unwrap();
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!((opened.recovered.base, opened.recovered.entries), (position(50, 3), vec![]));
    while store.tidy().unwrap() {}
    store.persist(&append(commands(51, 52, 3))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(51, 52, 3));
}

/// SAFETY N02. Fails when: the entry at the base is looked up by its index alone.
fn n02_a_base_that_conflicts_drops_the_whole_log(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 20, 1))).unwrap();
    with_snapshot(disk, 10, 2);
    store.persist(&stand_on(10, 2)).unwrap();
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!((opened.recovered.base, opened.recovered.entries), (position(10, 2), vec![]));
    store.persist(&append(commands(11, 30, 2))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(11, 30, 2));
}

fn everything_at_once_in_its_order(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 20, 1))).unwrap();
    with_snapshot(disk, 12, 1);
    // The truncation takes the base's entry away, so that nothing is left to go on behind it.
    let hard_state = HardState { current_term: 4, voted_for: None };
    let write = Write {
        hard_state: Some(hard_state),
        truncate_from: Some(11),
        entries: commands(13, 15, 4),
        ..stand_on(12, 1)
    };
    store.persist(&write).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!(recovered.hard_state, hard_state);
    assert_eq!((recovered.base, recovered.entries), (position(12, 1), commands(13, 15, 4)));
}

fn a_base_that_goes_back_is_a_bug_of_the_caller(disk: &Disk) {
    for write in [
        stand_on(5, 1),
        stand_on(3, 1),
        Write { truncate_from: Some(5), ..Write::default() },
        Write { entries: commands(11, 11, 1), ..stand_on(12, 1) },
    ] {
        let (mut store, opened) = open(&*disk.storage);
        if opened.recovered.base.index == 0 {
            store.persist(&append(commands(1, 10, 1))).unwrap();
            with_snapshot(disk, 5, 1);
            store.persist(&stand_on(5, 1)).unwrap();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.persist(&write)));
        assert!(outcome.is_err(), "{write:?}");
        drop(store);
        assert_eq!(recover(&*disk.storage).entries, commands(6, 10, 1));
    }
}

/// Fails when: the opening takes rows that wait to be deleted for the log, or does not go on with their deletion.
fn ten_thousand_entries_are_deleted_step_by_step_also_after_a_restart(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    for batch in 0..20 {
        store.persist(&append(commands(batch * 500 + 1, batch * 500 + 500, 1))).unwrap();
    }
    with_snapshot(disk, 9_900, 1);
    store.persist(&stand_on(9_900, 1)).unwrap();
    for _ in 0..3 {
        store.tidy().unwrap();
    }
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!((opened.recovered.base, opened.recovered.entries), (position(9_900, 1), commands(9_901, 10_000, 1)));
    let mut steps = 0;
    while store.tidy().unwrap() {
        steps += 1;
        assert!(steps < 50, "there is no end to it");
        store.persist(&append(commands(10_000 + steps, 10_000 + steps, 1))).unwrap();
    }
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(9_901, 10_000 + steps, 1));
}

/// SAFETY D05. Fails when: the store takes the new base for written though the transaction was undone.
fn d05_a_full_disk_refuses_a_base_and_takes_it_later(disk: &Disk) {
    let Some(set_full) = &disk.set_full else { return };
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    with_snapshot(disk, 5, 1);
    set_full(true);
    // More than SQLite keeps in memory until the commit.
    let entries = (11..1_200).map(|index| command(index, 5, vec![7; 3_000])).collect();
    let write = Write { entries, ..stand_on(5, 1) };
    for _ in 0..3 {
        assert!(matches!(store.persist(&write), Err(StorageError::Full { call: "persist", .. })));
    }
    set_full(false);
    // It stands where it stood: what a new base would forbid is allowed.
    store.persist(&Write { truncate_from: Some(4), entries: commands(4, 10, 2), ..Write::default() }).unwrap();
    store.persist(&stand_on(5, 2)).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!((recovered.base, recovered.entries), (position(5, 2), commands(6, 10, 2)));
}

/// SAFETY D05, for the rows that wait to be deleted. Fails when: a deletion without room ends the store.
fn d05_a_full_disk_puts_the_deletion_off(disk: &Disk) {
    let Some(set_full) = &disk.set_full else { return };
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 3_000, 1))).unwrap();
    with_snapshot(disk, 2_990, 1);
    store.persist(&stand_on(2_990, 1)).unwrap();
    set_full(true);
    for _ in 0..3 {
        let outcome = store.tidy();
        assert!(matches!(outcome, Ok(false) | Err(StorageError::Full { .. })), "{outcome:?}");
    }
    set_full(false);
    while store.tidy().unwrap() {}
    store.persist(&append(commands(3_001, 3_002, 1))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(2_991, 3_002, 1));
}

/// R017. Fails when: an opening does not look whether a snapshot stands in for the entries that the log has no more.
fn a_base_without_a_snapshot_is_refused(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    with_snapshot(disk, 4, 1);
    store.persist(&stand_on(5, 1)).unwrap();
    drop(store);
    let error = try_open(&*disk.storage).err().unwrap();
    assert!(matches!(&error, StorageError::Corrupt { place, .. } if place == "the snapshot"), "{error}");
    assert!(error.to_string().contains("5@1") && error.to_string().contains("4@1"), "{error}");
}

/// SAFETY L08, R007. Fails when: the mark is not written, or not looked for.
fn l08_a_condemned_store_is_never_opened_again(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 3, 1))).unwrap();
    store.condemn(17, 3).unwrap();
    drop(store);
    for _ in 0..2 {
        let error = try_open(&*disk.storage).err().unwrap();
        assert!(matches!(error, StorageError::LostEntries { acknowledged: 17, last: 3, .. }), "{error}");
    }
}

/// How many entries there are rows of.
#[cfg(feature = "sqlite")]
fn rows(directory: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(directory.join("raft.db")).unwrap();
    connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap()
}

/// Fails when: the rows that a base replaces are deleted with it, or never.
#[cfg(feature = "sqlite")]
#[test]
fn a_write_with_a_base_deletes_a_bounded_number_of_rows() {
    let directory = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::new(directory.path());
    let (mut store, _) = open(&storage);
    store.persist(&append(commands(1, 6_000, 1))).unwrap();
    take_snapshot(&*storage.snapshots(), 5_990, 1, b"state");
    store.persist(&stand_on(5_990, 1)).unwrap();
    drop(store);
    assert_eq!(rows(directory.path()), 5_000);
    // A store that is never tidied gets rid of them too.
    let (mut store, _) = open(&storage);
    for index in 6_001..=6_010 {
        store.persist(&append(commands(index, index, 1))).unwrap();
    }
    drop(store);
    assert!((4_000..4_500).contains(&rows(directory.path())), "{} rows", rows(directory.path()));
    let (mut store, _) = open(&storage);
    let mut steps = 0;
    while store.tidy().unwrap() {
        steps += 1;
    }
    drop(store);
    assert!((4..=8).contains(&steps), "{steps} steps");
    assert_eq!(rows(directory.path()), 20);
    assert_eq!(recover(&storage).entries, commands(5_991, 6_010, 1));
}

/// Fails when: pages that are free are never given back.
#[cfg(feature = "sqlite")]
#[test]
fn a_database_that_is_mostly_free_gets_shorter() {
    let directory = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::new(directory.path());
    let (mut store, _) = open(&storage);
    for start in (1..=3_000).step_by(300) {
        store.persist(&append((start..start + 300).map(|index| command(index, 1, vec![7; 8_000])).collect())).unwrap();
    }
    take_snapshot(&*storage.snapshots(), 2_999, 1, b"state");
    store.persist(&stand_on(2_999, 1)).unwrap();
    drop(store);
    let size = || std::fs::metadata(directory.path().join("raft.db")).unwrap().len();
    let (mut store, _) = open(&storage);
    let before = size();
    while store.tidy().unwrap() {}
    drop(store);
    assert_eq!(recover(&storage).entries.len(), 1);
    assert!(before > 20 << 20 && size() < 18 << 20, "{before} bytes, then {}", size());
}

for_every_store! {
    the_log_goes_on_behind_a_base_that_it_has
    a_base_beyond_the_log_leaves_it_empty
    n02_a_base_that_conflicts_drops_the_whole_log
    everything_at_once_in_its_order
    a_base_that_goes_back_is_a_bug_of_the_caller
    ten_thousand_entries_are_deleted_step_by_step_also_after_a_restart
    d05_a_full_disk_refuses_a_base_and_takes_it_later
    d05_a_full_disk_puts_the_deletion_off
    a_base_without_a_snapshot_is_refused
    l08_a_condemned_store_is_never_opened_again
}
