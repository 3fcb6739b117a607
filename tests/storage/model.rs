//! Any sequence of writes, crashes and openings, against a plain list.

use proptest::prelude::*;
use ractor_raft::{
    raft::{Base, HardState, Payload, Recovered, Write},
    storage::{MemoryStorage, Storage, Store},
    testing::disk::SimulatedDisk,
};
use rand::{SeedableRng, rngs::SmallRng};

use crate::given::{bootstrap, bytes, command, membership_at, metadata, open, position, read_snapshot, take_snapshot};

#[derive(Clone, Debug)]
enum Step {
    /// Appends this many entries of so many bytes, after removing some; perhaps with a new term and vote.
    Write {
        remove: u64,
        append: usize,
        bytes: usize,
        hard_state: Option<(u64, Option<u64>)>,
    },
    /// Takes a snapshot of its own up to somewhere in the log, and lets the log stand so many entries before that.
    Compact {
        back: u64,
        trail: u64,
        bytes: usize,
        /// Appended in the same write.
        append: usize,
    },
    /// Receives a snapshot from elsewhere, up to an entry so far from the log's end, and lets the log stand on it.
    Install {
        distance: i64,
        conflict: bool,
        bytes: usize,
        append: usize,
    },
    /// Receives a part of one.
    Receive {
        bytes: usize,
    },
    Tidy,
    Reopen,
    /// Only where there is power to lose.
    PowerLoss(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hard_state = prop::option::of((any::<u64>(), prop::option::of(1..5_u64)));
    let write = (0..4_u64, 0..6_usize, prop_oneof![0..40_usize, 3_000..9_000_usize], hard_state)
        .prop_map(|(remove, append, bytes, hard_state)| Step::Write { remove, append, bytes, hard_state });
    let compact = (0..4_u64, 0..4_u64, 0..90_000_usize, 0..3_usize)
        .prop_map(|(back, trail, bytes, append)| Step::Compact { back, trail, bytes, append });
    let install = (-8..6_i64, any::<bool>(), 0..90_000_usize, 0..3_usize)
        .prop_map(|(distance, conflict, bytes, append)| Step::Install { distance, conflict, bytes, append });
    let step = prop_oneof![
        6 => write,
        2 => compact,
        1 => install,
        1 => (1..90_000_usize).prop_map(|bytes| Step::Receive { bytes }),
        1 => Just(Step::Tidy),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::PowerLoss),
    ];
    prop::collection::vec(step, 1..40)
}

/// The log as a list, by index: what is not in it is not in the list.
fn last(model: &Recovered) -> u64 {
    model.base.index + model.entries.len() as u64
}

fn term_at(model: &Recovered, index: u64) -> Option<u64> {
    if index == model.base.index {
        return Some(model.base.term);
    }
    model.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
}

/// What a write means, told in other words than the stores'.
fn apply(model: &mut Recovered, write: Write) {
    model.hard_state = write.hard_state.unwrap_or(model.hard_state);
    model.entries.retain(|entry| write.truncate_from.is_none_or(|from| entry.index < from));
    if let Some(Base { position, membership }) = write.base {
        let fits = term_at(model, position.index) == Some(position.term);
        model.entries.retain(|entry| fits && entry.index > position.index);
        model.base = position;
        model.membership = (*membership).clone();
    }
    model.entries.extend(write.entries);
}

/// A write that lets the log stand on this entry and go on behind it.
fn stand_on_and_append(model: &Recovered, index: u64, term: u64, append: usize) -> Write {
    let fits = term_at(model, index) == Some(term);
    let end = if fits { last(model) } else { index };
    let entries = (end + 1..).take(append).map(|index| command(index, term, "behind it")).collect();
    let base = Base { position: position(index, term), membership: membership_at(index) };
    Write { base: Some(base), entries, ..Write::default() }
}

