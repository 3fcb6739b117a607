//! A state machine for tests: a list of the lines applied, each with its place in the log.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use imbl::Vector;
use prost::Message;

use crate::{
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
};

/// A command of the [`Ledger`].
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Line {
    /// What is to be written down. Unique in a test, so that it can be told which command it was.
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Line {
    /// The command to write this down.
    pub fn new(text: impl Into<String>) -> Self {
        Line { text: text.into() }
    }
}

/// What the proposer of a [`Line`] gets back.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Written {
    /// Where in the log it stands.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// How many lines there were before it.
    #[prost(uint64, tag = "2")]
    pub before: u64,
}

/// Writes down every line it applies, with its index. Two replicas at the same index must hold the same list.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    lines: Vector<(LogIndex, String)>,
    witness: Option<Witness>,
}

impl Ledger {
    /// One that shows each line it applies to `witness` as well.
    pub fn watched_by(witness: &Witness) -> Self {
        Ledger { lines: Vector::new(), witness: Some(witness.clone()) }
    }

    /// All lines with their indexes, in the order applied.
    pub fn lines(&self) -> impl Iterator<Item = (LogIndex, &str)> {
        self.lines.iter().map(|(index, text)| (*index, text.as_str()))
    }

    /// The line at this index of the log; `None` if none was applied there.
    pub fn at(&self, index: LogIndex) -> Option<&str> {
        let place = self.lines.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.lines[place].1)
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl StateMachine for Ledger {
    type Command = Line;
    type Output = Written;

    fn apply(&mut self, at: LogIndex, line: Line) -> Written {
        if let Some(witness) = &self.witness {
            witness.see(self.lines.last().map_or(0, |(index, _)| *index), at, &line.text);
        }
        let before = self.lines.len() as u64;
        self.lines.push_back((at, line.text));
        Written { index: at, before }
    }

    fn snapshot(&self) -> impl Snapshot {
        Lines(self.lines.clone())
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut encoded = Vec::new();
        bytes.read_to_end(&mut encoded)?;
        let Page { indexes, texts } = Page::decode(&encoded[..])?;
        self.lines = indexes.into_iter().zip(texts).collect();
        Ok(())
    }
}

struct Lines(Vector<(LogIndex, String)>);

#[derive(Clone, PartialEq, Message)]
struct Page {
    #[prost(uint64, repeated, tag = "1")]
    indexes: Vec<u64>,
    #[prost(string, repeated, tag = "2")]
    texts: Vec<String>,
}

impl Snapshot for Lines {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let (indexes, texts) = self.0.into_iter().unzip();
        to.write_all(&Page { indexes, texts }.encode_to_vec())
    }
}

/// Sees what is applied on all nodes of a cluster, in all their lives, and notices what contradicts State Machine Safety:
/// "if a server has applied a log entry at a given index to its state machine, no other server will ever apply a
/// different log entry for the same index" (§5.4.3). Clones are the same witness.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    lines: BTreeMap<LogIndex, String>,
    contradiction: Option<String>,
}

impl Witness {
    fn see(&self, previous: LogIndex, at: LogIndex, text: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = seen.lines.range(previous + 1..at.max(previous + 1)).next().map(|(index, _)| *index);
        let known = seen.lines.entry(at).or_insert_with(|| text.to_owned()).clone();
        let contradiction = if at <= previous {
            format!("{text:?} at {at} was applied after the entry at {previous}")
        } else if known != text {
            format!("{text:?} was applied at {at}, where {known:?} was applied before")
        } else if let Some(skipped) = skipped {
            format!("the entry at {skipped} was skipped between {previous} and {at}")
        } else {
            return;
        };
        seen.contradiction.get_or_insert(contradiction);
    }

    /// The first contradiction, if there was any.
    pub fn contradiction(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contradiction.clone()
    }

    /// Everything that was ever applied anywhere, by index.
    pub fn lines(&self) -> BTreeMap<LogIndex, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contradiction(applied: &[&[(LogIndex, &str)]]) -> Option<String> {
        let witness = Witness::default();
        for life in applied {
            let mut ledger = Ledger::watched_by(&witness);
            for (index, text) in *life {
                ledger.apply(*index, Line::new(*text));
            }
        }
        witness.contradiction()
    }

    // Fails when: any of the three comparisons in `see` is left out.
    #[test]
    fn a_witness_notices_what_was_applied_twice_skipped_or_otherwise_elsewhere() {
        assert_eq!(contradiction(&[&[(2, "a"), (4, "b")], &[(2, "a"), (4, "b"), (5, "c")]]), None);
        assert!(contradiction(&[&[(2, "a"), (2, "a")]]).is_some_and(|text| text.contains("after the entry at 2")));
        assert!(contradiction(&[&[(2, "a"), (4, "b")], &[(4, "b")]]).is_some_and(|text| text.contains("skipped")));
        assert!(contradiction(&[&[(2, "a")], &[(2, "b")]]).is_some_and(|text| text.contains("before")));
    }

    // Fails when: `restore` forgets the indexes.
    #[test]
    fn a_ledger_survives_its_snapshot() {
        let mut ledger = Ledger::default();
        ledger.apply(2, Line::new("a"));
        ledger.apply(7, Line::new("b"));
        let mut bytes = Vec::new();
        ledger.snapshot().write(&mut bytes).expect("memory takes all");
        let mut restored = Ledger::default();
        restored.restore(&bytes[..]).expect("it was just written");
        assert_eq!(restored.lines().collect::<Vec<_>>(), [(2, "a"), (7, "b")]);
    }
}
