//! The breadth-first search: every state that can be reached within a [`Scope`], each once.
//!
//! A state is a row of numbers: of its history, of each of its servers, of the messages that were ever sent. Servers and
//! messages are few where states are many, so that each is kept once; and since a core is pure, what a move makes of a server
//! is computed once, by the real core, and looked up from then on.
//!
//! Two observations keep the search short, and lose nothing, since a message is never taken back and need not arrive. Of two
//! states that differ in their messages alone, the one that has all of the other's can do all that the other can: only such
//! states are gone on from. And a message that changes nothing at its addressee, and is answered, is answered at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasherDefault, Hash, Hasher},
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use ractor_raft::raft::*;

use super::{
    history::History,
    order::{Ages, Waiting},
    scope::Scope,
    server::{Contents, Event, Move, Packet, Server},
    tally::{Facts, Tally},
};

/// History, servers by rising id, then messages by rising number.
pub type State = Box<[u32]>;

/// Values by number, each once.
pub struct Numbered<T> {
    pub values: Vec<Rc<T>>,
    numbers: HashMap<Rc<T>, u32, BuildHasherDefault<Mixed>>,
}

impl<T: Hash + Eq> Numbered<T> {
    fn new() -> Self {
        Numbered { values: Vec::new(), numbers: HashMap::default() }
    }

    pub fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let (number, value) = (self.values.len() as u32, Rc::new(value));
        self.numbers.insert(value.clone(), number);
        self.values.push(value);
        number
    }

    pub fn get(&self, number: u32) -> &Rc<T> {
        &self.values[number as usize]
    }
}

/// A hash of no great strength for tables of our own making.
#[derive(Default)]
pub struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        mix(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        });
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 128 bits of a state without its messages: two of 2^30 states share theirs by chance once in 2^69 searches.
fn fingerprint(state: &[u32]) -> [u64; 2] {
    let fold = |seed: u64, factor: u64| {
        state.iter().fold(seed, |sum, word| mix(sum.wrapping_mul(factor).wrapping_add(u64::from(*word) + 1)))
    };
    [fold(17, 0x9e37_79b9_7f4a_7c15), fold(0x1234_5678_9abc_def1, 0xd6e8_feb8_6659_fd93)]
}

/// So many states are gone through nearest first.
const NEAR: usize = 200_000;

/// States of all the searches of this process.
static SUM: AtomicUsize = AtomicUsize::new(0);

/// A bit for each message, of 64: what lacks one of these is no superset.
fn summary(messages: &[u32]) -> u64 {
    messages.iter().fold(0, |bits, message| bits | 1 << (message % 64))
}

/// Whether `many` has all of `few`; both rise.
fn has_all(many: &[u32], few: &[u32]) -> bool {
    let mut many = many.iter();
    few.len() <= many.len() && few.iter().all(|wanted| many.find(|one| *one >= wanted) == Some(wanted))
}

