//! The last election, restart, snapshot or membership change that the nodes remember, found by the names of its messages.
//!
//! 1. Some messages belong to nothing else: its anchors. The last of them, and those before it without a longer pause, are
//!    the core of the episode. Of an election it is those of the last term in which a vote was asked for, however long one of
//!    them was on its way.
//! 2. What was sent shortly before because of a core message, or made it be sent, belongs to it as well; and so does what has
//!    its trace.

use std::collections::{BTreeMap, BTreeSet};

use ractor_raft::{
    flow::{Event, Outcome},
    rpc::flow::{Collected, Wanted},
    trace::Recording,
};

use super::{Tracer, short};
use crate::{args::Episode, error::Failure, output::talk};

/// A longer pause between two anchors parts two episodes: longer than an election timeout, after which a candidate tries again.
const PAUSE: i64 = 1_000_000_000;

/// How long before the first anchor what caused it may have happened, and how long after the last what came of it.
const AROUND: i64 = 300_000_000;

/// How long after a request its answer may come in, the other server's disk included.
const ANSWERED: i64 = 100_000_000;

/// Finds it and shows it.
pub async fn run(tracer: &Tracer<'_>, what: Episode) -> Result<u8, Failure> {
    let (found, collected) = tracer.collect(&Wanted::default()).await?;
    let Collected { recordings, unreachable } = collected;
    let Some(episode) = last(&recordings, what) else { return Err(nothing_of_the_kind(what, &recordings)) };
    talk(&in_words(what, &episode));
    tracer.show(&found, Collected { recordings: episode, unreachable }).await
}

/// A message of an episode, by its node and its number.
type Name = (u64, u64);

/// The messages of the last one. `None`: no node remembers any.
fn last(recordings: &[Recording], what: Episode) -> Option<Vec<Recording>> {
    let mut all: Vec<_> = recordings
        .iter()
        .flat_map(|recording| {
            recording.events.iter().map(move |event| Seen { node: recording.node, at: sent(recording, event), event })
        })
        .collect();
    all.sort_by_key(|seen| seen.at);
    let anchors: Vec<_> = all.iter().filter(|seen| is_anchor(what, seen.event)).collect();
    let anchors = match what {
        Episode::Election => of_the_last_term(anchors),
        Episode::Membership => around_the_last_order(anchors),
        Episode::Restart | Episode::Snapshot => since_the_last_pause(anchors),
    };
    let times: BTreeSet<i64> = anchors.iter().map(|seen| seen.at).collect();
    if times.is_empty() {
        return None;
    }
    let is_near = |at: i64| times.range(at.saturating_sub(AROUND)..=at.saturating_add(AROUND)).next().is_some();
    let is_soon_after = |at: i64| times.range(at.saturating_sub(ANSWERED)..=at).next().is_some();
    let beside = all.iter().filter(|seen| {
        // An actor that dies may take long over it: a panic writes down where it happened.
        belongs(what, seen.event) && (is_near(seen.at) || is_near(seen.ended()))
            || answers(what, seen.event) && is_soon_after(seen.at)
    });
    let core: BTreeSet<Name> = anchors.into_iter().chain(beside).map(|seen| (seen.node, seen.event.id)).collect();
    let family = family(recordings, &core, &is_near);
    let of_node = |recording: &Recording| {
        let events = recording.events.iter().filter(|event| family.contains(&(recording.node, event.id)));
        Recording { events: events.cloned().collect(), ..recording.clone() }
    };
    Some(recordings.iter().map(of_node).filter(|recording| !recording.events.is_empty()).collect())
}

fn sent(recording: &Recording, event: &Event) -> i64 {
    recording.clock.common(event.sent)
}

/// A message, the node it was recorded on, and when it was sent.
struct Seen<'a> {
    node: u64,
    at: i64,
    event: &'a Event,
}

