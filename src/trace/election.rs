//! Who asked for votes in which term, who gave one, and who leads since.

use std::collections::BTreeSet;

use super::{
    account::{Account, Acknowledgement, What, is},
    names, path,
    sequence::{Lane, Step},
};
use crate::flow::Outcome;

/// Every campaign: a candidate in a term.
pub(super) fn all(steps: &[Step], lanes: &[Lane]) -> Vec<Account> {
    let mut campaigns = BTreeSet::new();
    for step in steps.iter().filter(|step| is(step, "RequestVote")) {
        campaigns.extend(names::node(&step.event.sender).map(|candidate| (step.event.mark.term, candidate)));
    }
    campaigns.into_iter().map(|(term, candidate)| campaign(steps, lanes, term, candidate)).collect()
}

fn campaign(steps: &[Step], lanes: &[Lane], term: u64, candidate: u64) -> Account {
    let of_candidate =
        |step: &&Step| names::node(&step.event.sender) == Some(candidate) && step.event.mark.term == term;
    let asked: Vec<_> = steps.iter().filter(of_candidate).collect();
    let asks = |message: &'static str| asked.iter().filter(move |step| is(step, message));
    let first = asks("PreVote").chain(asks("RequestVote")).min_by_key(|step| step.sent).expect("somebody was asked");
    let began = first.left.map_or(first.sent, |left| steps[origin(steps, left)].sent);
    let leads = asks("AppendEntries").min_by_key(|step| step.sent);
    let last = leads.map(|step| step.left).or_else(|| Some(asks("RequestVote").next_back()?.left)).flatten();
    let ended = last.map_or(first.sent, |last| steps[last].sent).max(began);

    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    let mut silent: BTreeSet<_> = lanes.iter().map(|lane| lane.node).collect();
    silent.extend(asks("RequestVote").map(|step| step.node));
    silent.remove(&candidate);
    for step in steps.iter().filter(|step| step.event.outcome == Outcome::Noted && step.event.mark.term == term) {
        if names::node(&step.event.receiver) != Some(candidate) || !step.event.message.starts_with("RequestVoteReply") {
            continue;
        }
        let known = step.arrived.map_or(step.sent, |arrived| steps[arrived].sent);
        if silent.remove(&step.node) {
            match is(step, "RequestVoteReply granted") {
                true => {
                    acknowledged.push(Acknowledgement { node: step.node, at: Some(known), counted: known <= ended })
                }
                false => refused.push(step.node),
            }
        }
    }
    let mut lines = vec![format!(
        "election of term {term}: node {candidate} asked{}",
        if leads.is_some() {
            format!(" and leads after {} ms", names::milliseconds(ended - began))
        } else {
            String::new()
        }
    )];
    let granted: Vec<_> = acknowledged.iter().map(|one| one.node).collect();
    let mut votes = format!("{} voted for it, besides itself", names::nodes(&granted));
    if !refused.is_empty() {
        votes += &format!("; {} refused", names::nodes(&refused));
    }
    if !silent.is_empty() {
        let silent: Vec<_> = silent.iter().copied().collect();
        votes += &format!("; of {} no answer is recorded", names::nodes(&silent));
    }
    lines.push(votes);
    let path = match (leads, last) {
        (Some(_), Some(last)) => path::to_sending(steps, began, last),
        _ => path::Path::default(),
    };
    if !path.parts.is_empty() {
        lines.push(path::line(&path.parts));
    }
    acknowledged.extend(silent.iter().map(|node| Acknowledgement { node: *node, at: None, counted: false }));
    let path::Path { parts, steps: path } = path;
    Account {
        what: What::Election,
        node: candidate,
        trace: 0,
        term,
        index: 0,
        began,
        ended,
        parts,
        path,
        acknowledged,
        lines,
    }
}

/// Where a chain of causes on one node began: for a campaign, the alarm.
fn origin(steps: &[Step], from: usize) -> usize {
    let mut at = from;
    for _ in 0..steps.len() {
        match steps[at].cause {
            Some(cause) if !is(&steps[cause], "Woke") => at = cause,
            _ => break,
        }
    }
    at
}
