//! Crashes, power cuts and failing disks, under the real SQLite store.

use ractor_raft::{
    raft::{Entry, HardState, Write},
    storage::{StorageError, Store},
    testing::disk::SimulatedDisk,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::given::{append, command, commands, open, recover, seeds, try_open, vote};

/// SAFETY E01: term and vote are one transaction; a crash at any operation leaves the old pair or the new one.
/// Fails when: term and vote are committed one after the other.
#[test]
fn e01_term_and_vote_change_together_whatever_operation_the_crash_hits() {
    let before = HardState { current_term: 4, voted_for: Some(1) };
    let after = HardState { current_term: 5, voted_for: Some(2) };
    let (mut seen_before, mut seen_after) = (0, 0);
    for operation in 1.. {
        let mut whole = false;
        for seed in 0..8 {
            let disk = SimulatedDisk::new();
            let (mut store, _) = open(&disk.storage());
            store.persist(&vote(4, Some(1))).unwrap();
            disk.crash_at(operation);
            let outcome = store.persist(&vote(5, Some(2)));
            whole = !disk.has_crashed();
            drop(store);
            // Seed 0 is a crash of the process alone.
            if seed == 0 {
                disk.process_crash()
            } else {
                disk.power_loss(&mut SmallRng::seed_from_u64(seed))
            }
            let found = recover(&disk.storage()).hard_state;
            assert!(found == before || found == after, "operation {operation}, seed {seed}: {found:?}");
            assert!(outcome.is_err() || found == after, "operation {operation}, seed {seed}: acknowledged and lost");
            seen_before += u32::from(found == before);
            seen_after += u32::from(found == after);
        }
        if whole {
            break;
        }
    }
    assert!(seen_before > 0 && seen_after > 0, "{seen_before} crashes before the commit, {seen_after} after it");
}

/// SAFETY D01: a failed fsync is final, for the failed write and all later ones.
/// Fails when: the store tries the write again, or goes on with the next one: the disk then says yes, and lies.
#[test]
fn d01_a_failed_fsync_poisons_the_store() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 2, 1))).unwrap();
    disk.fail_syncs(1);
    let error = store.persist(&append(commands(3, 3, 1))).unwrap_err();
    assert!(
        matches!(&error, StorageError::Failed { call: "persist", cause, .. } if cause.contains("1034")),
        "the cause should name SQLITE_IOERR_FSYNC: {error}"
    );
    for _ in 0..3 {
        assert_eq!(store.persist(&append(commands(3, 3, 1))), Err(error.clone()));
        assert_eq!(store.persist(&vote(2, None)), Err(error.clone()));
        assert_eq!(store.tidy(), Err(error.clone()));
    }
    drop(store);
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    assert_eq!(recover(&disk.storage()).entries, commands(1, 2, 1));
}

/// A commit whose fsync failed may be read after a restart, from the page cache. Then it counts, for good.
/// Fails when: `open` returns before what it read is durable (without `make_durable`).
#[test]
fn d01_what_a_restart_finds_of_a_failed_write_is_durable() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 1, 1))).unwrap();
    disk.fail_syncs(1);
    store.persist(&append(commands(2, 2, 1))).unwrap_err();
    drop(store);
    disk.process_crash();
    assert_eq!(recover(&disk.storage()).entries, commands(1, 2, 1));
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    assert_eq!(recover(&disk.storage()).entries, commands(1, 2, 1));
}

/// SAFETY D01, for the checkpoint: when the database's fsync fails it is known, and what was acknowledged is safe in the
/// log alone.
/// Fails when: SQLite makes checkpoints by itself at a commit, whose failures it does not report.
#[test]
fn d01_a_failed_fsync_of_a_checkpoint_poisons_the_store_and_loses_nothing() {
    for file in ["raft.db", "raft.db-wal"] {
        for seed in 0..3 {
            let disk = SimulatedDisk::new();
            let (mut store, _) = open(&disk.storage());
            disk.fail_syncs_of("raft.db", u32::from(file == "raft.db"));
            let entries: Vec<Entry> = (1..=100).map(|index| command(index, 1, vec![index as u8; 60_000])).collect();
            for entry in &entries {
                store.persist(&append(vec![entry.clone()])).unwrap();
            }
            // The log's syncs were wanted until now.
            disk.fail_syncs_of("raft.db-wal", u32::from(file == "raft.db-wal"));
            let error = store.tidy().unwrap_err();
            assert!(matches!(error, StorageError::Failed { call: "checkpoint", .. }), "{file}: {error}");
            assert_eq!(store.persist(&append(commands(101, 101, 1))), Err(error));
            drop(store);
            disk.power_loss(&mut SmallRng::seed_from_u64(seed));
            assert!(recover(&disk.storage()).entries == entries, "{file}, seed {seed}: acknowledged entries are gone");
        }
    }
}

