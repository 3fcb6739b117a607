//! Registers that are also deleted and swapped: a search for an order.
//!
//! Taken next may be any call that began before the first end among those left. What was taken, as a set, together with
//! what stands there, is remembered: the same again leads nowhere either.

use std::collections::HashSet;

use super::{Act, Call, Value};

/// The most calls on one key that are looked at.
pub const MOST: usize = 128;

/// Whether there is an order; else why not. The register is empty at first.
pub fn check(calls: &[Call]) -> Result<(), String> {
    assert!(calls.len() <= MOST, "{} calls on one key are more than can be looked at", calls.len());
    let mut calls: Vec<_> = calls.iter().filter(|call| call.ended.is_some() || changes(&call.act)).collect();
    calls.sort_by_key(|call| call.begun);
    let mut search = Search { calls: &calls, dead: HashSet::new(), deepest: 0, taken_at_deepest: 0 };
    if search.goes_on(0, None) {
        return Ok(());
    }
    let left = search.taken_at_deepest;
    let left: Vec<_> =
        calls.iter().enumerate().filter(|(place, _)| left & 1 << place == 0).map(|(_, call)| call).collect();
    Err(format!("there is no order; the longest one leaves {left:?}"))
}

fn changes(act: &Act) -> bool {
    !matches!(act, Act::Read(_))
}

struct Search<'a> {
    calls: &'a [&'a Call],
    dead: HashSet<(u128, Option<Value>)>,
    deepest: u32,
    taken_at_deepest: u128,
}

impl Search<'_> {
    fn goes_on(&mut self, taken: u128, stands: Option<Value>) -> bool {
        let left = || self.calls.iter().enumerate().filter(|(place, _)| taken & 1 << place == 0);
        let Some(first_end) = left().filter_map(|(_, call)| call.ended).min() else { return true };
        if taken.count_ones() > self.deepest {
            (self.deepest, self.taken_at_deepest) = (taken.count_ones(), taken);
        }
        let next: Vec<_> = left()
            .take_while(|(_, call)| call.begun < first_end)
            .filter_map(|(place, call)| Some((place, after(call, stands)?)))
            .collect();
        for (place, stands) in next {
            let taken = taken | 1 << place;
            if !self.dead.contains(&(taken, stands)) {
                if self.goes_on(taken, stands) {
                    return true;
                }
                self.dead.insert((taken, stands));
            }
        }
        false
    }
}

/// What stands there after the call; `None`: it cannot have come here, with the answer that it got.
fn after(call: &Call, stands: Option<Value>) -> Option<Option<Value>> {
    let answered = call.ended.is_some();
    match &call.act {
        Act::Write(value) => Some(Some(*value)),
        Act::Read(value) => (*value == stands).then_some(stands),
        Act::Delete { found } => (!answered || *found == stands).then_some(None),
        Act::Swap { expect, set, found } => {
            let fits = !answered || *found == stands;
            fits.then_some(if *expect == stands { Some(*set) } else { stands })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(begun: u64, ended: u64, act: Act) -> Call {
        Call { begun, ended: (ended > 0).then_some(ended), act }
    }

    fn swap(expect: impl Into<Option<Value>>, set: Value, found: impl Into<Option<Value>>) -> Act {
        Act::Swap { expect: expect.into(), set, found: found.into() }
    }

    /// Fails when: a swap's answer is not compared with what stands there; a call without an answer is left out.
    #[test]
    fn two_swaps_of_one_value_cannot_both_succeed() {
        let fine = [
            call(1, 2, swap(None, 7, None)),
            call(3, 6, swap(7, 8, 7)),
            call(4, 5, swap(7, 9, 8)),
            call(7, 8, Act::Delete { found: Some(8) }),
            call(9, 10, Act::Read(None)),
        ];
        assert_eq!(check(&fine), Ok(()));
        let both = [call(1, 2, swap(None, 7, None)), call(3, 6, swap(7, 8, 7)), call(4, 5, swap(7, 9, 7))];
        assert!(check(&both).is_err());
        let late = [call(1, 2, Act::Write(7)), call(3, 0, swap(7, 8, None)), call(5, 6, Act::Read(Some(7)))];
        assert_eq!(check(&late), Ok(()), "it may still come");
        let came = [&late[..], &[call(7, 8, Act::Read(Some(8)))]].concat();
        assert_eq!(check(&came), Ok(()));
        let went = [&came[..], &[call(9, 10, Act::Read(Some(7)))]].concat();
        assert!(check(&went).is_err(), "and does not go again");
    }
}
