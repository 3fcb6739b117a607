//! Which messages are shown. All of them, as long as a browser can draw them; of more, whole calls rather than parts of many.

use std::time::Duration;

use tokio::time::Instant;

use crate::flow::Event;

/// Messages of clients' calls in one frame.
const TRACED: u32 = 120;

/// Messages in one frame that belong to no call: heartbeats, timers, elections.
const UNTRACED: u32 = 60;

/// Messages of calls a second that are aimed at.
const AIM: u64 = 240;

/// How often it is looked how many there are.
const WINDOW: Duration = Duration::from_secs(1);

/// The choice, and what it rests on.
pub(super) struct Sample {
    /// Of so many calls one is shown.
    one_in: u64,
    traced: u32,
    untraced: u32,
    in_window: u64,
    window: Instant,
}

impl Default for Sample {
    fn default() -> Self {
        Sample { one_in: 1, traced: 0, untraced: 0, in_window: 0, window: Instant::now() }
    }
}

impl Sample {
    /// Whether this one is shown. All nodes' messages of one call are, or none.
    pub fn admits(&mut self, event: &Event) -> bool {
        if event.trace == 0 {
            self.untraced += 1;
            return self.untraced <= UNTRACED;
        }
        self.in_window += 1;
        // What clients choose as trace ids may be numbers in a row.
        let mixed = event.trace.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        if !mixed.is_multiple_of(self.one_in) {
            return false;
        }
        self.traced += 1;
        self.traced <= TRACED
    }

    /// A frame is told.
    pub fn next_frame(&mut self) {
        let elapsed = self.window.elapsed();
        if elapsed >= WINDOW {
            let a_second = self.in_window * 1000 / elapsed.as_millis().max(1) as u64;
            self.one_in = a_second.div_ceil(AIM).max(1);
            (self.window, self.in_window) = (Instant::now(), 0);
        }
        (self.traced, self.untraced) = (0, 0);
    }
}
