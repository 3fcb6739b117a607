//! What a trial finds in a user's state machine, and that it finds nothing in a sound one.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use prost::Message;
use ractor_raft::{
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
    testing::{Dice, Failure, Fault, Passed, Trial},
};

/// Puts an item on the shelf.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(uint64, tag = "1")]
    item: u64,
}

/// How many of it there are now.
#[derive(Clone, PartialEq, Message)]
struct Count {
    #[prost(uint64, tag = "1")]
    count: u64,
}

/// What is wrong with a shelf.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flaw {
    #[default]
    None,
    /// Its outputs depend on who asks.
    Random,
    /// Its snapshot forgets the last item put.
    Forgetful,
    /// It panics at an item.
    Fragile,
    /// It takes no snapshot back.
    Stubborn,
    /// It grows too large.
    Crowded,
}

#[derive(Clone, Default)]
struct Shelf {
    flaw: Flaw,
    chance: Arc<AtomicU64>,
    items: BTreeMap<u64, u64>,
    last: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Written {
    #[prost(btree_map = "uint64, uint64", tag = "1")]
    items: BTreeMap<u64, u64>,
    #[prost(uint64, tag = "2")]
    last: u64,
}

impl Snapshot for Written {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.encode_to_vec())
    }
}

impl StateMachine for Shelf {
    type Command = Put;
    type Output = Count;

    fn apply(&mut self, _: LogIndex, Put { item }: Put) -> Count {
        assert!(self.flaw != Flaw::Fragile || item != 7, "item 7 breaks it");
        let count = self.items.entry(item).or_default();
        *count += 1;
        self.last = item;
        let noise = if self.flaw == Flaw::Random { self.chance.fetch_add(1, SeqCst) } else { 0 };
        Count { count: *count + noise }
    }

    fn snapshot(&self) -> impl Snapshot {
        Written { items: self.items.clone(), last: if self.flaw == Flaw::Forgetful { 0 } else { self.last } }
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut encoded = Vec::new();
        bytes.read_to_end(&mut encoded)?;
        if self.flaw == Flaw::Stubborn {
            return Err(RestoreError("it does not want to".to_owned()));
        }
        let Written { items, last } = Written::decode(&encoded[..])?;
        (self.items, self.last) = (items, last);
        Ok(())
    }
}

type State = (BTreeMap<u64, u64>, u64);

fn trial(flaw: Flaw) -> Trial<Shelf, State> {
    let chance = Arc::<AtomicU64>::default();
    let make = move || Shelf { flaw, chance: chance.clone(), ..Shelf::default() };
    let state = |shelf: &Shelf| (shelf.items.clone(), shelf.last);
    Trial::new(make, state, |dice: &mut Dice| Put { item: 1 + dice.below(20) }).invariant(move |shelf| {
        let crowded = flaw == Flaw::Crowded && shelf.items.values().sum::<u64>() > 100;
        if crowded { Err("more than 100 items".to_owned()) } else { Ok(()) }
    })
}

async fn found(flaw: Flaw) -> Failure {
    trial(flaw).try_run().await.expect_err("it has a flaw")
}

/// Fails when: anything is drawn from elsewhere than the seed, a seed begins where the one before ended, or a trial does
/// not do what makes it one.
#[test]
fn a_sound_machine_passes_in_the_same_way_each_time() {
    let run = || -> [Passed; 2] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("nothing is missing").block_on(async {
            let trial = trial(Flaw::None).seeds(4).nodes(3);
            [trial.run().await, trial.run().await]
        })
    };
    let [passed, again] = run();
    assert_eq!(passed, again, "the second time in one runtime");
    assert_eq!(run()[0], passed, "in another runtime");
    println!("{passed}");
    assert!(passed.seeds > 0 && passed.commands > 200 && passed.restored > 4, "{passed:?}");
    assert!(passed.faults.len() > 10, "{passed:?}");
}

/// Fails when: `Findings::applied` does not compare outputs.
#[tokio::test(start_paused = true)]
async fn outputs_that_differ_are_found() {
    let failure = found(Flaw::Random).await;
    assert!(failure.what.contains("not deterministic: Put { item: "), "{failure}");
    assert!(failure.to_string().contains(&format!("SEED={} cargo test", failure.seed)), "{failure}");
}

/// Fails when: `OnTrial::restore` does not compare states with those that snapshots were taken of.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_forgets_a_field_is_found() {
    let failure = found(Flaw::Forgetful).await;
    assert!(failure.what.contains("two states at") && failure.what.contains("restored a snapshot"), "{failure}");
}

/// Fails when: a node that gave up is taken for one that a fault has stopped.
#[tokio::test(start_paused = true)]
async fn panics_and_refused_snapshots_are_found() {
    let failure = found(Flaw::Fragile).await;
    assert!(failure.what.contains("gave up") && failure.what.contains("item 7 breaks it"), "{failure}");
    let failure = found(Flaw::Stubborn).await;
    assert!(failure.what.contains("gave up") && failure.what.contains("does not want to"), "{failure}");
}

/// Fails when: the invariant is not asked.
#[tokio::test(start_paused = true)]
async fn a_broken_invariant_is_found() {
    let failure = found(Flaw::Crowded).await;
    assert!(failure.what.contains("the invariant does not hold after entry"), "{failure}");
    assert!(failure.what.ends_with("more than 100 items"), "{failure}");
}

/// Fails when: `faults` is not heeded.
#[tokio::test(start_paused = true)]
async fn a_trial_does_only_the_faults_it_is_told() {
    let passed = trial(Flaw::None).seeds(2).faults(&[Fault::Crash, Fault::Restart]).run().await;
    assert!(passed.faults.keys().all(|fault| [Fault::Crash, Fault::Restart].contains(fault)), "{passed:?}");
}
