//! What happened while no page was open, and who voted for whom: lines of the Timeline out of the nodes' recorders.
//!
//! Nobody is told of an election's votes but the candidate, one by one; the recorders hold them together. So they are read
//! when the first page is opened, for all they still hold, and again shortly after each election.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::{recorders::recorded, timeline::Kind, view::View};
use crate::{
    flow::{Event, Outcome},
    raft::{NodeId, Term},
    rpc::flow::Wanted,
    trace::{Account, Recording, Sequence, What},
};

/// How far back an election is looked for that has just ended: longer than several that nobody won.
const ELECTION: i64 = 10_000_000_000;

/// How long an election is left to come to its end, and its last votes to arrive, before it is looked at.
const SETTLING: Duration = Duration::from_millis(500);

/// How long before and after its own messages something belongs to an election, a restart, a snapshot or a change.
const AROUND: i64 = 1_000_000_000;

/// Elections whose votes were told, so that they are not told again.
const TOLD: usize = 256;

/// A line that is to be told, unless it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Milliseconds since 1970.
    pub at: u64,
    pub kind: Kind,
    pub node: NodeId,
    pub text: String,
    /// The term and the candidate, of an election.
    election: Option<(Term, NodeId)>,
}

/// What was told already.
#[derive(Default)]
pub(super) struct Told {
    elections: BTreeSet<(Term, NodeId)>,
    /// Milliseconds since 1970: everything else before this was told as it happened, or is forgotten.
    until: u64,
}

impl Told {
    /// Those of them that are new, which are told from here on, by when they happened.
    pub fn new_of(&mut self, mut lines: Vec<Line>) -> Vec<Line> {
        lines.retain(|line| match line.election {
            Some(election) => self.elections.insert(election),
            None => line.at >= self.until,
        });
        while self.elections.len() > TOLD {
            self.elections.pop_first();
        }
        lines.sort_by_key(|line| line.at);
        lines
    }

    /// From here on, all but votes was or will be told as it happens.
    pub fn is_told_until(&mut self, at: u64) {
        self.until = at;
    }
}

/// All that the recorders hold that happened up to `now`, by the common clock, and whatever election there was.
pub(super) async fn before(view: View, now: i64) -> Vec<Line> {
    sleep(SETTLING).await;
    let mut lines = lines(&recorded(&view, &Wanted::default()).await);
    lines.retain(|line| line.election.is_some() || i128::from(line.at) * 1_000_000 <= i128::from(now));
    lines
}

/// The elections that ended shortly before `now`, by the common clock.
pub(super) async fn elections(view: View, now: i64) -> Vec<Line> {
    sleep(SETTLING).await;
    let wanted = Wanted { window: Some((now.saturating_sub(ELECTION), i64::MAX)), ..Wanted::default() };
    let mut lines = lines(&recorded(&view, &wanted).await);
    lines.retain(|line| line.election.is_some());
    lines
}

/// What these recordings amount to.
fn lines(recordings: &[Recording]) -> Vec<Line> {
    let few = telling(recordings);
    let times =
        few.iter().flat_map(|recording| recording.events.iter().map(move |event| recording.clock.common(event.sent)));
    let Some(begin) = times.min() else { return Vec::new() };
    Sequence::of(&few).accounts().iter().filter_map(|account| line(account, begin)).collect()
}

/// Without what says nothing of elections, restarts, snapshots and changes, which is nearly all: calls, and the heartbeats of
/// quiet times.
fn telling(recordings: &[Recording]) -> Vec<Recording> {
    let common = |recording: &Recording, event: &Event| recording.clock.common(event.ended());
    let times: BTreeSet<_> = recordings
        .iter()
        .flat_map(|recording| recording.events.iter().map(move |event| (recording, event)))
        .filter(|(_, event)| is_anchor(event))
        .map(|(recording, event)| common(recording, event))
        .collect();
    let is_near = |at: i64| times.range(at.saturating_sub(AROUND)..=at.saturating_add(AROUND)).next().is_some();
    let tells = |recording: &Recording, event: &Event| {
        is_anchor(event) || (event.trace == 0 && is_near(common(recording, event)))
    };
    let few = |recording: &Recording| {
        let events = recording.events.iter().filter(|event| tells(recording, event)).cloned().collect();
        Recording { events, ..*recording }
    };
    recordings.iter().map(few).collect()
}

/// What belongs to nothing else.
fn is_anchor(event: &Event) -> bool {
    match &*event.message {
        "PreVote" | "RequestVote" | "SnapshotWritten" | "InstallSnapshot" | "Restored" | "ChangeMembership" => true,
        "MembershipChanged" => event.trace != 0,
        "Start" => event.receiver_incarnation > 1,
        _ => matches!(event.outcome, Outcome::Failed | Outcome::Panicked | Outcome::Killed),
    }
}

fn line(account: &Account, begin: i64) -> Option<Line> {
    let kind = match account.what {
        What::Election => Kind::Election,
        What::Restart => Kind::Restart,
        What::Snapshot => Kind::Snapshot,
        What::Change => Kind::Membership,
        What::Write | What::Read => return None,
    };
    let is_election = account.what == What::Election;
    // The last line of an election is its critical path.
    let lines = &account.lines[..account.lines.len().min(2)];
    let mut text = lines.join(if is_election { ": " } else { "; " });
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    let at = u64::try_from(begin.saturating_add(account.ended) / 1_000_000).unwrap_or(0);
    Some(Line { at, kind, node: account.node, text, election: is_election.then_some((account.term, account.node)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, election: Option<(Term, NodeId)>) -> Line {
        let kind = if election.is_some() { Kind::Election } else { Kind::Restart };
        Line { at, kind, node: 1, text: String::new(), election }
    }

    /// Fails when: an election is told twice, one before it because of a later one not at all, or a line that was told as it
    /// happened a second time.
    #[test]
    fn nothing_is_told_twice() {
        let mut told = Told::default();
        let ats = |lines: Vec<Line>| lines.iter().map(|line| line.at).collect::<Vec<_>>();
        assert_eq!(ats(told.new_of(vec![line(9, None), line(5, Some((2, 1)))])), [5, 9]);
        assert_eq!(ats(told.new_of(vec![line(5, Some((2, 1))), line(4, Some((1, 3))), line(6, Some((2, 3)))])), [4, 6]);
        told.is_told_until(20);
        assert_eq!(
            ats(told.new_of(vec![line(9, None), line(19, None), line(21, None), line(7, Some((2, 2)))])),
            [7, 21]
        );
    }
}
