//! The arrows of a picture: what left and what arrived as one, and what says nothing left out.

use std::collections::BTreeSet;

use super::{Sequence, names, sequence::Step};
use crate::flow::Outcome;

/// One arrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was sent, in nanoseconds from the sequence's begin.
    pub at: i64,
    pub from: End,
    pub to: End,
    /// `Persist 5@3`.
    pub word: String,
    /// How long it was between the nodes; `None`: it stayed on one, or only one end is recorded.
    pub network: Option<i64>,
    /// How long it stood in mailboxes.
    pub queue: i64,
    /// How long it was handled. `None`: no actor handled it.
    pub work: Option<i64>,
    /// What is out of the ordinary. Empty: nothing.
    pub remark: String,
    /// Some account's time went this way.
    pub critical: bool,
}

/// One end of an arrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub node: u64,
    /// Its own name, and which life of it if it is not the first.
    pub actor: String,
}

/// What is left out of the arrows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quiet {
    /// With their answers.
    pub heartbeats: usize,
    /// Alarms set and rung, and other errands.
    pub errands: usize,
}

impl Quiet {
    /// "not shown: 2 heartbeats, 5 alarms and errands"
    pub fn line(self) -> Option<String> {
        let counted = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {many}")),
        };
        let parts: Vec<_> = [
            counted(self.heartbeats, "heartbeat with its answer", "heartbeats with their answers"),
            counted(self.errands, "alarm or errand", "alarms and errands"),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| format!("not shown: {}", parts.join(", ")))
    }
}

/// The arrows by when they were sent, and what is left out.
pub(super) fn lines(sequence: &Sequence) -> (Vec<Line>, Quiet) {
    let steps = &sequence.steps;
    let mut children = vec![Vec::new(); steps.len()];
    for (number, step) in steps.iter().enumerate() {
        step.cause.into_iter().for_each(|cause| children[cause].push(number));
    }
    let critical = sequence.accounts.iter().flat_map(|account| account.path.iter().copied()).collect();
    let mut drawing =
        Drawing { sequence, steps, children, critical, done: vec![false; steps.len()], quiet: Quiet::default() };
    drawing.leave_out();
    let mut lines = Vec::new();
    for number in 0..steps.len() {
        if !drawing.done[number] {
            lines.extend(drawing.line(number));
        }
    }
    // Stable: what was sent at the same time stays in the order of cause and effect.
    lines.sort_by_key(|line| line.at);
    (lines, drawing.quiet)
}

struct Drawing<'a> {
    sequence: &'a Sequence,
    steps: &'a [Step],
    children: Vec<Vec<usize>>,
    critical: BTreeSet<usize>,
    /// Drawn already, with another one, or left out.
    done: Vec<bool>,
    quiet: Quiet,
}

