//! Any sequence of writes, crashes and openings, against a plain list.

use proptest::prelude::*;
use ractor_raft::{
    raft::{HardState, Payload, Recovered, Write},
    storage::{MemoryStorage, Storage, Store},
    testing::disk::SimulatedDisk,
};
use rand::{SeedableRng, rngs::SmallRng};

use crate::given::{bootstrap, command, open};

#[derive(Clone, Debug)]
enum Step {
    /// Appends this many entries of so many bytes, after removing some; perhaps with a new term and vote.
    Write {
        remove: u64,
        append: usize,
        bytes: usize,
        hard_state: Option<(u64, Option<u64>)>,
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
    let step = prop_oneof![
        6 => write,
        1 => Just(Step::Tidy),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::PowerLoss),
    ];
    prop::collection::vec(step, 1..40)
}

fn check(storage: &dyn Storage, power_loss: &dyn Fn(u64), steps: Vec<Step>) {
    let mut model = Recovered { membership: bootstrap().membership, ..Recovered::default() };
    let reopen = |store: Box<dyn Store>, model: &Recovered| {
        drop(store);
        let (store, opened) = open(storage);
        assert_eq!(&opened.recovered, model);
        store
    };
    let (mut store, _) = open(storage);
    for step in steps {
        match step {
            Step::Write { remove, append, bytes, hard_state } => {
                let last = model.entries.len() as u64;
                let first = last + 1 - remove.min(last);
                let term = model.hard_state.current_term;
                let entries =
                    (first..first + append as u64).map(|index| command(index, term, vec![index as u8; bytes]));
                let write = Write {
                    hard_state: hard_state.map(|(current_term, voted_for)| HardState { current_term, voted_for }),
                    truncate_from: (first <= last).then_some(first),
                    base: None,
                    entries: entries.collect(),
                };
                store.persist(&write).unwrap();
                model.hard_state = write.hard_state.unwrap_or(model.hard_state);
                model.entries.truncate(first as usize - 1);
                model.entries.extend(write.entries);
            }
            Step::Tidy => assert!(!store.tidy().unwrap()),
            Step::Reopen => store = reopen(store, &model),
            Step::PowerLoss(seed) => {
                drop(store);
                power_loss(seed);
                let (reopened, opened) = open(storage);
                assert_eq!(opened.recovered, model);
                store = reopened;
            }
        }
    }
    drop(reopen(store, &model));
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
