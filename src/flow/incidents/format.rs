//! An incident as bytes: a head that says what it is, its length and its checksum, and a protobuf message.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use prost::Message as _;

use crate::flow::{Event, Incident, Mark, Outcome};

/// The largest file.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// What it is, and of which version.
const MAGIC: &[u8; 8] = b"RRINCID1";

/// The magic, the length of the message and its CRC-32.
const HEAD: usize = 16;

/// The largest number of nanoseconds: two or three of them can be added.
const LARGEST: u64 = 1 << 62;

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    cause: String,
    #[prost(uint64, tag = "3")]
    at: u64,
    #[prost(uint64, tag = "4")]
    since_1970: u64,
    #[prost(fixed64, tag = "5")]
    life: u64,
    #[prost(string, repeated, tag = "6")]
    names: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    events: Vec<StoredEvent>,
}

/// Sender, receiver and message are numbers of names.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredEvent {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    cause: u64,
    #[prost(fixed64, tag = "3")]
    trace: u64,
    #[prost(uint32, tag = "4")]
    sender: u32,
    #[prost(uint32, tag = "5")]
    receiver: u32,
    #[prost(uint32, tag = "6")]
    message: u32,
    #[prost(uint32, tag = "7")]
    sender_incarnation: u32,
    #[prost(uint32, tag = "8")]
    receiver_incarnation: u32,
    #[prost(uint64, tag = "9")]
    term: u64,
    #[prost(uint64, tag = "10")]
    index: u64,
    #[prost(uint64, tag = "11")]
    sent: u64,
    #[prost(uint64, tag = "12")]
    waited: u64,
    #[prost(uint64, tag = "13")]
    handling: u64,
    #[prost(uint32, tag = "14")]
    outcome: u32,
}

/// The latest of its messages that have room in a file.
pub(super) fn encode(incident: &Incident) -> Vec<u8> {
    let mut begin = 0;
    loop {
        let message = stored(incident, begin);
        let length = message.encoded_len();
        let left = incident.events.len() - begin;
        if HEAD + length > MAX_BYTES && left > 0 {
            begin += left.div_ceil(4);
            continue;
        }
        let body = message.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend(MAGIC);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        return bytes;
    }
}

/// What was encoded, or what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Incident, &'static str> {
    let (head, body) = bytes.split_at_checked(HEAD).ok_or("it is too short")?;
    if &head[..8] != MAGIC {
        return Err("it is no incident, or of another version");
    }
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("these are four bytes"));
    if number(8) as usize != body.len() {
        return Err("it has another length than it says");
    }
    if number(12) != crc32fast::hash(body) {
        return Err("its checksum does not fit");
    }
    let stored = Stored::decode(body).map_err(|_| "it is no message")?;
    let names: Vec<Arc<str>> = stored.names.into_iter().map(Arc::from).collect();
    let events = stored.events.iter().map(|event| read_event(&names, event)).collect::<Option<_>>();
    Ok(Incident {
        id: stored.id,
        cause: stored.cause,
        at: Duration::from_nanos(stored.at.min(LARGEST)),
        since_1970: Duration::from_nanos(stored.since_1970.min(LARGEST)),
        life: stored.life,
        events: events.ok_or("one of its messages means nothing")?,
    })
}

fn stored(incident: &Incident, begin: usize) -> Stored {
    let mut names = Names::default();
    let events = incident.events[begin..].iter().map(|event| StoredEvent {
        id: event.id,
        cause: event.cause,
        trace: event.trace,
        sender: names.number(&event.sender),
        receiver: names.number(&event.receiver),
        message: names.number(&event.message),
        sender_incarnation: event.sender_incarnation,
        receiver_incarnation: event.receiver_incarnation,
        term: event.mark.term,
        index: event.mark.index,
        sent: nanoseconds(event.sent),
        waited: nanoseconds(event.waited),
        handling: nanoseconds(event.handling),
        outcome: event.outcome.number().into(),
    });
    Stored {
        events: events.collect(),
        id: incident.id,
        cause: incident.cause.clone(),
        at: nanoseconds(incident.at),
        since_1970: nanoseconds(incident.since_1970),
        life: incident.life,
        names: names.all,
    }
}

fn read_event(names: &[Arc<str>], event: &StoredEvent) -> Option<Event> {
    let name = |number: u32| names.get(number as usize).cloned();
    let time = |nanoseconds: u64| (nanoseconds <= LARGEST).then(|| Duration::from_nanos(nanoseconds));
    Some(Event {
        id: event.id,
        cause: event.cause,
        trace: event.trace,
        sender: name(event.sender)?,
        sender_incarnation: event.sender_incarnation,
        receiver: name(event.receiver)?,
        receiver_incarnation: event.receiver_incarnation,
        message: Cow::Owned(name(event.message)?.to_string()),
        mark: Mark { term: event.term, index: event.index },
        sent: time(event.sent)?,
        waited: time(event.waited)?,
        handling: time(event.handling)?,
        outcome: Outcome::from_number(u8::try_from(event.outcome).ok()?),
    })
}

/// Each name once.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, u32>,
    all: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.all.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.all.push(name.to_owned());
        number
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).map_or(LARGEST, |nanoseconds| nanoseconds.min(LARGEST))
}
