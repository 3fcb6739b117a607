//! What the messages amount to: each write, read, election, restart, snapshot and change of the servers, in a few lines.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    election, names,
    path::{self, Part, Path},
    sequence::{Lane, Step},
    upkeep,
};
use crate::flow::Outcome;

/// So many writes, and so many reads, are told of; a busy minute has thousands.
const MOST_CALLS: usize = 6;
/// So many of anything else: what befalls a cluster is rare, unless nothing goes well.
const MOST: usize = 24;

/// Something that the messages amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What it is.
    pub what: What,
    /// Where it began.
    pub node: u64,
    /// The client's call. 0: none.
    pub trace: u64,
    /// The term it is about. 0: about none, or it is not known.
    pub term: u64,
    /// The log index it is about. 0: about none, or it is not known.
    pub index: u64,
    /// When it began, in nanoseconds from the sequence's begin.
    pub began: i64,
    /// When it ended, as far as is recorded.
    pub ended: i64,
    /// What the time between went into. Empty where that is not recorded to its end.
    pub parts: Vec<Part>,
    /// The messages on the way through which that time went, as places in [`Sequence::steps`](super::Sequence::steps).
    pub path: Vec<usize>,
    /// Who agreed to it, the first first, and then those of whom nothing is recorded.
    pub acknowledged: Vec<Acknowledgement>,
    /// The same for a person, line by line; the first is its title.
    pub lines: Vec<String>,
}

/// What an [`Account`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A command on its way through the log.
    Write,
    /// A linearizable read.
    Read,
    /// A term's election.
    Election,
    /// Actors that were started again.
    Restart,
    /// A snapshot that was written, or sent and restored.
    Snapshot,
    /// A change of the cluster's servers.
    Change,
}

impl What {
    /// "write", "read", …
    pub fn name(self) -> &'static str {
        match self {
            What::Write => "write",
            What::Read => "read",
            What::Election => "election",
            What::Restart => "restart",
            What::Snapshot => "snapshot",
            What::Change => "change of the servers",
        }
    }
}

/// One server's agreement: to what is committed, to a leader that is still one, to a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Whose.
    pub node: u64,
    /// When it was known where it counts, in nanoseconds from the sequence's begin. `None`: nothing of it is recorded.
    pub at: Option<i64>,
    /// Whether it was there in time to matter.
    pub counted: bool,
}

/// The accounts by when they began, and how many writes and reads there are besides.
pub(super) fn all(steps: &[Step], lanes: &[Lane]) -> (Vec<Account>, usize) {
    let mut accounts = election::all(steps, lanes);
    accounts.extend(upkeep::restarts(steps));
    accounts.extend(upkeep::snapshots(steps));
    accounts.extend(upkeep::changes(steps));
    accounts.sort_by_key(|account| account.began);
    accounts.truncate(MOST);
    let (writes, more_writes) = writes(steps, lanes);
    let (reads, more_reads) = reads(steps, lanes);
    accounts.extend(writes.into_iter().chain(reads));
    accounts.sort_by_key(|account| (account.began, account.what, account.node));
    (accounts, more_writes + more_reads)
}

/// Of these, by when they were sent, the first few; and how many more there are.
fn first_few<T>(mut calls: Vec<(i64, T)>) -> (Vec<T>, usize) {
    calls.sort_by_key(|(sent, _)| *sent);
    let more = calls.len().saturating_sub(MOST_CALLS);
    (calls.into_iter().take(MOST_CALLS).map(|(_, call)| call).collect(), more)
}

/// A step that consensus of some node handled.
pub(super) fn at_consensus(step: &Step) -> bool {
    &*step.event.receiver == "consensus" && step.event.outcome != Outcome::Noted
}

pub(super) fn is(step: &Step, message: &str) -> bool {
    step.event.message == message
}

/// Every node of the sequence, and those that `node` talked to.
pub(super) fn everyone(steps: &[Step], lanes: &[Lane], node: u64) -> BTreeSet<u64> {
    let peers =
        steps.iter().filter(|step| step.node == node).filter_map(|step| names::replicator(&step.event.receiver));
    lanes.iter().map(|lane| lane.node).chain(peers).collect()
}

fn writes(steps: &[Step], lanes: &[Lane]) -> (Vec<Account>, usize) {
    let mut tries = BTreeMap::<u64, Vec<usize>>::new();
    for (number, step) in steps.iter().enumerate() {
        if at_consensus(step) && names::is_proposal(&step.event.message) && step.event.trace != 0 {
            tries.entry(step.event.trace).or_default().push(number);
        }
    }
    let begin = |tries: &[usize]| tries.iter().map(|number| steps[*number].sent).min().unwrap_or(0);
    let (told, more) = first_few(tries.into_iter().map(|call| (begin(&call.1), call)).collect());
    (told.into_iter().map(|(trace, tries)| write(steps, lanes, trace, &tries)).collect(), more)
}

