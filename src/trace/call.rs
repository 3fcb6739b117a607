//! One client's call among all that the nodes recorded.
//!
//! A message that carries several entries says the trace of the first of them. Those that carried another call's entry are
//! found by their index: of each kind, between the same actors, the first that reaches as far as the entry carried it.

use std::{collections::BTreeMap, time::Duration};

use super::{Recording, names};
use crate::flow::{Event, Mark};

/// What carries entries, or speaks of them.
const CARRIERS: [&str; 9] = [
    "Persist",
    "Persisted",
    "Deliver",
    "AppendEntries",
    "AppendEntriesReply",
    "Answered",
    "Delivered",
    "Apply",
    "Applied",
];

/// Of all that nodes recorded around a client's call, what has to do with it, all of it under the call's trace. Give it
/// everything of that time: what was asked for by the trace alone lacks the messages that carried its entry behind others.
pub fn of_call(recordings: &[Recording], trace: u64) -> Vec<Recording> {
    let place = recordings.iter().find_map(|recording| {
        let (mark, proposal) = place(&recording.events, trace)?;
        let error = i64::try_from(recording.clock.error.as_nanos()).unwrap_or(i64::MAX);
        Some((mark, recording.clock.common(began(proposal)).saturating_sub(error)))
    });
    recordings.iter().map(|recording| narrowed(recording, trace, place)).collect()
}

/// Where in the log the call's command stands, and the message by which consensus heard of it.
fn place(events: &[Event], trace: u64) -> Option<(Mark, &Event)> {
    let is_proposal = |event: &&Event| event.trace == trace && names::is_proposal(&event.message);
    events.iter().filter(is_proposal).find_map(|proposal| {
        let around = |event: &&Event| {
            event.message == "CallsWaiting"
                && event.receiver == proposal.receiver
                && began(event) <= began(proposal)
                && ended(event) >= ended(proposal)
        };
        let told =
            [Some(proposal), events.iter().find(around)].into_iter().flatten().find(|event| event.mark.index > 0);
        Some((told?.mark, proposal))
    })
}

/// As the event says itself, whatever a node claims.
fn began(event: &Event) -> Duration {
    event.sent.saturating_add(event.waited)
}

fn ended(event: &Event) -> Duration {
    began(event).saturating_add(event.handling)
}

fn narrowed(recording: &Recording, trace: u64, place: Option<(Mark, i64)>) -> Recording {
    let error = i64::try_from(recording.clock.error.as_nanos()).unwrap_or(i64::MAX);
    let mut carriers = BTreeMap::<_, (i64, u64)>::new();
    if let Some((mark, begin)) = place {
        for event in recording.events.iter().filter(|event| CARRIERS.contains(&&*event.message)) {
            let ended = recording.clock.common(ended(event));
            if event.mark.index >= mark.index && ended.saturating_add(error) >= begin {
                let way = (&event.sender, &event.receiver, &event.message);
                let first = carriers.entry(way).or_insert((ended, event.id));
                *first = (ended, event.id).min(*first);
            }
        }
    }
    let carries = |event: &Event| {
        let way = (&event.sender, &event.receiver, &event.message);
        carriers.get(&way).is_some_and(|(_, id)| *id == event.id)
    };
    let of_call = recording.events.iter().filter(|event| event.trace == trace || carries(event));
    let events = of_call.map(|event| Event { trace, ..event.clone() }).collect();
    Recording { events, ..*recording }
}
