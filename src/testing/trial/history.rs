//! What clients were told, and whether it fits one order in real time.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::raft::LogIndex;

/// What the clients of one cluster did.
#[derive(Default)]
pub(super) struct History {
    pub over: AtomicBool,
    /// Numbers invocations and answers in their order, and commands.
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// A call that was answered.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub invoked: u64,
    pub answered: u64,
    /// A command's place in the log; a read's: the last command that it saw.
    pub index: LogIndex,
    /// A command's number and output. `None`: it is a read.
    pub wrote: Option<(u64, Vec<u8>)>,
}

impl History {
    /// A number higher than all before.
    pub fn next(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }

    pub fn note(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The log is the order. So the calls are linearizable if it agrees with real time: what was answered before another call
/// began stands before it, and is seen by it.
pub(super) fn contradiction(operations: &[Operation]) -> Option<String> {
    let mut moments = BTreeMap::new();
    for operation in operations {
        moments.insert(operation.invoked, (false, operation));
        moments.insert(operation.answered, (true, operation));
    }
    let mut last: Option<&Operation> = None;
    let mut before = BTreeMap::new();
    for (_, (answered, operation)) in moments {
        if !answered {
            before.insert(operation.invoked, last);
            continue;
        }
        if let Some(earlier) = before.remove(&operation.invoked).flatten() {
            let in_order = match operation.wrote {
                Some(_) => operation.index > earlier.index,
                None => operation.index >= earlier.index,
            };
            if !in_order {
                let told = |one: &Operation| {
                    let what = if one.wrote.is_some() { "a command" } else { "a read up to" };
                    format!("{what} {}", one.index)
                };
                return Some(format!(
                    "not linearizable: {} began after {} was answered",
                    told(operation),
                    told(earlier)
                ));
            }
        }
        if last.is_none_or(|last| last.index < operation.index) {
            last = Some(operation);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(invoked: u64, answered: u64, index: LogIndex, writes: bool) -> Operation {
        Operation { invoked, answered, index, wrote: writes.then(|| (index, Vec::new())) }
    }

    // Fails when: `contradiction` compares with the wrong one, or lets a read go back.
    #[test]
    fn an_order_against_real_time_is_noticed() {
        let (write, other) = (operation(1, 2, 5, true), operation(3, 4, 6, true));
        assert_eq!(contradiction(&[write.clone(), other.clone(), operation(5, 6, 6, false)]), None);
        assert_eq!(contradiction(&[operation(1, 9, 7, true), other.clone(), operation(5, 6, 6, false)]), None);
        assert!(contradiction(&[write.clone(), other.clone(), operation(5, 6, 5, false)]).is_some(), "a stale read");
        assert!(contradiction(&[other.clone(), operation(5, 6, 4, true)]).is_some(), "an entry before its time");
        assert!(contradiction(&[operation(1, 2, 7, false), other]).is_some(), "a read of what was not there");
    }
}
