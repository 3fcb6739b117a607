//! Which messages are shown. All of them, as long as a browser can draw them; of more, whole calls rather than parts of many.
//!
//! The nodes are only asked for the calls that are shown, so that a busy node tells no more than an idle one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::flow::{Event, is_one_in};

/// Messages of clients' calls in one frame.
const TRACED: u32 = 120;

/// Messages in one frame that belong to no call: heartbeats, timers, elections.
const UNTRACED: u32 = 60;

/// Messages of calls a second that are aimed at.
const AIM: u64 = 240;

/// How often it is looked how many there are; and how often where there are many more than are aimed at.
const WINDOW: Duration = Duration::from_secs(1);
const HASTE: Duration = Duration::from_millis(200);

/// The choice, and what it rests on.
pub(super) struct Sample {
    /// Of so many calls one is shown: a power of two, so that what is shown of more calls is shown of fewer as well.
    one_call_in: Arc<AtomicU64>,
    traced: u32,
    untraced: u32,
    /// Messages of calls there would have been in this window, had all been asked for.
    in_window: u64,
    window: Instant,
}

impl Default for Sample {
    fn default() -> Self {
        Sample {
            one_call_in: Arc::new(AtomicU64::new(1)),
            traced: 0,
            untraced: 0,
            in_window: 0,
            window: Instant::now(),
        }
    }
}

impl Sample {
    /// For whoever asks the nodes.
    pub fn one_call_in(&self) -> Arc<AtomicU64> {
        self.one_call_in.clone()
    }

    /// Whether this one is shown, of those that were `asked` for: of so many calls one. All nodes' messages of one call are, or
    /// none.
    pub fn admits(&mut self, event: &Event, asked: u64) -> bool {
        if event.trace == 0 {
            self.untraced += 1;
            return self.untraced <= UNTRACED;
        }
        self.in_window += asked;
        if !is_one_in(event.trace, self.one_call_in.load(Relaxed)) {
            return false;
        }
        self.traced += 1;
        self.traced <= TRACED
    }

    /// A frame is told.
    pub fn next_frame(&mut self) {
        let elapsed = self.window.elapsed();
        let one_call_in = self.one_call_in.load(Relaxed);
        let is_too_much = elapsed >= HASTE && self.in_window > 2 * AIM * one_call_in;
        if elapsed >= WINDOW || is_too_much {
            let a_second = self.in_window * 1000 / elapsed.as_millis().max(1) as u64;
            self.one_call_in.store(a_second.div_ceil(AIM).max(1).next_power_of_two(), Relaxed);
            (self.window, self.in_window) = (Instant::now(), 0);
        }
        (self.traced, self.untraced) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    /// A second of a node that says so many messages of calls; how many are shown, and of how many calls one.
    async fn second(sample: &mut Sample, said: u64) -> (u64, u64) {
        let mut shown = 0;
        for frame in 0..10 {
            advance(Duration::from_millis(100)).await;
            let asked = sample.one_call_in().load(Relaxed);
            for number in 0..said / 10 {
                let trace = 1 + frame * said + number;
                let event = Event { trace, ..a_message() };
                shown += u64::from(is_one_in(trace, asked) && sample.admits(&event, asked));
            }
            sample.next_frame();
        }
        (shown, sample.one_call_in().load(Relaxed))
    }

    fn a_message() -> Event {
        Event {
            id: 1,
            cause: 0,
            trace: 0,
            sender: "client".into(),
            sender_incarnation: 0,
            receiver: "consensus".into(),
            receiver_incarnation: 1,
            message: "Propose".into(),
            mark: Default::default(),
            sent: Duration::ZERO,
            waited: Duration::ZERO,
            handling: Duration::ZERO,
            outcome: Default::default(),
        }
    }

    /// Fails when: a busy node is asked for more than can be shown, one that is no longer busy for less, or what a sample leaves
    /// out is taken for quiet.
    #[tokio::test(start_paused = true)]
    async fn of_many_calls_few_are_asked_for_and_of_few_all() {
        let mut sample = Sample::default();
        assert_eq!(second(&mut sample, 100).await, (100, 1));
        second(&mut sample, 200_000).await;
        for _ in 0..3 {
            let (shown, one_call_in) = second(&mut sample, 200_000).await;
            assert_eq!(one_call_in, 1024, "the first power of two by which 200,000 are 240 or fewer");
            assert!((AIM / 4..=AIM * 2).contains(&shown), "{shown}");
        }
        second(&mut sample, 100).await;
        second(&mut sample, 100).await;
        assert_eq!(second(&mut sample, 100).await, (100, 1));
    }
}
