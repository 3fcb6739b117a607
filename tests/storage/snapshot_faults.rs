//! Power cuts, failing syncs and flipped bits, under snapshots and the compaction that follows them.

use std::io::{ErrorKind, Read as _, Write as _};

use ractor_raft::{
    raft::{Entry, LogIndex, Recovered, SnapshotMetadata, Write},
    storage::{SqliteStorage, Storage, StorageError, Store},
    testing::disk::SimulatedDisk,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::given::{
    append, bytes, command, commands, membership_at, metadata, open, position, read_snapshot, recover, seeds, stand_on,
    stride, take_snapshot, try_open,
};

const SIZE: usize = 150_000;

fn snapshot_at(index: LogIndex, term: u64) -> SnapshotMetadata {
    metadata(index, term, &bytes(index, SIZE))
}

/// A log of 1 to 30 that stands on 10.
fn before(disk: &SimulatedDisk) -> (SqliteStorage, Box<dyn Store>) {
    let storage = disk.storage();
    let (mut store, _) = open(&storage);
    store.persist(&append(commands(1, 30, 1))).unwrap();
    take_snapshot(&*storage.snapshots(), 10, 1, &bytes(10, SIZE));
    store.persist(&stand_on(10, 1)).unwrap();
    (storage, store)
}

/// How far a life of snapshots came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    #[default]
    Nothing,
    /// A snapshot of its own, up to 20.
    Taken,
    /// The log stands on that.
    Compacted,
    /// So much of one from elsewhere, up to 40, beyond the log's end.
    Received(usize),
    /// The log stands on that, and has gone on.
    Installed,
}

/// Goes on from what was done, until the disk says no.
fn go_on(storage: &SqliteStorage, store: &mut dyn Store, done: &mut Done) -> Result<(), StorageError> {
    let snapshots = storage.snapshots();
    if *done < Done::Taken {
        let mut writer = snapshots.create()?;
        let written = writer.write_all(&bytes(20, SIZE));
        if let Err(error) = written {
            let inner = error.into_inner().expect("the disk is at fault");
            return Err(*inner.downcast().expect("it is the store's error"));
        }
        writer.finish(position(20, 1), membership_at(20))?;
        *done = Done::Taken;
    }
    if *done < Done::Compacted {
        store.persist(&stand_on(20, 1))?;
        *done = Done::Compacted;
        while store.tidy()? {}
    }
    let mut stored = if let Done::Received(stored) = *done { stored } else { 0 };
    while stored < SIZE && *done < Done::Installed {
        let end = SIZE.min(stored + 70_000);
        snapshots.store(&snapshot_at(40, 2), stored as u64, &bytes(40, SIZE)[stored..end])?;
        stored = end;
        *done = Done::Received(stored);
    }
    if *done < Done::Installed {
        store.persist(&Write { entries: commands(41, 45, 2), ..stand_on(40, 2) })?;
        *done = Done::Installed;
    }
    while store.tidy()? {}
    Ok(())
}

/// How far it came by what is on the disk; it must all fit together.
fn found(storage: &SqliteStorage, recovered: &Recovered) -> Done {
    let snapshot = recovered.snapshot.as_ref().expect("one is always there");
    let bytes_there = read_snapshot(&*storage.snapshots(), snapshot);
    assert!(bytes_there == bytes(snapshot.last_included.index, SIZE), "{snapshot} has other bytes");
    let log: (LogIndex, &[Entry]) = (recovered.base.index, &recovered.entries);
    assert_eq!(recovered.membership, *membership_at(recovered.base.index));
    let receiving = recovered.receiving.as_ref().map_or(0, |(snapshot, stored)| {
        assert_eq!(*snapshot, snapshot_at(40, 2));
        *stored as usize
    });
    let is = |base: LogIndex, entries: Vec<Entry>| log == (base, &entries[..]);
    match snapshot.last_included.index {
        10 if is(10, commands(11, 30, 1)) && receiving == 0 => Done::Nothing,
        20 if is(10, commands(11, 30, 1)) && receiving == 0 => Done::Taken,
        20 if is(20, commands(21, 30, 1)) && receiving == 0 => Done::Compacted,
        20 if is(20, commands(21, 30, 1)) => Done::Received(receiving),
        40 if is(20, commands(21, 30, 1)) && receiving == 0 => Done::Received(SIZE),
        40 if is(40, commands(41, 45, 2)) && receiving == 0 => Done::Installed,
        _ => panic!("{snapshot}, base {}, {} entries, {receiving} received", log.0, log.1.len()),
    }
}

