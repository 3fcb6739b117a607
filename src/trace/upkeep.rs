//! What befalls the nodes themselves: restarts of actors, snapshots, changes of the servers.

use std::collections::BTreeMap;

use super::{
    account::{Account, What, at_consensus, is},
    names,
    sequence::Step,
};
use crate::flow::Outcome;

fn plain(what: What, step: &Step, ended: i64, lines: Vec<String>) -> Account {
    Account {
        what,
        node: step.node,
        trace: step.event.trace,
        term: step.event.mark.term,
        index: step.event.mark.index,
        began: step.sent,
        ended,
        parts: Vec::new(),
        path: Vec::new(),
        acknowledged: Vec::new(),
        lines,
    }
}

/// Actors that began a later life, together where one node's came one after the other.
pub(super) fn restarts(steps: &[Step]) -> Vec<Account> {
    let mut groups = Vec::<(&Step, i64, Vec<&str>)>::new();
    for step in steps.iter().filter(|step| is(step, "Start") && step.event.receiver_incarnation > 1) {
        let actor = names::short(&step.event.receiver);
        match groups.iter_mut().rfind(|(first, ..)| first.node == step.node) {
            Some((_, ended, actors)) if !actors.contains(&actor) => {
                actors.push(actor);
                *ended = step.ended.max(*ended);
            }
            _ => groups.push((step, step.ended, vec![actor])),
        }
    }
    let told = |(first, ended, actors): (&Step, i64, Vec<&str>)| {
        let broke = |step: &&Step| {
            step.node == first.node
                && step.sent <= first.sent
                && matches!(step.event.outcome, Outcome::Panicked | Outcome::Failed | Outcome::Killed)
        };
        let fallen = steps.iter().rfind(broke);
        let began = fallen.map_or(first.sent, |step| step.ended.min(first.sent));
        let why = fallen.map_or(String::new(), |step| {
            let word = names::word(&step.event.message, step.event.mark);
            format!(": {} {} at {word}", names::short(&step.event.receiver), step.event.outcome)
        });
        let took = names::milliseconds(ended - began);
        let started = format!("started again: {}, within {took} ms", actors.join(", "));
        let mut account =
            plain(What::Restart, first, ended, vec![format!("restart on node {}{why}", first.node), started]);
        account.began = began;
        account
    };
    groups.into_iter().map(told).collect()
}

/// Snapshots that were written, and those that were sent to a node which had not what comes before them.
pub(super) fn snapshots(steps: &[Step]) -> Vec<Account> {
    let written = steps.iter().filter(|step| at_consensus(step) && is(step, "SnapshotWritten"));
    let written = written.map(|step| {
        let line = format!("node {} wrote a snapshot up to index {}", step.node, step.event.mark.index);
        plain(What::Snapshot, step, step.ended, vec![line])
    });
    let mut sent = BTreeMap::<(u64, u64), Vec<&Step>>::new();
    for step in steps.iter().filter(|step| at_consensus(step) && is(step, "InstallSnapshot")) {
        sent.entry((step.node, step.event.mark.index)).or_default().push(step);
    }
    let received = sent.into_iter().filter_map(|((node, index), pieces)| {
        let first = pieces.first()?;
        let restored = steps.iter().find(|step| step.node == node && is(step, "Restored") && step.sent >= first.sent);
        let from = names::node(&first.event.sender).map_or(String::new(), |from| format!(" from node {from}"));
        let ended = restored.or(pieces.last().copied())?.ended;
        let took = names::milliseconds(ended - first.sent);
        let stands = if restored.is_some() { "and stands at it after" } else { "so far, within" };
        let line = format!(
            "node {node} received the snapshot up to index {index}{from} in {} messages, {stands} {took} ms",
            pieces.len()
        );
        Some(plain(What::Snapshot, first, ended, vec![line]))
    });
    written.chain(received).collect()
}

/// Changes of the servers, and when each node knew the last step of them.
pub(super) fn changes(steps: &[Step]) -> Vec<Account> {
    let asked = steps.iter().filter(|step| at_consensus(step) && is(step, "ChangeMembership"));
    let told = asked.map(|step| {
        let mut known = BTreeMap::new();
        for told in steps.iter().filter(|told| is(told, "MembershipChanged") && told.sent >= step.sent) {
            known.insert(told.node, told.sent);
        }
        let ended = known.values().copied().max().unwrap_or(step.ended);
        let mut lines = vec![format!("change of the servers, asked at node {}", step.node)];
        let line = |(node, at): (&u64, &i64)| format!("node {node} after {} ms", names::milliseconds(at - step.sent));
        if !known.is_empty() {
            lines.push(format!(
                "the last step of it known to {}",
                known.iter().map(line).collect::<Vec<_>>().join(", ")
            ));
        }
        plain(What::Change, step, ended, lines)
    });
    told.collect()
}
