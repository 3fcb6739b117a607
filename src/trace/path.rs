//! What the time of a call went into: walked back from its end, over causes and over the network, so that each moment counts
//! for exactly one thing.

use super::{names, sequence::Step};

/// Where time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a node's log store, which makes things durable.
    Disk {
        /// Whose disk.
        node: u64,
    },
    /// Between nodes.
    Network,
    /// In mailboxes.
    Queue,
    /// In the state machine.
    Apply,
    /// In the actors, and wherever nothing was recorded.
    Other,
}

/// So much time at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub place: Place,
    /// How long, in nanoseconds.
    pub nanoseconds: i64,
}

impl Place {
    /// "node-2 fsync", "network", "queues", "apply", "other".
    pub fn name(self) -> String {
        match self {
            Place::Disk { node } => format!("node-{node} fsync"),
            Place::Network => "network".to_owned(),
            Place::Queue => "queues".to_owned(),
            Place::Apply => "apply".to_owned(),
            Place::Other => "other".to_owned(),
        }
    }
}

/// What the time from `began` to the end of step `last` went into; the parts add up to it. `before` is what led to a step that
/// has neither a cause nor a place where it left.
pub(super) fn parts(steps: &[Step], began: i64, last: usize, before: impl Fn(usize) -> Option<usize>) -> Vec<Part> {
    walk(steps, began, steps[last].ended, last, before)
}

/// As [`parts`], to the sending of step `last`.
pub(super) fn parts_until_sent(steps: &[Step], began: i64, last: usize) -> Vec<Part> {
    walk(steps, began, steps[last].sent, last, |_| None)
}

fn walk(steps: &[Step], began: i64, mut until: i64, last: usize, before: impl Fn(usize) -> Option<usize>) -> Vec<Part> {
    let mut parts = Vec::<Part>::new();
    let mut spend = |place: Place, from: i64, until: &mut i64| {
        let from = from.max(began);
        if from < *until {
            let nanoseconds = *until - from;
            *until = from;
            match parts.iter_mut().find(|part| part.place == place) {
                Some(part) => part.nanoseconds += nanoseconds,
                None => parts.push(Part { place, nanoseconds }),
            }
        }
    };
    let mut at = Some(last);
    // A broken recording may go in circles.
    for _ in 0..=steps.len() {
        let Some(number) = at else { break };
        let step = &steps[number];
        spend(place_of(step), step.began, &mut until);
        spend(Place::Queue, step.sent, &mut until);
        if until <= began {
            break;
        }
        at = match step.left {
            Some(left) => {
                spend(Place::Network, steps[left].ended.min(step.sent), &mut until);
                Some(left)
            }
            None => step.cause.or_else(|| before(number)),
        };
    }
    spend(Place::Other, began, &mut until);
    parts.sort_by_key(|part| (part.place == Place::Other, std::cmp::Reverse(part.nanoseconds), part.place));
    parts
}

fn place_of(step: &Step) -> Place {
    match (&*step.event.receiver, &*step.event.message) {
        ("log store", "Persist" | "TryAgain" | "StoreChunk" | "ReadChunk") => Place::Disk { node: step.node },
        ("applier", _) => Place::Apply,
        _ => Place::Other,
    }
}

/// "critical path 4.12 ms: node-2 fsync 2.25 · network 1.08 · queues 0.31 · apply 0.03 · other 0.45". What is shown adds up.
pub(super) fn line(parts: &[Part]) -> String {
    let whole: i64 = parts.iter().map(|part| part.nanoseconds).sum();
    let mut hundredths: Vec<_> = parts.iter().map(|part| part.nanoseconds / 10_000).collect();
    let missing = whole.saturating_add(5_000) / 10_000 - hundredths.iter().sum::<i64>();
    let mut by_rest: Vec<_> = (0..parts.len()).collect();
    by_rest.sort_by_key(|number| std::cmp::Reverse(parts[*number].nanoseconds % 10_000));
    by_rest.into_iter().take(missing.max(0) as usize).for_each(|number| hundredths[number] += 1);
    let shown = parts.iter().zip(hundredths).filter(|(_, hundredths)| *hundredths > 0);
    let shown: Vec<_> = shown
        .map(|(part, hundredths)| format!("{} {}", part.place.name(), names::milliseconds(hundredths * 10_000)))
        .collect();
    let path = format!("critical path {} ms", names::milliseconds(whole));
    if shown.is_empty() { path } else { format!("{path}: {}", shown.join(" · ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(place: Place, nanoseconds: i64) -> Part {
        Part { place, nanoseconds }
    }

    /// Fails when: the parts as they are shown do not add up to the whole as it is shown.
    #[test]
    fn what_is_shown_adds_up() {
        let parts =
            [part(Place::Disk { node: 2 }, 2_246_000), part(Place::Network, 1_076_000), part(Place::Other, 456_000)];
        assert_eq!(line(&parts), "critical path 3.78 ms: node-2 fsync 2.25 · network 1.08 · other 0.45");
        assert_eq!(line(&[]), "critical path 0.00 ms");
    }
}
