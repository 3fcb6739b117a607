//! What was recorded, filtered and with its names: at once, or as it comes.

use std::time::Duration;

use super::{Flow, Places};
use crate::flow::{
    ActorId, Event, Filter, Follow,
    event::is_one_in,
    recorder::{Record, event_parts},
};

/// Events are recorded as they end, give or take how long a thread is kept from writing one down.
#[cfg(feature = "grpc")]
const IN_DISORDER: Duration = Duration::from_millis(50);

impl Flow {
    /// The recorded events that pass the filter, in the order in which their handling began.
    pub fn events(&self, filter: &Filter) -> Vec<Event> {
        let mut records = self.0.recorder.last(usize::MAX);
        self.sift(filter, &mut records);
        in_order(&mut records);
        let surplus = filter.last.map_or(0, |last| records.len().saturating_sub(last));
        self.resolve(&records[surplus..])
    }

    /// The last recorded events that pass the filter, as many as it says, in the order in which they ended. It looks at no more
    /// of the ring than it has to, so that whoever asks for little, often, costs little.
    #[cfg(feature = "grpc")]
    pub(crate) fn newest(&self, filter: &Filter) -> Vec<Event> {
        let places = self.places();
        let wanted = |record: &Record| self.passes(filter, &places, record);
        let is_too_old = |record: &Record| filter.since.is_some_and(|since| record.ended() + IN_DISORDER < since);
        let records = self.0.recorder.newest(filter.last.unwrap_or(usize::MAX), wanted, is_too_old);
        drop(places);
        self.resolve(&records)
    }

    /// The events that end from now on and pass the filter, as they come. Whoever reads too slowly misses some, and is told
    /// how many; no actor ever waits for a reader.
    pub fn follow(&self, filter: Filter) -> Follow {
        Follow::new(self.clone(), filter, self.0.recorder.end())
    }

    /// The recorded events that pass the filter, the last so many as it says, and then those to come, as [`follow`](Flow::follow)
    /// gives them. What is recorded already is not gathered first, but read as it is asked for.
    pub fn replay(&self, filter: Filter) -> Follow {
        let last = filter.last.unwrap_or(usize::MAX);
        let places = self.places();
        let position = self.0.recorder.begin_of_last(last, |record| self.passes(&filter, &places, record));
        drop(places);
        Follow::new(self.clone(), Filter { last: None, ..filter }, position)
    }

    /// The events from this position of the recorder on that pass the filter and are admitted, by when they ended; how many
    /// passed and were not; where to go on; and how many were missed.
    pub(in crate::flow) fn read_on(
        &self,
        filter: &Filter,
        position: u64,
        limit: usize,
        mut admits: impl FnMut(Duration) -> bool,
    ) -> (Vec<Event>, u64, u64, u64) {
        let (mut records, next, missed) = self.0.recorder.from(position, limit);
        self.sift(filter, &mut records);
        let passed = records.len();
        records.retain(|record| admits(record.ended()));
        (self.resolve(&records), (passed - records.len()) as u64, next, missed)
    }

    /// Leaves those that pass.
    fn sift(&self, filter: &Filter, records: &mut Vec<Record>) {
        let places = self.places();
        records.retain(|record| self.passes(filter, &places, record));
    }

    fn passes(&self, filter: &Filter, places: &Places, record: &Record) -> bool {
        let at = |actor: ActorId, beginning: &str| places.of(actor).path.starts_with(beginning);
        filter.trace.is_none_or(|trace| trace == record.trace)
            && (record.trace == 0 || is_one_in(record.trace, filter.one_call_in))
            && filter.since.is_none_or(|since| record.ended() >= since)
            && filter.until.is_none_or(|until| Duration::from_nanos(record.sent) <= until)
            && filter.message.as_ref().is_none_or(|message| *message == self.0.names.name(record.message))
            && filter
                .actor
                .as_ref()
                .is_none_or(|beginning| at(event_parts(record.id).0, beginning) || at(record.sender.actor, beginning))
    }

    pub(super) fn resolve(&self, records: &[Record]) -> Vec<Event> {
        let places = self.places();
        let path = |actor: ActorId| places.of(actor).path.clone();
        let events = records.iter().map(|record| Event {
            id: record.id,
            cause: record.cause,
            trace: record.trace,
            sender: path(record.sender.actor),
            sender_incarnation: record.sender.incarnation,
            receiver: path(event_parts(record.id).0),
            receiver_incarnation: record.receiver_incarnation,
            message: self.0.names.name(record.message).into(),
            mark: record.mark,
            sent: Duration::from_nanos(record.sent),
            waited: Duration::from_nanos(record.waited),
            handling: Duration::from_nanos(record.handling),
            outcome: record.outcome,
        });
        events.collect()
    }
}

/// By when their handling began. In simulated time many begin at once; then as they ended.
pub(super) fn in_order(records: &mut [Record]) {
    records.sort_by_key(|record| record.sent + record.waited);
}
