//! Random walks through the real core: messages are delayed, lost, repeated and reordered, connections break, networks
//! part, servers crash with or without their last write, couriers die. After every step the properties of Figure 3 and
//! the core's promises are checked (`support/checks.rs`); at the end the faults stop, and everything must come right.
//!
//! One seed is one walk. `SEED=42 cargo test --test random` repeats one, `SEEDS=20000` walks more. A failure prints its
//! seed, its step, what was violated, and the last inputs and effects.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use bytes::Bytes;
use ractor_raft::raft::*;

use crate::support::{
    Body, Disk, ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, HEARTBEAT, Packet, World, checks::Checks, voters,
};

#[path = "random/recovery.rs"]
mod recovery;
mod support;

/// How many inputs a walk takes before the faults stop.
const STEPS: usize = 700;

#[test]
fn random_walks_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(300),
    };
    let (mut acknowledged, mut reads_answered) = (0, 0);
    for seed in seeds {
        let walk = |history| {
            let mut walk = Walk::new(seed, history);
            let result = catch_unwind(AssertUnwindSafe(|| walk.run()));
            (walk, result)
        };
        let (done, result) = walk(None);
        acknowledged += done.checks.acknowledged;
        reads_answered += done.checks.reads_answered;
        if result.is_err() {
            // The same seed takes the same way: walk it again, and write it down.
            let (walk, result) = walk(Some(VecDeque::new()));
            walk.history.iter().flatten().for_each(|line| eprintln!("{line}"));
            eprintln!("The walk failed at step {}. Rerun: SEED={seed} cargo test --test random", walk.steps);
            resume_unwind(result.expect_err("the same seed fails again"));
        }
    }
    assert!(acknowledged > 0 && reads_answered > 0, "a walk that acknowledges nothing checks nothing");
}

/// One random walk.
struct Walk {
    world: World,
    checks: Checks,
    chance: Chance,
    faults: Faults,
    /// Pairs (from, to) whose messages get lost.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the alarms ring.
    due: BTreeMap<NodeId, (u64, Duration)>,
    steps: usize,
    history: Option<VecDeque<String>>,
}

/// How bad this walk's world is, in weights of the faults against 100 for "a message arrives".
struct Faults {
    drop: u64,
    repeat: u64,
    reorder: u64,
    crash: u64,
    part: u64,
    disk: u64,
    clients: u64,
    alarms: u64,
}

/// What the walk does next.
#[derive(Clone, Copy)]
enum Move {
    Arrive,
    Drop,
    Repeat,
    Sync,
    Ring,
    RingLate,
    Applied,
    Propose,
    Read,
    HandOver,
    Break,
    Part,
    Mend,
    Crash,
    Restart,
    LoseCourier,
}

