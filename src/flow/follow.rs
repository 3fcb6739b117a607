//! The message flow as it happens: a reader that goes on where it was in the recorder's ring.
//!
//! Recording wakes nobody, which is what keeps it cheap, so a reader looks again every [`GLANCE`]. It takes [`BATCH`] events
//! at most at a time; what the ring loses meanwhile is counted, not waited for. So neither a reader's memory nor its load
//! grows with what the node does.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Event, Filter, Flow};

/// Between two looks into the ring.
const GLANCE: Duration = Duration::from_millis(20);

/// The most events of one look: 51,200 a second.
const BATCH: usize = 1024;

/// Events as they end, from [`Flow::follow`].
pub struct Follow {
    flow: Flow,
    filter: Filter,
    position: u64,
    /// How many more the filter lets through, where it is bounded.
    left: Option<usize>,
    missed: u64,
    /// Whether the last look found fewer than it might have taken.
    caught_up: bool,
    glance: Interval,
}

/// Some events, and what is missing before the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they ended; one at least.
    pub events: Vec<Event>,
    /// How many recorded events, whether they would have passed the filter or not, were overwritten before they were read.
    pub missed: u64,
}

impl Follow {
    /// [`Filter::last`] bounds how many there will be in all.
    pub(super) fn new(flow: Flow, filter: Filter, position: u64) -> Self {
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let left = filter.last;
        Follow { flow, filter, position, left, missed: 0, caught_up: true, glance }
    }

    /// The next events. `None`: there are none after [`Filter::until`], or as many as [`Filter::last`] says have come.
    ///
    /// Cancel safe: whoever does not await it to the end misses nothing.
    pub async fn next(&mut self) -> Option<Batch> {
        self.next_admitted(|_| true).await.map(|(batch, _)| batch)
    }

    /// The next events that are admitted, by when they ended, and how many behind them were not. Of those nothing is read but
    /// that.
    pub(crate) async fn next_admitted(&mut self, mut admits: impl FnMut(Duration) -> bool) -> Option<(Batch, u64)> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            if self.caught_up {
                self.glance.tick().await;
            }
            let now = self.flow.now();
            let (mut events, refused, next, missed) =
                self.flow.read_on(&self.filter, self.position, BATCH, &mut admits);
            self.caught_up = next - self.position < BATCH as u64 + missed;
            self.position = next;
            self.missed += missed;
            if let Some(left) = &mut self.left {
                events.truncate(*left);
                *left -= events.len();
            }
            if !events.is_empty() {
                return Some((Batch { events, missed: std::mem::take(&mut self.missed) }, refused));
            }
            self.missed += refused;
            if self.caught_up && self.filter.until.is_some_and(|until| until < now) {
                return None;
            }
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Batch> + Send {
        stream::unfold(self, |mut follow| async { Some((follow.next().await?, follow)) })
    }
}