/// One write, which may have been tried at several nodes: first where the client asked, last where it was taken in.
fn write(steps: &[Step], lanes: &[Lane], trace: u64, tries: &[usize]) -> Account {
    let first = tries.iter().copied().min_by_key(|number| steps[*number].sent).expect("one try at least");
    let (node, began) = (steps[first].node, steps[first].sent);
    let placed = tries.iter().rev().find_map(|number| Some((*number, placed(steps, trace, *number)?)));
    let mut account = Account {
        what: What::Write,
        node,
        trace,
        term: 0,
        index: 0,
        began,
        ended: steps[first].ended,
        parts: Vec::new(),
        path: Vec::new(),
        acknowledged: Vec::new(),
        lines: Vec::new(),
    };
    let Some((taken, (term, index))) = placed else {
        account.lines.push(format!("write at node {node}: it did not get into a log in this recording"));
        return account;
    };
    (account.term, account.index) = (term, index);
    let leader = steps[taken].node;
    let of_leader = |message: &'static str| {
        let begun = steps[taken].sent;
        let found = move |(_, step): &(usize, &Step)| {
            step.node == leader && is(step, message) && step.event.mark.index >= index && step.sent >= begun
        };
        steps.iter().enumerate().filter(found)
    };
    let applied = of_leader("Apply").min_by_key(|(number, step)| (step.event.mark.index, *number));
    let decisive = applied.and_then(|(_, step)| step.cause).map(|cause| &steps[cause]);
    let own = of_leader("Persisted").next().map(|(_, step)| (leader, step));
    let theirs = of_leader("Delivered").filter_map(|(_, step)| Some((names::replicator(&step.event.sender)?, step)));
    let heard = own.into_iter().chain(theirs).collect::<Vec<_>>();
    let committed = applied.map(|(_, applied)| applied.sent);
    account.acknowledged = acknowledged(&heard, decisive, committed, everyone(steps, lanes, leader));
    let through = if leader == node { String::new() } else { format!(", passed on to node {leader}") };
    let title = format!("write of index {index} in term {term} at node {node}{through}");
    let Some((last, _)) = applied else {
        account.lines = vec![format!("{title}: not committed in this recording")];
        account.lines.extend(agreement("on disk at", &account.acknowledged, None));
        return account;
    };
    let heard = |step: &&Step| is(step, "Answered") && &*step.event.receiver == "client" && step.event.trace == trace;
    let last = steps.iter().rposition(|step| heard(&step) && step.node == node).unwrap_or(last);
    account.ended = steps[last].ended;
    Path { parts: account.parts, steps: account.path } = path::to_end(steps, began, last);
    account.lines = vec![format!("{title}: {} ms", names::milliseconds(account.ended - began))];
    account.lines.push(path::line(&account.parts));
    account.lines.extend(agreement(
        "committed by",
        &account.acknowledged,
        decisive.map(|step| step.began).or(committed),
    ));
    account
}

/// Term and index that a command was given: as what was sent because of it says, or else its trace.
fn placed(steps: &[Step], trace: u64, proposal: usize) -> Option<(u64, u64)> {
    let (node, proposed) = (steps[proposal].node, &steps[proposal]);
    // As consensus said itself: of this one, or of the message in which it took this one and others from the queue.
    let holds = |step: &&Step| {
        let apart = step.began > proposed.began || step.ended < proposed.ended;
        step.node == node && !apart && step.event.mark.index > 0 && step.event.receiver == proposed.event.receiver
    };
    let told =
        Some(proposed).filter(holds).or_else(|| steps.iter().filter(|step| is(step, "CallsWaiting")).find(holds));
    if let Some(told) = told {
        return Some((told.event.mark.term, told.event.mark.index));
    }
    let carries = |step: &&Step| {
        step.node == node
            && matches!(&*step.event.message, "Persist" | "Deliver" | "Apply")
            && step.event.mark.index > 0
            && step.sent >= steps[proposal].sent
    };
    let caused = |step: &&Step| step.cause == Some(proposal);
    let traced = |step: &&Step| step.event.trace == trace;
    let of = |step: &Step| (step.event.mark.index, step.event.mark.term);
    let direct = steps.iter().filter(carries).filter(caused).map(of).min();
    let found = direct.or_else(|| steps.iter().filter(carries).filter(traced).map(of).min());
    found.map(|(index, term)| (term, index))
}

