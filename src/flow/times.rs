//! How long the messages of one actor waited and how long they took: the part of a meter that has a distribution.
//!
//! It is written by the actor alone, and takes its memory when the actor first lives and when it first hears a word: a
//! [`Histogram`] each, 64 words at most.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::histogram::{Counts, Histogram};

/// "Lately" begins one to two of these ago.
const WINDOW: u64 = 10_000_000_000;

/// Far more words than any actor hears. What finds no room is counted as number 0, which is no name's.
const WORDS: usize = 64;

/// The times of one actor.
pub(super) struct Times {
    waits: Histogram,
    /// What `waits` was when the present window and the one before began; a window's place is its number's parity.
    marks: [Histogram; 2],
    /// The number of the window in which something was counted last.
    window: AtomicU64,
    words: [OnceLock<Box<Word>>; WORDS],
    others: OnceLock<Box<Word>>,
}

struct Word {
    number: u16,
    handling: Histogram,
}

impl Word {
    fn new(number: u16) -> Box<Self> {
        Box::new(Word { number, handling: Histogram::default() })
    }
}

impl Default for Times {
    fn default() -> Self {
        Times {
            waits: Histogram::default(),
            marks: [Histogram::default(), Histogram::default()],
            window: AtomicU64::new(0),
            words: [const { OnceLock::new() }; WORDS],
            others: OnceLock::new(),
        }
    }
}

impl Times {
    /// A message stood in the mailbox for so long and was handled by `now`. Nanoseconds, `now` since the node's epoch.
    pub(super) fn add_wait(&self, now: u64, waited: u64) {
        let window = now / WINDOW;
        let last = self.window.load(Relaxed);
        if window != last {
            self.turn(last, window);
        }
        self.waits.add(waited);
    }

    /// Another window began. Nothing was counted between it and the last one in which something was.
    #[cold]
    fn turn(&self, last: u64, window: u64) {
        self.mark(window).copy(&self.waits);
        if window > last + 1 {
            self.mark(window - 1).copy(&self.waits);
        }
        self.window.store(window, Relaxed);
    }

    fn mark(&self, window: u64) -> &Histogram {
        &self.marks[(window % 2) as usize]
    }

    /// A message of this name took so long to handle.
    pub(super) fn add_handling(&self, word: u16, took: u64) {
        for step in 0..WORDS {
            let slot = &self.words[(usize::from(word) + step) % WORDS];
            let held = slot.get_or_init(|| Word::new(word));
            if held.number == word {
                return held.handling.add(took);
            }
        }
        self.others.get_or_init(|| Word::new(0)).handling.add(took);
    }

    /// All waits.
    pub(super) fn waits(&self) -> Counts {
        self.waits.counts()
    }

    /// The waits of the present window and the one before, and how long that has been by `now`.
    pub(super) fn lately(&self, now: u64) -> (Counts, Duration) {
        let window = now / WINDOW;
        let before = window.saturating_sub(1);
        let long = Duration::from_nanos(now - before * WINDOW);
        let last = self.window.load(Relaxed);
        // Where this window has seen nothing yet, the last one's mark is where the one before began.
        let lately = if last < before { Counts::default() } else { self.waits().since(&self.mark(before).counts()) };
        (lately, long)
    }

    /// All times of handling, added up.
    pub(super) fn handled(&self) -> Duration {
        self.words().map(|word| word.handling.sum()).sum()
    }

    /// The times of handling by the number of the name.
    pub(super) fn handling(&self) -> impl Iterator<Item = (u16, Counts)> {
        self.words().map(|word| (word.number, word.handling.counts()))
    }

    fn words(&self) -> impl Iterator<Item = &Word> {
        self.words.iter().chain([&self.others]).filter_map(OnceLock::get).map(Box::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Fails when: a window's mark is not taken, or is taken of another one, after one or many windows without a message.
    #[test]
    fn lately_is_the_present_window_and_the_one_before() {
        let times = Times::default();
        let count = |now: u64| times.lately(now * SECOND).0.count();
        times.add_wait(SECOND, 1_000);
        assert_eq!((count(1), count(19), count(20)), (1, 1, 0));
        times.add_wait(12 * SECOND, 1_000);
        times.add_wait(13 * SECOND, 1_000);
        assert_eq!((count(13), count(21), count(30)), (3, 2, 0));
        times.add_wait(25 * SECOND, 1_000);
        assert_eq!((count(25), count(30), count(40)), (3, 1, 0));
        times.add_wait(95 * SECOND, 2_000);
        assert_eq!((count(95), count(109), count(110)), (1, 1, 0));
        assert_eq!(times.lately(95 * SECOND).1, Duration::from_secs(15));
        assert_eq!(times.lately(95 * SECOND).0.percentile(99), Duration::from_nanos(2_048));
        assert_eq!(times.waits().count(), 5);
    }

    /// Fails when: two words share a slot, or a word that finds no room is lost or counted with another.
    #[test]
    fn each_word_has_its_own_times_while_there_is_room() {
        let times = Times::default();
        (1..=100).for_each(|word| times.add_handling(word, u64::from(word)));
        times.add_handling(5, 1);
        let words: Vec<_> = times.handling().collect();
        assert_eq!(words.len(), WORDS + 1);
        assert_eq!(words.iter().map(|(_, counts)| counts.count()).sum::<u64>(), 101);
        let five = words.iter().find(|(word, _)| *word == 5).expect("it came early");
        assert_eq!((five.1.count(), five.1.sum()), (2, Duration::from_nanos(6)));
        let others = words.last().expect("there are more than fit");
        assert_eq!((others.0, others.1.count()), (0, 100 - WORDS as u64));
    }
}
