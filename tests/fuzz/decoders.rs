//! What is read from messages and files through the library's public doors.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use prost::Message;
use ractor_raft::{
    Config, StateMachine,
    backup::{Backup, BackupError, Head, Saving},
    error::NodeError,
    kv::{Command, Kv},
    raft::{LogPosition, Membership, SnapshotMetadata},
    rpc::channel,
    state_machine::Snapshot,
};

use crate::{
    given::{Damage, damage, looks_like_protobuf, number},
    memory, messages,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 8, ..ProptestConfig::default() })]

    // Fails when: a bound is left out of a conversion, or a field is read as another than it is written as.
    #[test]
    fn messages_between_nodes_mean_what_they_say_or_nothing(kind in 0..messages::KINDS, from in 0..4_u64, bytes in looks_like_protobuf()) {
        messages::convert(kind, from, &bytes);
    }
}

proptest! {
    // Fails when: a record's length is believed, a pair out of order is taken, or the hash is not compared.
    #[test]
    fn a_store_is_restored_as_it_was_or_not_at_all(pairs in pairs(), damages in vec(damage(), 0..3)) {
        let store = store_of(&pairs);
        let mut bytes = Vec::new();
        store.snapshot().write(&mut bytes).expect("a Vec takes all");
        damages.iter().for_each(|damage| damage.to(&mut bytes));
        let mut restored = Kv::default();
        match restored.restore(&bytes[..]) {
            Ok(()) => {
                prop_assert_eq!(restored.hash(), store.hash());
                prop_assert_eq!(restored.iter().collect::<Vec<_>>(), store.iter().collect::<Vec<_>>());
            }
            Err(error) => prop_assert!(!damages.is_empty() && error.to_string().len() > 30, "{error}"),
        }
        memory::nothing_was_believed();
    }

    // Fails when: the header's number of pairs, or a record's length, is reserved.
    #[test]
    fn no_bytes_are_a_store_by_chance(bytes in prop_oneof![looks_like_protobuf(), vec(any::<u8>(), 0..200)]) {
        let length_delimited = [vec![bytes.len() as u8], bytes.clone()].concat();
        for bytes in [bytes, length_delimited] {
            if Kv::default().restore(&bytes[..]).is_ok() {
                let mut store = Kv::default();
                store.restore(&bytes[..]).expect("it was restored");
                prop_assert_eq!(store.len(), 0, "whatever has pairs has their hash");
            }
        }
        memory::nothing_was_believed();
    }

    // Fails when: a command that decodes makes the store panic; it would stop every node.
    #[test]
    fn every_command_that_decodes_is_applied(bytes in prop_oneof![looks_like_protobuf(), vec(any::<u8>(), 0..60)], at in number()) {
        if let Ok(command) = Command::decode(&bytes[..]) {
            let (mut one, mut other) = (Kv::default(), Kv::default());
            let outputs = [&mut one, &mut other].map(|store| store.apply(at.max(1), command.clone()));
            prop_assert_eq!(&outputs[0], &outputs[1]);
            prop_assert_eq!(one.hash(), other.hash());
        }
    }

    // Fails when: a part of the file is guarded by no checksum, or the head's length is believed.
    #[test]
    fn a_backup_is_whole_or_refused(snapshot in vec(any::<u8>(), 0..300), damages in vec(damage(), 0..3)) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("backup");
        let head = head_of(&snapshot);
        let mut saving = Saving::begin(&path, head.clone()).expect("there is room");
        saving.write(&snapshot).expect("there is room");
        saving.finish().expect("it is whole");
        let whole = std::fs::read(&path).expect("it is there");
        let mut bytes = whole.clone();
        damages.iter().for_each(|damage| damage.to(&mut bytes));
        std::fs::write(&path, &bytes).expect("there is room");
        match Backup::open(&path).and_then(Backup::verify) {
            Ok(found) => prop_assert!(found == head && bytes == whole, "a damaged backup passes for whole"),
            Err(error) => {
                prop_assert!(bytes != whole);
                let is_told = matches!(error, BackupError::Damaged { .. } | BackupError::NoBackup { .. } | BackupError::Format { .. });
                prop_assert!(is_told && error.to_string().contains("backup"), "{error}");
            }
        }
        memory::nothing_was_believed();
    }

    // Fails when: a membership's address can make the dialling of it panic.
    #[test]
    fn no_address_panics(address in prop_oneof![".*", "[a-z:/@\\[\\].#?%0-9]{0,20}", "(http|https|unix|ftp)://.{0,12}"]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            if let Err(error) = channel::lazy(&address) {
                assert_eq!(error.address, address);
            }
        });
    }

    // Fails when: `validate` lets a value through that makes the node's arithmetic overflow, or names another key.
    #[test]
    fn settings_that_pass_do_not_overflow(
        times in vec(prop_oneof![Just(0), 1..2000_u64, number()], 6), counts in vec(number(), 10), absurd in 0..20_usize,
    ) {
        let config = config(&times, &counts, absurd);
        match config.validate() {
            Ok(()) => {
                let longest = [config.election_timeout_max, config.disk_timeout, config.request_timeout, config.snapshot_timeout];
                prop_assert!(longest.iter().all(|time| time.as_secs() <= 24 * 60 * 60));
            }
            Err(NodeError::Config { key, value, fix }) => prop_assert!(!key.is_empty() && !value.is_empty() && !fix.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

fn pairs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    prop::collection::btree_map(vec(any::<u8>(), 1..6), vec(any::<u8>(), 0..40), 0..12)
}

fn store_of(pairs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Kv {
    let mut store = Kv::default();
    for ((key, value), at) in pairs.iter().zip(1..) {
        store.apply(at, Command::put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
    store
}

fn head_of(bytes: &[u8]) -> Head {
    let snapshot = SnapshotMetadata {
        last_included: LogPosition { term: 3, index: 8 },
        membership: Membership::of_voters([(1, "a:1"), (2, "b:2")]).into(),
        size: bytes.len() as u64,
        checksum: crc32(bytes),
    };
    Head { cluster_id: 7, node_id: 2, snapshot }
}

/// CRC-32 as the format has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

/// Most of it as usual, so that the bounds behind the first one are reached, too.
fn config(times: &[u64], counts: &[u64], absurd: usize) -> Config {
    use std::time::Duration;
    let mut config = Config::default();
    let time = |place: usize| Duration::new(times[place], 0);
    let count = |place: usize| counts[place] as usize;
    match absurd {
        0 => config.heartbeat_interval = time(0),
        1 => config.election_timeout_min = time(1),
        2 => config.election_timeout_max = time(2),
        3 => config.disk_timeout = time(3),
        4 => config.request_timeout = time(4),
        5 => config.snapshot_timeout = time(5),
        6 => config.max_batch_entries = count(0),
        7 => config.max_batch_bytes = count(1),
        8 => config.max_in_flight_batches = count(2),
        9 => config.max_in_flight_bytes = count(3),
        10 => config.max_entry_bytes = count(4),
        11 => config.max_pending = count(5),
        12 => config.max_pending_bytes = count(6),
        13 => config.snapshot_threshold = counts[7],
        14 => config.snapshot_trailing = counts[8],
        15 => config.snapshot_chunk_bytes = count(9),
        _ => {
            (config.heartbeat_interval, config.election_timeout_min) = (time(0), time(1));
            (config.election_timeout_max, config.disk_timeout) = (time(2), time(3));
        }
    }
    config
}

/// Damage is not a strategy that does nothing.
#[test]
fn damage_damages() {
    let mut bytes = vec![7; 9];
    Damage::Grow(vec![1]).to(&mut bytes);
    assert_eq!(bytes.len(), 10);
}
