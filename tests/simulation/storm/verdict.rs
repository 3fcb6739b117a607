//! Whether what clients and watchers were told can be.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use prost::Message as _;
use ractor_raft::{
    kv::{Command, Kv, Operation},
    raft::{Entry, LogIndex, NodeId, Payload, SessionCommand},
};

use super::{
    clients::{Told, number},
    watchers::Seen,
};
use crate::linear::{Act, Call, Value, search, zones};

/// What the committed log means, worked out here anew: each key's values with their indexes.
#[derive(Default, Hash)]
pub struct Log {
    keys: BTreeMap<String, Vec<(LogIndex, Option<Value>)>>,
    /// What each index writes that was applied.
    writes: BTreeMap<LogIndex, (String, Option<Value>)>,
    values: BTreeSet<Value>,
}

impl Log {
    fn at(&self, key: &str, index: LogIndex) -> Option<(LogIndex, Value)> {
        let versions = self.keys.get(key)?;
        let until = versions.partition_point(|(at, _)| *at <= index);
        let (at, value) = versions.get(until.checked_sub(1)?)?;
        value.map(|value| (*at, value))
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }

    fn apply(&mut self, index: LogIndex, command: &[u8]) {
        let Some(operation) = Command::decode(command).expect("clients say what can be read").operation else { return };
        let (key, value, found) = match operation {
            Operation::Put(put) => (put.key, Some(number(&put.value)), true),
            Operation::Delete(delete) => (delete.key, None, false),
            Operation::CompareAndSwap(swap) => {
                let key = String::from_utf8_lossy(&swap.key);
                let stands = self.at(&key, index).map(|(_, value)| value);
                if stands != swap.expect.as_ref().map(number) {
                    return;
                }
                (swap.key, Some(number(&swap.set)), true)
            }
        };
        let key = String::from_utf8(key.to_vec()).expect("keys are words");
        if found || self.at(&key, index).is_some() {
            self.keys.entry(key.clone()).or_default().push((index, value));
            self.writes.insert(index, (key, value));
            self.values.extend(value);
        }
    }
}

/// One session as its rules say (thesis §6.3): each sequence is applied once, and none that nobody waits for any more.
#[derive(Default)]
struct Session {
    first_unanswered: u64,
    applied: BTreeSet<u64>,
}

impl Session {
    fn applies(&mut self, call: &SessionCommand) -> bool {
        self.first_unanswered = self.first_unanswered.max(call.first_unanswered);
        call.sequence >= self.first_unanswered && self.applied.insert(call.sequence)
    }
}

pub fn replay(committed: &[Entry]) -> Log {
    let (mut log, mut sessions) = (Log::default(), BTreeMap::<u64, Session>::new());
    for entry in committed {
        match &entry.payload {
            Payload::Command(command) => log.apply(entry.index, command),
            Payload::OpenSession => drop(sessions.insert(entry.index, Session::default())),
            Payload::SessionCommand(call) => {
                if sessions.get_mut(&call.session).is_some_and(|session| session.applies(call)) {
                    log.apply(entry.index, &call.command);
                }
            }
            Payload::Noop | Payload::Membership(_) => {}
        }
    }
    log
}

/// Fails when: an entry is applied twice or left out, a session's command counts twice.
pub fn holds_what_the_log_says(id: NodeId, log: &Log) -> impl FnOnce(&Kv) + Send + 'static {
    let last =
        |versions: &Vec<(LogIndex, Option<Value>)>| versions.last().and_then(|(at, value)| Some((*at, (*value)?)));
    let expected: BTreeMap<_, _> =
        log.keys.iter().filter_map(|(key, versions)| Some((key.clone(), last(versions)?))).collect();
    move |store| {
        let pair = |(key, value): (&bytes::Bytes, &ractor_raft::kv::Value)| {
            (String::from_utf8_lossy(key).into_owned(), (value.revision, number(&value.bytes)))
        };
        let held: BTreeMap<_, _> = store.iter().map(pair).collect();
        assert_eq!(held, expected, "node {id} holds something else than the log says (left), each with its index");
    }
}

/// What was refused as "not applied" is nowhere.
///
/// Fails when: a proposal's outcome that nobody knows is called a refusal.
pub fn check_refused(refused: &[Value], log: &Log) {
    for value in refused {
        assert!(!log.values.contains(value), "{value:x} was applied, and its client was told that it was not");
    }
}

