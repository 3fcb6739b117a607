//! The supervision matrix (SAFETY: C04, C05): every actor × every message that it handles × before and after × killed and by
//! a panic, under load. The cells come out of the vocabulary of the actors, so that a new message is struck or fails here.
//!
//! A cell is played in an act in which its message is said. Each runs on a cluster of its own in simulated time, on a
//! thread of its own beside the others. `CELL="applier: Kill After Apply"` plays those cells alone, `SEEDS=500` so many pairs.

use std::collections::BTreeMap;

use ractor_raft::{
    flow::{Crash, Moment},
    testing::vocabulary,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    acts::{ACTS, Act},
    strike::{Blow, Cell, cells},
    trial::{Heard, Trial, hush, judge, rehearse},
};

/// One blow at a cell: the first time it comes up at all, or a drawn time in a drawn act.
fn trial_of(cell: Cell, heard: &BTreeMap<Act, Heard>, random: Option<&mut SmallRng>) -> Option<Trial> {
    let count = |act: &Act| heard[act].get(&(cell.actor, cell.word)).copied().unwrap_or(0);
    let acts: Vec<_> = ACTS.into_iter().filter(|act| count(act) > 0).collect();
    let act = *acts.first()?;
    let (act, nth) = match random {
        None => (act, 1),
        Some(random) => {
            let act = acts[random.random_range(0..acts.len())];
            (act, random.random_range(1..=count(&act)))
        }
    };
    Some(Trial { act, blows: vec![Blow { cell, nth, after: None }] })
}

fn wanted(cell: &Cell) -> bool {
    std::env::var("CELL").map_or(true, |wanted| cell.to_string().contains(&wanted))
}

/// Fails when: `Port` drops its caller without an answer, or its permit is not given back; `start_again` forgets the
/// snapshotter, or tells neither the core (`Lost`) nor the root; `count_death` counts six for one; `restarted` publishes
/// nothing; `set_last_failure` keeps nothing, or `Seat::drop` does not say that its actor was killed at its start;
/// `TakenCalls` does not give the queue back; `start_keepers` does not announce the calls that wait; `server_died` tries once;
/// the leader says once only that a peer lost entries (the disk of one that falls before it is marked is used on).
#[test]
fn every_actor_dies_at_every_message() {
    hush();
    let heard = rehearse();
    let cells: Vec<_> = cells().into_iter().filter(wanted).collect();
    let mut random = SmallRng::seed_from_u64(4);
    let (mut first, mut later, mut unreached) = (Vec::new(), Vec::new(), Vec::new());
    for cell in &cells {
        match trial_of(*cell, &heard, None) {
            Some(trial) => first.push(trial),
            None => unreached.push(cell.to_string()),
        }
        later.extend(trial_of(*cell, &heard, Some(&mut random)));
    }
    println!("{} cells, {} actors", cells.len(), vocabulary().len());
    let healed = [judge("the first time", &first), judge("some time", &later)];
    assert_eq!(unreached, [""; 0], "messages that no act makes be said: add one, or leave it out with the reason");
    assert_eq!(healed, [first.len(), later.len()], "print one with CELL=… cargo test --test supervision every_actor");
}

/// Two deaths in one act, wherever they fall: one right after the other, on one node or on two.
///
/// Fails when: a child's end that nobody waits for any more is taken for one that must be healed.
#[test]
fn two_actors_die_in_one_act() {
    hush();
    let heard = rehearse();
    let mut random = SmallRng::seed_from_u64(44);
    let count = std::env::var("SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let cells = cells();
    let mut trials = Vec::new();
    while trials.len() < count {
        let cell = cells[random.random_range(0..cells.len())];
        let Some(mut trial) = trial_of(cell, &heard, Some(&mut random)) else { continue };
        let others: Vec<_> = heard[&trial.act].iter().collect();
        let ((actor, word), times) = others[random.random_range(0..others.len())];
        let other = cells.iter().filter(|cell| (cell.actor, cell.word) == (*actor, *word));
        let other: Vec<_> = other.collect();
        let cell = *other[random.random_range(0..other.len())];
        trial.blows.push(Blow { cell, nth: random.random_range(1..=*times), after: None });
        trials.push(trial);
    }
    assert_eq!(judge("pairs", &trials), trials.len());
}

/// What has just been started again dies again: at its start, and at the first messages it gets.
///
/// Fails when: `keeper_died` does not try again where one did not start, or `server_died` does not.
#[test]
fn a_second_death_during_the_recovery_is_healed() {
    hush();
    let heard = rehearse();
    let first = [
        ("log store", "Persist"),
        ("applier", "Apply"),
        ("consensus", "CallsWaiting"),
        ("consensus/election timer", "SetTimer"),
        ("consensus/replicator *", "Deliver"),
        ("consensus/snapshotter", "Write"),
    ];
    let mut trials = Vec::new();
    for (at, (actor, word)) in first.into_iter().enumerate() {
        let how = [Crash::Kill, Crash::Panic][at % 2];
        let first = Blow { cell: Cell { actor, word, moment: Moment::After, how }, nth: 5, after: None };
        let first = if actor == "consensus/snapshotter" { Blow { nth: 1, ..first } } else { first };
        let with_it =
            |cell: &&Cell| actor == cell.actor || !actor.contains('/') && !matches!(cell.actor, "node" | "server");
        let early = |cell: &&Cell| {
            let soon =
                ["Start", "ReportTo", "Apply", "Persist", "SetTimer", "Woke", "Deliver", "Timeout", "CallsWaiting"];
            soon.contains(&cell.word) && heard[&Act::Serve].contains_key(&(cell.actor, cell.word))
                || cell.word == "Start"
        };
        for cell in cells().iter().filter(with_it).filter(early) {
            let second = Blow { cell: *cell, nth: 1, after: Some(0) };
            trials.push(Trial { act: Act::Serve, blows: vec![first, second] });
        }
    }
    assert_eq!(judge("during recovery", &trials), trials.len());
}