/// SAFETY D02, D03, N05: wherever the crash comes, snapshot, base and log fit together; what was acknowledged is there, of
/// a transfer too; and it all goes on to its end.
/// Fails when: the directory is not synced before the older snapshot is removed, a file is renamed before it is synced,
/// a chunk is not synced, or the base's row is written in a transaction of its own.
#[test]
fn d02_a_crash_at_any_operation_leaves_a_snapshot_that_fits_the_log() {
    for operation in 1.. {
        let mut whole = false;
        for seed in seeds(4) {
            let rng = &mut SmallRng::seed_from_u64(seed);
            let disk = SimulatedDisk::new();
            let (storage, mut store) = before(&disk);
            let mut done = Done::Nothing;
            disk.crash_at(operation);
            let _ = go_on(&storage, &mut *store, &mut done);
            whole = !disk.has_crashed();
            drop((storage, store));
            // Seed 0 is a crash of the process alone. A second crash may come while the store is opened.
            if seed == 0 {
                disk.process_crash()
            } else {
                disk.power_loss(rng)
            }
            if seed % 3 == 2 {
                disk.crash_at(rng.random_range(1..20));
                drop(try_open(&disk.storage()));
                disk.power_loss(rng);
            }
            let storage = disk.storage();
            let (mut store, opened) =
                try_open(&storage).unwrap_or_else(|error| panic!("operation {operation}, seed {seed}: {error}"));
            let mut after = found(&storage, &opened.recovered);
            assert!(after >= done, "operation {operation}, seed {seed}: {done:?} was acknowledged, {after:?} is there");
            go_on(&storage, &mut *store, &mut after).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
            drop(store);
            disk.power_loss(rng);
            assert_eq!(found(&storage, &recover(&storage)), Done::Installed, "operation {operation}, seed {seed}");
            let left = disk.image().into_keys().filter(|name| name.starts_with("snapshot")).count();
            assert_eq!(left, 1, "operation {operation}, seed {seed}: files are left over");
        }
        if whole {
            break;
        }
    }
}

/// SAFETY D02, D03, while thousands of rows are deleted step by step, and the database gets shorter.
/// Fails when: a deletion goes beyond the base, or the opening goes by the rows that are left of what was deleted.
#[test]
fn d02_a_crash_while_a_long_log_is_compacted_harms_nothing_behind_the_base() {
    for seed in seeds(3) {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let disk = SimulatedDisk::new();
        let storage = disk.storage();
        let (mut store, _) = open(&storage);
        // In every third run the database is mostly free afterwards, so that pages are given back.
        let (size, last) = if seed % 3 == 0 { (8_000, 2_600) } else { (40, 6_000) };
        let log: Vec<Entry> = (1..=last).map(|index| command(index, 1, vec![index as u8; size])).collect();
        log.chunks(500).for_each(|entries| store.persist(&append(entries.to_vec())).unwrap());
        drop(store);
        let (mut store, _) = open(&storage);
        let base = last - 10;
        take_snapshot(&*storage.snapshots(), base, 1, &bytes(base, 100));
        store.persist(&stand_on(base, 1)).unwrap();
        for life in 0..4 {
            if life < 3 {
                disk.crash_at(rng.random_range(1..if size == 40 { 300 } else { 3_000 }));
            }
            while let Ok(true) = store.tidy() {}
            assert!(life < 3 || !disk.has_crashed());
            drop(store);
            disk.power_loss(rng);
            let (reopened, opened) = open(&storage);
            assert_eq!(opened.recovered.base, position(base, 1), "seed {seed}");
            assert!(opened.recovered.entries == log[base as usize..], "seed {seed}, life {life}");
            store = reopened;
        }
        assert_eq!(store.tidy(), Ok(false), "seed {seed}");
        drop(store);
        let left = disk.image()["raft.db"].len();
        assert!(size == 40 || left < 18 << 20, "seed {seed}: {left} bytes");
    }
}

/// SAFETY D01. Fails when: what a failed sync left in the cache is counted on after a restart without being written again.
#[test]
fn d01_what_a_failed_sync_of_a_chunk_left_in_the_cache_is_written_again() {
    let (data, snapshot) = (bytes(40, SIZE), snapshot_at(40, 2));
    for seed in 0..4 {
        let disk = SimulatedDisk::new();
        let (storage, store) = before(&disk);
        storage.snapshots().store(&snapshot, 0, &data[..70_000]).unwrap();
        disk.fail_syncs_of("snapshot.receiving", 1);
        let error = storage.snapshots().store(&snapshot, 70_000, &data[70_000..140_000]).unwrap_err();
        assert!(matches!(error, StorageError::Failed { .. }), "{error}");
        drop((storage, store));
        disk.process_crash();
        let storage = disk.storage();
        let (store, opened) = open(&storage);
        assert_eq!(opened.recovered.receiving, Some((snapshot.clone(), 140_000)));
        assert!(storage.snapshots().store(&snapshot, 140_000, &data[140_000..]).unwrap().complete);
        drop(store);
        disk.power_loss(&mut SmallRng::seed_from_u64(seed));
        assert_eq!(recover(&storage).snapshot.as_ref(), Some(&snapshot));
        assert!(read_snapshot(&*storage.snapshots(), &snapshot) == data, "seed {seed}: it was lost");
    }
}