/// SAFETY D01: nothing touches the disk after a failure, not even to close the store.
/// Fails when: SQLite makes a checkpoint at close, or the store asks again before it says no.
#[test]
fn d01_a_poisoned_store_leaves_the_disk_alone() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 2, 1))).unwrap();
    disk.fail_syncs(1);
    store.persist(&append(commands(3, 3, 1))).unwrap_err();
    let operations = disk.operations();
    store.persist(&append(commands(3, 3, 1))).unwrap_err();
    store.tidy().unwrap_err();
    drop(store);
    assert_eq!(disk.operations(), operations);
}

/// A store that fails to become durable at its opening is not opened.
#[test]
fn d01_a_failed_fsync_at_the_opening_refuses_it() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    store.persist(&append(commands(1, 2, 1))).unwrap();
    drop(store);
    disk.fail_syncs_of("raft.db", 1);
    let error = try_open(&disk.storage()).err().unwrap();
    assert!(matches!(error, StorageError::Failed { call: "checkpoint", .. }), "{error}");
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    assert_eq!(recover(&disk.storage()).entries, commands(1, 2, 1));
}

/// SAFETY D05, where the room runs out in a checkpoint: the write-ahead log still has everything.
#[test]
fn d05_a_checkpoint_without_room_is_refused_and_done_later() {
    let disk = SimulatedDisk::new();
    let (mut store, _) = open(&disk.storage());
    let entries: Vec<Entry> = (1..=100).map(|index| command(index, 1, vec![index as u8; 60_000])).collect();
    store.persist(&append(entries.clone())).unwrap();
    disk.set_full(true);
    assert!(matches!(store.tidy(), Err(StorageError::Full { call: "checkpoint", .. })));
    disk.set_full(false);
    assert_eq!(store.tidy(), Ok(false));
    store.persist(&append(commands(101, 101, 1))).unwrap();
    drop(store);
    disk.power_loss(&mut SmallRng::seed_from_u64(1));
    assert_eq!(recover(&disk.storage()).entries, [entries, commands(101, 101, 1)].concat());
}

/// Ghost entries: a process killed between its write and its fsync leaves an entry that the next one reads. If a power
/// cut may still take it away, it must not be counted.
/// Fails when: `open` returns before what it read is durable (without `make_durable`).
#[test]
fn what_an_opening_returns_survives_a_power_cut_right_after_it() {
    let mut ghosts = 0;
    for operation in 1.. {
        let mut whole = false;
        for seed in 0..8 {
            let disk = SimulatedDisk::new();
            let (mut store, _) = open(&disk.storage());
            store.persist(&append(commands(1, 2, 1))).unwrap();
            disk.crash_at(operation);
            let outcome = store.persist(&append(commands(3, 3, 1)));
            whole = !disk.has_crashed();
            drop(store);
            disk.process_crash();
            let returned = recover(&disk.storage());
            ghosts += u32::from(outcome.is_err() && returned.entries.len() == 3);
            disk.power_loss(&mut SmallRng::seed_from_u64(seed));
            let after = recover(&disk.storage());
            assert!(after == returned, "operation {operation}, seed {seed}: {returned:?} was returned, then {after:?}");
        }
        if whole {
            break;
        }
    }
    assert!(ghosts > 0, "no crash left an unacknowledged entry to be read");
}

/// SAFETY D02 and D03: whatever a power cut does, acknowledged writes are there, the write it interrupted is there whole
/// or not at all, and the store opens.
/// Fails when: `synchronous` is NORMAL (lost), or the scan of the log takes a torn end for damage (does not open).
#[test]
fn d02_d03_power_cuts_lose_nothing_acknowledged_and_nothing_in_part() {
    for seed in seeds(80) {
        storm(seed);
    }
}