impl Drawing<'_> {
    fn leave_out(&mut self) {
        for number in 0..self.steps.len() {
            if let Some(heartbeat) = self.heartbeat(number) {
                heartbeat.into_iter().for_each(|number| self.done[number] = true);
                self.quiet.heartbeats += 1;
            }
        }
        // From the last one on: an alarm that only led to what is left out is left out.
        for number in (0..self.steps.len()).rev() {
            let step = &self.steps[number];
            let idle = &*step.event.message == "Timeout" && self.children[number].iter().all(|child| self.done[*child]);
            if !self.done[number]
                && step.event.outcome == Outcome::Handled
                && (names::is_errand(&step.event.message) || idle)
            {
                self.done[number] = true;
                self.quiet.errands += 1;
            }
        }
    }

    /// All of a heartbeat that arrived at this step, if it was one and nothing came of it but its answer.
    fn heartbeat(&self, number: usize) -> Option<Vec<usize>> {
        let arrival = &self.steps[number];
        let left = arrival.left?;
        if &*arrival.event.message != "AppendEntries"
            || arrival.event.trace != 0
            || !self.is_fine(number)
            || !self.is_fine(left)
        {
            return None;
        }
        let rung = self.steps[left].cause.is_some_and(|cause| &*self.steps[cause].event.message == "Timeout");
        let [reply] = self.children[number][..] else { return None };
        let answered = self.steps[reply].arrived?;
        if !rung || self.steps[reply].event.message != "AppendEntriesReply" || !self.is_fine(answered) {
            return None;
        }
        let mut all = vec![left, number, reply, answered];
        for delivered in &self.children[answered] {
            let leads_nowhere = |child: &usize| names::is_errand(&self.steps[*child].event.message);
            if !self.is_fine(*delivered) || !self.children[*delivered].iter().all(leads_nowhere) {
                return None;
            }
            all.push(*delivered);
        }
        Some(all)
    }

    fn is_fine(&self, number: usize) -> bool {
        self.steps[number].event.outcome == Outcome::Handled && !self.steps[number].clock
    }

    fn line(&mut self, number: usize) -> Option<Line> {
        let step = &self.steps[number];
        self.done[number] = true;
        if step.arrived.is_some() && step.left.is_none() && self.leaves_only(number) {
            // It is drawn where it arrives.
            return None;
        }
        match step.left {
            Some(left) => Some(self.across(left, number)),
            None => Some(self.within(number)),
        }
    }

    /// Whether this is nothing but the leaving of a message.
    fn leaves_only(&self, number: usize) -> bool {
        let event = &self.steps[number].event;
        event.outcome == Outcome::Noted || matches!(&*event.message, "Deliver" | "DeliverSnapshot")
    }

    fn across(&mut self, left: usize, number: usize) -> Line {
        let (departure, arrival) = (&self.steps[left], &self.steps[number]);
        let only = self.leaves_only(left);
        let mut line = self.within(number);
        line.at = if only { departure.sent } else { departure.ended };
        line.from = End { node: departure.node, actor: if only { sender(departure) } else { receiver(departure) } };
        line.critical |= only && self.critical.contains(&left);
        line.network = Some(arrival.sent - departure.ended.min(arrival.sent));
        if only {
            line.queue += departure.waited();
            line.work = Some(line.work.unwrap_or(0) + departure.handling());
        }
        if &*arrival.event.message == "Answered" {
            line.word = if only { word(departure) } else { line.word };
            // What the replicator passes on is the same message.
            if let [delivered] = self.children[number][..]
                && self.steps[delivered].event.message == "Delivered"
            {
                self.done[delivered] = true;
                let delivered = &self.steps[delivered];
                line.to = End { node: delivered.node, actor: receiver(delivered) };
                line.queue += delivered.waited();
                line.work = Some(line.work.unwrap_or(0) + delivered.handling());
                line.remark = [line.remark, remark(delivered)].concat();
            }
        }
        line
    }

    /// A message whose one end is all that is recorded, or both of whose ends are on one node.
    fn within(&self, number: usize) -> Line {
        let step = &self.steps[number];
        let peer = names::node(&step.event.receiver)
            .or_else(|| names::replicator(&step.event.receiver).filter(|_| self.leaves_only(number)));
        let mut line = Line {
            at: step.sent,
            from: End { node: step.node, actor: sender(step) },
            to: End { node: step.node, actor: receiver(step) },
            word: word(step),
            network: None,
            queue: step.waited(),
            work: (step.event.outcome != Outcome::Noted).then(|| step.handling()),
            remark: remark(step),
            critical: self.critical.contains(&number),
        };
        if let Some(peer) = peer.filter(|_| step.arrived.is_none()) {
            line.to = End { node: peer, actor: "?".to_owned() };
            // Of the answers to a snapshot's pieces only the last reaches an actor.
            let heard = !step.event.message.starts_with("InstallSnapshotReply");
            if heard && self.sequence.lanes.iter().any(|lane| lane.node == peer) {
                line.remark += " not seen to arrive";
            }
        }
        line
    }
}

/// What an answer says is more than the term that it says it in.
fn word(step: &Step) -> String {
    let event = &step.event;
    let says = event.message.ends_with(" granted") || event.message.ends_with(" refused");
    if says { event.message.to_string() } else { names::word(&event.message, event.mark) }
}

fn sender(step: &Step) -> String {
    life(&step.event.sender, step.event.sender_incarnation)
}

fn receiver(step: &Step) -> String {
    life(&step.event.receiver, step.event.receiver_incarnation)
}

fn life(path: &str, incarnation: u32) -> String {
    let name = names::short(path);
    if incarnation > 1 { format!("{name}#{incarnation}") } else { name.to_owned() }
}

/// With a blank before it.
fn remark(step: &Step) -> String {
    let outcome = match step.event.outcome {
        Outcome::Handled | Outcome::Noted => String::new(),
        outcome => format!(" ✗ {outcome}"),
    };
    if step.clock { format!("{outcome} (clock)") } else { outcome }
}
