//! Registers whose every write has a value of its own.
//!
//! All calls about one value (its write, and the reads that saw it) must be neighbours in the order that is sought. Let a
//! value's zone reach from the first end of any of its calls to the last beginning of any. If the first is before the last,
//! the value must have stood there all that time: a *forward* zone. Else it stood there at one moment in between, at least:
//! a *backward* zone. An order exists if no read ends before its write begins, no two forward zones overlap, and no backward
//! zone lies within a forward one.

use std::collections::BTreeMap;

use super::{Act, Call, Moment, Value};

#[derive(Clone, Debug)]
struct Zone {
    #[expect(dead_code, reason = "it is shown where zones clash")]
    value: Option<Value>,
    write_begun: Moment,
    first_end: Moment,
    last_begin: Moment,
    seen: bool,
    write_ended: bool,
}

/// Whether there is an order; else why not. The register is empty at first.
pub fn check(calls: &[Call]) -> Result<(), String> {
    let mut zones = BTreeMap::from([(None, Zone::written(None, 0, Some(0)))]);
    for call in calls {
        if let Act::Write(value) = call.act {
            let zone = Zone::written(Some(value), call.begun, call.ended);
            if zones.insert(Some(value), zone).is_some() {
                return Err(format!("{value} is written twice: this is no history for this way of checking"));
            }
        }
    }
    for call in calls {
        let Act::Read(value) = call.act else { continue };
        let Some(ended) = call.ended else { continue };
        let Some(zone) = zones.get_mut(&value) else { return Err(format!("{call:?} saw what nobody wrote")) };
        if ended < zone.write_begun {
            return Err(format!("{call:?} saw what was only written later"));
        }
        (zone.first_end, zone.last_begin) = (zone.first_end.min(ended), zone.last_begin.max(call.begun));
        zone.seen = true;
    }
    // Of a write without an answer that nobody saw, nobody can say anything.
    let zones = zones.into_values().filter(|zone| zone.seen || zone.write_ended);
    let (mut forward, backward): (Vec<_>, Vec<_>) = zones.partition(|zone| zone.first_end < zone.last_begin);
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_begin {
            return Err(format!("both must have stood there at once: {:?} and {:?}", pair[0], pair[1]));
        }
    }
    for one in &backward {
        let before = forward.partition_point(|zone| zone.first_end < one.last_begin);
        let around = before.checked_sub(1).map(|place| &forward[place]);
        if let Some(around) = around.filter(|zone| one.first_end < zone.last_begin) {
            return Err(format!("it stood there while another one must have: {one:?} within {around:?}"));
        }
    }
    Ok(())
}

impl Zone {
    fn written(value: Option<Value>, begun: Moment, ended: Option<Moment>) -> Self {
        let (first_end, write_ended) = (ended.unwrap_or(Moment::MAX), ended.is_some());
        Zone { value, write_begun: begun, first_end, last_begin: begun, seen: false, write_ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::search;

    fn write(begun: Moment, ended: impl Into<Option<Moment>>, value: Value) -> Call {
        Call { begun, ended: ended.into(), act: Act::Write(value) }
    }

    fn read(begun: Moment, ended: Moment, value: impl Into<Option<Value>>) -> Call {
        Call { begun, ended: Some(ended), act: Act::Read(value.into()) }
    }

    /// Fails when: any of the three rules is left out (each was).
    #[test]
    fn a_register_that_goes_back_or_ahead_is_noticed() {
        let fine: [&[Call]; 5] = [
            &[write(1, 2, 7), read(3, 4, 7)],
            &[read(1, 2, None), write(3, None, 7), read(4, 5, None), read(6, 7, 7), read(8, 9, 7)],
            &[write(1, 10, 7), write(2, 9, 8), read(3, 4, 8), read(11, 12, 7)],
            &[write(1, 2, 7), write(3, None, 8), read(4, 5, 7)],
            &[write(1, 4, 7), read(2, 3, None), read(5, 6, 7)],
        ];
        for history in fine {
            assert_eq!(check(history), Ok(()), "{history:?}");
        }
        let stale = [write(1, 2, 7), write(3, 4, 8), read(5, 6, 7)];
        assert!(check(&stale).is_err_and(|why| why.contains("it stood there while")));
        let back = [write(1, None, 7), write(2, None, 8), read(3, 4, 7), read(5, 6, 8), read(7, 8, 7)];
        assert!(check(&back).is_err_and(|why| why.contains("it stood there while") || why.contains("at once")));
        let both = [write(1, 2, 7), write(3, 4, 8), read(5, 6, 7), read(7, 8, 8)];
        assert!(check(&both).is_err_and(|why| why.contains("at once")));
        assert!(check(&[read(1, 2, 7), write(3, 4, 7)]).is_err_and(|why| why.contains("later")));
        assert!(check(&[read(1, 2, 7)]).is_err_and(|why| why.contains("nobody")));
        let forgotten = [write(1, 2, 7), read(3, 4, None)];
        assert!(check(&forgotten).is_err(), "the emptiness before is a value as any other");
    }

    /// Two ways to check that know nothing of each other say the same of random histories.
    ///
    /// Fails when: either is wrong in a way that the other is not.
    #[test]
    fn zones_and_search_agree() {
        let (mut state, mut fine) = (1_u64, 0);
        let mut below = |bound: u64| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 33) % bound
        };
        for _ in 0..3000 {
            let writes = 1 + below(4);
            let mut calls: Vec<_> = (1..=writes).map(|value| write(0, 0, value)).collect();
            for _ in 0..below(5) {
                let value = below(writes + 1);
                calls.push(read(0, 0, (value > 0).then_some(value)));
            }
            let mut moments: Vec<Moment> = (1..=2 * calls.len() as u64).collect();
            for call in &mut calls {
                // Neighbours, mostly: else everything is concurrent.
                let one = moments.remove(below(moments.len() as u64) as usize);
                let near = moments.partition_point(|moment| *moment < one).min(moments.len() - 1);
                let other = moments.remove((near + below(3) as usize).min(moments.len() - 1));
                let lost = matches!(call.act, Act::Write(_)) && below(5) == 0;
                (call.begun, call.ended) = (one.min(other), (!lost).then_some(one.max(other)));
            }
            let (zones, order) = (check(&calls), search::check(&calls));
            assert_eq!(zones.is_ok(), order.is_ok(), "{calls:?}\n{zones:?}\n{order:?}");
            fine += u32::from(zones.is_ok());
        }
        assert!((500..2500).contains(&fine), "{fine} of 3000: too many of one kind say little");
    }
}
