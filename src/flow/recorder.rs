//! The flight recorder: one ring of the last events of a node, written by all its actors at once without a lock.
//!
//! Each slot is a seqlock of plain atomic words. A writer takes the next position of the ring, marks its slot as being
//! written (odd), writes, and marks it as written (even). A reader takes the words and looks at the mark before and
//! after: a slot that changed meanwhile is left out. A writer that was overtaken by a whole lap, or meets one that is
//! still at it, gives its own event up and counts it as lost: recording never waits.
//!
//! The memory is taken in pieces as the ring fills, so that a node that says little stays small.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use super::{ActorId, EventId, Mark, Outcome, Sender, TraceId};

const WORDS: usize = 7;
const PIECE: usize = 1024;

/// An event that is not there although so many have begun after it was given up: nobody is at one for so long.
const IN_WRITING: u64 = 256;

/// The receiver's id stands in an event id's upper 16 bits.
const RECEIVER_SHIFT: u32 = 48;

/// The `count`th event of `receiver`.
pub(super) fn event_id(receiver: ActorId, count: u64) -> EventId {
    u64::from(receiver.0) << RECEIVER_SHIFT | count & ((1 << RECEIVER_SHIFT) - 1)
}

/// Whose event it is, and its how-manieth.
pub(super) fn event_parts(event: EventId) -> (ActorId, u64) {
    (ActorId((event >> RECEIVER_SHIFT) as u16), event & ((1 << RECEIVER_SHIFT) - 1))
}

/// One event as it stands in the ring. Times are nanoseconds, `sent` since the node's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: EventId,
    pub(super) cause: EventId,
    pub(super) trace: TraceId,
    pub(super) mark: Mark,
    pub(super) sent: u64,
    pub(super) waited: u64,
    pub(super) handling: u64,
    pub(super) sender: Sender,
    pub(super) receiver_incarnation: u32,
    pub(super) message: u16,
    pub(super) outcome: Outcome,
}

impl Record {
    /// When its handling ended, since the node's epoch.
    pub(super) fn ended(&self) -> Duration {
        Duration::from_nanos(self.sent + self.waited + self.handling)
    }

    /// Packs the event into what is left of a cache line beside the slot's mark. What does not fit is held at the
    /// largest value that does: a term of 32 bits, an index of 48, 2 years since the epoch, 1,023 incarnations.
    fn words(&self) -> [u64; WORDS] {
        let Mark { term, index } = self.mark;
        let message = u64::from(self.message).min(ones(12));
        let sender_incarnation = u64::from(self.sender.incarnation).min(ones(10));
        let receiver_incarnation = u64::from(self.receiver_incarnation).min(ones(10));
        [
            self.id,
            self.cause,
            self.trace,
            index.min(ones(48)) << 16 | u64::from(self.sender.actor.0),
            self.sent.min(ones(56)) << 8 | u64::from(self.outcome.number()),
            u64::from(short(self.waited)) << 32 | u64::from(short(self.handling)),
            term.min(ones(32)) << 32 | message << 20 | sender_incarnation << 10 | receiver_incarnation,
        ]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [id, cause, trace, index, sent, times, rest] = words;
        Record {
            id,
            cause,
            trace,
            mark: Mark { term: rest >> 32, index: index >> 16 },
            sent: sent >> 8,
            waited: long((times >> 32) as u32),
            handling: long(times as u32),
            sender: Sender { actor: ActorId(index as u16), incarnation: (rest >> 10 & ones(10)) as u32 },
            receiver_incarnation: (rest & ones(10)) as u32,
            message: (rest >> 20 & ones(12)) as u16,
            outcome: Outcome::from_number(sent as u8),
        }
    }
}

