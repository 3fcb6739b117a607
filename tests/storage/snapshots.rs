//! What every store does with snapshots.

use std::io::{ErrorKind, Write as _};

use bytes::Bytes;
use proptest::prelude::*;
use ractor_raft::{
    raft::SnapshotMetadata,
    storage::{Opened, Received, Snapshots, StorageError},
};

use crate::given::{Disk, bytes, membership_at, metadata, open, position, read_snapshot, recover, take_snapshot};

/// Several blocks, and a part of one.
const SIZE: usize = 300_000;

fn received(stored: u64) -> Received {
    Received { stored, complete: false }
}

fn a_snapshot_is_what_was_written(disk: &Disk) {
    let (store, opened) = open(&*disk.storage);
    assert_eq!((opened.recovered.snapshot, opened.recovered.receiving), (None, None));
    let snapshots = disk.storage.snapshots();
    for (index, size) in [(5, 0), (6, 1), (7, 65_536), (8, 65_537), (9, SIZE)] {
        let bytes = bytes(index, size);
        let mut writer = snapshots.create().unwrap();
        bytes.chunks(977).for_each(|piece| writer.write_all(piece).unwrap());
        writer.flush().unwrap();
        let snapshot = writer.finish(position(index, 2), membership_at(index)).unwrap();
        assert_eq!(snapshot, metadata(index, 2, &bytes));
        assert_eq!(read_snapshot(&*snapshots, &snapshot), bytes);
    }
    drop(store);
    let (_store, Opened { recovered, .. }) = open(&*disk.storage);
    assert_eq!(recovered.snapshot, Some(metadata(9, 2, &bytes(9, SIZE))));
    assert_eq!(recovered.receiving, None);
    assert_eq!(read_snapshot(&*disk.storage.snapshots(), &metadata(9, 2, &bytes(9, SIZE))), bytes(9, SIZE));
}