impl Seen<'_> {
    /// When its handling ended.
    fn ended(&self) -> i64 {
        self.at.saturating_add(i64::try_from((self.event.waited + self.event.handling).as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Those of the last term in which a vote was asked for; if there was none, of the last in which one might have been.
fn of_the_last_term<'a>(anchors: Vec<&'a Seen<'a>>) -> Vec<&'a Seen<'a>> {
    let terms = |only_votes: bool| {
        let counted = anchors.iter().filter(|seen| !only_votes || seen.event.message != "PreVote");
        counted.map(|seen| seen.event.mark.term).max()
    };
    // A leader that gives way names its own term, and the next one is that of the election.
    let Some(term) = terms(true).or_else(|| terms(false)) else { return Vec::new() };
    let of_term = |seen: &&Seen<'_>| {
        let event = seen.event;
        event.mark.term == term || event.message == "TimeoutNow" && event.mark.term + 1 == term
    };
    anchors.into_iter().filter(of_term).collect()
}

/// The last order, with what goes before and comes after it without a longer pause. That the members are known, after a start,
/// or a server's disk, is no change of them.
fn around_the_last_order<'a>(mut anchors: Vec<&'a Seen<'a>>) -> Vec<&'a Seen<'a>> {
    let Some(order) = anchors.iter().rposition(|seen| seen.event.message == "ChangeMembership") else {
        return Vec::new();
    };
    let pause = anchors[order..].windows(2).position(|pair| pair[1].at - pair[0].at > PAUSE);
    if let Some(pause) = pause {
        anchors.truncate(order + pause + 1);
    }
    since_the_last_pause(anchors)
}

/// The last ones, between which there is no longer pause.
fn since_the_last_pause<'a>(anchors: Vec<&'a Seen<'a>>) -> Vec<&'a Seen<'a>> {
    let pause = anchors.windows(2).rposition(|pair| pair[1].at - pair[0].at > PAUSE);
    anchors[pause.map_or(0, |pause| pause + 1)..].to_vec()
}

/// The core, what caused it and what it caused, and all that has the trace of one of those.
fn family(recordings: &[Recording], core: &BTreeSet<Name>, within: &impl Fn(i64) -> bool) -> BTreeSet<Name> {
    let mut family = BTreeSet::new();
    let mut traces = BTreeSet::new();
    for recording in recordings {
        let causes: BTreeMap<u64, u64> = recording.events.iter().map(|event| (event.id, event.cause)).collect();
        let near: BTreeSet<u64> = recording
            .events
            .iter()
            .filter(|event| within(recording.clock.common(event.sent)))
            .map(|event| event.id)
            .collect();
        // The first that is known of those that led to it, as far as they were near.
        let root = |mut id: u64| {
            while let Some(cause) = causes.get(&id).filter(|cause| near.contains(cause)) {
                id = *cause;
            }
            id
        };
        let of_core = |id: u64| core.contains(&(recording.node, id));
        let roots: BTreeSet<u64> = causes.keys().filter(|id| of_core(**id)).map(|id| root(*id)).collect();
        for event in &recording.events {
            if of_core(event.id) || near.contains(&event.id) && roots.contains(&root(event.id)) {
                family.insert((recording.node, event.id));
                traces.insert(event.trace);
            }
        }
    }
    traces.remove(&0);
    for recording in recordings {
        let traced = recording.events.iter().filter(|event| traces.contains(&event.trace));
        let near = traced.filter(|event| within(recording.clock.common(event.sent)));
        family.extend(near.map(|event| (recording.node, event.id)));
    }
    family
}

/// Whether it belongs to an episode of this kind and to nothing else.
fn is_anchor(what: Episode, event: &Event) -> bool {
    let message = &*event.message;
    match what {
        Episode::Election => matches!(message, "PreVote" | "RequestVote" | "TimeoutNow"),
        Episode::Restart => message == "ChildStopped",
        Episode::Snapshot => matches!(
            message,
            "TakeSnapshot"
                | "Write"
                | "SnapshotWritten"
                | "SnapshotFailed"
                | "InstallSnapshot"
                | "DeliverSnapshot"
                | "StoreChunk"
                | "ChunkStored"
                | "ReadChunk"
                | "Restore"
                | "Restored"
                | "Install"
        ),
        Episode::Membership => matches!(message, "ChangeMembership" | "MembershipChanged"),
    }
}

