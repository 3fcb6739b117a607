//! What can happen next, and how often in this walk.

use std::time::Duration;

use crate::{Chance, Walk};

/// One step of a walk.
#[derive(Clone, Copy)]
pub enum Move {
    /// A message reaches its addressee.
    Arrive,
    /// A message gets lost.
    Drop,
    /// A message reaches its addressee, and will once more.
    Repeat,
    /// A write reaches its disk.
    Sync,
    /// An alarm rings.
    Ring,
    /// An alarm of an earlier epoch rings.
    RingLate,
    /// A state machine does what it was told.
    Work,
    /// A snapshot goes a step on: to the disk, or from it.
    Snapshot,
    /// A snapshot is given up for lack of room.
    FailSnapshot,
    Propose,
    Read,
    HandOver,
    TakeSnapshot,
    /// An operator wants the servers changed.
    Change,
    /// A disk is lost, and an empty one takes its place.
    Wipe,
    Break,
    /// A snapshot makes no progress for too long.
    Stall,
    Part,
    Mend,
    Crash,
    Restart,
    LoseCourier,
    /// A disk has no room for a write; or has room again.
    Fill,
    Free,
}

/// How bad this walk's world is, in weights of the faults against 100 for "a message arrives".
pub struct Faults {
    pub drop: u64,
    pub repeat: u64,
    pub reorder: u64,
    pub crash: u64,
    pub part: u64,
    pub disk: u64,
    pub clients: u64,
    pub alarms: u64,
    pub work: u64,
    pub snapshots: u64,
    pub change: u64,
    pub wipe: u64,
    pub transfer: u64,
    pub fill: u64,
    pub snapshot_threshold: u64,
    pub snapshot_trailing: u64,
    pub disk_timeout: Duration,
    /// Whether a removed server is told so.
    pub tells_removed: bool,
}

impl Faults {
    pub fn of(chance: &mut Chance) -> Self {
        let calm = chance.percent(30);
        let mut up_to = |most: u64| if calm { chance.below(most) / 4 } else { chance.below(most) };
        Faults {
            drop: up_to(30),
            repeat: up_to(20),
            crash: up_to(6),
            part: up_to(5),
            fill: up_to(3),
            reorder: chance.below(101),
            disk: 5 + chance.below(80),
            clients: 5 + chance.below(30),
            alarms: 4 + chance.below(30),
            work: 5 + chance.below(60),
            snapshots: 2 + chance.below(40),
            change: chance.below(6),
            wipe: chance.below(3),
            transfer: chance.below(4),
            snapshot_threshold: [1, 2, 4, 10, 1_000_000][chance.below(5) as usize],
            snapshot_trailing: [0, 0, 1, 3, 10][chance.below(5) as usize],
            disk_timeout: Duration::from_millis([200, 1_000, 3_600_000][chance.below(3) as usize]),
            tells_removed: chance.percent(50),
        }
    }
}

impl Walk {
    pub fn choose(&mut self) -> Move {
        let Faults { drop, repeat, crash, part, disk, clients, alarms, work, snapshots, .. } = self.faults;
        let Faults { change, wipe, transfer, fill, .. } = self.faults;
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
            (Move::Work, work),
            (Move::Snapshot, snapshots),
            (Move::FailSnapshot, 1),
            (Move::Propose, clients),
            (Move::Read, clients / 2),
            (Move::HandOver, transfer),
            (Move::TakeSnapshot, 1),
            (Move::Change, change),
            (Move::Wipe, wipe),
            (Move::Break, part),
            (Move::Stall, 1),
            (Move::Part, part),
            (Move::Mend, part),
            (Move::Crash, crash),
            (Move::Restart, 10),
            (Move::LoseCourier, 2),
            (Move::Fill, fill),
            (Move::Free, 2),
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
}