fn chunks_of_any_length_from_any_place(disk: &Disk) {
    let (_store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let bytes = bytes(1, SIZE);
    let snapshot = take_snapshot(&*snapshots, 9, 2, &bytes);
    let mut reader = snapshots.open(&snapshot).unwrap().unwrap();
    for (offset, length) in
        [(0, 10), (65_530, 12), (131_072, 65_536), (0, SIZE * 2), (299_999, 5), (7, 200_000), (70, 1)]
    {
        let chunk = reader.chunk(offset, length).unwrap();
        let start = offset as usize;
        assert_eq!(chunk, bytes[start..SIZE.min(start + length)], "{length} bytes from {offset}");
    }
    for offset in [SIZE as u64, SIZE as u64 + 1, u64::MAX] {
        assert_eq!(reader.chunk(offset, 10).unwrap(), "");
    }
    let other = SnapshotMetadata { checksum: 1, ..snapshot };
    assert!(snapshots.open(&other).unwrap().is_none());
    assert!(snapshots.read(&other).is_err());
}

fn a_snapshot_is_replaced_by_a_later_one_and_never_by_an_earlier_one(disk: &Disk) {
    let (store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let first = take_snapshot(&*snapshots, 5, 1, &bytes(1, SIZE));
    let mut reader = snapshots.read(&first).unwrap();
    let mut half = vec![0; SIZE / 2];
    reader.read_exact(&mut half).unwrap();
    let mut chunks = snapshots.open(&first).unwrap().unwrap();
    let second = take_snapshot(&*snapshots, 9, 1, &bytes(2, SIZE));
    assert!(snapshots.open(&first).unwrap().is_none());
    assert!(snapshots.read(&first).is_err());
    // Who reads it has it to its end.
    reader.read_to_end(&mut half).unwrap();
    assert_eq!(half, bytes(1, SIZE));
    assert_eq!(chunks.chunk(0, SIZE).unwrap(), bytes(1, SIZE));
    // The log may stand on the later one by now.
    assert_eq!(take_snapshot(&*snapshots, 7, 1, &bytes(3, 10)).last_included, position(7, 1));
    assert_eq!(read_snapshot(&*snapshots, &second), bytes(2, SIZE));
    // Of the same place it is as good.
    let third = take_snapshot(&*snapshots, 9, 1, &bytes(4, 100));
    assert_eq!(read_snapshot(&*snapshots, &third), bytes(4, 100));
    drop(store);
    assert_eq!(recover(&*disk.storage).snapshot, Some(third));
}

fn an_unfinished_snapshot_is_as_if_it_had_never_been(disk: &Disk) {
    let (store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let finished = take_snapshot(&*snapshots, 5, 1, &bytes(1, SIZE));
    let mut dropped = snapshots.create().unwrap();
    dropped.write_all(&bytes(2, SIZE)).unwrap();
    drop(dropped);
    let mut replaced = snapshots.create().unwrap();
    replaced.write_all(&bytes(3, SIZE)).unwrap();
    let mut last = snapshots.create().unwrap();
    last.write_all(&bytes(4, SIZE)).unwrap();
    let later = replaced.write_all(&bytes(3, SIZE)).and_then(|()| replaced.write_all(&bytes(3, SIZE)));
    assert!(later.is_err() && replaced.finish(position(8, 1), membership_at(8)).is_err());
    assert_eq!(read_snapshot(&*snapshots, &finished), bytes(1, SIZE));
    let last = last.finish(position(9, 1), membership_at(9)).unwrap();
    assert_eq!(read_snapshot(&*snapshots, &last), bytes(4, SIZE));
    let _left = snapshots.create().unwrap().write_all(&bytes(5, SIZE));
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!((recovered.snapshot, recovered.receiving), (Some(last), None));
}

fn chunks_in_order_become_the_finished_snapshot(disk: &Disk) {
    let (store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    for (index, size) in [(5, SIZE), (6, 0), (7, 65_536)] {
        let bytes = bytes(index, size);
        let snapshot = metadata(index, 3, &bytes);
        let mut offset = 0;
        loop {
            let end = size.min(offset + 70_000);
            let complete = end == size;
            let outcome = snapshots.store(&snapshot, offset as u64, &bytes[offset..end]);
            assert_eq!(outcome, Ok(Received { stored: end as u64, complete }));
            offset = end;
            if complete {
                break;
            }
        }
        assert_eq!(read_snapshot(&*snapshots, &snapshot), bytes);
        assert_eq!(chunk(&*snapshots, &snapshot, 10).unwrap(), bytes[..10.min(size)]);
        // The last chunk once more: its answer was lost.
        assert_eq!(snapshots.store(&snapshot, 0, b"x"), Ok(Received { stored: size as u64, complete: true }));
    }
    drop(store);
    assert_eq!(recover(&*disk.storage).snapshot, Some(metadata(7, 3, &bytes(7, 65_536))));
}

fn chunks_out_of_order_are_refused_with_what_there_is(disk: &Disk) {
    let (_store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let bytes = bytes(1, SIZE);
    let snapshot = metadata(5, 3, &bytes);
    assert_eq!(snapshots.store(&snapshot, 100, &bytes[100..200]), Ok(received(0)));
    assert_eq!(snapshots.store(&snapshot, 0, &bytes[..100]), Ok(received(100)));
    assert_eq!(snapshots.store(&snapshot, 200, &bytes[200..300]), Ok(received(100)));
    assert_eq!(snapshots.store(&snapshot, 100, &bytes[100..200]), Ok(received(200)));
    assert_eq!(snapshots.store(&snapshot, 100, &bytes[100..200]), Ok(received(200)));
    // More than there is to be.
    assert_eq!(snapshots.store(&snapshot, 200, &[&bytes[200..], b"x"].concat()), Ok(received(200)));
    // Of another one, from its middle on: no use, and no harm.
    let other = metadata(6, 3, &bytes);
    assert_eq!(snapshots.store(&other, 200, &bytes[200..300]), Ok(received(0)));
    assert_eq!(snapshots.store(&snapshot, 200, &bytes[200..300]), Ok(received(300)));
    // From its beginning on it takes the place.
    assert_eq!(snapshots.store(&other, 0, &bytes[..300]), Ok(received(300)));
    assert_eq!(snapshots.store(&snapshot, 300, &bytes[300..]), Ok(received(0)));
    let last = snapshots.store(&other, 300, &bytes[300..]);
    assert_eq!(last, Ok(Received { stored: SIZE as u64, complete: true }));
    assert_eq!(read_snapshot(&*snapshots, &other), bytes);
}

/// SAFETY N05. Fails when: what was received is removed by an opening, or counted in blocks that were never whole.
fn n05_receiving_goes_on_after_a_reopening(disk: &Disk) {
    let bytes = bytes(1, SIZE);
    let snapshot = metadata(5, 3, &bytes);
    let mut stored = 0;
    for end in [1, 70_000, 70_001, 299_999, SIZE] {
        let (_store, opened) = open(&*disk.storage);
        let expected = (stored > 0).then(|| (snapshot.clone(), stored as u64));
        assert_eq!(opened.recovered.receiving, expected);
        let outcome = disk.storage.snapshots().store(&snapshot, stored as u64, &bytes[stored..end]).unwrap();
        assert_eq!(outcome, Received { stored: end as u64, complete: end == SIZE });
        stored = end;
    }
    let (_store, Opened { recovered, .. }) = open(&*disk.storage);
    assert_eq!((recovered.snapshot.as_ref(), recovered.receiving), (Some(&snapshot), None));
    assert_eq!(read_snapshot(&*disk.storage.snapshots(), &snapshot), bytes);
}

/// Fails when: the whole is not verified before it is finished.
fn a_whole_that_does_not_fit_is_gone(disk: &Disk) {
    let (_store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let before = take_snapshot(&*snapshots, 4, 3, b"before");
    let (mut wrong, right) = (bytes(1, SIZE), bytes(1, SIZE));
    wrong[12_345] ^= 1;
    let snapshot = metadata(5, 3, &right);
    assert_eq!(snapshots.store(&snapshot, 0, &wrong[..100_000]), Ok(received(100_000)));
    assert_eq!(snapshots.store(&snapshot, 100_000, &wrong[100_000..]), Ok(received(0)));
    assert_eq!(read_snapshot(&*snapshots, &before), b"before");
    assert_eq!(snapshots.store(&snapshot, 100_000, &right[100_000..]), Ok(received(0)));
    assert!(snapshots.store(&snapshot, 0, &right).unwrap().complete);
    assert_eq!(read_snapshot(&*snapshots, &snapshot), right);
}

/// SAFETY D05. Fails when: a full disk is taken for a broken one, or leaves a part behind that takes the room.
fn d05_a_full_disk_gives_the_snapshot_up_and_takes_the_next(disk: &Disk) {
    let Some(set_full) = &disk.set_full else { return };
    let (mut store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let before = take_snapshot(&*snapshots, 4, 3, b"before");
    let (data, coming) = (bytes(1, SIZE), metadata(9, 3, &bytes(1, SIZE)));
    let mut writer = snapshots.create().unwrap();
    writer.write_all(&data).unwrap();
    assert_eq!(snapshots.store(&coming, 0, &data[..1_000]), Ok(received(1_000)));
    set_full(true);
    let error = writer.write_all(&data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(matches!(error.get_ref().unwrap().downcast_ref(), Some(StorageError::Full { call: "snapshot", .. })));
    assert!(matches!(writer.finish(position(8, 3), membership_at(8)), Err(StorageError::Full { .. })));
    assert!(matches!(snapshots.store(&coming, 1_000, &data[1_000..]), Err(StorageError::Full { .. })));
    assert_eq!(read_snapshot(&*snapshots, &before), b"before");
    set_full(false);
    assert_eq!(snapshots.store(&coming, 1_000, &data[1_000..]), Ok(received(0)));
    let after = take_snapshot(&*snapshots, 8, 3, &data);
    assert!(snapshots.store(&coming, 0, &data).unwrap().complete);
    assert!(snapshots.open(&after).unwrap().is_none());
    while store.tidy().unwrap() {}
    drop(store);
    assert_eq!(recover(&*disk.storage).snapshot, Some(coming));
}

/// SAFETY D01. Fails when: a snapshot whose write failed is finished.
fn d01_a_failed_write_ends_the_snapshot_and_leaves_the_one_before(disk: &Disk) {
    let Some(fail_next_write) = &disk.fail_next_snapshot_write else { return };
    let (store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let before = take_snapshot(&*snapshots, 4, 3, b"before");
    let mut writer = snapshots.create().unwrap();
    writer.write_all(b"after").unwrap();
    fail_next_write();
    let error = writer.finish(position(8, 3), membership_at(8)).unwrap_err();
    assert!(matches!(error, StorageError::Failed { call: "snapshot", .. }), "{error}");
    assert_eq!(read_snapshot(&*snapshots, &before), b"before");
    drop(store);
    assert_eq!(recover(&*disk.storage).snapshot, Some(before));
}

for_every_store! {
    a_snapshot_is_what_was_written
    chunks_of_any_length_from_any_place
    a_snapshot_is_replaced_by_a_later_one_and_never_by_an_earlier_one
    an_unfinished_snapshot_is_as_if_it_had_never_been
    chunks_in_order_become_the_finished_snapshot
    chunks_out_of_order_are_refused_with_what_there_is
    n05_receiving_goes_on_after_a_reopening
    a_whole_that_does_not_fit_is_gone
    d05_a_full_disk_gives_the_snapshot_up_and_takes_the_next
    d01_a_failed_write_ends_the_snapshot_and_leaves_the_one_before
}

/// What the network does to a transfer.
#[derive(Clone, Debug)]
enum Delivery {
    /// The chunk at the sender's offset arrives, and so does its answer.
    Chunk(usize),
    /// It arrives; the answer is lost, and the sender sends again from where it was.
    Unanswered(usize),
    /// A chunk of before, or from further on, arrives.
    Stray(usize, usize),
    /// One of another snapshot arrives; from its beginning on, perhaps.
    Other(usize, bool),
    Reopen,
}

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    let length = || prop_oneof![1..300_usize, 60_000..140_000_usize];
    let delivery = prop_oneof![
        6 => length().prop_map(Delivery::Chunk),
        2 => length().prop_map(Delivery::Unanswered),
        3 => (0..SIZE, length()).prop_map(|(offset, length)| Delivery::Stray(offset, length)),
        1 => (length(), prop::bool::weighted(0.3)).prop_map(|(length, begins)| Delivery::Other(length, begins)),
        1 => Just(Delivery::Reopen),
    ];
    prop::collection::vec(delivery, 0..40)
}

/// What the receiver has, in plain words.
#[derive(Default)]
struct Expected {
    finished: bool,
    /// Of which of the two snapshots it has how many bytes.
    receiving: Option<(bool, usize)>,
}

impl Expected {
    /// `is_main`: of the snapshot that is to arrive, not of the other.
    fn store(&mut self, is_main: bool, offset: usize, length: usize) -> Received {
        if is_main && self.finished {
            return Received { stored: SIZE as u64, complete: true };
        }
        if offset == 0 {
            self.receiving = Some((is_main, 0));
        }
        let Some((_, stored)) = self.receiving.as_mut().filter(|(which, _)| *which == is_main) else {
            return received(0);
        };
        if *stored == offset {
            *stored += length;
        }
        let stored = *stored;
        self.finished |= stored == SIZE;
        self.receiving = self.receiving.filter(|_| stored < SIZE);
        Received { stored: stored as u64, complete: stored == SIZE }
    }
}

/// Sends a snapshot over a network that loses, repeats and reorders; in the end all arrives.
fn transfer(disk: &Disk, deliveries: Vec<Delivery>) {
    let bytes = bytes(1, SIZE);
    let (snapshot, other) = (metadata(5, 3, &bytes), metadata(6, 3, &bytes));
    let mut expected = Expected::default();
    let (mut store, _) = open(&*disk.storage);
    let snapshots = disk.storage.snapshots();
    let send = |expected: &mut Expected, is_main: bool, offset: usize, length: usize| {
        let end = SIZE.min(offset + length);
        let snapshot = if is_main { &snapshot } else { &other };
        let outcome = snapshots.store(snapshot, offset as u64, &bytes[offset..end]).unwrap();
        assert_eq!(outcome, expected.store(is_main, offset, end - offset), "{length} bytes from {offset}");
        outcome.stored as usize
    };
    let mut offset = 0;
    for delivery in deliveries {
        match delivery {
            Delivery::Chunk(length) => offset = send(&mut expected, true, offset, length),
            Delivery::Unanswered(length) => _ = send(&mut expected, true, offset, length),
            Delivery::Stray(from, length) => _ = send(&mut expected, true, from, length),
            Delivery::Other(length, begins) => {
                send(&mut expected, false, if begins { 0 } else { 1_000 }, length);
            }
            Delivery::Reopen => {
                drop(store);
                let (reopened, opened) = open(&*disk.storage);
                store = reopened;
                let found = opened.recovered.receiving.map(|(found, stored)| (found == snapshot, stored as usize));
                assert_eq!(found, expected.receiving);
            }
        }
        let finished = chunk(&*snapshots, &snapshot, SIZE);
        assert_eq!(finished.is_some(), expected.finished);
        assert!(finished.is_none_or(|found| found == bytes));
    }
    for _ in 0..20 {
        offset = send(&mut expected, true, offset, 100_000);
        if offset == SIZE {
            assert_eq!(read_snapshot(&*snapshots, &snapshot), bytes);
            return;
        }
    }
    panic!("the transfer does not end");
}

/// The beginning of the finished snapshot; `None` if it is another one.
fn chunk(snapshots: &dyn Snapshots, snapshot: &SnapshotMetadata, length: usize) -> Option<Bytes> {
    snapshots.open(snapshot).unwrap().map(|mut reader| reader.chunk(0, length).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Fails when: a chunk is stored at another place than behind the last one, or of another snapshot than the last one.
    #[test]
    fn chunks_under_any_order_loss_and_repetition_become_the_snapshot(deliveries in deliveries()) {
        transfer(&crate::given::in_memory(), deliveries.clone());
        #[cfg(all(feature = "sqlite", feature = "testing"))]
        transfer(&crate::given::on_a_simulated_disk(), deliveries);
    }
}