/// A creation that power cuts interrupt, once and again, is begun anew by the next opening.
/// Fails when: the header that a cut tore is taken for damage although the creation's journal is there, or the journal's
/// deletion is not durable before anything is written to the log.
#[test]
fn d03_a_creation_that_was_cut_short_is_begun_anew() {
    for operation in 1.. {
        let mut whole = false;
        for seed in seeds(8) {
            let rng = &mut SmallRng::seed_from_u64(seed);
            let disk = SimulatedDisk::new();
            disk.crash_at(operation);
            drop(try_open(&disk.storage()));
            whole = !disk.has_crashed();
            disk.power_loss(rng);
            disk.crash_at(rng.random_range(1..40));
            drop(try_open(&disk.storage()));
            disk.power_loss(rng);
            let (mut store, opened) =
                try_open(&disk.storage()).unwrap_or_else(|error| panic!("operation {operation}, seed {seed}: {error}"));
            assert_eq!(opened.recovered.entries, []);
            store.persist(&append(commands(1, 3, 1))).unwrap();
            drop(store);
            disk.power_loss(rng);
            assert_eq!(recover(&disk.storage()).entries, commands(1, 3, 1));
        }
        if whole {
            break;
        }
    }
}

#[test]
fn one_seed_gives_one_run() {
    assert_eq!(storm(7), storm(7));
}

/// What is on the disk for certain, and what the interrupted write would make of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl Expected {
    fn with(&self, write: &Write) -> Expected {
        let mut next = self.clone();
        next.hard_state = write.hard_state.unwrap_or(next.hard_state);
        next.entries.truncate(write.truncate_from.map_or(usize::MAX, |from| from as usize - 1));
        next.entries.extend_from_slice(&write.entries);
        next
    }
}

/// How many operations it took, and what there was in the end.
fn storm(seed: u64) -> (u64, Expected) {
    let rng = &mut SmallRng::seed_from_u64(seed);
    let disk = SimulatedDisk::new();
    let mut acknowledged = Expected::default();
    let mut interrupted = None;
    // Some storms are large enough for checkpoints.
    let is_large = seed % 32 == 3;
    let largest = if is_large { 60_000 } else { 900 };
    for life in 0..6 {
        // The last life is quiet. A crash may come while the store is opened, too.
        if life < 5 {
            disk.crash_at(rng.random_range(1..if is_large { 3_000 } else { 150 }));
        }
        match try_open(&disk.storage()) {
            Ok((mut store, opened)) => {
                let found = Expected { hard_state: opened.recovered.hard_state, entries: opened.recovered.entries };
                assert!(
                    found == acknowledged || Some(&found) == interrupted.as_ref(),
                    "life {life}: {} entries, {:?} found; {} entries, {:?} acknowledged. Rerun: SEED={seed} cargo test --test \
                     storage d02",
                    found.entries.len(),
                    found.hard_state,
                    acknowledged.entries.len(),
                    acknowledged.hard_state,
                );
                acknowledged = found;
                interrupted = None;
                if life < 5 {
                    interrupted = Some(write_until_the_crash(&mut *store, &mut acknowledged, largest, rng));
                }
            }
            Err(error) => assert!(disk.has_crashed(), "{error}. Rerun: SEED={seed} cargo test --test storage d02"),
        }
        if rng.random_bool(0.8) { disk.power_loss(rng) } else { disk.process_crash() }
    }
    (disk.operations(), acknowledged)
}

/// The state that the interrupted write would have led to.
fn write_until_the_crash(
    store: &mut dyn Store,
    acknowledged: &mut Expected,
    largest: usize,
    rng: &mut SmallRng,
) -> Expected {
    loop {
        let write = random_write(acknowledged, largest, rng);
        let next = acknowledged.with(&write);
        match store.persist(&write) {
            Ok(()) => *acknowledged = next,
            Err(_) => return next,
        }
        if rng.random_bool(0.2) && store.tidy().is_err() {
            return acknowledged.clone();
        }
    }
}

fn random_write(state: &Expected, largest: usize, rng: &mut SmallRng) -> Write {
    let term = state.hard_state.current_term + u64::from(rng.random_bool(0.2));
    let voted_for = rng.random_bool(0.5).then(|| rng.random_range(1..4));
    let hard_state = rng.random_bool(0.3).then_some(HardState { current_term: term, voted_for });
    let last = state.entries.len() as u64;
    let truncate_from =
        (last > 0 && rng.random_bool(0.1)).then(|| rng.random_range(last.saturating_sub(20).max(1)..=last));
    let first = truncate_from.unwrap_or(last + 1);
    let entries = (first..first + rng.random_range(0..20))
        .map(|index| command(index, term, vec![rng.random(); rng.random_range(0..largest)]))
        .collect();
    Write { hard_state, truncate_from, base: None, entries }
}
