//! Where each node's clock must stand so that everything arrives after it left.
//!
//! A collector knows each clock within an error. Every arrow from node *a* to node *b* says that *b*'s clock is not so far
//! behind *a*'s that the arrival would come first: a bound on the difference of two shifts. Together with the errors these are
//! difference constraints, whose shortest paths are the tightest bounds that follow from all of them. Each clock is moved as
//! little as they allow, one after the other.

/// Far away, and still no overflow when three are added.
const UNBOUNDED: i64 = i64::MAX / 4;

/// `shift[to]` must be at least `shift[from] - slack`: what left arrives later by `slack` on the clocks as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub from: usize,
    pub to: usize,
    pub slack: i64,
}

/// How far one clock is moved, and how wrong it may still be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shift {
    pub by: i64,
    pub error: i64,
}

/// The shifts of clocks that may be wrong by `errors`. Where the bounds cannot all hold, those that can be had are.
pub(super) fn align(errors: &[i64], bounds: &[Bound]) -> Vec<Shift> {
    let mut bounds = tightest(bounds);
    // The loosest first: who breaks the others is the one that asks for most.
    bounds.sort_by_key(|bound| std::cmp::Reverse(bound.slack));
    let mut distances = Distances::new(errors);
    for bound in bounds {
        distances.require(bound.from + 1, bound.to + 1, bound.slack);
    }
    let error = |node: usize| distances.between(0, node).saturating_add(distances.between(node, 0)) / 2;
    let errors: Vec<_> = (1..=errors.len()).map(error).collect();
    let mut shifts = Vec::with_capacity(errors.len());
    for (node, error) in (1..).zip(errors) {
        let (highest, lowest) = (distances.between(0, node), -distances.between(node, 0));
        let by = 0.clamp(lowest, highest);
        distances.require(node, 0, by);
        distances.require(0, node, -by);
        shifts.push(Shift { by, error });
    }
    shifts
}

/// One bound for each pair of nodes.
fn tightest(bounds: &[Bound]) -> Vec<Bound> {
    let mut kept = std::collections::BTreeMap::new();
    for bound in bounds.iter().filter(|bound| bound.from != bound.to) {
        let slack = kept.entry((bound.from, bound.to)).or_insert(bound.slack);
        *slack = bound.slack.min(*slack);
    }
    kept.into_iter().map(|((from, to), slack)| Bound { from, to, slack }).collect()
}

/// `between(a, b)` is by how much the shift of `b` can be above that of `a` at most. Number 0 is the common clock.
struct Distances {
    size: usize,
    most: Vec<i64>,
}

impl Distances {
    fn new(errors: &[i64]) -> Self {
        let size = errors.len() + 1;
        let mut distances = Distances { size, most: vec![UNBOUNDED; size * size] };
        for node in 0..size {
            distances.most[node * size + node] = 0;
        }
        for (node, error) in (1..).zip(errors) {
            let error = (*error).clamp(0, UNBOUNDED / 4);
            distances.require(node, 0, error);
            distances.require(0, node, error);
        }
        distances
    }

    fn between(&self, from: usize, to: usize) -> i64 {
        self.most[from * self.size + to]
    }

    /// The shift of `from` is above that of `to` by `slack` at most, unless what is required already says otherwise.
    fn require(&mut self, from: usize, to: usize, slack: i64) {
        let slack = slack.clamp(-UNBOUNDED, UNBOUNDED);
        if slack >= self.between(to, from) || slack.saturating_add(self.between(from, to)) < 0 {
            return;
        }
        for one in 0..self.size {
            for other in 0..self.size {
                let over = self.between(one, to).saturating_add(slack).saturating_add(self.between(from, other));
                let most = &mut self.most[one * self.size + other];
                *most = over.min(*most);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bound(from: usize, to: usize, slack: i64) -> Bound {
        Bound { from, to, slack }
    }

    fn moved(errors: &[i64], bounds: &[Bound]) -> Vec<i64> {
        align(errors, bounds).iter().map(|shift| shift.by).collect()
    }

    /// Fails when: a clock that is right is moved, or one that is wrong is not moved far enough.
    #[test]
    fn clocks_are_moved_as_far_as_they_must_be() {
        assert_eq!(moved(&[0, 100, 100], &[bound(0, 1, 5), bound(1, 0, 5)]), [0, 0, 0]);
        // What left node 0 arrived at node 1 thirty too early.
        assert_eq!(moved(&[0, 100, 100], &[bound(0, 1, -30)]), [0, 30, 0]);
        // And from there at node 2.
        assert_eq!(moved(&[0, 100, 100], &[bound(0, 1, -30), bound(1, 2, -40)]), [0, 30, 70]);
        // The first may be wrong as well, the second may not.
        assert_eq!(moved(&[100, 0], &[bound(0, 1, -30)]), [-30, 0]);
    }

    /// Fails when: the error that remains is not what the arrows there and back leave open.
    #[test]
    fn arrows_there_and_back_narrow_the_error() {
        let shifts = align(&[0, 1000], &[bound(0, 1, 10), bound(1, 0, 30)]);
        assert_eq!(shifts[1], Shift { by: 0, error: 20 });
        let shifts = align(&[0, 1000], &[bound(0, 1, -110), bound(1, 0, 150)]);
        assert_eq!(shifts[1], Shift { by: 110, error: 20 });
    }

    /// Fails when: one arrow that cannot be keeps all others from being put right.
    #[test]
    fn what_cannot_be_is_left_and_the_rest_is_put_right() {
        // No clock can be both thirty behind and thirty ahead.
        let shifts = moved(&[0, 100, 100], &[bound(0, 1, -30), bound(1, 0, -30), bound(0, 2, -50)]);
        assert_eq!(shifts[2], 50);
        assert_eq!(moved(&[0, 10], &[bound(0, 1, -30)]), [0, 0], "farther than the clock may be wrong");
    }

    proptest! {
        /// Fails when: bounds that can hold do not, or a clock is moved beyond its error.
        #[test]
        fn whatever_can_hold_holds(truth in vec(-500..500i64, 2..6), arrows in vec((0..6usize, 0..6usize, 0..300i64), 0..20)) {
            let bounds: Vec<_> = arrows
                .into_iter()
                .filter(|(from, to, _)| *from < truth.len() && *to < truth.len())
                .map(|(from, to, took)| bound(from, to, took + truth[from] - truth[to]))
                .collect();
            let shifts = moved(&vec![500; truth.len()], &bounds);
            for Bound { from, to, slack } in bounds {
                prop_assert!(from == to || shifts[to] + slack >= shifts[from], "{from} to {to}: {shifts:?}");
            }
            prop_assert!(shifts.iter().all(|by| by.abs() <= 500));
        }
    }
}
