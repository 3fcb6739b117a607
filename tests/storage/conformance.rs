//! What every store does with term, vote and log.

use bytes::Bytes;
use ractor_raft::{
    raft::{Entry, HardState, LogPosition, Membership, Payload, Write},
    storage::{Bootstrap, Identity, StorageError},
};

use crate::given::{Disk, append, bootstrap, command, commands, open, recover, try_open, vote};

fn a_new_store_is_empty_and_knows_its_cluster(disk: &Disk) {
    let (_store, opened) = open(&*disk.storage);
    assert_eq!(opened.incarnation, 17);
    assert_eq!(opened.recovered.hard_state, HardState::default());
    assert_eq!(opened.recovered.base, LogPosition::default());
    assert_eq!(opened.recovered.membership, bootstrap().membership);
    assert_eq!(opened.recovered.entries, []);
}

/// Fails when: `owner` creates a store, or leaves something behind that an opening does not expect.
fn a_store_says_whose_it_is_without_being_opened(disk: &Disk) {
    assert_eq!(disk.storage.owner(), Ok(None));
    assert_eq!(disk.storage.owner(), Ok(None), "asking creates nothing");
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    drop(store);
    assert_eq!(disk.storage.owner(), Ok(Some(bootstrap().identity)));
    assert_eq!(recover(&*disk.storage).entries, commands(1, 10, 1));
}

fn what_was_persisted_is_there_after_a_reopening(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    let hard_state = HardState { current_term: 7, voted_for: Some(3) };
    let entries = vec![Entry { index: 1, term: 7, payload: Payload::Noop }, command(2, 7, "put a 1")];
    store.persist(&Write { hard_state: Some(hard_state), entries: entries.clone(), ..Write::default() }).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!(recovered.hard_state, hard_state);
    assert_eq!(recovered.entries, entries);
    assert_eq!(recovered.membership, bootstrap().membership);
}

fn term_and_vote_change_without_the_log_and_back_to_no_vote(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 3, 1))).unwrap();
    store.persist(&vote(2, Some(1))).unwrap();
    store.persist(&vote(u64::MAX, None)).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!(recovered.hard_state, HardState { current_term: u64::MAX, voted_for: None });
    assert_eq!(recovered.entries, commands(1, 3, 1));
}

fn entries_replace_those_that_are_truncated(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    let write = Write { truncate_from: Some(4), entries: commands(4, 5, 2), ..Write::default() };
    store.persist(&write).unwrap();
    drop(store);
    let expected = [commands(1, 3, 1), commands(4, 5, 2)].concat();
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!(opened.recovered.entries, expected);
    // And the log goes on from there, also in the same opening.
    store.persist(&append(commands(6, 7, 3))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, [expected, commands(6, 7, 3)].concat());
}

fn a_truncation_alone_leaves_a_shorter_log(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 10, 1))).unwrap();
    store.persist(&Write { truncate_from: Some(8), ..Write::default() }).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(1, 7, 1));
    let (mut store, _) = open(&*disk.storage);
    store.persist(&Write { truncate_from: Some(8), ..Write::default() }).unwrap();
    store.persist(&Write { truncate_from: Some(1), ..Write::default() }).unwrap();
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!(opened.recovered.entries, []);
    store.persist(&append(commands(1, 1, 5))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(1, 1, 5));
}

fn every_kind_of_entry_comes_back_as_it_was(disk: &Disk) {
    let mut membership = Membership::of_voters([(1, "one:1"), (2, "two:1")]);
    membership.learners.insert(u64::MAX, "[::1]:7000".to_owned());
    let large: Vec<u8> = (0..1 << 20).map(|byte: u32| (byte * 31 % 251) as u8).collect();
    let entries = vec![
        Entry { index: 1, term: 1, payload: Payload::Noop },
        command(2, 1, Bytes::new()),
        command(3, 1, large),
        Entry { index: 4, term: 2, payload: Payload::Membership(membership.into()) },
        Entry { index: 5, term: u64::MAX, payload: Payload::Membership(Membership::default().into()) },
        command(6, u64::MAX, vec![0; 300]),
    ];
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(entries.clone())).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, entries);
}

fn ten_thousand_entries_in_batches_and_a_long_truncation(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    for batch in 0..100 {
        store.persist(&append(commands(batch * 100 + 1, batch * 100 + 100, 1))).unwrap();
        while store.tidy().unwrap() {}
    }
    drop(store);
    let (mut store, opened) = open(&*disk.storage);
    assert_eq!(opened.recovered.entries, commands(1, 10_000, 1));
    store.persist(&Write { truncate_from: Some(51), entries: commands(51, 60, 2), ..Write::default() }).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, [commands(1, 50, 1), commands(51, 60, 2)].concat());
}

/// Bootstrap is idempotent: a restart with the same command line finds its own store, not a new one.
fn a_later_opening_finds_what_the_first_one_created(disk: &Disk) {
    drop(open(&*disk.storage));
    let other = Bootstrap { incarnation: 99, membership: Membership::of_voters([(1, "elsewhere:1")]), ..bootstrap() };
    let (_store, opened) = disk.storage.open(&other).unwrap();
    assert_eq!(opened.incarnation, 17);
    assert_eq!(opened.recovered.membership, bootstrap().membership);
}

