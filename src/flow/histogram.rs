//! Durations, counted by size: a fixed table that is written without a lock and read at any time.
//!
//! Eight steps to each doubling, from 256 ns to 18 minutes, so that a quantile is told to an eighth of itself. A histogram is
//! written by one actor ([`Histogram::add`]: a load and a store) or by several ([`Histogram::add_shared`]). Who reads
//! while it is written may see the last values in part; no count ever falls.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Values up to two to the power of this, in nanoseconds, share the first bucket.
const SMALLEST: u32 = 8;
/// Values above two to the power of this share the last one.
const LARGEST: u32 = 40;
/// Two to the power of this are the steps to each doubling.
const STEPS: u32 = 3;

/// How many buckets there are: one below, one above, and the steps between.
const BUCKETS: usize = 2 + (((LARGEST - SMALLEST) as usize) << STEPS);

/// Adds to a counter that only the caller writes.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// The bucket of a value: what is above the bound of the one before and not above its own.
fn bucket(nanoseconds: u64) -> usize {
    let below = nanoseconds.saturating_sub(1);
    if below >> SMALLEST == 0 {
        return 0;
    }
    let doubling = below.ilog2();
    if doubling >= LARGEST {
        return BUCKETS - 1;
    }
    let step = (below >> (doubling - STEPS)) as usize & ((1 << STEPS) - 1);
    1 + (((doubling - SMALLEST) as usize) << STEPS) + step
}

/// The largest value of a bucket; of the last one, where values have no bound, the largest number.
fn bound(bucket: usize) -> u64 {
    let Some(step) = bucket.checked_sub(1) else { return 1 << SMALLEST };
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let (doubling, step) = (step >> STEPS, step as u64 & ((1 << STEPS) - 1));
    ((1 << STEPS) + step + 1) << (SMALLEST + doubling as u32 - STEPS)
}

/// Durations by size.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one, for the only writer there is.
    pub(super) fn add(&self, nanoseconds: u64) {
        add(&self.buckets[bucket(nanoseconds)], 1);
        add(&self.sum, nanoseconds);
    }

    /// Becomes what the other one is, for the only writer there is.
    pub(super) fn copy(&self, other: &Histogram) {
        for (to, from) in self.buckets.iter().zip(&other.buckets) {
            to.store(from.load(Relaxed), Relaxed);
        }
        self.sum.store(other.sum.load(Relaxed), Relaxed);
    }

    /// Counts one, for one of several writers.
    pub fn add_shared(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanoseconds)].fetch_add(1, Relaxed);
        self.sum.fetch_add(nanoseconds, Relaxed);
    }

    /// All values, added up.
    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum.load(Relaxed))
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        Counts { buckets, sum: self.sum() }
    }
}

/// What a histogram had counted at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    buckets: Vec<u64>,
    sum: Duration,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { buckets: vec![0; BUCKETS], sum: Duration::ZERO }
    }
}

impl Counts {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them, added up.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Counts those of another one besides.
    pub fn add(&mut self, other: &Counts) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(to, more)| *to += more);
        self.sum += other.sum;
    }

    /// Those that came since `earlier`, which is of the same histogram.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Counts {
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }

    /// A value that so many of a hundred do not exceed: never less than it is, and above 256 ns an eighth more at most.
    /// 0: nothing was counted. [`Duration::MAX`]: more than 18 minutes.
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (number, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return if number == BUCKETS - 1 { Duration::MAX } else { Duration::from_nanos(bound(number)) };
            }
        }
        Duration::ZERO
    }

    /// How many were not above two to each of these powers of nanoseconds, which ascend between 8 and 40. The counts are
    /// exact, since each of these is a bound of a bucket.
    pub fn cumulative(&self, powers: impl Iterator<Item = u32>) -> Vec<(Duration, u64)> {
        let (mut seen, mut next) = (0, 0);
        powers
            .filter(|power| (SMALLEST..=LARGEST).contains(power))
            .map(|power| {
                let end = 1 + (((power - SMALLEST) as usize) << STEPS);
                seen += self.buckets[next..end].iter().sum::<u64>();
                next = end;
                (Duration::from_nanos(1 << power), seen)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fails when: two buckets overlap, or there is a gap between two.
    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for number in 0..BUCKETS - 1 {
            assert_eq!(bucket(bound(number)), number);
            assert_eq!(bucket(bound(number) + 1), number + 1);
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    /// Fails when: the rank is off by one, or the values of the last bucket pass for smaller ones.
    #[test]
    fn percentiles_count_from_below() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().percentile(99), Duration::ZERO);
        (0..99).for_each(|_| histogram.add(1_000));
        assert_eq!(histogram.counts().percentile(99), Duration::from_nanos(1_024));
        histogram.add(1_000_000_000);
        assert_eq!(histogram.counts().percentile(99), Duration::from_nanos(1_024));
        let earlier = histogram.counts();
        histogram.add_shared(Duration::from_secs(6_000));
        assert_eq!(histogram.counts().percentile(100), Duration::MAX);
        let later = histogram.counts().since(&earlier);
        assert_eq!((later.count(), later.sum()), (1, Duration::from_secs(6_000)));
    }

    proptest! {
        /// Fails when: a quantile is too low, or more than an eighth too high.
        #[test]
        fn the_error_is_an_eighth(values in proptest::collection::vec(257_u64..1 << 40, 1..200), percent in 1_u64..=100) {
            let histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let exact = sorted[(values.len() * percent as usize).div_ceil(100) - 1];
            let told = histogram.counts().percentile(percent).as_nanos() as u64;
            prop_assert!(exact <= told && told <= exact + exact / 8 + 1, "{} for {}", told, exact);
        }

        /// Fails when: a bound is counted to the wrong side.
        #[test]
        fn cumulative_counts_are_exact(values in proptest::collection::vec(0_u64..1 << 40, 0..100), first in 8_u32..20, doublings in 1_usize..4) {
            let histogram = Histogram::default();
            // The bounds themselves are where one errs.
            let values: Vec<_> = values.into_iter().chain((8..=40).map(|power| 1 << power)).collect();
            values.iter().for_each(|value| histogram.add(*value));
            for (bound, count) in histogram.counts().cumulative((first..=40).step_by(doublings)) {
                let bound = bound.as_nanos() as u64;
                prop_assert_eq!(count, values.iter().filter(|value| **value <= bound).count() as u64);
            }
        }
    }
}