/// A splitmix64 generator: the same seed walks the same way on every machine.
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
        let size = [1, 3, 3, 3, 5, 5][chance.below(6) as usize];
        let faults = Faults {
            drop: chance.below(30),
            repeat: chance.below(20),
            reorder: chance.below(101),
            crash: chance.below(6),
            part: chance.below(5),
            disk: 5 + chance.below(80),
            clients: 5 + chance.below(30),
            alarms: 4 + chance.below(30),
        };
        let disks = (1..=size).map(|id| (id, Disk::default())).collect();
        let world = World::new(disks, voters(size));
        let (cut, due) = (BTreeSet::new(), BTreeMap::new());
        Walk { world, checks: Checks::default(), chance, faults, cut, due, steps: 0, history }
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

    fn choose(&mut self) -> Move {
        let Faults { drop, repeat, crash, part, disk, clients, alarms, .. } = self.faults;
        let arrive = if self.world.network.is_empty() { 0 } else { 100 };
        // What cannot be delivered in time gets lost: a network holds only so much.
        let drop = if self.world.network.len() > 60 { 100 } else { drop.min(arrive) };
        let moves = [
            (Move::Arrive, arrive),
            (Move::Drop, drop),
            (Move::Repeat, repeat.min(arrive)),
            (Move::Sync, disk),
            (Move::Ring, alarms),
            (Move::RingLate, 1),
            (Move::Applied, 10),
            (Move::Propose, clients),
            (Move::Read, clients / 2),
            (Move::HandOver, 1),
            (Move::Break, part),
            (Move::Part, part),
            (Move::Mend, part),
            (Move::Crash, crash),
            (Move::Restart, 10),
            (Move::LoseCourier, 2),
        ];
        let mut at = self.chance.below(moves.iter().map(|(_, weight)| weight).sum());
        for (next, weight) in moves {
            if at < weight {
                return next;
            }
            at -= weight;
        }
        unreachable!("a number below the sum falls to one of the weights")
    }

    fn make(&mut self, next: Move) {
        let up: Vec<NodeId> = self.world.ids().into_iter().filter(|id| self.world.server(*id).is_up()).collect();
        let someone = self.chance.of(&up);
        match (next, someone) {
            (Move::Arrive, _) => self.arrive(true),
            (Move::Repeat, _) => self.arrive(false),
            (Move::Drop, _) => drop(self.take_packet()),
            (Move::Restart, _) => self.restart(),
            (Move::Part, _) => self.part(),
            (Move::Mend, _) => self.cut.clear(),
            (Move::Sync, Some(id)) => self.sync(id),
            (Move::Ring, Some(_)) => self.ring(),
            (Move::RingLate, Some(id)) => {
                let epoch = self.due.get(&id).map_or(0, |(epoch, _)| epoch - 1);
                self.act(id, Input::Timeout { epoch });
            }
            (Move::Applied, Some(id)) => self.applied(id),
            (Move::Propose, Some(id)) => self.propose(id),
            (Move::Read, Some(id)) => self.read(id),
            (Move::HandOver, Some(id)) => self.hand_over(id),
            (Move::Break, Some(id)) => self.break_connection(id),
            (Move::Crash, Some(id)) => self.crash(id),
            (Move::LoseCourier, Some(id)) => self.lose_courier(id),
            (_, None) => {}
        }
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
        let Some(set) = self.world.server(id).alarm else { return };
        if self.due.get(&id).is_none_or(|(epoch, _)| *epoch != set.epoch) {
            let spread = (ELECTION_TIMEOUT_MAX - ELECTION_TIMEOUT_MIN).as_millis() as u64;
            let after = match set.alarm {
                Alarm::Heartbeat => HEARTBEAT,
                Alarm::Notice => HEARTBEAT / 10,
                Alarm::Election => ELECTION_TIMEOUT_MIN + Duration::from_millis(self.chance.below(spread)),
            };
            self.due.insert(id, (set.epoch, set.since + after));
        }
    }

    fn start(&mut self, id: NodeId) {
        let sent = self.world.network.len();
        self.due.remove(&id);
        let effects = self.world.start(id);
        self.note(|| format!("n{id} starts"));
        self.look(id, &effects, sent);
    }

    fn restart(&mut self) {
        let down: Vec<NodeId> = self.world.ids().into_iter().filter(|id| !self.world.server(*id).is_up()).collect();
        if let Some(id) = self.chance.of(&down) {
            self.start(id);
        }
    }

    fn crash(&mut self, id: NodeId) {
        let write_survives = self.chance.percent(30);
        self.note(|| format!("n{id} crashes, its write in flight survives: {write_survives}"));
        self.world.crash(id, write_survives);
        self.due.remove(&id);
        self.checks.crashed(&self.world, id);
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let waiting = self.world.network.len() as u64;
        let any = self.chance.percent(self.faults.reorder);
        (waiting > 0).then(|| self.world.network.remove(if any { self.chance.below(waiting) as usize } else { 0 }))
    }

    /// A message reaches its addressee; with `once` it is then gone, else it may come again.
    fn arrive(&mut self, once: bool) {
        let Some(packet) = self.take_packet() else { return };
        if self.cut.contains(&(packet.from, packet.to)) {
            return;
        }
        if !once {
            self.world.network.push(packet.clone());
        }
        if let Some(input) = self.world.arrive(&packet) {
            self.act(packet.to, input);
        }
    }

    fn sync(&mut self, id: NodeId) {
        let Some((persisted, then)) = self.world.sync(id) else { return };
        self.act(id, persisted);
        let sent = self.world.network.len();
        self.world.carry_out_all(id, &then);
        self.look(id, &then, sent);
    }

    /// Mostly the alarm that is due first; sometimes another, which makes the others late.
    fn ring(&mut self) {
        let ids: Vec<NodeId> = self.due.keys().copied().collect();
        let first = ids.iter().copied().min_by_key(|id| self.due[id].1);
        let id = if self.chance.percent(70) { first } else { self.chance.of(&ids) };
        let Some(id) = id else { return };
        let (epoch, due) = self.due[&id];
        self.world.now = self.world.now.max(due);
        self.act(id, Input::Timeout { epoch });
    }

    fn applied(&mut self, id: NodeId) {
        let index = self.world.server(id).applied.len() as LogIndex;
        self.act(id, Input::Applied { index });
    }

    fn propose(&mut self, id: NodeId) {
        let call = self.world.new_call();
        let command = Bytes::from(format!("c{call}").repeat(1 + self.chance.below(8) as usize));
        self.checks.proposed(call, id, command.clone());
        self.act(id, Input::Propose { call, payload: Payload::Command(command) });
    }

    fn read(&mut self, id: NodeId) {
        let call = self.world.new_call();
        self.checks.asked_to_read(call, id);
        self.act(id, Input::Read { call, lease: false });
    }

    /// A leader asks someone to take over.
    fn hand_over(&mut self, id: NodeId) {
        let raft = self.world.server(id).raft();
        if raft.role() != Role::Leader {
            return;
        }
        let request = Request::TimeoutNow(TimeoutNowRequest { term: raft.current_term(), leader_id: id });
        let peers: Vec<NodeId> = raft.membership().peers_of(id).collect();
        let life = self.world.server(id).life;
        if let Some(to) = self.chance.of(&peers) {
            self.world.network.push(Packet { from: id, to, session: 0, life, body: Body::Request(request) });
        }
    }

    /// The connection from `id` to a peer breaks: what was on it is lost, and `id` is told.
    fn break_connection(&mut self, id: NodeId) {
        let peers: Vec<NodeId> = self.world.membership.peers_of(id).collect();
        let Some(peer) = self.chance.of(&peers) else { return };
        self.world.network.retain(|packet| match packet.body {
            Body::Request(_) => (packet.from, packet.to) != (id, peer),
            Body::Reply(_) => (packet.from, packet.to) != (peer, id),
        });
        self.act(id, Input::Undelivered { peer });
    }

    /// Cuts the cluster in two, or one direction between two servers.
    fn part(&mut self) {
        let ids = self.world.ids();
        let side = self.chance.next();
        let one_way = self.chance.percent(30);
        for from in &ids {
            for to in &ids {
                let (here, there) = (side >> from & 1 == 1, side >> to & 1 == 1);
                if here && !there || (!one_way && there && !here) {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    fn lose_courier(&mut self, id: NodeId) {
        let peers: Vec<NodeId> = self.world.membership.peers_of(id).collect();
        let courier = match self.chance.of(&peers) {
            Some(peer) if self.chance.percent(70) => Courier::Replicator(peer),
            _ => Courier::ElectionTimer,
        };
        if courier == Courier::ElectionTimer {
            self.due.remove(&id);
        }
        self.act(id, Input::Lost(courier));
    }
}
