//! Who dies, where and how: the cells of the matrix, and the saboteurs that carry a blow out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ractor_raft::{
    flow::{Crash, Moment, Saboteur},
    raft::NodeId,
    testing::vocabulary,
};

/// One cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Which actor, as the vocabulary has it ("consensus/replicator *").
    pub actor: &'static str,
    /// At which message.
    pub word: &'static str,
    pub moment: Moment,
    pub how: Crash,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { actor, word, moment, how } = self;
        write!(f, "{actor}: {how:?} {moment:?} {word}")
    }
}

/// The words that are left out, and why.
pub const LEFT_OUT: [(&str, &str); 1] = [("Crash", "it is itself the order to die, which `dies` gives")];

/// All cells: every actor, every message that it handles, before and after, by a panic and killed.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (actor, words) in vocabulary() {
        for word in words.into_iter().filter(|word| LEFT_OUT.iter().all(|(out, _)| out != word)) {
            for moment in [Moment::Before, Moment::After] {
                cells.extend([Crash::Panic, Crash::Kill].map(|how| Cell { actor, word, moment, how }));
            }
        }
    }
    cells
}

/// The actor of the vocabulary that lives at this place.
pub fn actor_at(path: &str) -> Option<&'static str> {
    let fits = |actor: &&str| match actor.strip_suffix('*') {
        Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.parse::<NodeId>().is_ok()),
        None => path == *actor,
    };
    vocabulary().into_iter().map(|(actor, _)| actor).find(fits)
}

/// The `nth` time that a cell comes up, its actor dies; with `after`, counted from when that other blow has fallen, and on
/// the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    pub cell: Cell,
    pub nth: usize,
    pub after: Option<usize>,
}

/// Where a blow fell.
#[derive(Clone, Debug)]
pub struct Struck {
    pub node: NodeId,
    /// Which life of the whole node; 1 is the first.
    pub life: usize,
    pub path: String,
    /// How many actors had been started, of all that are in [`Plan::starts`].
    pub starts: usize,
    /// Whether anybody had subscribed to this life of the node.
    pub listened_to: bool,
}

/// A start of an actor, its node, and the life of that node.
pub type Start = (NodeId, usize, String);

/// What the saboteurs of all nodes of a cluster have in common.
#[derive(Clone, Default)]
pub struct Plan(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    armed: bool,
    blows: Vec<(Blow, usize, Option<Struck>)>,
    /// On this node nobody dies.
    spared: Option<NodeId>,
    lives: BTreeMap<NodeId, usize>,
    starts: Vec<Start>,
    subscribed: BTreeSet<(NodeId, usize)>,
    heard: BTreeMap<(&'static str, &'static str), usize>,
    strangers: Vec<String>,
    names: BTreeMap<String, Option<&'static str>>,
}

impl Plan {
    pub fn of(blows: &[Blow]) -> Self {
        let blows = blows.iter().map(|blow| (*blow, 0, None)).collect();
        Plan(Arc::new(Mutex::new(State { blows, ..State::default() })))
    }

    /// The saboteur of the next life of a node.
    pub fn saboteur(&self, node: NodeId) -> OfOneLife {
        let mut state = self.state();
        let life = state.lives.entry(node).or_default();
        *life += 1;
        OfOneLife { plan: self.clone(), node, life: *life }
    }

    /// From now on blows fall, and what is heard is counted.
    pub fn arm(&self, spared: Option<NodeId>) {
        let mut state = self.state();
        (state.armed, state.spared) = (true, spared);
    }

    pub fn disarm(&self) {
        self.state().armed = false;
    }

    /// Lives of a node so far.
    pub fn lives(&self, node: NodeId) -> usize {
        self.state().lives.get(&node).copied().unwrap_or(0)
    }

    /// Where the blows fell, in their order.
    pub fn struck(&self) -> Vec<Option<Struck>> {
        self.state().blows.iter().map(|(.., struck)| struck.clone()).collect()
    }

    /// Every start of an actor since the cluster began.
    pub fn starts(&self) -> Vec<Start> {
        self.state().starts.clone()
    }

    /// How often each message was heard while it was armed.
    pub fn heard(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        self.state().heard.clone()
    }

    /// Actors and messages that the vocabulary does not have.
    pub fn strangers(&self) -> Vec<String> {
        self.state().strangers.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can be half done in there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides for one life of one node.
pub struct OfOneLife {
    plan: Plan,
    node: NodeId,
    life: usize,
}

impl Saboteur for OfOneLife {
    fn strikes(&self, path: &str, message: &'static str, moment: Moment) -> Option<Crash> {
        let mut state = self.plan.state();
        let state = &mut *state;
        if moment == Moment::Before && message == "Start" {
            state.starts.push((self.node, self.life, path.to_owned()));
        }
        if moment == Moment::Before && message == "Subscribe" {
            state.subscribed.insert((self.node, self.life));
        }
        if !state.armed {
            return None;
        }
        let actor = *state.names.entry(path.to_owned()).or_insert_with(|| actor_at(path));
        let Some(actor) = actor else {
            state.strangers.push(path.to_owned());
            return None;
        };
        if state.spared == Some(self.node) {
            return None;
        }
        if moment == Moment::Before {
            *state.heard.entry((actor, message)).or_default() += 1;
        }
        for at in 0..state.blows.len() {
            let first = state.blows[at].0.after.map(|first| state.blows[first].2.as_ref().map(|struck| struck.node));
            let (Blow { cell, nth, .. }, seen, struck) = &mut state.blows[at];
            let here = (cell.actor, cell.word, cell.moment) == (actor, message, moment);
            if !here || struck.is_some() || first.is_some_and(|node| node != Some(self.node)) {
                continue;
            }
            *seen += 1;
            if *seen == *nth {
                let starts = state.starts.len();
                let listened_to = state.subscribed.contains(&(self.node, self.life));
                *struck = Some(Struck { node: self.node, life: self.life, path: path.to_owned(), starts, listened_to });
                return Some(cell.how);
            }
        }
        None
    }
}