/// Who said so first, each once, and those who never did. `decisive` is the message that decided: what came up to it counted.
pub(super) fn acknowledged(
    heard: &[(u64, &Step)],
    decisive: Option<&Step>,
    decided: Option<i64>,
    everyone: BTreeSet<u64>,
) -> Vec<Acknowledgement> {
    let mut silent = everyone;
    let mut acknowledged: Vec<_> = heard
        .iter()
        .filter(|(node, _)| silent.remove(node))
        .map(|(node, step)| {
            let counted = match decisive {
                Some(decisive) => (step.began, step.event.id) <= (decisive.began, decisive.event.id),
                None => decided.is_some_and(|decided| step.began <= decided),
            };
            Acknowledgement { node: *node, at: Some(step.began), counted }
        })
        .collect();
    acknowledged.sort_by_key(|one| (one.at, one.node));
    acknowledged.extend(silent.into_iter().map(|node| Acknowledgement { node, at: None, counted: false }));
    acknowledged
}

/// "committed by nodes 1 and 2 (node 3 came 1.90 ms later)"
pub(super) fn agreement(how: &str, acknowledged: &[Acknowledgement], decided: Option<i64>) -> Option<String> {
    if acknowledged.is_empty() {
        return None;
    }
    let mut counted: Vec<_> = acknowledged.iter().filter(|one| one.counted).map(|one| one.node).collect();
    counted.sort_unstable();
    let others =
        acknowledged.iter().filter(|one| !one.counted).map(|Acknowledgement { node, at, .. }| match (at, decided) {
            (Some(at), Some(decided)) => format!("node {node} came {} ms later", names::milliseconds(at - decided)),
            (Some(_), None) => format!("node {node} has it"),
            (None, _) => format!("of node {node} no answer is recorded"),
        });
    let others = others.collect::<Vec<_>>().join(", ");
    let line = format!("{how} {}", names::nodes(&counted));
    Some(if others.is_empty() { line } else { format!("{line} ({others})") })
}

fn reads(steps: &[Step], lanes: &[Lane]) -> (Vec<Account>, usize) {
    let mut asked = BTreeMap::<u64, usize>::new();
    for (number, step) in steps.iter().enumerate() {
        if at_consensus(step) && is(step, "Read") && step.event.trace != 0 {
            asked.entry(step.event.trace).or_insert(number);
        }
    }
    let (told, more) = first_few(asked.into_values().map(|asked| (steps[asked].sent, asked)).collect());
    (told.into_iter().map(|asked| read(steps, lanes, asked)).collect(), more)
}

fn read(steps: &[Step], lanes: &[Lane], asked: usize) -> Account {
    let (node, trace, began) = (steps[asked].node, steps[asked].event.trace, steps[asked].sent);
    let of_trace = |step: &&Step| step.event.trace == trace;
    let query = steps.iter().rposition(|step| step.event.trace == trace && step.node == node && is(step, "Query"));
    let leader = steps.iter().find(|step| of_trace(step) && is(step, "ReadIndex")).map_or(node, |step| step.node);
    let decided = if leader == node {
        query.and_then(|query| steps[query].cause)
    } else {
        let left =
            |step: &Step| step.node == leader && of_trace(&step) && step.event.message.starts_with("ReadIndexReply");
        steps.iter().find(|step| left(step)).and_then(|reply| reply.cause)
    };
    let heard = steps.iter().filter(of_trace).filter(|step| step.node == leader && is(step, "Delivered"));
    let heard: Vec<_> = heard.filter_map(|step| Some((names::replicator(&step.event.sender)?, step))).collect();
    let mut account = Account {
        what: What::Read,
        node,
        trace,
        term: 0,
        index: query.map_or(0, |query| steps[query].event.mark.index),
        began,
        ended: query.map_or(steps[asked].ended, |query| steps[query].ended),
        parts: Vec::new(),
        path: Vec::new(),
        acknowledged: Vec::new(),
        lines: Vec::new(),
    };
    let Some(query) = query else {
        account.lines.push(format!("read at node {node}: not answered in this recording"));
        return account;
    };
    Path { parts: account.parts, steps: account.path } = path::to_end(steps, began, query);
    let took = names::milliseconds(account.ended - began);
    account.lines = vec![format!("read at node {node}, as of index {}: {took} ms", account.index)];
    account.lines.push(path::line(&account.parts));
    if heard.is_empty() {
        account.lines.push(
            "no round of questions is recorded: a lease, or the round of an earlier read, answered it".to_owned(),
        );
        return account;
    }
    let decisive = decided.map(|number| &steps[number]);
    let mut others = everyone(steps, lanes, leader);
    others.remove(&leader);
    account.acknowledged = acknowledged(&heard, decisive, Some(steps[query].sent), others);
    let how = format!("node {leader} still led, as it heard from");
    account.lines.extend(agreement(&how, &account.acknowledged, decisive.map(|step| step.began)));
    account
}
