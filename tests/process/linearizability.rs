//! Whether a history can be true: by the log's indexes, which every answer carries, and by each key for itself, where nothing
//! counts but what the clients saw and when.

use std::collections::{BTreeMap, HashSet};

use ractor_raft::kv::pb::Change;

use crate::history::{Answer, Call, OPERATIONS_OF_A_KEY, Operation, PREFIX};

/// Asserts both. `changes`: all that ever came of these keys, by rising revision. How many operations were answered.
pub fn assert_linearizable(operations: &[Operation], changes: &[Change]) -> usize {
    let log = Log::of(changes);
    for operation in operations {
        log.explains(operation);
    }
    log.names_nothing_but(operations);
    assert_real_time(operations);
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        assert!(can_be_ordered(&operations), "no order of these explains the answers, at {key}: {operations:#?}");
    }
    operations.iter().filter(|operation| !matches!(operation.answer, Answer::Refused | Answer::Unknown)).count()
}

/// What was applied, by key and revision.
struct Log<'a> {
    keys: BTreeMap<&'a [u8], BTreeMap<u64, Option<String>>>,
    by_value: BTreeMap<String, u64>,
}

impl<'a> Log<'a> {
    fn of(changes: &'a [Change]) -> Log<'a> {
        let mut log = Log { keys: BTreeMap::new(), by_value: BTreeMap::new() };
        for change in changes {
            let value = (!change.deleted).then(|| String::from_utf8_lossy(&change.value).into_owned());
            if let Some(value) = &value {
                let before = log.by_value.insert(value.clone(), change.revision);
                assert_eq!(before, None, "{value} was applied twice, the second time at {}", change.revision);
            }
            log.keys.entry(&change.key).or_default().insert(change.revision, value);
        }
        log
    }

    /// What stood there when this index was applied, with its revision (0: nothing).
    fn at(&self, key: &str, index: u64) -> (Option<String>, u64) {
        let newest = self.keys.get(key.as_bytes()).and_then(|key| key.range(..=index).next_back());
        newest.map_or((None, 0), |(revision, value)| (value.clone(), if value.is_some() { *revision } else { 0 }))
    }

    fn written(&self, key: &str, revision: u64) -> Option<&Option<String>> {
        self.keys.get(key.as_bytes())?.get(&revision)
    }

    /// Asserts that the answer is what the log says.
    fn explains(&self, operation: &Operation) {
        let Operation { key, call, answer, .. } = operation;
        let before = |revision: u64| self.at(key, revision - 1).0;
        match (call, answer) {
            (Call::Put(value), Answer::Put { revision }) => {
                assert_eq!(self.written(key, *revision), Some(&Some(value.clone())), "{operation:?}");
            }
            (_, Answer::Deleted { previous, revision }) => {
                assert_eq!(before(*revision), *previous, "{operation:?}");
                assert_eq!(self.written(key, *revision).is_some(), previous.is_some(), "{operation:?}");
            }
            (Call::Swap { expect, set }, Answer::Swapped { swapped, current, revision }) => {
                assert_eq!(*swapped, expect == current, "{operation:?}");
                if *swapped {
                    assert_eq!(before(*revision), *current, "{operation:?}");
                    assert_eq!(self.written(key, *revision), Some(&Some(set.clone())), "{operation:?}");
                } else {
                    assert_eq!(self.at(key, *revision).0, *current, "{operation:?}");
                    assert!(!self.by_value.contains_key(set), "it was not swapped, and is there: {operation:?}");
                }
            }
            (Call::Get, Answer::Got { value, revision, applied_index }) => {
                assert_eq!(self.at(key, *applied_index), (value.clone(), *revision), "{operation:?}");
            }
            (Call::Put(value) | Call::Swap { set: value, .. }, Answer::Refused) => {
                assert!(!self.by_value.contains_key(value), "it was refused, and is there: {operation:?}");
            }
            (_, Answer::Refused | Answer::Unknown) => {}
            _ => panic!("an answer to something else: {operation:?}"),
        }
    }

    /// Asserts that every change was asked for.
    fn names_nothing_but(&self, operations: &[Operation]) {
        let asked: HashSet<&str> = operations
            .iter()
            .filter_map(|operation| match &operation.call {
                Call::Put(value) | Call::Swap { set: value, .. } => Some(value.as_str()),
                _ => None,
            })
            .collect();
        for (value, revision) in &self.by_value {
            assert!(asked.contains(value.as_str()), "nobody asked for {value}, which has revision {revision}");
        }
        assert!(self.keys.keys().all(|key| key.starts_with(PREFIX.as_bytes())), "a watch tells of its prefix only");
    }
}

/// Asserts that what began after something else had ended stands behind it in the log: a write has its own place, a read the
/// last one that it saw.
fn assert_real_time(operations: &[Operation]) {
    let place = |operation: &Operation| match operation.answer {
        Answer::Put { revision } | Answer::Deleted { revision, .. } => Some((revision, true)),
        Answer::Swapped { swapped: true, revision, .. } => Some((revision, true)),
        Answer::Got { applied_index, .. } => Some((applied_index, false)),
        _ => None,
    };
    // By time: the ends of operations with their places, and the beginnings.
    let mut moments = BTreeMap::new();
    for operation in operations {
        if let Some((place, writes)) = place(operation) {
            moments.insert(operation.began, (false, place, writes, operation));
            moments.insert(operation.ended, (true, place, writes, operation));
        }
    }
    let mut newest = (0, None);
    let mut least: BTreeMap<u64, (u64, Option<&Operation>)> = BTreeMap::new();
    for (ends, place, writes, operation) in moments.into_values() {
        if !ends {
            least.insert(operation.began, newest);
            continue;
        }
        let (known, by) = least.remove(&operation.began).expect("it began before it ended");
        assert!(place > known || (place == known && !writes), "{operation:?} began when this had ended: {by:?}");
        if place > newest.0 {
            newest = (place, Some(operation));
        }
    }
}

/// Wing and Gong's search with Lowe's memory, over the operations of one key.
fn can_be_ordered(operations: &[&Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_OF_A_KEY as usize);
    let operations: Vec<&Operation> =
        operations.iter().copied().filter(|operation| !matches!(operation.answer, Answer::Refused)).collect();
    let answered = operations.iter().enumerate().filter(|(_, operation)| !is_open(operation));
    let answered: u64 = answered.map(|(number, _)| 1 << number).sum();
    let (mut seen, mut todo) = (HashSet::new(), vec![(0_u64, None::<String>)]);
    while let Some((done, value)) = todo.pop() {
        if done & answered == answered {
            return true;
        }
        if !seen.insert((done, value.clone())) {
            continue;
        }
        // Whatever comes next began before anything that is left has ended.
        let left = || (0..operations.len()).filter(|number| done & (1 << number) == 0);
        let first_end =
            left().filter(|number| !is_open(operations[*number])).map(|number| operations[number].ended).min();
        for number in left().filter(|number| Some(operations[*number].began) < first_end) {
            if let Some(next) = step(operations[number], &value) {
                todo.push((done | 1 << number, next));
            }
        }
    }
    false
}

/// It may have taken place at any time since, or never.
fn is_open(operation: &Operation) -> bool {
    matches!(operation.answer, Answer::Unknown)
}

/// What stands there afterwards; `None` if the answer does not fit what stood there before.
fn step(operation: &Operation, before: &Option<String>) -> Option<Option<String>> {
    match (&operation.call, &operation.answer) {
        (Call::Put(value), _) => Some(Some(value.clone())),
        (Call::Delete, Answer::Deleted { previous, .. }) => (previous == before).then_some(None),
        (Call::Delete, _) => Some(None),
        (Call::Swap { set, .. }, Answer::Swapped { swapped, current, .. }) => {
            let after = if *swapped { Some(set.clone()) } else { before.clone() };
            (current == before).then_some(after)
        }
        (Call::Swap { expect, set }, _) => Some(if expect == before { Some(set.clone()) } else { before.clone() }),
        (Call::Get, Answer::Got { value, .. }) => (value == before).then(|| before.clone()),
        (Call::Get, _) => Some(before.clone()),
    }
}

/// Fails when: one of the checks above lets such a history pass.
#[test]
fn impossible_histories_are_noticed() {
    let operation = |began, ended, call, answer| Operation { key: format!("{PREFIX}a"), call, began, ended, answer };
    let put = |began, ended, value: &str, revision| {
        operation(began, ended, Call::Put(value.to_owned()), Answer::Put { revision })
    };
    let got = |began, ended, value: Option<&str>, revision, applied_index| {
        let answer = Answer::Got { value: value.map(str::to_owned), revision, applied_index };
        operation(began, ended, Call::Get, answer)
    };
    let open = |began, value: &str| operation(began, began + 1, Call::Put(value.to_owned()), Answer::Unknown);
    let change = |value: &str, revision| Change {
        key: format!("{PREFIX}a").into(),
        value: value.to_owned().into(),
        revision,
        deleted: false,
    };
    let changes = [change("x", 3), change("y", 5)];
    let (x, y) = (put(0, 1, "x", 3), put(2, 3, "y", 5));
    let holds = |operations: &[Operation]| {
        let checked = std::panic::catch_unwind(|| assert_linearizable(operations, &changes));
        let keys: Vec<_> = operations.iter().collect();
        (checked.is_ok(), can_be_ordered(&keys))
    };
    let good = [x.clone(), y.clone(), got(4, 5, Some("y"), 5, 6), open(6, "z")];
    assert_eq!(holds(&good), (true, true));
    let stale = [x.clone(), y.clone(), got(4, 5, Some("x"), 3, 4)];
    assert_eq!(holds(&stale), (false, false), "a read of what was overwritten");
    let lost = [x.clone(), put(2, 3, "y", 4)];
    assert_eq!(holds(&lost), (false, true), "a write that is not in the log");
    let back = [
        put(0, 10, "x", 3),
        put(1, 11, "y", 5),
        got(2, 3, Some("y"), 5, 5),
        got(4, 5, Some("x"), 3, 4),
        got(6, 7, Some("y"), 5, 5),
    ];
    assert_eq!(holds(&back), (false, false), "reads that go back in time");
    let early = [got(0, 1, Some("x"), 3, 3), put(2, 3, "x", 3), open(0, "y")];
    assert_eq!(holds(&early), (false, false), "a read of what was not yet written");
    let late = [x, y, open(0, "z"), got(4, 5, Some("z"), 5, 5)];
    assert_eq!(holds(&late), (false, true), "what was read is not in the log");
}