/// The largest number of so many bits.
const fn ones(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Nanoseconds in 32 bits: exact below 16 ms, to 60 ns in a second above.
fn short(nanoseconds: u64) -> u32 {
    (nanoseconds as f32).to_bits()
}

/// The way back from [`short`].
fn long(bits: u32) -> u64 {
    f32::from_bits(bits) as u64
}

/// One cache line.
#[derive(Default)]
#[repr(align(64))]
struct Slot {
    /// 0: empty. `2 * position + 1`: being written. `2 * position + 2`: holds the event of that position.
    mark: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Slot {
    /// Whether it was written.
    fn write(&self, position: u64, words: [u64; WORDS]) -> bool {
        let before = self.mark.load(Ordering::Relaxed);
        let overtaken = before > 2 * position;
        let busy = before % 2 == 1;
        let writing = 2 * position + 1;
        if overtaken
            || busy
            || self.mark.compare_exchange(before, writing, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // A reader that sees one of the words below sees the odd mark as well.
        fence(Ordering::Release);
        for (slot, word) in self.words.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.mark.store(2 * position + 2, Ordering::Release);
        true
    }

    /// Whether the event of this position has yet to be written. It never will where its writer gave it up.
    fn is_awaited(&self, position: u64) -> bool {
        self.mark.load(Ordering::Acquire) <= 2 * position + 1
    }

    /// `None`: another event stands here, or one is just being written.
    fn read(&self, position: u64) -> Option<[u64; WORDS]> {
        let written = 2 * position + 2;
        if self.mark.load(Ordering::Acquire) != written {
            return None;
        }
        let words = std::array::from_fn(|word| self.words[word].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (self.mark.load(Ordering::Relaxed) == written).then_some(words)
    }
}

/// The ring, and the switch that turns it off.
pub(super) struct Recorder {
    on: AtomicBool,
    next: AtomicU64,
    lost: AtomicU64,
    pieces: Box<[OnceLock<Box<[Slot]>>]>,
}

impl Recorder {
    /// Holds the last `capacity` events, rounded up to a power of two of at least 1,024.
    pub(super) fn new(capacity: usize) -> Self {
        let pieces = capacity.div_ceil(PIECE).next_power_of_two();
        Recorder {
            on: AtomicBool::new(true),
            next: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            pieces: (0..pieces).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(super) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// How many events were given up because the ring came round while they were written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The memory that the ring has taken so far.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.get().is_some()).count() * PIECE * size_of::<Slot>()
    }

    /// The memory that it takes at most.
    pub(super) fn most_bytes(&self) -> usize {
        self.capacity() * size_of::<Slot>()
    }

    pub(super) fn write(&self, record: &Record) {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        if !self.slot(position).write(position, record.words()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The last events, in the order in which they ended.
    pub(super) fn last(&self, count: usize) -> Vec<Record> {
        let next = self.next.load(Ordering::Acquire);
        let count = count.min(self.capacity()) as u64;
        let positions = next.saturating_sub(count)..next;
        positions.filter_map(|at| self.slot(at).read(at)).map(Record::from_words).collect()
    }

    /// Where the next event will stand.
    pub(super) fn end(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Where the last so many events begin that are wanted; where the oldest stands if there are not so many.
    pub(super) fn begin_of_last(&self, count: usize, wanted: impl Fn(&Record) -> bool) -> u64 {
        let end = self.end();
        let oldest = end.saturating_sub(self.capacity() as u64);
        let mut left = count;
        let mut begin = end;
        while left > 0 && begin > oldest {
            begin -= 1;
            let record = self.slot(begin).read(begin).map(Record::from_words);
            left -= usize::from(record.is_some_and(|record| wanted(&record)));
        }
        begin
    }

    /// The last so many events that are wanted, in the order in which they ended, none before the last one that is too old.
    #[cfg(feature = "grpc")]
    pub(super) fn newest(
        &self,
        count: usize,
        wanted: impl Fn(&Record) -> bool,
        is_too_old: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        let end = self.end();
        let oldest = end.saturating_sub(self.capacity() as u64);
        let written = (oldest..end).rev().filter_map(|at| self.slot(at).read(at)).map(Record::from_words);
        let mut found: Vec<_> = written.take_while(|record| !is_too_old(record)).filter(wanted).take(count).collect();
        found.reverse();
        found
    }

    /// The events from `position` on, `limit` positions at most; where to go on; how many were missed between: the ring came
    /// round, or they were given up. One that is being written ends the reading: it is there the next time.
    pub(super) fn from(&self, position: u64, limit: usize) -> (Vec<Record>, u64, u64) {
        let end = self.end();
        let oldest = end.saturating_sub(self.capacity() as u64);
        let begin = position.clamp(oldest, end);
        let mut missed = begin - position.min(begin);
        let mut records = Vec::new();
        let mut at = begin;
        while at < end.min(begin.saturating_add(limit as u64)) {
            match self.slot(at).read(at) {
                Some(words) => records.push(Record::from_words(words)),
                None if self.slot(at).is_awaited(at) && end - at <= IN_WRITING => break,
                None => missed += 1,
            }
            at += 1;
        }
        (records, at, missed)
    }

    pub(super) fn capacity(&self) -> usize {
        self.pieces.len() * PIECE
    }

    fn slot(&self, position: u64) -> &Slot {
        let place = position as usize & (self.capacity() - 1);
        let piece = self.pieces[place / PIECE].get_or_init(|| (0..PIECE).map(|_| Slot::default()).collect());
        &piece[place % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A record all of whose fields tell its number, so that a mixture of two shows.
    fn numbered(number: u64) -> Record {
        Record {
            id: event_id(ActorId(7), number),
            cause: number,
            trace: number,
            mark: Mark { term: number, index: number },
            sent: number,
            waited: number,
            handling: number,
            sender: Sender { actor: ActorId(number as u16), incarnation: number as u32 % 1024 },
            receiver_incarnation: number as u32 % 1024,
            message: number as u16 % 4096,
            outcome: Outcome::Stale,
        }
    }

    /// Fails when: two fields of a record share bits of a word.
    #[test]
    fn words_hold_every_field() {
        let record = Record {
            id: event_id(ActorId(u16::MAX), 1),
            cause: 2,
            trace: u64::MAX,
            mark: Mark { term: ones(32), index: 4 },
            sent: ones(56),
            waited: 16_777_216,
            handling: 3_000_000_000,
            sender: Sender { actor: ActorId(u16::MAX), incarnation: 1023 },
            receiver_incarnation: 8,
            message: 4095,
            outcome: Outcome::Panicked,
        };
        let other = Record {
            mark: Mark { term: 3, index: ones(48) },
            sender: Sender { actor: ActorId(1), incarnation: 1 },
            receiver_incarnation: 1023,
            message: 1,
            outcome: Outcome::Noted,
            ..record
        };
        assert_eq!(Record::from_words(record.words()), record);
        assert_eq!(Record::from_words(other.words()), other);
        assert_eq!(event_parts(record.id), (ActorId(u16::MAX), 1));
        assert_eq!(size_of::<Slot>(), 64);
    }

    /// Fails when: a number that is too large spills into its neighbours.
    #[test]
    fn what_does_not_fit_is_held_at_the_largest_that_does() {
        let large = Record {
            mark: Mark { term: 1 << 32, index: 1 << 48 },
            sent: 1 << 56,
            sender: Sender { actor: ActorId(3), incarnation: u32::MAX },
            receiver_incarnation: u32::MAX,
            message: 5,
            ..Record::default()
        };
        let held = Record {
            mark: Mark { term: ones(32), index: ones(48) },
            sent: ones(56),
            sender: Sender { actor: ActorId(3), incarnation: 1023 },
            receiver_incarnation: 1023,
            ..large
        };
        assert_eq!(Record::from_words(large.words()), held);
    }

    /// Fails when: the ring keeps the oldest events instead of the last, or loses the order.
    #[test]
    fn the_ring_keeps_the_last_events_in_order() {
        let recorder = Recorder::new(1);
        assert_eq!(recorder.capacity(), PIECE);
        assert_eq!(recorder.last(10), []);
        assert_eq!((recorder.bytes(), recorder.most_bytes()), (0, 64 * PIECE));
        for number in 0..3 * PIECE as u64 + 5 {
            recorder.write(&numbered(number));
        }
        let kept: Vec<u64> = recorder.last(usize::MAX).iter().map(|record| record.cause).collect();
        let expected: Vec<u64> = (2 * PIECE as u64 + 5..3 * PIECE as u64 + 5).collect();
        assert_eq!(kept, expected);
        assert_eq!(recorder.last(2), [numbered(3 * PIECE as u64 + 3), numbered(3 * PIECE as u64 + 4)]);
        assert_eq!((recorder.lost(), recorder.bytes()), (0, 64 * PIECE));
    }

    /// Fails when: a reader that goes on is given an event twice, or skips one without counting it.
    #[test]
    fn a_reader_goes_on_where_it_was_and_is_told_what_it_missed() {
        let recorder = Recorder::new(1);
        (0..5).for_each(|number| recorder.write(&numbered(number)));
        let (first, next, missed) = recorder.from(2, 2);
        assert_eq!((first, next, missed), (vec![numbered(2), numbered(3)], 4, 0));
        assert_eq!(recorder.from(next, 10), (vec![numbered(4)], 5, 0));
        assert_eq!(recorder.from(5, 10), (vec![], 5, 0));
        (5..5 + PIECE as u64).for_each(|number| recorder.write(&numbered(number)));
        let (events, next, missed) = recorder.from(4, usize::MAX);
        assert_eq!((events.len(), next, missed), (PIECE, 5 + PIECE as u64, 1));
    }

    /// Fails when: other events than the last that are wanted are found, or one that is older than too old, or all are looked at.
    #[cfg(feature = "grpc")]
    #[test]
    fn the_newest_are_found_without_a_look_at_the_oldest() {
        let recorder = Recorder::new(1);
        (0..100).for_each(|number| recorder.write(&numbered(number)));
        let looked = std::cell::Cell::new(0);
        let is_even = |record: &Record| {
            looked.set(looked.get() + 1);
            record.cause.is_multiple_of(2)
        };
        assert_eq!(recorder.newest(2, is_even, |_| false), [numbered(96), numbered(98)]);
        assert_eq!(looked.take(), 4);
        assert_eq!(recorder.newest(9, is_even, |record| record.cause < 97), [numbered(98)]);
        assert_eq!(looked.take(), 3);
    }

    /// Fails when: a reader passes an event over that is being written, or waits for ever for one that was given up.
    #[test]
    fn a_reader_waits_for_an_event_that_is_being_written_and_not_for_one_that_was_given_up() {
        let recorder = Recorder::new(1);
        recorder.write(&numbered(0));
        let given_up = recorder.next.fetch_add(1, Ordering::Relaxed);
        recorder.write(&numbered(2));
        assert_eq!(recorder.from(0, 10), (vec![numbered(0)], given_up, 0));
        (3..3 + IN_WRITING).for_each(|number| recorder.write(&numbered(number)));
        let (events, next, missed) = recorder.from(given_up, usize::MAX);
        assert_eq!((events[0], next, missed), (numbered(2), 3 + IN_WRITING, 1));
    }

    /// Fails when: `read` ignores the odd mark, or `write` overwrites a slot that another writer is at.
    #[test]
    fn a_slot_being_written_is_neither_read_nor_written() {
        let slot = Slot::default();
        assert!(slot.write(0, [1; WORDS]));
        // A writer of position 1024 stops in the midst.
        slot.mark.store(2 * 1024 + 1, Ordering::Relaxed);
        slot.words[0].store(2, Ordering::Relaxed);
        assert_eq!(slot.read(0), None);
        assert_eq!(slot.read(1024), None);
        assert!(!slot.write(2048, [3; WORDS]), "the slot is taken");
        slot.mark.store(2 * 1024 + 2, Ordering::Relaxed);
        assert!(!slot.write(0, [4; WORDS]), "the ring has come round meanwhile");
        assert!(slot.read(1024).is_some());
    }

    /// Fails when: `read` does not look at the mark a second time, or `write` takes a slot that another is at.
    #[test]
    fn readers_beside_writers_see_whole_events_only() {
        let slot = Arc::new(Slot::default());
        let next = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (slot, next) = (slot.clone(), next.clone());
                std::thread::spawn(move || {
                    for _ in 0..300_000 {
                        let position = next.fetch_add(1, Ordering::Relaxed);
                        slot.write(position, [position; WORDS]);
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            let position = (slot.mark.load(Ordering::Relaxed) / 2).saturating_sub(1);
            if let Some(words) = slot.read(position) {
                assert_eq!(words, [position; WORDS], "a torn event");
            }
        }
        writers.into_iter().for_each(|writer| writer.join().expect("a writer does not panic"));
    }
}
