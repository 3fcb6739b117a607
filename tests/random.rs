//! Random walks through the real core: messages are delayed, lost, repeated and reordered, connections break, networks
//! part, servers crash with or without their last write, couriers die, clocks go at different speeds, disks fill up and
//! hang; servers are added, removed, replaced and wiped, leadership is handed over, snapshots are taken and sent. After
//! every step the properties of Figure 3 and the core's promises are checked (`support/checks.rs`); at the end the faults
//! stop, and everything must come right.
//!
//! One seed is one walk. `SEED=42 cargo test --test random` repeats one, `SEEDS=20000` walks more. A failure prints its
//! seed, its step, what was violated, and the last inputs and effects.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use ractor_raft::raft::*;

use crate::{
    faults::Faults,
    support::{Disk, ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, HEARTBEAT, Server, World, checks::Checks, voters},
};

#[path = "random/faults.rs"]
mod faults;
#[path = "random/moves.rs"]
mod moves;
#[path = "random/operators.rs"]
mod operators;
#[path = "random/recovery.rs"]
mod recovery;
mod support;

/// How many inputs a walk takes before the faults stop.
const STEPS: usize = 700;

#[test]
fn random_walks_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let first = number("FIRST").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEEDS").unwrap_or(300),
    };
    let alone = seeds.end - seeds.start == 1;
    let mut sums = BTreeMap::new();
    for seed in seeds {
        let walk = |history| {
            let mut walk = Walk::new(seed, history);
            let result = catch_unwind(AssertUnwindSafe(|| walk.run()));
            (walk, result)
        };
        let (done, result) = walk(None);
        for (what, count) in done.counted() {
            *sums.entry(what).or_insert(0) += count;
        }
        if result.is_err() {
            // The same seed takes the same way: walk it again, and write it down.
            let (walk, result) = walk(Some(VecDeque::new()));
            walk.history.iter().flatten().for_each(|line| eprintln!("{line}"));
            eprintln!("The walk failed at step {}. Rerun: SEED={seed} cargo test --test random", walk.steps);
            resume_unwind(result.expect_err("the same seed fails again"));
        }
    }
    println!("{sums:?}");
    let never: Vec<_> = sums.iter().filter(|(_, count)| **count == 0).map(|(what, _)| what).collect();
    assert!(alone || never.is_empty(), "walks that do nothing check nothing: {never:?}");
}

/// One random walk.
struct Walk {
    /// As the first members are started.
    begun: Membership,
    world: World,
    checks: Checks,
    chance: Chance,
    faults: Faults,
    /// Pairs (from, to) whose messages get lost.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the alarms ring, on the world's clock.
    due: BTreeMap<NodeId, (u64, Duration)>,
    /// Servers whose disk has no room.
    full: BTreeSet<NodeId>,
    /// The number of the next disk.
    next_disk: Incarnation,
    steps: usize,
    history: Option<VecDeque<String>>,
}

/// A small generator (SplitMix64): the same seed, the same walk, on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize])
    }
}

impl Walk {
    fn new(seed: u64, history: Option<VecDeque<String>>) -> Self {
        let mut chance = Chance(seed);
        let size = [1, 2, 3, 3, 3, 4, 5, 5][chance.below(8) as usize];
        let faults = Faults::of(&mut chance);
        let mut membership = voters(size);
        // Where the disks are known from the beginning, a walk may wipe one early.
        if chance.percent(50) {
            membership.incarnations = (1..=size).map(|id| (id, id)).collect();
        }
        let disk = |id| Disk { incarnation: id, ..Disk::of(&membership) };
        let world = World::new((1..=size).map(|id| (id, disk(id))).collect(), membership.clone());
        let (cut, due, full) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let checks = Checks::default();
        let begun = membership;
        let mut walk =
            Walk { begun, world, checks, chance, faults, cut, due, full, next_disk: size + 1, steps: 0, history };
        (1..=size).for_each(|id| walk.equip(id));
        walk
    }

    /// Gives a server this walk's limits, and a clock of its own.
    fn equip(&mut self, id: NodeId) {
        let rate = 950 + self.chance.below(101) as u32;
        let (threshold, trailing) = (self.faults.snapshot_threshold, self.faults.snapshot_trailing);
        let disk_timeout = self.faults.disk_timeout;
        let server = self.world.server_mut(id);
        server.clock_rate = rate;
        server.settings.snapshot_threshold = threshold;
        server.settings.snapshot_trailing = trailing;
        server.settings.disk_timeout = disk_timeout;
    }

    fn counted(&self) -> [(&'static str, u64); 8] {
        let checks = &self.checks;
        [
            ("proposals", checks.acknowledged),
            ("reads", checks.reads_answered),
            ("lease reads", checks.lease_reads),
            ("changes", checks.changes),
            ("transfers", checks.transfers),
            ("snapshots", checks.snapshots),
            ("restores", checks.installed),
            ("wiped disks", checks.wiped.len() as u64),
        ]
    }

    fn run(&mut self) {
        self.world.ids().into_iter().for_each(|id| self.start(id));
        while self.steps < STEPS {
            let next = self.choose();
            self.make(next);
            self.steps += 1;
        }
        self.recover();
    }

    /// Gives `input` to `id`, and looks whether everything holds.
    fn act(&mut self, id: NodeId, input: Input) {
        self.note(|| format!("n{id} < {input}"));
        let sent = self.world.network.len();
        let effects = self.world.step(id, input);
        self.look(id, &effects, sent);
    }

    fn look(&mut self, id: NodeId, effects: &[Effect], sent: usize) {
        for effect in effects {
            self.note(|| format!("n{id} > {effect}"));
        }
        self.set_due(id);
        self.checks.after(&self.world, id, effects, &self.world.network[sent..]);
        if self.checks.condemned.contains(&id) && self.world.server(id).is_up() {
            self.crash(id);
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let step = self.steps;
        if let Some(history) = &mut self.history {
            history.push_back(format!("{step:>4} {}", line()));
            if history.len() > 40 && std::env::var_os("ALL").is_none() {
                history.pop_front();
            }
        }
    }

    fn set_due(&mut self, id: NodeId) {
        let server = self.world.server(id);
        let Some(set) = server.alarm else { return };
        let rate = server.clock_rate;
        if self.due.get(&id).is_none_or(|(epoch, _)| *epoch != set.epoch) {
            let spread = (ELECTION_TIMEOUT_MAX - ELECTION_TIMEOUT_MIN).as_millis() as u64;
            let after = match set.alarm {
                Alarm::Heartbeat => HEARTBEAT,
                Alarm::Notice => HEARTBEAT / 10,
                Alarm::Election => ELECTION_TIMEOUT_MIN + Duration::from_millis(self.chance.below(spread)),
            };
            let at = (set.since + after) * 1000 / rate + Duration::from_nanos(2);
            self.due.insert(id, (set.epoch, at));
        }
    }

    fn up(&self) -> Vec<NodeId> {
        self.world.ids().into_iter().filter(|id| self.world.server(*id).is_up()).collect()
    }

    /// Who leads, in the highest term that anyone leads.
    fn leader(&self) -> Option<NodeId> {
        let up = self.world.servers.iter().filter_map(|(id, server)| Some((*id, server.raft.as_ref()?)));
        let leaders = up.filter(|(_, raft)| raft.role() == Role::Leader);
        leaders.max_by_key(|(_, raft)| raft.current_term()).map(|(id, _)| id)
    }
}
