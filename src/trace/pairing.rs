//! Which message of one node became which of another.
//!
//! Nothing that travels between nodes carries a number of its own, and none is needed: what leaves and what arrives both say
//! between which nodes, which way, and about which term and index. Among those that agree in all of that, order decides: no
//! later one arrives before an earlier one, and none before it left. Where some were lost, the last departure before an
//! arrival counts as its own, looked at from the end.
//!
//! | leaves as | arrives as |
//! |---|---|
//! | consensus → replicator *b* `Deliver` | node *a* → consensus `AppendEntries`, `RequestVote`, … |
//! | consensus → node *a* `AppendEntriesReply`, … | transport → replicator *b* `Answered` |
//! | consensus → replicator *b* `DeliverSnapshot`, and `ReadChunk` because of it | node *a* → consensus `InstallSnapshot` |
//! | client → node *b* `Propose` | client → consensus `Propose`, in the same trace |
//! | consensus → applier `Apply` | node *b* → client `Answered`, in the same trace |

use std::collections::BTreeMap;

use super::{names, sequence::Step};
use crate::flow::{Event, Outcome};

/// What of a message must be the same at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Request { term: u64, index: u64 },
    Reply { term: u64, index: u64 },
    Chunk { index: u64 },
    Forward { trace: u64 },
    Answer { trace: u64 },
}

/// From which node, to which, and how.
type Channel = (u64, u64, Way);

#[derive(Default)]
struct Ends {
    departures: Vec<usize>,
    arrivals: Vec<usize>,
}

/// For each pair: where it left, and where it arrived. `tolerance` is by how much an arrival may seem too early.
pub(super) fn pairs(steps: &[Step], tolerance: i64) -> Vec<(usize, usize)> {
    let mut channels = BTreeMap::<Channel, Ends>::new();
    let answered = answered(steps);
    for (number, step) in steps.iter().enumerate() {
        if let Some((to, way)) = departure(step, steps, &answered) {
            channels.entry((step.node, to, way)).or_default().departures.push(number);
        }
    }
    for (number, step) in steps.iter().enumerate() {
        let Some((from, way)) = arrival(step) else { continue };
        let from = from.or_else(|| only_sender(&channels, step.node, way));
        if let Some(ends) = from.and_then(|from| channels.get_mut(&(from, step.node, way))) {
            ends.arrivals.push(number);
        }
    }
    channels.into_values().flat_map(|ends| ends.pair(steps, tolerance)).collect()
}

/// What led to a message that a caller sent and no actor: on the same node and in the same trace, what consensus handled last
/// before it. So a command that is passed on or tried again follows from its refusal, and a query from the answer to its read.
pub(super) fn led_by_callers(steps: &mut [Step]) {
    let mut handled = BTreeMap::<(u64, u64), Vec<(i64, u64, usize)>>::new();
    for (number, step) in steps.iter().enumerate() {
        if &*step.event.receiver == "consensus" && step.event.trace != 0 && step.event.outcome != Outcome::Noted {
            handled.entry((step.node, step.event.trace)).or_default().push((step.began, step.event.id, number));
        }
    }
    handled.values_mut().for_each(|those| those.sort_unstable());
    let led_by = |number: usize, step: &Step| {
        let query = &*step.event.message == "Query";
        if step.cause.is_some() || !query && !names::is_proposal(&step.event.message) {
            return step.cause;
        }
        let those = handled.get(&(step.node, step.event.trace))?;
        // A try again comes behind all of the one before; what is passed on or asked may come in the same moment.
        let at_once = query || step.event.outcome == Outcome::Noted;
        let before = those.partition_point(|(began, ..)| *began < step.sent || at_once && *began <= step.sent);
        those[..before].iter().rev().map(|(.., other)| *other).find(|other| *other != number)
    };
    let causes: Vec<_> = steps.iter().enumerate().map(|(number, step)| led_by(number, step)).collect();
    steps.iter_mut().zip(causes).for_each(|(step, cause)| step.cause = cause);
}

/// Which node heard the answer to a command that it had passed on, by its trace.
fn answered(steps: &[Step]) -> BTreeMap<u64, u64> {
    let heard = |step: &&Step| &*step.event.message == "Answered" && &*step.event.receiver == "client";
    steps.iter().filter(heard).map(|step| (step.event.trace, step.node)).collect()
}

/// Where a message leaves the node, whereto and how.
fn departure(step: &Step, steps: &[Step], answered: &BTreeMap<u64, u64>) -> Option<(u64, Way)> {
    let Event { message, receiver, mark, trace, outcome, .. } = &step.event;
    let (term, index) = (mark.term, mark.index);
    if let Some(peer) = names::replicator(receiver) {
        return match &**message {
            "Deliver" => Some((peer, Way::Request { term, index })),
            "DeliverSnapshot" => Some((peer, Way::Chunk { index })),
            _ => None,
        };
    }
    if *outcome == Outcome::Noted {
        let peer = names::node(receiver)?;
        let proposal = names::is_proposal(message);
        return Some((peer, if proposal { Way::Forward { trace: *trace } } else { Way::Reply { term, index } }));
    }
    match &**message {
        "ReadChunk" => {
            let peer = names::replicator(&steps[step.cause?].event.receiver)?;
            Some((peer, Way::Chunk { index }))
        }
        "Apply" if *trace != 0 => Some((*answered.get(trace)?, Way::Answer { trace: *trace })),
        _ => None,
    }
}

/// Where a message enters the node, from whom (`None`: it does not say) and how.
fn arrival(step: &Step) -> Option<(Option<u64>, Way)> {
    let Event { message, sender, receiver, mark, trace, .. } = &step.event;
    let (term, index) = (mark.term, mark.index);
    let from = names::node(sender);
    match &**message {
        "InstallSnapshot" if &**receiver == "consensus" => Some((from, Way::Chunk { index })),
        request if &**receiver == "consensus" && names::is_request(request) => {
            Some((from, Way::Request { term, index }))
        }
        "Answered" => match names::replicator(receiver) {
            Some(peer) => Some((Some(peer), Way::Reply { term, index })),
            None => from.map(|from| (Some(from), Way::Answer { trace: *trace })),
        },
        proposal if names::is_proposal(proposal) && step.event.outcome != Outcome::Noted => {
            (*trace != 0).then_some((None, Way::Forward { trace: *trace }))
        }
        _ => None,
    }
}

/// The one node from which something left to `to` this way.
fn only_sender(channels: &BTreeMap<Channel, Ends>, to: u64, way: Way) -> Option<u64> {
    let mut senders =
        channels.keys().filter(|(_, other, theirs)| *other == to && *theirs == way).map(|(from, ..)| *from);
    let first = senders.next()?;
    senders.next().is_none().then_some(first)
}

impl Ends {
    fn pair(mut self, steps: &[Step], tolerance: i64) -> Vec<(usize, usize)> {
        self.departures.sort_by_key(|number| (steps[*number].began, *number));
        self.arrivals.sort_by_key(|number| (steps[*number].sent, *number));
        if self.departures.len() == self.arrivals.len() {
            return self.departures.into_iter().zip(self.arrivals).collect();
        }
        let mut left = &self.departures[..];
        let mut pairs = Vec::new();
        for arrival in self.arrivals.into_iter().rev() {
            let latest = steps[arrival].sent.saturating_add(tolerance);
            let before = left.partition_point(|departure| steps[*departure].began <= latest);
            if let Some((departure, earlier)) = left[..before].split_last() {
                pairs.push((*departure, arrival));
                left = earlier;
            }
        }
        pairs
    }
}
