//! All messages of several nodes in one order on one clock.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Recording,
    account::{self, Account},
    clocks::{self, Bound, Shift},
    names, pairing,
};
use crate::flow::Event;

/// Times are held within this, so that no sum of a few overflows.
const FURTHEST: i64 = i64::MAX / 16;

/// What several nodes recorded, in one order on one clock: made by [`of`](Sequence::of).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub(super) lanes: Vec<Lane>,
    pub(super) steps: Vec<Step>,
    pub(super) accounts: Vec<Account>,
    pub(super) untold: usize,
}

/// One node in a [`Sequence`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Its number.
    pub node: u64,
    /// Whether it sent entries or heartbeats in the latest term of the sequence: it led.
    pub leads: bool,
    /// Recorded messages of this node that are missing here.
    pub missed: u64,
    /// By how many nanoseconds its clock was moved beyond what its [`Recording`] said.
    pub shift: i64,
    /// By how many nanoseconds its clock may still be wrong, either way.
    pub error: i64,
}

/// One recorded message. Times are nanoseconds from the first one's sending, on the common clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The node that recorded it.
    pub node: u64,
    /// As it was recorded, by that node's own clock; its names without control characters.
    pub event: Event,
    /// When it was sent; for what came from another node, when it arrived.
    pub sent: i64,
    /// When its handling began.
    pub began: i64,
    /// When its handling ended.
    pub ended: i64,
    /// The step of the same node in which it was sent, or whose answer let a caller send it, as a place in
    /// [`Sequence::steps`].
    pub cause: Option<usize>,
    /// The step of another node by which it left there, as a place in [`Sequence::steps`].
    pub left: Option<usize>,
    /// The step of another node by which it arrived there, as a place in [`Sequence::steps`].
    pub arrived: Option<usize>,
    /// It arrived before it left, and the errors of the clocks do not explain it.
    pub clock: bool,
}

impl Step {
    /// How long it stood in the mailbox, in nanoseconds.
    pub fn waited(&self) -> i64 {
        self.began - self.sent
    }

    /// How long its handler took, in nanoseconds.
    pub fn handling(&self) -> i64 {
        self.ended - self.began
    }
}

impl Sequence {
    /// Joins what several nodes recorded: each node once, in any order.
    pub fn of(recordings: &[Recording]) -> Sequence {
        let mut recordings: Vec<_> = recordings.iter().collect();
        recordings.sort_by_key(|recording| recording.node);
        let (mut steps, owners) = flatten(&recordings);
        pairing::led_by_callers(&mut steps);
        let shifts = align(&recordings, &mut steps, &owners);
        let mut steps = in_order(steps);
        let begin = steps.iter().map(|step| step.sent).min().unwrap_or(0);
        for step in &mut steps {
            step.sent -= begin;
            step.began -= begin;
            step.ended -= begin;
        }
        let mut lanes = lanes(&recordings, &shifts);
        let leader = leader(&steps);
        lanes.iter_mut().for_each(|lane| lane.leads = Some(lane.node) == leader);
        let (accounts, untold) = account::all(&steps, &lanes);
        Sequence { lanes, steps, accounts, untold }
    }

    /// The nodes, by their numbers.
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The messages: each behind what caused it, and else by the time at which it was sent.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What the messages amount to: writes, reads, elections, restarts, snapshots, changes of the servers.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// How many writes and reads there are besides those in [`accounts`](Sequence::accounts), which has the first few.
    pub fn untold(&self) -> usize {
        self.untold
    }

    /// From the first message's sending to the end of the last one's handling, in nanoseconds.
    pub fn length(&self) -> i64 {
        self.steps.iter().map(|step| step.ended).max().unwrap_or(0)
    }
}

fn nanoseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(FURTHEST).min(FURTHEST)
}

/// All messages as steps, on the clocks as the recordings say, and which recording each is of.
fn flatten(recordings: &[&Recording]) -> (Vec<Step>, Vec<usize>) {
    let (mut steps, mut owners) = (Vec::new(), Vec::new());
    // The common clock may count from 1970: only how the epochs stand to each other matters.
    let earliest = recordings.iter().map(|recording| recording.clock.epoch).min().unwrap_or(0);
    for (owner, recording) in recordings.iter().enumerate() {
        let first = steps.len();
        let numbers: BTreeMap<_, _> =
            recording.events.iter().enumerate().map(|(number, event)| (event.id, first + number)).collect();
        for event in &recording.events {
            let epoch = recording.clock.epoch.saturating_sub(earliest).min(FURTHEST);
            let sent = epoch + nanoseconds(event.sent);
            let began = sent + nanoseconds(event.waited);
            let ended = began + nanoseconds(event.handling);
            let own = steps.len();
            let cause = numbers.get(&event.cause).copied().filter(|cause| event.cause != 0 && *cause != own);
            let mut event = event.clone();
            event.sender = names::clean(&event.sender);
            event.receiver = names::clean(&event.receiver);
            event.message = names::clean(&event.message).to_string().into();
            let (left, arrived, clock) = (None, None, false);
            steps.push(Step { node: recording.node, event, sent, began, ended, cause, left, arrived, clock });
            owners.push(owner);
        }
    }
    (steps, owners)
}

