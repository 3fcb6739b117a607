//! A network that can be told to be bad. What happens to a letter is decided by the seed and by what the test says.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use crate::{
    raft::NodeId,
    transport::{
        InProcess,
        in_process::{Fate, Letter},
    },
};

/// The network of one cluster. Its clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

/// From whom, to whom.
type Way = (NodeId, NodeId);

struct State {
    random: SmallRng,
    delay: RangeInclusive<Duration>,
    /// Of a thousand letters, so many are lost without a word.
    loss: u32,
    /// Of a thousand letters, so many break their connection.
    breaks: u32,
    repeats: Rare,
    tail: Rare,
    /// Who does not reach whom.
    cuts: BTreeSet<Way>,
    /// What a letter takes there besides.
    slow: BTreeMap<Way, Duration>,
    /// Cut and mended by turns: each lasts so long.
    flaps: BTreeMap<Way, Duration>,
    /// Nodes without power.
    down: BTreeSet<NodeId>,
    began: Instant,
    letters: u64,
    fingerprint: u64,
}

/// What happens to few letters, within some time.
#[derive(Clone, Copy, Default)]
struct Rare {
    /// Of a thousand letters.
    rate: u32,
    within: Duration,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Network(Arc::new(Mutex::new(State {
            random: SmallRng::seed_from_u64(seed),
            delay: Duration::from_micros(200)..=Duration::from_millis(2),
            loss: 0,
            breaks: 0,
            repeats: Rare::default(),
            tail: Rare::default(),
            cuts: BTreeSet::new(),
            slow: BTreeMap::new(),
            flaps: BTreeMap::new(),
            down: BTreeSet::new(),
            began: Instant::now(),
            letters: 0,
            fingerprint: 0,
        })))
    }

    pub(super) fn transport(&self) -> InProcess {
        let network = self.clone();
        InProcess::with_wire(Arc::new(move |letter| network.state().decide(letter)))
    }

    /// How long a letter is under way, drawn evenly; 0.2 to 2 ms at first.
    pub fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.state().delay = delay;
    }

    /// Of a thousand letters, `late` take longer than the others, up to `within`: evenly among the orders of
    /// magnitude from a thousandth of it up.
    pub fn set_long_tail(&self, late: u32, within: Duration) {
        self.state().tail = Rare { rate: late, within };
    }

    /// Of a thousand letters, `lost` are lost without a word and `broken` break the connection they travel on.
    pub fn set_faults(&self, lost: u32, broken: u32) {
        let mut state = self.state();
        (state.loss, state.breaks) = (lost, broken);
    }

    /// Of a thousand requests between servers, `repeated` arrive once more `within` some time, whatever has overtaken them
    /// by then, also over a connection that has long broken.
    pub fn set_repeats(&self, repeated: u32, within: Duration) {
        self.state().repeats = Rare { rate: repeated, within };
    }

    /// Nothing of `from` reaches `to` any more. Nobody is told; the other direction stays.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state().cuts.insert((from, to));
    }

    /// Cuts both directions between two nodes.
    pub fn separate(&self, one: NodeId, other: NodeId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Cuts every link between a node of `these` and one of `those`.
    pub fn partition(&self, these: &[NodeId], those: &[NodeId]) {
        for one in these {
            those.iter().for_each(|other| self.separate(*one, *other));
        }
    }

    /// Leaves `bridge` alone between the others, whose two halves do not reach each other.
    pub fn bridge(&self, bridge: NodeId, others: &[NodeId]) {
        let others: Vec<_> = others.iter().copied().filter(|other| *other != bridge).collect();
        let (these, those) = others.split_at(others.len() / 2);
        self.partition(these, those);
    }

    /// Leaves each node only the one before it and the one behind it in `ring`, where the last one comes before the first.
    /// Of five nodes each then reaches a majority, and no two the same one.
    pub fn ring(&self, ring: &[NodeId]) {
        for (place, one) in ring.iter().enumerate() {
            for (distance, other) in ring.iter().enumerate().skip(place + 1).map(|(at, other)| (at - place, other)) {
                if distance > 1 && distance < ring.len() - 1 {
                    self.separate(*one, *other);
                }
            }
        }
    }

    /// Every letter between the two takes `longer` than elsewhere, in both directions. Zero ends that.
    pub fn slow_down(&self, one: NodeId, other: NodeId, longer: Duration) {
        self.state().slow.extend([((one, other), longer), ((other, one), longer)]);
    }

    /// Cuts both directions between two nodes for `period`, then not for as long, and so on. Letters under way arrive.
    pub fn flap(&self, one: NodeId, other: NodeId, period: Duration) {
        self.state().flaps.extend([((one, other), period), ((other, one), period)]);
    }

    /// Mends all links and ends all faults. The delay that was set stays, without a long tail.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cuts.clear();
        state.slow.clear();
        state.flaps.clear();
        (state.loss, state.breaks) = (0, 0);
        (state.repeats, state.tail) = Default::default();
    }

    /// How many letters were sent so far.
    pub fn letters(&self) -> u64 {
        self.state().letters
    }

    /// A hash of every letter so far: between whom, what, when, and what became of it. Two runs of one seed on a paused
    /// current-thread runtime have the same.
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }

    pub(super) fn set_down(&self, node: NodeId, down: bool) {
        let mut state = self.state();
        if down {
            state.down.insert(node)
        } else {
            state.down.remove(&node)
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can be half done in there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn decide(&mut self, letter: &Letter) -> Fate {
        let fate = self.fate(letter);
        self.letters += 1;
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, self.began.elapsed(), letter.from, letter.to, letter.name, letter.reply).hash(&mut hasher);
        match fate {
            Fate::Deliver { after } => after.hash(&mut hasher),
            Fate::Repeat { after, again } => (after, again).hash(&mut hasher),
            Fate::Drop => 1.hash(&mut hasher),
            Fate::Break => 2.hash(&mut hasher),
        }
        self.fingerprint = hasher.finish();
        fate
    }

    fn fate(&mut self, letter: &Letter) -> Fate {
        let Letter { from, to, reply, .. } = *letter;
        if self.is_cut(from, to) || self.down.contains(&from) || self.down.contains(&to) {
            return Fate::Drop;
        }
        let chance = self.random.random_range(0..1000);
        if chance < self.loss {
            return Fate::Drop;
        }
        if chance < self.loss + self.breaks {
            return Fate::Break;
        }
        let mut after = self.random.random_range(self.delay.clone());
        after += self.slow.get(&(from, to)).copied().unwrap_or_default();
        if self.happens(self.tail) {
            after += self.long_draw(self.tail.within);
        }
        if !reply && self.happens(self.repeats) {
            let again = self.random.random_range(Duration::ZERO..=self.repeats.within);
            return Fate::Repeat { after, again };
        }
        Fate::Deliver { after }
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let down = |period: &Duration| {
            let turns = self.began.elapsed().as_nanos() / period.as_nanos().max(1);
            turns.is_multiple_of(2)
        };
        self.cuts.contains(&(from, to)) || self.flaps.get(&(from, to)).is_some_and(down)
    }

    /// Draws nothing where it cannot happen: runs without this fault stay what they are.
    fn happens(&mut self, rare: Rare) -> bool {
        rare.rate > 0 && self.random.random_range(0..1000) < rare.rate
    }

    /// Evenly among the orders of magnitude from a thousandth of `longest` up.
    fn long_draw(&mut self, longest: Duration) -> Duration {
        let longest = longest / (1 << self.random.random_range(0..10));
        self.random.random_range(longest / 2..=longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(network: &Network, from: NodeId, to: NodeId) -> bool {
        let letter = Letter { from, to, name: "AppendEntries", reply: false };
        !matches!(network.state().decide(&letter), Fate::Drop)
    }

    /// Who reaches whom, of nodes 1 to `size`.
    fn links(network: &Network, size: NodeId) -> Vec<Way> {
        let pairs = (1..=size).flat_map(|from| (1..=size).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to && reaches(network, *from, *to)).collect()
    }

    // Fails when: a cut takes the other direction as well, or `partition` leaves one.
    #[tokio::test(start_paused = true)]
    async fn cuts_are_one_way_and_partitions_are_not() {
        let network = Network::new(1);
        network.cut(1, 2);
        assert_eq!(links(&network, 2), [(2, 1)]);
        network.heal();
        network.partition(&[1], &[2, 3]);
        assert_eq!(links(&network, 3), [(2, 3), (3, 2)]);
    }

    // Fails when: `ring` counts distances in one direction only, or `bridge` cuts the bridge off.
    #[tokio::test(start_paused = true)]
    async fn rings_and_bridges_leave_what_they_say() {
        let network = Network::new(1);
        network.ring(&[1, 2, 3, 4, 5]);
        let neighbours = |one| -> Vec<NodeId> {
            links(&network, 5).into_iter().filter(|(from, _)| *from == one).map(|(_, to)| to).collect()
        };
        assert_eq!(neighbours(1), [2, 5]);
        assert_eq!(neighbours(4), [3, 5]);
        assert_eq!(links(&network, 5).len(), 10);
        network.heal();
        network.bridge(3, &[1, 2, 3, 4, 5]);
        assert!(!reaches(&network, 1, 4) && !reaches(&network, 5, 2));
        assert!(
            reaches(&network, 1, 2) && reaches(&network, 3, 4) && reaches(&network, 1, 3) && reaches(&network, 4, 5)
        );
    }

    // Fails when: a flapping link does not come back, or does not go again.
    #[tokio::test(start_paused = true)]
    async fn a_flapping_link_is_cut_by_turns() {
        let network = Network::new(1);
        network.flap(1, 2, Duration::from_millis(100));
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push((reaches(&network, 1, 2), reaches(&network, 2, 1), reaches(&network, 1, 3)));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (cut, there) = ((false, false, true), (true, true, true));
        assert_eq!(seen, [cut, there, cut, there, cut, there]);
    }

    // Fails when: `fate` adds no tail, draws none of the short ones, repeats answers, or forgets the slow links.
    #[tokio::test(start_paused = true)]
    async fn times_and_repeats_are_as_set() {
        let network = Network::new(1);
        let (short, second) = (Duration::from_millis(2), Duration::from_secs(1));
        let draw = |reply| network.state().decide(&Letter { from: 1, to: 2, name: "AppendEntries", reply });
        let time = |fate| match fate {
            Fate::Deliver { after } | Fate::Repeat { after, .. } => after,
            lost => panic!("{lost:?}"),
        };
        assert!((0..1000).all(|_| time(draw(false)) <= short));
        network.set_long_tail(500, second);
        let times: Vec<_> = (0..1000).map(|_| time(draw(false))).collect();
        assert!((300..700).contains(&times.iter().filter(|time| **time > short).count()));
        assert!(times.iter().any(|time| *time > second / 2) && times.iter().all(|time| *time <= second + short));
        network.set_repeats(500, second);
        let repeated =
            (0..1000).filter(|_| matches!(draw(false), Fate::Repeat { again, .. } if again <= second)).count();
        assert!((300..700).contains(&repeated), "{repeated} repeated");
        assert!((0..1000).all(|_| matches!(draw(true), Fate::Deliver { .. })), "an answer is repeated");
        network.heal();
        network.slow_down(1, 2, second);
        assert!((0..1000).all(|_| time(draw(true)) > second));
        network.set_faults(300, 300);
        let fates: Vec<_> = (0..1000).map(|_| draw(false)).collect();
        for wanted in [Fate::Drop, Fate::Break] {
            assert!((200..400).contains(&fates.iter().filter(|fate| **fate == wanted).count()), "{wanted:?}");
        }
    }
}