/// How many seconds this thread has run, where that can be known: the machine may be busy with other things.
fn on_cpu() -> f64 {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    nanoseconds.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

/// What a move makes of a server, wherever it happens.
pub struct Outcome {
    pub server: u32,
    pub sent: Vec<u32>,
    /// The new numbers of this server's sessions, where they changed.
    pub numbers: Option<BTreeMap<u64, u64>>,
    pub events: Vec<Event>,
    pub violation: Option<String>,
    /// The latest round of reads that was told to anyone.
    pub read_round: u64,
    pub facts: Facts,
}

pub struct Search {
    pub scope: Scope,
    pub servers: Numbered<Server>,
    pub packets: Numbered<Packet>,
    /// Of each packet.
    pub addressees: Vec<u8>,
    /// Once it is made.
    pub first: Option<State>,
    pub histories: Numbered<History>,
    pub contents: Contents,
    pub outcomes: HashMap<(u32, Move), Rc<Outcome>, BuildHasherDefault<Mixed>>,
    /// Pairs of servers whose logs have been compared.
    pub compared: HashSet<(u32, u32), BuildHasherDefault<Mixed>>,
    /// Sets of messages.
    sets: Numbered<Box<[u32]>>,
    /// By what a state is without its messages: the largest sets that it was reached with, and their summaries.
    seen: HashMap<[u64; 2], Vec<(u64, u32)>, BuildHasherDefault<Mixed>>,
    /// How each state was reached first: from which, by whose turn.
    reached: Vec<(u32, u8, Move)>,
    transitions: u64,
    tally: Tally,
    pub ages: Ages,
}

impl Search {
    pub fn new(scope: Scope) -> Self {
        Search {
            scope,
            servers: Numbered::new(),
            packets: Numbered::new(),
            addressees: Vec::new(),
            first: None,
            histories: Numbered::new(),
            contents: Contents::new(),
            outcomes: HashMap::default(),
            compared: HashSet::default(),
            sets: Numbered::new(),
            seen: HashMap::default(),
            reached: Vec::new(),
            transitions: 0,
            tally: Tally::default(),
            ages: Ages::default(),
        }
    }

    /// Explores everything, and looks, where it is promised to go `to_the_end`, whether that was all there is. The nearest
    /// states go first, since most of what is wrong is near, and its shortest way is then found; if there are many, all of them
    /// follow in the order of their progress.
    pub fn run(scope: Scope, to_the_end: bool) {
        let near = if scope.whole { NEAR.min(scope.max_states.wrapping_sub(1)) } else { scope.max_states };
        let mut search = Search::new(Scope { nearest_first: true, max_states: near, ..scope.clone() });
        let mut cut = search.explore();
        if cut && near != scope.max_states {
            let nearest = search.tally;
            search = Search::new(Scope { nearest_first: false, ..scope.clone() });
            cut = search.explore();
            search.tally.add_all(nearest);
        }
        if std::env::var_os("MOVES").is_some() {
            search.tally.tell(scope.name);
        }
        let missing = search.tally.missing(&scope);
        if !to_the_end || cut && std::env::var_os("STATES").is_some() {
            return;
        }
        let name = scope.name;
        assert!(missing.is_empty(), "model {name} never came by what it is about: {}", missing.join(", "));
        assert!(!cut || !scope.whole, "model {name} was not explored to its end");
    }

    /// All that comes to happen.
    pub fn histories(scope: Scope) -> HashSet<Rc<History>> {
        let max_states = if scope.nearest_first { NEAR } else { 0 };
        let mut search = Search::new(Scope { max_states, ..scope });
        search.explore();
        search.histories.values.into_iter().collect()
    }

    /// Whether it was cut. Panics with a way to a violation, if there is one.
    fn explore(&mut self) -> bool {
        let began = Instant::now();
        let first = self.first_state();
        self.first = Some(first.clone());
        self.enter(&first);
        self.reached.push((0, 0, Move::Tick));
        let mut waiting = Waiting::default();
        waiting.put(0, first, 0);
        let (mut depth, mut cut) = (0, false);
        while !cut && let Some(level) = waiting.take() {
            let mut next = Vec::new();
            for (state, number) in level {
                self.visit(state, number, &mut next);
                cut = self.scope.max_states > 0 && self.reached.len() >= self.scope.max_states;
                if cut {
                    break;
                }
            }
            depth += 1;
            for (state, number) in next {
                let progress = if self.scope.nearest_first { depth as u64 } else { self.progress(&state) };
                waiting.put(progress, state, number);
            }
            if std::env::var_os("LEVELS").is_some() {
                self.tell(depth, "so far", began);
            }
        }
        SUM.fetch_add(self.reached.len(), Relaxed);
        self.tell(depth - 1, if cut { "CUT" } else { "all explored" }, began);
        cut
    }

    /// Everything that may happen in a state. What is reached for the first time is put to `next`.
    fn visit(&mut self, state: State, number: u32, next: &mut Vec<(State, u32)>) {
        let Some(state) = self.complete(state) else { return };
        for (id, what) in self.moves(&state) {
            self.transitions += 1;
            match self.successor(&state, id, what) {
                Ok(Some(successor)) => {
                    self.count(&state, id, what);
                    if self.enter(&successor) {
                        next.push((successor, self.reached.len() as u32));
                        self.reached.push((number, id as u8, what));
                    }
                }
                // One that changes nothing was made all the same.
                Ok(None) if what == Move::LateReport => self.count(&state, id, what),
                Ok(None) => {}
                Err(violation) => self.fail(number, id, what, &violation),
            }
        }
    }

    fn count(&mut self, state: &State, id: NodeId, what: Move) {
        match what {
            Move::Tick => self.tally.ticked(),
            _ => {
                let outcome = self.outcome(state[id as usize], what);
                self.tally.add(&outcome.facts);
            }
        }
    }

    /// Takes note of a state. Whether it can do anything that those before it cannot.
    fn enter(&mut self, state: &State) -> bool {
        let (places, messages) = state.split_at(self.scope.disks.len() + 1);
        let bits = summary(messages);
        let largest = self.seen.entry(fingerprint(places)).or_default();
        let sets = &self.sets;
        if largest.iter().any(|(other, set)| bits & !other == 0 && has_all(sets.get(*set), messages)) {
            return false;
        }
        largest.retain(|(other, set)| other & !bits != 0 || !has_all(messages, sets.get(*set)));
        largest.push((bits, self.sets.number(messages.into())));
        true
    }

    /// The state with all the answers to be had for nothing; none where another one has come to include it.
    fn complete(&mut self, state: State) -> Option<State> {
        let size = self.scope.disks.len() + 1;
        let set = self.sets.number(state[size..].into());
        if !self.seen[&fingerprint(&state[..size])].iter().any(|(_, largest)| *largest == set) {
            return None;
        }
        let mut state = state;
        loop {
            let mut more = Vec::new();
            for (id, what) in self.moves(&state) {
                let Move::Deliver(_) = what else { continue };
                let outcome = self.outcome(state[id as usize], what);
                let unchanged = outcome.server == state[id as usize] && outcome.violation.is_none();
                if unchanged && outcome.events.is_empty() && outcome.numbers.is_none() {
                    let before = more.len();
                    more.extend(outcome.sent.iter().filter(|packet| self.is_news(**packet, &state)));
                    if more.len() > before {
                        self.tally.add(&outcome.facts);
                    }
                }
            }
            if more.is_empty() {
                break;
            }
            more.extend(&state[size..]);
            more.sort_unstable();
            more.dedup();
            state = state[..size].iter().copied().chain(more).collect();
        }
        (state[size..].len() == self.sets.get(set).len() || self.enter(&state)).then_some(state)
    }

    /// Written past the test harness, which keeps what a passing test prints to itself.
    fn tell(&self, depth: usize, end: &str, began: Instant) {
        let line = format!(
            "model {}: {} states, {} transitions, depth {depth}, {end} in {:.1} s, {:.1} s of CPU ({} places, {} servers, {} messages, {} turns, {} histories); {} states in all\n",
            self.scope.name,
            self.reached.len(),
            self.transitions,
            began.elapsed().as_secs_f64(),
            on_cpu(),
            self.seen.len(),
            self.servers.values.len(),
            self.packets.values.len(),
            self.outcomes.len(),
            self.histories.values.len(),
            SUM.load(Relaxed),
        );
        std::io::stderr().write_all(line.as_bytes()).expect("the standard error stream takes a line");
    }

    /// Walks the way once more and writes it down.
    fn fail(&mut self, number: u32, id: NodeId, what: Move, violation: &str) -> ! {
        let mut way = vec![(id, what)];
        let mut at = number;
        while at > 0 {
            let (before, id, what) = self.reached[at as usize];
            way.push((NodeId::from(id), what));
            at = before;
        }
        way.reverse();
        let first = self.first.clone().expect("the search has begun");
        self.fail_along(first, &way, violation)
    }

    /// Panics with what leads from `state` to a violation.
    pub fn fail_along(&mut self, mut state: State, way: &[(NodeId, Move)], violation: &str) -> ! {
        let mut story = String::new();
        for (step, (id, what)) in way.iter().enumerate() {
            let lines = catch_unwind(AssertUnwindSafe(|| self.tell_turn(&state, *id, *what)));
            let lines = lines.unwrap_or_else(|_| vec![format!("n{id} panics at {what:?}")]);
            story += &format!("{:>3}. {}\n", step + 1, lines.join("\n     "));
            if let Ok(Some(next)) = self.successor(&state, *id, *what) {
                state = next;
            }
        }
        let (name, states, steps) = (self.scope.name, self.reached.len(), way.len());
        let test = name.replace([' ', '-'], "_");
        panic!(
            "{story}{violation}\n(model {name}, step {steps}, after {states} states.) Rerun: cargo test --test model {test}"
        );
    }

    /// The server that a move happens at, and what it makes of it, in words.
    fn tell_turn(&mut self, state: &State, id: NodeId, what: Move) -> Vec<String> {
        if what == Move::Tick {
            return vec!["the clocks go on".to_owned()];
        }
        let mut contents = std::mem::take(&mut self.contents);
        let turn = self.take_turn(state[id as usize], what, &mut contents, true);
        let lines = turn.lines.clone().unwrap_or_default();
        drop(turn);
        self.contents = contents;
        lines
    }

    /// The outcome of a move, by the real core. A core that finds itself broken panics: that is an outcome as well.
    pub fn outcome(&mut self, server: u32, what: Move) -> Rc<Outcome> {
        if let Some(outcome) = self.outcomes.get(&(server, what)) {
            return outcome.clone();
        }
        let outcome = Rc::new(self.compute(server, what));
        if outcome.facts.is_refusal() {
            // Nothing comes of it anywhere.
            self.tally.add(&outcome.facts);
        }
        self.outcomes.insert((server, what), outcome.clone());
        outcome
    }

    fn compute(&mut self, number: u32, what: Move) -> Outcome {
        let mut contents = std::mem::take(&mut self.contents);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut turn = self.take_turn(number, what, &mut contents, false);
            turn.check(!what.ends_life());
            let numbers = turn.renumber();
            if !self.scope.forgets_nothing {
                turn.server.raft.forget(&self.scope.never());
            }
            let packet = if let Move::Deliver(packet) = what { Some(self.packets.get(packet)) } else { None };
            let facts = Facts::of(&turn, what, packet.map(|packet| &packet.body));
            (turn.server, turn.sent, turn.events, turn.violation, numbers, facts)
        }));
        self.contents = contents;
        match result {
            Ok((server, sent, events, violation, numbers, facts)) => {
                let server = self.servers.number(server);
                let read_round = sent.iter().map(Packet::read_round).max().unwrap_or(0);
                let mut sent: Vec<u32> = sent.into_iter().map(|packet| self.number_packet(packet)).collect();
                sent.sort_unstable();
                let same = numbers.iter().all(|(old, new)| old == new) && numbers.len() >= self.sessions(number);
                Outcome { server, sent, numbers: (!same).then_some(numbers), events, violation, read_round, facts }
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let violation = Some(text.unwrap_or_else(|| "a panic without words".to_owned()));
                let (sent, events, facts) = (Vec::new(), Vec::new(), Facts::default());
                Outcome { server: number, sent, numbers: None, events, violation, read_round: 0, facts }
            }
        }
    }

    pub fn number_packet(&mut self, packet: Packet) -> u32 {
        let to = packet.to as u8;
        let number = self.packets.number(packet);
        if number as usize == self.addressees.len() {
            self.addressees.push(to);
        }
        number
    }

    /// How many sessions of this server an answer may still belong to.
    fn sessions(&self, number: u32) -> usize {
        self.servers.get(number).raft.clone().renumber().len()
    }
}
