//! Clocks that are wrong, ways that are unequal, and how far that leads astray.

use proptest::prelude::*;

use super::*;

/// One question as it goes: both ways, and where on its way back the answer was written.
#[derive(Clone, Copy, Debug)]
struct Trip {
    there: u32,
    back: u32,
    pause: u32,
}

fn trip() -> impl Strategy<Value = Trip> {
    (0..50_000_000_u32, 0..50_000_000_u32, 0..5_000_000_u32).prop_map(|(there, back, pause)| Trip {
        there,
        back,
        pause,
    })
}

/// What the collector sees of these trips to a node whose epoch is there by the common clock.
fn looks(epoch: i64, life: u64, trips: &[Trip]) -> Vec<Look> {
    let mut now = epoch + 1_000_000_000;
    let mut look = |trip: &Trip| {
        let asked = now;
        let read = asked + i64::from(trip.there);
        now = read + i64::from(trip.back);
        let look = Look { asked, life, showed: (read - epoch) as u64, answered: now };
        now += i64::from(trip.pause);
        look
    };
    trips.iter().map(&mut look).collect()
}

proptest! {
    /// Fails when: the error is less than half of the round trip, another round trip than the shortest counts, or the way there
    /// is taken for as long as the way back without saying by how much that may be wrong.
    #[test]
    fn the_true_epoch_is_within_the_error(epoch in 0..i64::MAX / 4, trips in prop::collection::vec(trip(), 1..8)) {
        let looks = looks(epoch, 7, &trips);
        let Alignment { life, clock } = Alignment::of(&looks).expect("there are looks");
        let error = i64::try_from(clock.error.as_nanos()).expect("it is small");
        prop_assert_eq!(life, 7);
        prop_assert!((clock.epoch - epoch).abs() <= error, "{} beside {epoch}, ± {error}", clock.epoch);
        let shortest = trips.iter().map(|trip| i64::from(trip.there) + i64::from(trip.back)).min().expect("there is one");
        prop_assert_eq!(error, (shortest + 1) / 2);
    }
}

/// Fails when: an answer of the process before counts for the one after it.
#[test]
fn a_process_that_was_started_again_is_looked_at_anew() {
    let quick = Trip { there: 10, back: 10, pause: 0 };
    let slow = Trip { there: 1000, back: 3000, pause: 0 };
    let mut all = looks(5_000, 1, &[quick, quick]);
    all.extend(looks(9_000_000, 2, &[slow]));
    let alignment = Alignment::of(&all).expect("there are looks");
    assert_eq!((alignment.life, alignment.clock.error), (2, Duration::from_nanos(2000)));
    assert_eq!((alignment.clock.epoch - 9_000_000).abs(), 1000);
    assert_eq!(Alignment::of(&[]), None);
}

/// Fails when: a node that lies about its clock, or a calendar that was set back, makes a sum overflow.
#[test]
fn no_clock_makes_a_sum_overflow() {
    for (asked, showed, answered) in
        [(i64::MIN, u64::MAX, i64::MAX), (i64::MAX, 0, i64::MIN), (i64::MAX, u64::MAX, i64::MAX)]
    {
        let alignment = Alignment::of(&[Look { asked, life: 1, showed, answered }]).expect("there is a look");
        alignment.clock.common(Duration::MAX);
    }
}

/// Fails when: what the collectors give back cannot be spawned: this does not compile then.
#[test]
fn the_collectors_can_be_spawned() {
    fn can_be_spawned<T: Send + 'static>(_: impl FnOnce() -> T) {}
    let patience = Duration::from_secs(1);
    can_be_spawned(move || async move { find(&[], patience).await });
    can_be_spawned(move || async move { collect(&[], &Wanted::default(), patience).await });
    can_be_spawned(move || async move { actors(&[], patience).await });
    can_be_spawned(move || async move { incidents(&[], patience).await });
    can_be_spawned(move || async move { incident("nowhere", 1, patience).await });
    can_be_spawned(move || follow(&[], None, None));
}
