//! Where the clocks of the nodes stand beside each other, found out by asking them what time it is.
//!
//! A node reads its clock somewhere between the question and the answer. So if the middle of the two is taken for that moment,
//! the error is half of the round trip at most, however unequal the two ways are. Of several questions the one with the
//! shortest round trip says most.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::trace::Clock;

/// The clock that all share in a picture: nanoseconds since 1970, as the machine that draws the picture knows them. It is read
/// from the calendar once, and runs evenly from there.
#[derive(Clone, Copy, Debug)]
pub struct CommonClock {
    began: Instant,
    since_1970: i64,
}

impl CommonClock {
    /// Begins now.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        CommonClock { began: Instant::now(), since_1970: i64::try_from(since_1970.as_nanos()).unwrap_or(0) }
    }

    /// What it shows.
    pub fn now(&self) -> i64 {
        let since = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.since_1970.saturating_add(since)
    }
}

/// One question to a node and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When it was asked, by the common clock.
    pub asked: i64,
    /// Which life of the node answered.
    pub life: u64,
    /// What its clock showed, in nanoseconds.
    pub showed: u64,
    /// When the answer was there, by the common clock.
    pub answered: i64,
}

/// Where the clock of one life of a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Which life it is about.
    pub life: u64,
    /// The node's epoch by the common clock, and by how much that may be wrong.
    pub clock: Clock,
}

impl Alignment {
    /// What these looks at a node say together. Those at a life before the last say nothing. `None`: there is none.
    pub fn of(looks: &[Look]) -> Option<Self> {
        let life = looks.last()?.life;
        let of_life = looks.iter().filter(|look| look.life == life);
        let best = of_life.min_by_key(|look| look.answered.saturating_sub(look.asked))?;
        let round_trip = u64::try_from(best.answered.saturating_sub(best.asked)).unwrap_or(0);
        // Rounded up: the middle falls between two nanoseconds where the round trip is odd.
        let middle = best.asked.saturating_add((round_trip / 2) as i64);
        let epoch = middle.saturating_sub(i64::try_from(best.showed).unwrap_or(i64::MAX));
        Some(Alignment { life, clock: Clock { epoch, error: Duration::from_nanos(round_trip.div_ceil(2)) } })
    }
}
