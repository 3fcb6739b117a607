//! A node's recorded messages, as they are told to another process.
//!
//! Names are told once in a stream and stand as numbers from there on. What a node tells is checked like any other message: a
//! number without a name, an outcome that is none, a time beyond all bounds is [`Malformed`].

mod incident;
#[cfg(test)]
mod tests;
mod tree;

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use super::{Malformed, number, pb};
use crate::flow::{Event, Mark, Outcome};

pub use self::{
    incident::{KeptIncident, incident_to_pb, incidents_from_pb},
    tree::{RemoteActor, Tree, actor_to_pb, status_to_text, tree_from_pb},
};

/// More names than any node has places and words.
const MAX_NAMES: usize = 1 << 16;

/// Longer than any name.
const MAX_NAME: usize = 1 << 10;

/// The numbers that names were given in one stream, on the side that tells.
#[derive(Debug, Default)]
pub struct FlowNames {
    numbers: HashMap<Box<str>, u32>,
    new: Vec<String>,
}

impl FlowNames {
    /// A recorded message. Names that it says for the first time are [new](FlowNames::take_new).
    pub fn event_to_pb(&mut self, event: &Event) -> pb::FlowEvent {
        pb::FlowEvent {
            id: event.id,
            cause: event.cause,
            trace: event.trace,
            sender: self.number(&event.sender),
            receiver: self.number(&event.receiver),
            message: self.number(&event.message),
            sender_incarnation: event.sender_incarnation,
            receiver_incarnation: event.receiver_incarnation,
            term: event.mark.term,
            index: event.mark.index,
            sent: nanoseconds(event.sent),
            waited: nanoseconds(event.waited),
            handling: nanoseconds(event.handling),
            outcome: outcome_to_pb(event.outcome).into(),
        }
    }

    /// The names that were given a number since the last time, in the order of their numbers.
    pub fn take_new(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new)
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(name.into(), number);
        self.new.push(name.to_owned());
        number
    }
}

/// What one reply of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowPart {
    /// Which node tells it.
    pub node: u64,
    /// The life that its clock counts from the beginning of.
    pub life: u64,
    /// What the clock showed.
    pub now: Duration,
    /// In the order in which they ended.
    pub events: Vec<Event>,
    /// Recorded messages before these that this stream does not tell.
    pub missed: u64,
}

/// The names that were told in one stream, on the side that reads.
#[derive(Debug, Default)]
pub struct FlowReader {
    names: Vec<Arc<str>>,
    /// Who tells, and in which life, once it has been said.
    teller: Option<(u64, u64)>,
}

impl FlowReader {
    /// The next reply of the stream.
    ///
    /// # Errors
    /// [`Malformed`] names the first field that does not fit.
    pub fn read(&mut self, reply: pb::FlowReply) -> Result<FlowPart, Malformed> {
        let pb::FlowClock { life, now } = reply.clock.ok_or_else(|| Malformed::new("clock", "is missing"))?;
        let node = super::check_id("node", reply.node)?;
        let now = time("clock.now", now)?;
        match *self.teller.get_or_insert((node, life)) {
            (first, _) if first != node => {
                return Err(Malformed::new("node", format!("is {node}, after {first} in the same stream")));
            }
            (_, first) if first != life => return Err(Malformed::new("clock.life", "is another than before")),
            _ => {}
        }
        if self.names.len() + reply.names.len() > MAX_NAMES {
            return Err(Malformed::new("names", format!("are more than {MAX_NAMES}")));
        }
        if let Some(at) = reply.names.iter().position(|name| name.len() > MAX_NAME) {
            return Err(Malformed::new(format!("names[{at}]"), format!("is longer than {MAX_NAME} bytes")));
        }
        self.names.extend(reply.names.into_iter().map(Arc::from));
        let event = |(at, event)| self.event(event).map_err(|malformed| malformed.within(format_args!("events[{at}]")));
        let events = reply.events.into_iter().enumerate().map(event).collect::<Result<_, _>>()?;
        Ok(FlowPart { node, life, now, events, missed: number("missed", reply.missed)? })
    }

    fn event(&self, event: pb::FlowEvent) -> Result<Event, Malformed> {
        if event.id == 0 {
            return Err(Malformed::new("id", "is 0"));
        }
        let outcome = pb::FlowOutcome::try_from(event.outcome)
            .map_err(|_| Malformed::new("outcome", format!("is {}, which is none", event.outcome)))?;
        Ok(Event {
            id: event.id,
            cause: event.cause,
            trace: event.trace,
            sender: self.name("sender", event.sender)?,
            sender_incarnation: event.sender_incarnation,
            receiver: self.name("receiver", event.receiver)?,
            receiver_incarnation: event.receiver_incarnation,
            message: Cow::Owned(self.name("message", event.message)?.to_string()),
            mark: Mark { term: number("term", event.term)?, index: number("index", event.index)? },
            sent: time("sent", event.sent)?,
            waited: time("waited", event.waited)?,
            handling: time("handling", event.handling)?,
            outcome: outcome_from_pb(outcome),
        })
    }

    fn name(&self, field: &str, number: u32) -> Result<Arc<str>, Malformed> {
        let name = self.names.get(number as usize);
        name.cloned().ok_or_else(|| Malformed::new(field, format!("is {number}, a name that was not told")))
    }
}

/// Nanoseconds, of which two or three can be added.
fn time(field: &str, nanoseconds: u64) -> Result<Duration, Malformed> {
    number(field, nanoseconds).map(Duration::from_nanos)
}

pub(in crate::rpc) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn outcome_to_pb(outcome: Outcome) -> pb::FlowOutcome {
    match outcome {
        Outcome::Handled => pb::FlowOutcome::Handled,
        Outcome::Failed => pb::FlowOutcome::Failed,
        Outcome::Panicked => pb::FlowOutcome::Panicked,
        Outcome::Stale => pb::FlowOutcome::Stale,
        Outcome::Killed => pb::FlowOutcome::Killed,
        Outcome::Noted => pb::FlowOutcome::Noted,
    }
}

fn outcome_from_pb(outcome: pb::FlowOutcome) -> Outcome {
    match outcome {
        pb::FlowOutcome::Handled => Outcome::Handled,
        pb::FlowOutcome::Failed => Outcome::Failed,
        pb::FlowOutcome::Panicked => Outcome::Panicked,
        pb::FlowOutcome::Stale => Outcome::Stale,
        pb::FlowOutcome::Killed => Outcome::Killed,
        pb::FlowOutcome::Noted => Outcome::Noted,
    }
}