/// Opens it, and compares all that it remembers.
fn reopen(storage: &dyn Storage, model: &Recovered) -> Box<dyn Store> {
    let (store, opened) = open(storage);
    let found = &opened.recovered;
    assert_eq!(found.receiving, model.receiving);
    assert_eq!(found.snapshot, model.snapshot);
    assert_eq!((found.base, &found.membership, found.hard_state), (model.base, &model.membership, model.hard_state));
    assert!(found.entries == model.entries, "{} entries, not {}", found.entries.len(), model.entries.len());
    if let Some(snapshot) = &model.snapshot {
        let found = read_snapshot(&*storage.snapshots(), snapshot);
        assert!(found == bytes(snapshot.last_included.index, snapshot.size as usize));
    }
    store
}

fn check(storage: &dyn Storage, power_loss: &dyn Fn(u64), steps: Vec<Step>) {
    let mut model = Recovered { membership: bootstrap().membership, ..Recovered::default() };
    let mut store = reopen(storage, &model);
    let snapshots = storage.snapshots();
    for step in steps {
        match step {
            Step::Write { remove, append, bytes, hard_state } => {
                let first = last(&model) + 1 - remove.min(model.entries.len() as u64);
                let term = model.hard_state.current_term;
                let entries =
                    (first..first + append as u64).map(|index| command(index, term, vec![index as u8; bytes]));
                let write = Write {
                    hard_state: hard_state.map(|(current_term, voted_for)| HardState { current_term, voted_for }),
                    truncate_from: (first <= last(&model)).then_some(first),
                    base: None,
                    entries: entries.collect(),
                };
                store.persist(&write).unwrap();
                apply(&mut model, write);
            }
            Step::Compact { back, trail, bytes: size, append } => {
                let index = last(&model).saturating_sub(back);
                let newest = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
                if index <= model.base.index || index < newest {
                    continue;
                }
                let term = term_at(&model, index).expect("it is in the log");
                let taken = take_snapshot(&*snapshots, index, term, &bytes(index, size));
                model.snapshot = Some(taken);
                // What is received is of use only beyond that; the next opening drops it otherwise.
                model.receiving = model.receiving.take().filter(|(coming, _)| coming.last_included.index > index);
                let base = index.saturating_sub(trail);
                if base > model.base.index {
                    let term = term_at(&model, base).expect("it is in the log");
                    let write = stand_on_and_append(&model, base, term, append);
                    store.persist(&write).unwrap();
                    apply(&mut model, write);
                }
            }
            Step::Install { distance, conflict, bytes: size, append } => {
                let index = last(&model).saturating_add_signed(distance);
                let newest = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
                if index <= model.base.index || index <= newest {
                    continue;
                }
                let term = term_at(&model, index).unwrap_or(7).wrapping_add(u64::from(conflict)) >> 1;
                let data = bytes(index, size);
                let snapshot = metadata(index, term, &data);
                assert!(snapshots.store(&snapshot, 0, &data).unwrap().complete);
                model.snapshot = Some(snapshot);
                model.receiving = None;
                let write = stand_on_and_append(&model, index, term, append);
                store.persist(&write).unwrap();
                apply(&mut model, write);
            }
            Step::Receive { bytes: size } => {
                let index = last(&model) + 1_000;
                let data = bytes(index, size);
                let snapshot = metadata(index, 9, &data);
                snapshots.store(&snapshot, 0, &data[..size / 2]).unwrap();
                model.receiving = Some((snapshot, size as u64 / 2));
            }
            Step::Tidy => while store.tidy().unwrap() {},
            Step::Reopen => {
                drop(store);
                store = reopen(storage, &model);
            }
            Step::PowerLoss(seed) => {
                drop(store);
                power_loss(seed);
                store = reopen(storage, &model);
            }
        }
    }
    drop(store);
    drop(reopen(storage, &model));
    assert!(model.entries.iter().all(|entry| matches!(entry.payload, Payload::Command(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_is_a_list(steps in steps()) {
        check(&MemoryStorage::new(), &|_| (), steps);
    }

    #[test]
    fn the_sqlite_store_is_a_list(steps in steps()) {
        let disk = SimulatedDisk::new();
        check(&disk.storage(), &|seed| disk.power_loss(&mut SmallRng::seed_from_u64(seed)), steps);
    }
}