/// SAFETY D01: a failed sync is final for snapshots too, and nothing touches them after it.
/// Fails when: a snapshot is tried again, or the unfinished one is removed from a disk that has failed.
#[test]
fn d01_a_failed_sync_of_a_snapshot_is_final() {
    let disk = SimulatedDisk::new();
    let (storage, store) = before(&disk);
    let snapshots = storage.snapshots();
    let mut writer = snapshots.create().unwrap();
    writer.write_all(&bytes(20, SIZE)).unwrap();
    disk.fail_syncs_of("snapshot.writing", 1);
    let error = writer.finish(position(20, 1), membership_at(20)).unwrap_err();
    assert!(matches!(error, StorageError::Failed { call: "snapshot", .. }), "{error}");
    let operations = disk.operations();
    assert_eq!(snapshots.create().err(), Some(error.clone()));
    assert_eq!(snapshots.store(&snapshot_at(40, 2), 0, b"x"), Err(error));
    assert_eq!(disk.operations(), operations);
    // Reading goes on.
    assert!(read_snapshot(&*snapshots, &snapshot_at(10, 1)) == bytes(10, SIZE));
    drop(store);
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    let storage = disk.storage();
    assert_eq!(found(&storage, &recover(&storage)), Done::Nothing);
}

fn file_of(disk: &SimulatedDisk) -> String {
    disk.image().into_keys().find(|name| name.starts_with("snapshot-")).expect("a finished snapshot")
}

/// Some bits of the head, of the first blocks' headers and of the tail, fewer of a quick run, and some of the rest.
fn bits(size: usize) -> Vec<usize> {
    let rng = &mut SmallRng::seed_from_u64(4);
    let samples = seeds(60).end as usize;
    let dense = [0..64, 65_536 + 20..65_536 + 64, size - 100..size];
    let stride = 3 * stride();
    let dense = dense.into_iter().flat_map(|bytes| (bytes.start * 8..bytes.end * 8).step_by(stride));
    dense.chain((0..samples).map(|_| rng.random_range(0..size * 8))).collect()
}

/// SAFETY D04: whichever bit of a finished snapshot flips, its opening or its reading says so, and where.
/// Fails when: blocks, head or tail have no checksum, or are passed on before they are verified.
#[test]
fn d04_a_flipped_bit_of_a_snapshot_is_noticed() {
    let disk = SimulatedDisk::new();
    drop(before(&disk));
    let (image, file) = (disk.image(), file_of(&disk));
    let snapshot = snapshot_at(10, 1);
    let (mut at_open, mut at_read) = (0, 0);
    for bit in bits(image[&file].len()) {
        disk.restore(&image);
        disk.flip_bit(&file, bit);
        let place = format!("byte {}, bit {}", bit / 8, bit % 8);
        let storage = disk.storage();
        let store = match try_open(&storage) {
            Err(StorageError::Corrupt { path, .. } | StorageError::Format { path, .. }) => {
                assert!(path.ends_with(&file), "{place}: {path:?}");
                at_open += 1;
                continue;
            }
            Err(error) => panic!("{place}: {error:?}"),
            Ok((store, opened)) => {
                assert_eq!(opened.recovered.snapshot.as_ref(), Some(&snapshot), "{place}");
                store
            }
        };
        let mut read = Vec::new();
        let error = storage.snapshots().read(&snapshot).unwrap().read_to_end(&mut read).err();
        let error = error.unwrap_or_else(|| panic!("{place}: not noticed by reading"));
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{place}");
        assert!(error.to_string().contains("byte"), "{place}: {error}");
        assert!(bytes(10, SIZE).starts_with(&read), "{place}: other data than was written");
        let snapshots = storage.snapshots();
        let chunk = |offset| snapshots.open(&snapshot)?.expect("it is the finished one").chunk(offset, 20_000);
        let chunks: Vec<_> = (0..SIZE as u64).step_by(20_000).map(chunk).collect();
        assert!(
            chunks.iter().any(|chunk| matches!(chunk, Err(StorageError::Corrupt { .. }))),
            "{place}: not noticed by chunks"
        );
        for (at, chunk) in chunks.into_iter().enumerate().filter_map(|(at, chunk)| Some((at, chunk.ok()?))) {
            assert!(chunk == bytes(10, SIZE)[at * 20_000..SIZE.min(at * 20_000 + 20_000)], "{place}: other data");
        }
        at_read += 1;
        drop(store);
    }
    assert!(at_open > 50 && at_read > 100, "{at_open} noticed at the opening, {at_read} by reading");
}