/// Whether it belongs to one of this kind that happens about then.
fn belongs(what: Episode, event: &Event) -> bool {
    let message = &*event.message;
    match what {
        Episode::Election => message == "RoleChanged",
        Episode::Restart => {
            matches!(message, "Start" | "Stop" | "StartKeepers" | "CourierRestarted")
                || matches!(event.outcome, Outcome::Failed | Outcome::Panicked | Outcome::Killed)
        }
        Episode::Snapshot | Episode::Membership => false,
    }
}

/// Whether it is another server's answer to what belongs to one of this kind.
fn answers(what: Episode, event: &Event) -> bool {
    what == Episode::Election && matches!(&*event.message, "Answered" | "Delivered")
}

fn named(what: Episode) -> &'static str {
    match what {
        Episode::Election => "election",
        Episode::Restart => "restart of an actor",
        Episode::Snapshot => "snapshot",
        Episode::Membership => "change of the members",
    }
}

/// When it was, how long it took, whom it concerned, and under which traces.
fn in_words(what: Episode, recordings: &[Recording]) -> String {
    let times = recordings.iter().flat_map(|recording| {
        recording.events.iter().map(|event| (recording.clock.common(event.sent), recording.clock.common(event.ended())))
    });
    let (begin, end) =
        times.fold((i64::MAX, i64::MIN), |(begin, end), (sent, ended)| (begin.min(sent), end.max(ended)));
    let took = std::time::Duration::from_nanos(end.saturating_sub(begin).max(0) as u64);
    let nodes = recordings.iter().map(|recording| recording.node.to_string()).collect::<Vec<_>>().join(", ");
    let all = || recordings.iter().flat_map(|recording| &recording.events);
    let traces: BTreeSet<_> = all().map(|event| event.trace).filter(|trace| *trace != 0).collect();
    let traces = traces.iter().take(5).map(|trace| format!("{trace:016x}")).collect::<Vec<_>>().join(", ");
    let traces = if traces.is_empty() { String::new() } else { format!(", traces {traces}") };
    let term = all().map(|event| event.mark.term).max().unwrap_or(0);
    let term = if what == Episode::Election { format!(", term {term}") } else { String::new() };
    let at = std::time::Duration::from_nanos(begin.max(0) as u64);
    format!(
        "the last {}: {}, for {} on nodes {nodes}{term}{traces}",
        named(what),
        super::incident::calendar(at),
        short(took)
    )
}

fn nothing_of_the_kind(what: Episode, recordings: &[Recording]) -> Failure {
    let first = |recording: &Recording| {
        let reaches = recording
            .events
            .iter()
            .map(|event| event.sent)
            .min()
            .zip(recording.events.iter().map(|event| event.ended()).max());
        let reach = reaches.map_or(std::time::Duration::ZERO, |(first, last)| last.saturating_sub(first));
        format!("node {} remembers {} messages of {}", recording.node, recording.events.len(), short(reach))
    };
    let why = recordings.iter().map(first).collect::<Vec<_>>().join(", ");
    let fix = match what {
        Episode::Election => {
            "let one happen while it is remembered: raftkv leader transfer; of lost leaderships, raftkv trace --incident last"
        }
        Episode::Restart => {
            "see raftkv actors for restarts and their causes, and raftkv trace --incident last for what was kept of them"
        }
        Episode::Snapshot => "let one be taken: raftkv snapshot take",
        Episode::Membership => "see raftkv member list; the next change can be traced while it is remembered",
    };
    Failure { fix: fix.to_owned(), ..Failure::other(format!("no {} is remembered", named(what)), why) }
}

#[cfg(test)]
#[path = "episodes_tests.rs"]
mod tests;