/// Pairs what left with what arrived, and moves the clocks accordingly.
fn align(recordings: &[&Recording], steps: &mut [Step], owners: &[usize]) -> Vec<Shift> {
    let errors: Vec<_> = recordings.iter().map(|recording| nanoseconds(recording.clock.error)).collect();
    let mut largest = errors.clone();
    largest.sort_unstable_by(|one, other| other.cmp(one));
    let tolerance = largest.iter().take(2).sum();
    let pairs = pairing::pairs(steps, tolerance);
    let bound = |(left, arrived): &(usize, usize)| Bound {
        from: owners[*left],
        to: owners[*arrived],
        slack: steps[*arrived].sent - steps[*left].began,
    };
    let shifts = clocks::align(&errors, &pairs.iter().map(bound).collect::<Vec<_>>());
    for (step, owner) in steps.iter_mut().zip(owners) {
        let by = shifts[*owner].by;
        (step.sent, step.began, step.ended) = (step.sent + by, step.began + by, step.ended + by);
    }
    for (left, arrived) in pairs {
        steps[left].arrived = Some(arrived);
        steps[arrived].left = Some(left);
        steps[arrived].clock = steps[arrived].sent < steps[left].began;
    }
    shifts
}

/// Each step behind its cause and behind where it left, and else by time. What a broken recording has going in circles comes
/// by time alone.
fn in_order(mut steps: Vec<Step>) -> Vec<Step> {
    let mut waits = vec![0_u8; steps.len()];
    let mut followers = vec![Vec::new(); steps.len()];
    for (number, step) in steps.iter().enumerate() {
        for before in step.cause.into_iter().chain(step.left) {
            waits[number] += 1;
            followers[before].push(number);
        }
    }
    let key = |number: usize| (steps[number].sent, steps[number].began, steps[number].node, number);
    let mut ready: BTreeSet<_> = (0..steps.len()).filter(|number| waits[*number] == 0).map(key).collect();
    let mut stuck: BTreeSet<_> = (0..steps.len()).filter(|number| waits[*number] > 0).map(key).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(next) = ready.pop_first().or_else(|| stuck.pop_first()) {
        let number = next.3;
        order.push(number);
        for follower in std::mem::take(&mut followers[number]) {
            waits[follower] = waits[follower].saturating_sub(1);
            if waits[follower] == 0 && stuck.remove(&key(follower)) {
                ready.insert(key(follower));
            }
        }
    }
    let mut places = vec![0; steps.len()];
    order.iter().enumerate().for_each(|(place, number)| places[*number] = place);
    for step in &mut steps {
        for link in [&mut step.cause, &mut step.left, &mut step.arrived] {
            *link = link.map(|number| places[number]);
        }
    }
    let mut steps: Vec<_> = steps.into_iter().map(Some).collect();
    order.into_iter().filter_map(|number| steps[number].take()).collect()
}

fn lanes(recordings: &[&Recording], shifts: &[Shift]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for (recording, shift) in recordings.iter().zip(shifts) {
        match lanes.last_mut().filter(|lane| lane.node == recording.node) {
            // Two recordings of one node, against the rule: as one, with what is worse of both.
            Some(lane) => {
                lane.missed = lane.missed.saturating_add(recording.missed);
                lane.error = lane.error.max(shift.error);
            }
            None => lanes.push(Lane {
                node: recording.node,
                leads: false,
                missed: recording.missed,
                shift: shift.by,
                error: shift.error,
            }),
        }
    }
    lanes
}

/// Who sent entries or heartbeats in the latest term in which somebody did.
fn leader(steps: &[Step]) -> Option<u64> {
    let of_leaders = steps.iter().filter(|step| &*step.event.message == "AppendEntries");
    let sender = |step: &Step| step.left.map(|left| steps[left].node).or_else(|| names::node(&step.event.sender));
    of_leaders.filter_map(|step| Some((step.event.mark.term, sender(step)?))).max().map(|(_, node)| node)
}