/// SAFETY D04, for what is being received: what does not fit is received again.
#[test]
fn d04_a_flipped_bit_of_what_is_being_received_costs_only_time() {
    let disk = SimulatedDisk::new();
    let (storage, store) = before(&disk);
    let (data, snapshot) = (bytes(40, SIZE), snapshot_at(40, 2));
    for start in [0, 30_000, 60_000] {
        storage.snapshots().store(&snapshot, start as u64, &data[start..start + 30_000]).unwrap();
    }
    drop((storage, store));
    let image = disk.image();
    let rng = &mut SmallRng::seed_from_u64(5);
    let file = "snapshot.receiving";
    let sampled = (0..200).map(|_| rng.random_range(0..image[file].len() * 8));
    for bit in (0..64 * 8).chain(sampled.collect::<Vec<_>>()) {
        disk.restore(&image);
        disk.flip_bit(file, bit);
        let storage = disk.storage();
        let (_store, opened) = open(&storage);
        let stored = opened.recovered.receiving.map_or(0, |(found, stored)| {
            assert_eq!(found, snapshot, "bit {bit}");
            stored as usize
        });
        assert!(stored <= 60_000, "bit {bit}: not noticed");
        assert!(storage.snapshots().store(&snapshot, stored as u64, &data[stored..]).unwrap().complete, "bit {bit}");
        assert!(read_snapshot(&*storage.snapshots(), &snapshot) == data, "bit {bit}");
    }
}

/// While the log has all entries, a damaged snapshot is one that is not there; its file goes.
#[test]
fn a_damaged_snapshot_that_nothing_stands_on_is_dropped() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 30, 1))).unwrap();
    let storage = disk.storage();
    drop(store);
    let (store, _) = open(&storage);
    take_snapshot(&*storage.snapshots(), 10, 1, &bytes(10, SIZE));
    drop(store);
    let file = file_of(&disk);
    disk.flip_bit(&file, 3);
    let recovered = recover(&storage);
    assert_eq!((recovered.snapshot, recovered.entries), (None, commands(1, 30, 1)));
    assert!(!disk.image().contains_key(&file));
}

/// Files that are gone, or come back from a copy, under a log that goes on from a later one.
#[test]
fn snapshots_that_vanish_or_come_back_from_a_copy_are_noticed() {
    let disk = SimulatedDisk::new();
    let (storage, mut store) = before(&disk);
    let earlier = disk.image();
    let earlier_file = file_of(&disk);
    let mut done = Done::Nothing;
    go_on(&storage, &mut *store, &mut done).unwrap();
    drop((storage, store));
    let image = disk.image();
    let mut gone = image.clone();
    gone.remove(&file_of(&disk));
    let mut older = gone.clone();
    older.insert(earlier_file.clone(), earlier[&earlier_file].clone());
    let mut renamed = gone.clone();
    renamed.insert(file_of(&disk), earlier[&earlier_file].clone());
    // The database and its snapshot as they were, beside the lock file as it is.
    let mut both = earlier.clone();
    both.insert("LOCK".to_owned(), image["LOCK"].clone());
    for (what, damaged) in [("gone", gone), ("older", older), ("renamed", renamed), ("all older", both)] {
        disk.restore(&damaged);
        let error = try_open(&disk.storage()).err().unwrap_or_else(|| panic!("{what}: not noticed"));
        assert!(matches!(error, StorageError::Corrupt { .. }), "{what}: {error}");
    }
    // A copy of everything is a store like any other, and the same disk: only the other servers know more.
    disk.restore(&earlier);
    let storage = disk.storage();
    let (mut store, opened) = open(&storage);
    assert_eq!(opened.incarnation, 17);
    assert_eq!(found(&storage, &opened.recovered), Done::Nothing);
    store.condemn(45, 30).unwrap();
    drop(store);
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    let error = try_open(&storage).err().unwrap();
    assert!(matches!(error, StorageError::LostEntries { acknowledged: 45, last: 30, .. }), "{error}");
}