/// The log is the order. So it is enough that it agrees with real time: whatever was answered before a call began stands
/// before it; and that every answer is what the log says at its index.
///
/// Fails when: reads skip their round, a lease is taken for longer than it is, a write is answered before it is committed.
pub fn check_by_index(calls: &[Told], log: &Log) {
    for told in calls {
        let Some(index) = told.index else { continue };
        assert!(index >= told.at_least, "a read of an older state than it asked for: {told:?}");
        match &told.call.act {
            Act::Write(value) | Act::Swap { set: value, .. } if log.writes.contains_key(&index) => {
                let written = &log.writes[&index];
                assert_eq!(
                    *written,
                    (told.key.clone(), Some(*value)),
                    "what was answered is not what stands there: {told:?}"
                );
            }
            Act::Write(_) => panic!("it was answered, and is not in the log: {told:?}"),
            Act::Read(value) => {
                let stands = log.at(&told.key, index).map(|(_, value)| value);
                assert_eq!(*value, stands, "a read of another state than that of its index: {told:?}");
            }
            Act::Delete { found } | Act::Swap { found, .. } => {
                let stands = log.at(&told.key, index - 1).map(|(_, value)| value);
                assert_eq!(*found, stands, "it found something else than stood there: {told:?}");
            }
        }
    }
    let fresh = calls.iter().filter(|told| told.fresh && told.index.is_some());
    let mut moments: Vec<_> =
        fresh.flat_map(|told| [(told.call.begun, told), (told.call.ended.unwrap_or(0), told)]).collect();
    moments.sort_by_key(|(moment, _)| *moment);
    let mut answered: Option<&Told> = None;
    let mut must_exceed = BTreeMap::new();
    for (moment, told) in moments {
        if moment == told.call.begun {
            must_exceed.insert(moment, answered);
            continue;
        }
        if let Some(earlier) = must_exceed.remove(&told.call.begun).flatten() {
            let in_order = match told.call.act {
                Act::Read(_) => told.index >= earlier.index,
                _ => told.index > earlier.index,
            };
            assert!(in_order, "not linearizable: {told:?} began after {earlier:?} was answered");
        }
        // A read's state may be of any index at which nothing stands that can be seen.
        if answered.is_none_or(|earlier| earlier.index < told.index) {
            answered = Some(told);
        }
    }
}

/// The same for somebody who knows nothing of a log. Returns how many calls were looked at.
///
/// Fails when: the above does, and when indexes and states are wrong together.
pub fn check_without_index(calls: &[Told]) -> u64 {
    let mut keys: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for told in calls.iter().filter(|told| told.fresh) {
        keys.entry(&told.key).or_default().push(told.call.clone());
    }
    let mut looked_at = 0;
    for (key, calls) in keys {
        let checked = match key.starts_with("s/") {
            true => search::check(&calls),
            false => zones::check(&calls),
        };
        checked.unwrap_or_else(|why| panic!("not linearizable: {key}: {why}"));
        looked_at += calls.iter().filter(|call| call.ended.is_some()).count() as u64;
    }
    looked_at
}

/// A watcher was told every change of its prefix, once, in order, wherever it says that it was told all. Returns how many.
///
/// Fails when: a stream that goes on elsewhere loses or repeats a change; a history begins before what it remembers.
pub fn check_watched(seen: &Seen, log: &Log) -> u64 {
    let expected: Vec<_> = seen
        .told
        .iter()
        .filter(|(from, to)| from <= to)
        .flat_map(|(from, to)| log.writes.range(from..=to))
        .filter(|(_, (key, _))| key.starts_with(seen.prefix))
        .map(|(at, (key, value))| (*at, key.clone(), *value))
        .collect();
    let told: Vec<_> = seen
        .changes
        .iter()
        .map(|change| {
            let key = String::from_utf8_lossy(&change.key).into_owned();
            (change.revision, key, change.value.as_ref().map(number))
        })
        .collect();
    let differs = expected.iter().zip(&told).position(|(one, other)| one != other);
    assert!(
        expected == told,
        "a watcher of {:?} was told {} changes of {}; from {differs:?} on: {:?} instead of {:?}",
        seen.prefix,
        told.len(),
        expected.len(),
        told.get(differs.unwrap_or(expected.len().min(told.len()))),
        expected.get(differs.unwrap_or(expected.len().min(told.len()))),
    );
    told.len() as u64
}
