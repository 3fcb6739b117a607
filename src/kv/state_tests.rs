use std::{collections::BTreeMap, io::Read};

use proptest::prelude::*;

use super::*;

/// The plainest store that could be right.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, (Vec<u8>, LogIndex)>);

impl Model {
    fn apply(&mut self, at: LogIndex, command: Command) -> Output {
        let outcome = match command.operation.expect("the test proposes operations") {
            Operation::Put(Put { key, value }) => {
                self.0.insert(key.to_vec(), (value.to_vec(), at));
                Outcome::Put(PutOutcome { revision: at })
            }
            Operation::Delete(Delete { key }) => {
                let previous = self.0.remove(&key[..]);
                let existed = previous.is_some();
                let previous = previous.map(|(bytes, _)| bytes).unwrap_or_default().into();
                Outcome::Delete(DeleteOutcome { existed, previous, revision: at })
            }
            Operation::CompareAndSwap(CompareAndSwap { key, expect, set }) => {
                let before = self.0.get(&key[..]).cloned();
                let current = before.as_ref().map(|(bytes, _)| Bytes::from(bytes.clone()));
                let swapped = current == expect;
                if swapped {
                    self.0.insert(key.to_vec(), (set.to_vec(), at));
                }
                let revision = if swapped { at } else { before.map_or(0, |(_, revision)| revision) };
                Outcome::CompareAndSwap(CompareAndSwapOutcome { swapped, current, revision })
            }
        };
        outcome.into()
    }

    fn pairs(&self) -> Vec<(Bytes, Value)> {
        let pair = |(key, (bytes, revision)): (&Vec<u8>, &(Vec<u8>, LogIndex))| {
            (Bytes::from(key.clone()), Value { bytes: bytes.clone().into(), revision: *revision })
        };
        self.0.iter().map(pair).collect()
    }
}

/// Few and short, so that commands meet each other.
fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0_u8..3, 0..4).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0_u8..2, 0..2).prop_map(Bytes::from)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Command::put(key, value)),
        1 => key().prop_map(Command::delete),
        2 => (key(), prop::option::of(value()), value())
            .prop_map(|(key, expect, set)| Command::compare_and_swap(key, expect, set)),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::Prefix),
        (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn store_of(commands: impl IntoIterator<Item = Command>) -> Kv {
    let mut store = Kv::default();
    for (index, command) in (1..).zip(commands) {
        store.apply(index, command);
    }
    store
}

fn bytes_of(store: &Kv) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.snapshot().write(&mut bytes).expect("a Vec takes everything");
    bytes
}

proptest! {
    // Fails when: a failed compare-and-swap writes, a delete keeps the pair, an overwritten value keeps its revision,
    // or a write leaves the replaced value in the hash.
    #[test]
    fn answers_and_state_are_those_of_a_plain_map(commands in prop::collection::vec(command(), 0..200)) {
        let (mut store, mut model) = (Kv::default(), Model::default());
        for (index, command) in (1..).zip(commands) {
            prop_assert_eq!(store.apply(index, command.clone()), model.apply(index, command));
        }
        let pairs = store.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>();
        prop_assert_eq!(&pairs, &model.pairs());
        let mut hash = StateHash::default();
        pairs.iter().for_each(|(key, value)| hash.add(key, value));
        prop_assert_eq!(store.hash(), hash.to_bytes());
    }

    // Fails when: `from` is taken as exclusive, a page drops the pair that did not fit, or `end` is inclusive.
    #[test]
    fn pages_put_together_are_the_range(
        commands in prop::collection::vec(command(), 0..100), range in range(), limit in 1_usize..5, max_bytes in 0_usize..20,
    ) {
        let store = store_of(commands);
        let mut read = Vec::new();
        let mut from = Bytes::new();
        loop {
            let page = store.scan(&range, &from, limit, max_bytes);
            prop_assert!(page.pairs.len() <= limit);
            prop_assert!(page.next.is_empty() || !page.pairs.is_empty(), "a page that is not the last has pairs");
            read.extend(page.pairs.into_iter().map(|(key, _)| key));
            if page.next.is_empty() {
                break;
            }
            from = page.next;
        }
        let expected = store.iter().map(|(key, _)| key.clone()).filter(|key| match &range {
            KeyRange::Prefix(prefix) => key.starts_with(prefix),
            KeyRange::Between { start, end } => key >= start && (end.is_empty() || key < end),
        });
        prop_assert_eq!(read, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_snapshot_restores_to_the_same_state(commands in prop::collection::vec(command(), 0..100)) {
        let store = store_of(commands);
        let mut restored = store_of([Command::put("left over", "from before")]);
        restored.restore(&bytes_of(&store)[..]).expect("it was just written");
        prop_assert_eq!(&restored, &store);
        prop_assert_eq!(bytes_of(&restored), bytes_of(&store));
    }

    // Fails when: neither the header's count nor its hash is compared.
    #[test]
    fn a_truncated_snapshot_is_refused(commands in prop::collection::vec(command(), 1..40), cut in 1_usize..200) {
        let bytes = bytes_of(&store_of(commands));
        let mut store = store_of([Command::put("kept", "as it was")]);
        let before = store.clone();
        let kept = bytes.len().saturating_sub(cut);
        prop_assert!(store.restore(&bytes[..kept]).is_err());
        prop_assert_eq!(store, before);
    }

    // Fails when: the header's hash is not compared.
    #[test]
    fn a_flipped_bit_in_a_snapshot_is_noticed(
        commands in prop::collection::vec(command(), 1..40), place in any::<prop::sample::Index>(), bit in 0_u32..8,
    ) {
        let store = store_of(commands);
        let mut bytes = bytes_of(&store);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let mut restored = Kv::default();
        // A bit that turns a field into an unknown one of no content may leave the state as it was; no other state comes.
        if restored.restore(&bytes[..]).is_ok() {
            prop_assert_eq!(restored, store);
        }
    }
}

/// A snapshot is taken in one pointer and shows nothing of what comes after.
#[test]
fn a_snapshot_is_of_the_moment_it_was_taken() {
    let mut store = store_of([Command::put("a", "1")]);
    let snapshot = store.snapshot();
    store.apply(2, Command::put("a", "2"));
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes).expect("a Vec takes everything");
    let mut restored = Kv::default();
    restored.restore(&bytes[..]).expect("it was just written");
    assert_eq!(restored.get(b"a"), Some(&Value { bytes: "1".into(), revision: 1 }));
}

/// Restores from a reader that gives one byte at a time, as a network may.
#[test]
fn a_snapshot_may_come_in_drops() {
    struct Drops<'a>(&'a [u8]);
    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }
    let store = store_of((0..50).map(|n| Command::put(format!("key {n}"), vec![n; n.into()])));
    let mut restored = Kv::default();
    restored.restore(Drops(&bytes_of(&store))).expect("it was just written");
    assert_eq!(restored, store);
}

// Fails when: the key is kept as the slice of the entry that it came in.
#[test]
fn a_key_does_not_keep_the_entry_it_came_in_alive() {
    let entry = Bytes::from(vec![b'k'; 1000]);
    let mut store = Kv::with_history(1, 0);
    store.apply(1, Command::put(entry.slice(..4), "1"));
    // The history keeps it for as long as the change is remembered; the map must not.
    store.apply(2, Command::put("kkkk", "2"));
    assert!(entry.is_unique());
    store.apply(3, Command::delete("kkkk"));
    assert!(store.is_empty());
    assert_eq!(store.hash(), [0; 16]);
}
