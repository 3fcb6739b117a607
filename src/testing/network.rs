//! A network that can be told to be bad. What happens to a letter is decided by the seed and by what the test says.

use std::{
    collections::BTreeSet,
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

struct State {
    random: SmallRng,
    delay: RangeInclusive<Duration>,
    /// Of a thousand letters, so many are lost without a word.
    loss: u32,
    /// Of a thousand letters, so many break their connection.
    breaks: u32,
    /// Who does not reach whom.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Nodes without power.
    down: BTreeSet<NodeId>,
    began: Instant,
    letters: u64,
    fingerprint: u64,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Network(Arc::new(Mutex::new(State {
            random: SmallRng::seed_from_u64(seed),
            delay: Duration::from_micros(200)..=Duration::from_millis(2),
            loss: 0,
            breaks: 0,
            cuts: BTreeSet::new(),
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

    /// Of a thousand letters, `lost` are lost without a word and `broken` break the connection they travel on.
    pub fn set_faults(&self, lost: u32, broken: u32) {
        let mut state = self.state();
        (state.loss, state.breaks) = (lost, broken);
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

    /// Mends all cuts and ends all faults. The delays stay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cuts.clear();
        (state.loss, state.breaks) = (0, 0);
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
            Fate::Drop => 1.hash(&mut hasher),
            Fate::Break => 2.hash(&mut hasher),
        }
        self.fingerprint = hasher.finish();
        fate
    }

    fn fate(&mut self, letter: &Letter) -> Fate {
        let Letter { from, to, .. } = *letter;
        if self.cuts.contains(&(from, to)) || self.down.contains(&from) || self.down.contains(&to) {
            return Fate::Drop;
        }
        let chance = self.random.random_range(0..1000);
        if chance < self.loss {
            return Fate::Drop;
        }
        if chance < self.loss + self.breaks {
            return Fate::Break;
        }
        Fate::Deliver { after: self.random.random_range(self.delay.clone()) }
    }
}