fn a_store_of_another_node_or_cluster_is_refused(disk: &Disk) {
    drop(open(&*disk.storage));
    for identity in
        [Identity { node_id: 2, ..bootstrap().identity }, Identity { cluster_id: 5, ..bootstrap().identity }]
    {
        let error = disk.storage.open(&Bootstrap { identity: identity.clone(), ..bootstrap() }).err().unwrap();
        let StorageError::Foreign { node, cluster, found_node, found_cluster, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(Identity { cluster_id: cluster, node_id: node }, identity);
        assert_eq!(Identity { cluster_id: found_cluster, node_id: found_node }, bootstrap().identity);
    }
    // The refused openings left it free and as it was.
    drop(open(&*disk.storage));
}

/// SAFETY D08. Fails when: the lock is not taken, or not kept as long as the store lives.
fn d08_a_second_opening_is_refused_and_names_the_owner(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 1, 1))).unwrap();
    let error = try_open(&*disk.storage).err().unwrap();
    assert!(
        matches!(&error, StorageError::InUse { owner: Some(owner), .. } if *owner == std::process::id()),
        "{error}"
    );
    store.persist(&append(commands(2, 2, 1))).unwrap();
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(1, 2, 1));
}

/// SAFETY D01. Fails when: the store forgets its first error and asks the disk again.
fn d01_after_a_failed_write_nothing_succeeds_until_it_is_reopened(disk: &Disk) {
    let Some(fail_next_write) = &disk.fail_next_write else { return };
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 2, 1))).unwrap();
    fail_next_write();
    let error = store.persist(&append(commands(3, 4, 1))).unwrap_err();
    assert!(matches!(error, StorageError::Failed { call: "persist", .. }), "{error}");
    assert_eq!(store.persist(&append(commands(3, 3, 1))), Err(error.clone()));
    assert_eq!(store.persist(&vote(9, None)), Err(error.clone()));
    assert_eq!(store.tidy(), Err(error));
    drop(store);
    assert_eq!(recover(&*disk.storage).entries, commands(1, 2, 1));
}

/// SAFETY D05. Fails when: a full disk poisons the store, or leaves part of the write behind.
fn d05_a_full_disk_refuses_and_resumes(disk: &Disk) {
    let Some(set_full) = &disk.set_full else { return };
    let (mut store, _) = open(&*disk.storage);
    store.persist(&append(commands(1, 2, 1))).unwrap();
    set_full(true);
    let refused = Write {
        hard_state: Some(HardState { current_term: 5, voted_for: Some(2) }),
        truncate_from: Some(2),
        // More than SQLite keeps in memory until the commit.
        entries: (2..1200).map(|index| command(index, 5, vec![7; 3000])).collect(),
        ..Write::default()
    };
    for _ in 0..3 {
        let error = store.persist(&refused).unwrap_err();
        assert!(matches!(error, StorageError::Full { call: "persist", .. }), "{error}");
    }
    set_full(false);
    store.persist(&append(commands(3, 3, 1))).unwrap();
    drop(store);
    let recovered = recover(&*disk.storage);
    assert_eq!(recovered.hard_state, HardState::default());
    assert_eq!(recovered.entries, commands(1, 3, 1));
}

fn a_store_works_on_another_thread(disk: &Disk) {
    let (mut store, _) = open(&*disk.storage);
    let writer = std::thread::spawn(move || store.persist(&append(commands(1, 5, 1))));
    writer.join().unwrap().unwrap();
    assert_eq!(recover(&*disk.storage).entries, commands(1, 5, 1));
}

fn a_gap_is_a_bug_of_the_caller(disk: &Disk) {
    for write in [
        append(commands(4, 4, 1)),
        append(commands(2, 2, 1)),
        append(vec![command(3, 1, ""), command(5, 1, "")]),
        Write { truncate_from: Some(2), entries: commands(3, 3, 1), ..Write::default() },
        Write { truncate_from: Some(0), ..Write::default() },
    ] {
        let (mut store, opened) = open(&*disk.storage);
        if opened.recovered.entries.is_empty() {
            store.persist(&append(commands(1, 2, 1))).unwrap();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.persist(&write)));
        assert!(outcome.is_err(), "{write:?}");
        drop(store);
        assert_eq!(recover(&*disk.storage).entries, commands(1, 2, 1));
    }
}

for_every_store! {
    a_new_store_is_empty_and_knows_its_cluster
    a_store_says_whose_it_is_without_being_opened
    what_was_persisted_is_there_after_a_reopening
    term_and_vote_change_without_the_log_and_back_to_no_vote
    entries_replace_those_that_are_truncated
    a_truncation_alone_leaves_a_shorter_log
    every_kind_of_entry_comes_back_as_it_was
    ten_thousand_entries_in_batches_and_a_long_truncation
    a_later_opening_finds_what_the_first_one_created
    a_store_of_another_node_or_cluster_is_refused
    d08_a_second_opening_is_refused_and_names_the_owner
    d01_after_a_failed_write_nothing_succeeds_until_it_is_reopened
    d05_a_full_disk_refuses_and_resumes
    a_store_works_on_another_thread
    a_gap_is_a_bug_of_the_caller
}
