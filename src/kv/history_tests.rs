use proptest::prelude::*;

use super::*;
use crate::{
    kv::{Command, Kv},
    state_machine::{Snapshot, StateMachine},
};

/// Few and short, so that commands meet each other.
fn text() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0_u8..2, 0..3).prop_map(Bytes::from)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (text(), text()).prop_map(|(key, value)| Command::put(key, value)),
        2 => text().prop_map(Command::delete),
        2 => (text(), prop::option::of(text()), text())
            .prop_map(|(key, expect, set)| Command::compare_and_swap(key, expect, set)),
        1 => Just(Command::default()),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        text().prop_map(KeyRange::Prefix),
        (text(), text()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

/// Applies the commands, with gaps in the log between them, and writes down what changed by comparing all pairs before
/// and after each.
fn applied(mut store: Kv, commands: Vec<(Command, u64)>) -> (Kv, Vec<Change>) {
    let (mut at, mut naive) = (store.applied(), Vec::new());
    for (command, gap) in commands {
        at += 1 + gap;
        let before = store.clone();
        store.apply(at, command);
        let written = store.iter().filter(|(_, value)| value.revision == at);
        let written = written.map(|(key, value)| (key.clone(), Some(value.bytes.clone())));
        let deleted = before.iter().filter(|(key, _)| store.get(key).is_none()).map(|(key, _)| (key.clone(), None));
        naive.extend(written.chain(deleted).map(|(key, value)| Change { key, value, revision: at }));
    }
    (store, naive)
}

fn commands(most: usize) -> impl Strategy<Value = Vec<(Command, u64)>> {
    prop::collection::vec((command(), 0_u64..3), 0..most)
}

/// All pages from `from` on; each is checked against the limits.
fn read_on(
    store: &Kv,
    range: &KeyRange,
    from: LogIndex,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<Change>, Compacted> {
    let (mut read, mut from) = (Vec::new(), from);
    loop {
        let page = store.changes(range, from, limit, max_bytes)?;
        let bytes: usize = page.changes.iter().map(Change::bytes).sum();
        assert!(page.changes.len() <= limit && (bytes <= max_bytes || page.changes.len() == 1));
        assert!(page.next >= from && page.changes.iter().all(|change| (from..page.next).contains(&change.revision)));
        assert!(page.complete || page.next > from, "a page that is not the last goes on");
        read.extend(page.changes);
        if page.complete {
            return Ok(read);
        }
        from = page.next;
    }
}

proptest! {
    // Fails when: a failed swap or the delete of an absent key is noted, a page drops the change that did not fit, `next`
    // is the revision that was told last, or what was forgotten is passed over in silence.
    #[test]
    fn pages_put_together_are_what_changed(
        commands in commands(80), range in range(), from in 0_u64..150, limit in 1_usize..5, max_bytes in 0_usize..10,
        max_changes in 1_usize..100,
    ) {
        let (store, naive) = applied(Kv::with_history(max_changes, usize::MAX), commands);
        let forgotten = naive.len().saturating_sub(max_changes);
        let oldest = if forgotten == 0 { 1 } else { naive[forgotten - 1].revision + 1 };
        let told = read_on(&store, &range, from, limit, max_bytes);
        if from.max(1) < oldest {
            prop_assert_eq!(told, Err(Compacted { oldest }));
        } else {
            let expected = naive.into_iter().filter(|change| change.revision >= from && range.contains(&change.key));
            prop_assert_eq!(told, Ok(expected.collect::<Vec<_>>()));
        }
    }

    // Fails when: what is forgotten is not subtracted, or a change counts less when it goes than when it came.
    #[test]
    fn no_more_is_remembered_than_the_bounds_say(
        commands in commands(80), max_changes in 1_usize..20, max_bytes in 0_usize..20 * CHANGE_BYTES,
    ) {
        let (store, naive) = applied(Kv::with_history(max_changes, max_bytes), commands);
        let history = &store.history;
        let bytes: usize = history.changes.iter().map(Change::remembered_bytes).sum();
        prop_assert_eq!(history.bytes, bytes);
        prop_assert!(history.changes.len() <= max_changes);
        prop_assert!(bytes <= max_bytes || history.changes.len() == 1);
        // And not less: the next older one would have been too much.
        if let Some(next) = naive.len().checked_sub(history.changes.len() + 1) {
            let full = history.changes.len() == max_changes || bytes + naive[next].remembered_bytes() > max_bytes;
            prop_assert!(full);
        }
    }

    // Fails when: the snapshot does not say what was applied last, a restored store keeps the history that it had, or a
    // history without a beginning answers from 1 on.
    #[test]
    fn behind_a_snapshot_all_is_remembered_and_before_it_nothing(
        before in commands(40), left_over in commands(10), after in commands(40), from in 0_u64..150,
    ) {
        let (origin, _) = applied(Kv::default(), before);
        let mut bytes = Vec::new();
        origin.snapshot().write(&mut bytes).expect("a Vec takes everything");
        let (mut restored, _) = applied(Kv::with_history(7, usize::MAX), left_over);
        restored.restore(&bytes[..]).expect("it was just written");
        prop_assert_eq!(restored.applied(), origin.applied());
        let everything = KeyRange::Prefix(Bytes::new());
        let oldest = origin.applied() + 1;
        prop_assert_eq!(read_on(&restored, &everything, oldest, 100, 1000), Ok(Vec::new()));
        if from.max(1) < oldest {
            prop_assert_eq!(read_on(&restored, &everything, from, 100, 1000), Err(Compacted { oldest }));
        }
        let (restored, naive) = applied(restored, after);
        if naive.len() <= 7 {
            prop_assert_eq!(read_on(&restored, &everything, oldest, 100, 1000), Ok(naive));
        }
        prop_assert!(restored.history.changes.len() <= 7, "the bounds are those that the store was made with");
    }
}

/// A clone, and with it a snapshot, does not copy the history: it would cost as much as there is in it.
// Fails when: it does.
#[test]
fn a_clone_begins_a_history_of_its_own() {
    let put = |n: u64| (Command::put(n.to_string(), "1"), 0);
    let (store, _) = applied(Kv::default(), (0..10).map(put).collect());
    let mut copy = store.clone();
    assert_eq!((copy.history.changes.capacity(), copy.applied()), (0, 10));
    let everything = KeyRange::Prefix(Bytes::new());
    assert_eq!(copy.changes(&everything, 10, 1, 1), Err(Compacted { oldest: 11 }));
    copy.apply(11, Command::delete("3"));
    let told = copy.changes(&everything, 11, 1, 1).expect("it is remembered");
    assert_eq!(told.changes, [Change { key: "3".into(), value: None, revision: 11 }]);
    assert_eq!(store.changes(&everything, 1, 100, 100).expect("all of it").changes.len(), 10);
}

/// The applier waits while a page is put together.
// Fails when: a page looks through everything.
#[test]
fn a_page_looks_at_so_many_changes_and_then_says_where_to_go_on() {
    let put = |n: u64| (Command::put(n.to_string(), "1"), 0);
    let (store, _) = applied(Kv::default(), (0..MAX_LOOKED_AT as u64 + 10).map(put).collect());
    let nobodys = KeyRange::Prefix("x".into());
    let page = store.changes(&nobodys, 3, 1, 1).expect("all of it is remembered");
    assert_eq!(page, Changes { changes: Vec::new(), next: 3 + MAX_LOOKED_AT as u64, complete: false });
    let last = store.changes(&nobodys, page.next, 1, 1).expect("all of it is remembered");
    assert!(last.complete);
}

// Fails when: what was expected is kept in memory as a part of the entry that set the value.
#[test]
fn a_swap_keeps_what_was_set_and_not_what_was_expected() {
    let expected = Bytes::from(vec![b'x'; 1000]);
    let mut store = Kv::default();
    store.apply(1, Command::put("a", expected.clone()));
    let entry = Bytes::from([&expected[..], b"set"].concat());
    store.apply(2, Command::compare_and_swap("a", Some(entry.slice(..1000)), entry.slice(1000..)));
    assert_eq!(store.get(b"a").map(|value| &value.bytes[..]), Some(&b"set"[..]));
    assert!(entry.is_unique());
}
