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

/// A way back through the messages, as far as it could be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// They add up to the whole time.
    pub parts: Vec<Part>,
    /// The messages on it, the first first.
    pub steps: Vec<usize>,
}

/// What the time from `began` to the end of step `last` went into.
pub(super) fn to_end(steps: &[Step], began: i64, last: usize) -> Path {
    walk(steps, began, steps[last].ended, last)
}

/// As [`to_end`], to the sending of step `last`.
pub(super) fn to_sending(steps: &[Step], began: i64, last: usize) -> Path {
    walk(steps, began, steps[last].sent, last)
}

fn walk(steps: &[Step], began: i64, until: i64, last: usize) -> Path {
    let mut time = Time { began, until, parts: Vec::new() };
    let mut passed = Vec::new();
    let mut at = Some(last);
    // A broken recording may go in circles.
    for _ in 0..=steps.len() {
        let Some(number) = at else { break };
        let step = &steps[number];
        if step.ended < began {
            break;
        }
        passed.push(number);
        time.spend(place_of(step), step.began);
        time.spend(Place::Queue, step.sent);
        if let Some(left) = step.left {
            time.spend(Place::Network, steps[left].ended.min(step.sent));
        }
        at = step.left.or(step.cause);
    }
    time.spend(Place::Other, began);
    time.parts.sort_by_key(|part| (part.place == Place::Other, std::cmp::Reverse(part.nanoseconds), part.place));
    passed.reverse();
    Path { parts: time.parts, steps: passed }
}

/// The time that is not accounted for yet: from `began` until `until`.
struct Time {
    began: i64,
    until: i64,
    parts: Vec<Part>,
}

impl Time {
    /// What is left from `from` on was spent at `place`.
    fn spend(&mut self, place: Place, from: i64) {
        let from = from.max(self.began);
        if from >= self.until {
            return;
        }
        let nanoseconds = self.until - from;
        self.until = from;
        match self.parts.iter_mut().find(|part| part.place == place) {
            Some(part) => part.nanoseconds += nanoseconds,
            None => self.parts.push(Part { place, nanoseconds }),
        }
    }
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
