//! How often everything has happened that may happen in a configuration: a search is worth what it comes by. One that ends
//! early, because a move was never open or always led nowhere, looks like one that found nothing wrong.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use ractor_raft::raft::*;

use super::{
    scope::{Scope, is_another},
    server::{Body, Event, Move, PreVotes, Turn},
};

/// A kind of move that changed something, or what came of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ring,
    RingAlone,
    Sync,
    LateReport,
    CrashBeforeWrite,
    CrashAfterWrite,
    Crash,
    Wipe,
    Undelivered,
    Propose,
    Read,
    Change,
    Transfer,
    TakeSnapshot,
    StoreChunk,
    WriteSnapshot,
    Restore,
    Tick,
    AppendEntries,
    AppendEntriesReply,
    RequestVote,
    RequestVoteReply,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    TimeoutNowReply,
    ReadIndex,
    ReadIndexReply,
    InstallSnapshot,
    InstallSnapshotReply,
    /// A server wins an election.
    Leads,
    /// A leader becomes a follower.
    StepsDown,
    /// An entry is known to be committed for the first time at this server.
    Commits,
    /// A follower takes entries back.
    Truncates,
    /// A client is told that its command was applied.
    Answers,
    AnswersRead,
    /// An answer by a lease.
    AnswersByLease,
    /// A client or operator is refused.
    Refuses,
    /// A leader appends a configuration…
    Changes,
    /// …which joins two.
    Joins,
    /// …in a later term than the first…
    ChangesLater,
    /// …because an operator wants it to.
    BeginsChangeLater,
    /// …which names a disk…
    Names,
    /// …that took another's place…
    NamesAnother,
    /// …or settles what the one before named.
    Settles,
    /// A leader begins with names that it does not know to be committed.
    InheritsNames,
    /// An empty disk that took another's place votes.
    VotesAnew,
    /// A message is refused, since it is of or for another disk than is known.
    RefusesDisk,
    /// A read is answered by a server that does not lead.
    AnswersReadAsFollower,
    /// An operator is told that the change is done.
    AnswersChange,
    /// A server sees committed that another one was removed.
    Removes,
    /// A snapshot from elsewhere is whole.
    Installs,
    /// What a request asks for is denied, since logs differ.
    Conflicts,
}

/// How often each happened, and who won elections.
#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<Kind, u64>,
    leaders: BTreeMap<NodeId, u64>,
}

/// What came of a move at one server, besides that it happened.
#[derive(Default)]
pub struct Facts {
    kinds: Vec<Kind>,
    leader: Option<NodeId>,
}

impl Facts {
    /// Whether a message was refused.
    pub fn is_refusal(&self) -> bool {
        self.kinds.contains(&Kind::RefusesDisk)
    }

    /// `before` and after a turn, which is over.
    pub fn of(turn: &Turn<'_>, what: Move, packet: Option<&Body>) -> Facts {
        let mut facts = Facts::default();
        let (before, after) = (&turn.before, &turn.server);
        facts.kinds.push(match packet {
            Some(body) => kind_of_message(body),
            None => kind_of_move(what, turn.lost_write),
        });
        let same_life = !what.ends_life();
        turn.refused.then(|| facts.kinds.push(Kind::RefusesDisk));
        facts.note_disks(turn, same_life);
        for event in &turn.events {
            match event {
                Event::Leads => {
                    facts.kinds.push(Kind::Leads);
                    facts.leader = Some(after.id);
                }
                Event::Commits { from, to, .. } => {
                    facts.kinds.push(Kind::Commits);
                    facts.note_removed(turn, *from, *to);
                }
                Event::Applies { calls, .. } if !calls.is_empty() => facts.kinds.push(Kind::Answers),
                Event::AnswersRead { by_lease, .. } => {
                    facts.kinds.push(if *by_lease { Kind::AnswersByLease } else { Kind::AnswersRead });
                    after.leads().is_none().then(|| facts.kinds.push(Kind::AnswersReadAsFollower));
                }
                Event::Refuses { .. } => facts.kinds.push(Kind::Refuses),
                Event::AnswersChange { .. } => facts.kinds.push(Kind::AnswersChange),
                _ => {}
            }
        }
        if !same_life {
            return facts;
        }
        let steps_down = before.leads().is_some() && after.leads().is_none();
        steps_down.then(|| facts.kinds.push(Kind::StepsDown));
        let (old, new) = (&before.raft, &after.raft);
        let both = new.base().index.max(old.base().index) + 1..=old.last_index();
        let truncated = both.clone().any(|at| old.entry(at) != new.entry(at));
        truncated.then(|| facts.kinds.push(Kind::Truncates));
        (new.base().index > old.base().index && before.writing.is_none() && before.loading != after.loading)
            .then(|| facts.kinds.push(Kind::Installs));
        if after.leads().is_some() && before.leads() == after.leads() {
            for at in old.last_index() + 1..=new.last_index() {
                let Some(Payload::Membership(membership)) = new.entry(at).map(|entry| &entry.payload) else { continue };
                facts.kinds.push(Kind::Changes);
                membership.is_joint().then(|| facts.kinds.push(Kind::Joins));
                let later = after.leads() > Some(1);
                later.then(|| facts.kinds.push(Kind::ChangesLater));
                (later && matches!(what, Move::Change(_))).then(|| facts.kinds.push(Kind::BeginsChangeLater));
            }
        }
        let denies = |body: &Body| {
            let Body::Reply(Reply::AppendEntries(reply)) = body else { return false };
            matches!(reply.outcome, AppendOutcome::Conflict { .. })
        };
        turn.sent.iter().any(|packet| denies(&packet.body)).then(|| facts.kinds.push(Kind::Conflicts));
        facts
    }

    /// Whose disks are named, and who votes without a memory.
    fn note_disks(&mut self, turn: &Turn<'_>, same_life: bool) {
        let (old, raft) = (&turn.before.raft, &turn.server.raft);
        if !same_life {
            return;
        }
        let votes = turn
            .events
            .iter()
            .any(|event| matches!(event, Event::Votes { candidate, .. } if *candidate != turn.server.id));
        (votes && is_another(turn.server.disk.incarnation)).then(|| self.kinds.push(Kind::VotesAnew));
        if turn.server.leads().is_none() {
            return;
        }
        let begins = turn.before.leads().is_none();
        (begins && !old.membership().unsettled.is_empty()).then(|| self.kinds.push(Kind::InheritsNames));
        let mut before = old.membership().clone();
        for at in old.last_index() + 1..=raft.last_index() {
            let Some(Payload::Membership(membership)) = raft.entry(at).map(|entry| &entry.payload) else { continue };
            let names = |disk: &Incarnation| before.incarnations.values().any(|known| known == disk);
            let mut new = membership.incarnations.values().filter(|disk| !names(disk)).peekable();
            new.peek().is_some().then(|| self.kinds.push(Kind::Names));
            new.any(|disk| is_another(*disk)).then(|| self.kinds.push(Kind::NamesAnother));
            let settles = before.unsettled.iter().any(|id| !membership.unsettled.contains(id));
            settles.then(|| self.kinds.push(Kind::Settles));
            before = Membership::clone(membership);
        }
    }

    fn note_removed(&mut self, turn: &Turn<'_>, from: LogIndex, to: LogIndex) {
        let removes = (from + 1..=to).filter_map(|at| turn.server.raft.entry(at)).any(|entry| match &entry.payload {
            Payload::Membership(membership) => !membership.removed.is_empty(),
            _ => false,
        });
        removes.then(|| self.kinds.push(Kind::Removes));
    }
}

fn kind_of_move(what: Move, lost_write: bool) -> Kind {
    match what {
        Move::Deliver(_) => unreachable!("a message says what it is"),
        Move::Ring => Kind::Ring,
        Move::RingAlone => Kind::RingAlone,
        Move::Sync => Kind::Sync,
        Move::LateReport => Kind::LateReport,
        Move::Crash { survives: true } => Kind::CrashAfterWrite,
        Move::Crash { survives: false } if lost_write => Kind::CrashBeforeWrite,
        Move::Crash { survives: false } => Kind::Crash,
        Move::Wipe => Kind::Wipe,
        Move::Undelivered(_) => Kind::Undelivered,
        Move::Propose(_) => Kind::Propose,
        Move::Read(..) => Kind::Read,
        Move::Change(_) => Kind::Change,
        Move::Transfer(_) => Kind::Transfer,
        Move::TakeSnapshot => Kind::TakeSnapshot,
        Move::StoreChunk => Kind::StoreChunk,
        Move::WriteSnapshot => Kind::WriteSnapshot,
        Move::Restore => Kind::Restore,
        Move::Tick => Kind::Tick,
    }
}

fn kind_of_message(body: &Body) -> Kind {
    match body {
        Body::Request(Request::AppendEntries(_)) => Kind::AppendEntries,
        Body::Request(Request::RequestVote(_)) => Kind::RequestVote,
        Body::Request(Request::PreVote(_)) => Kind::PreVote,
        Body::Request(Request::TimeoutNow(_)) => Kind::TimeoutNow,
        Body::Request(Request::ReadIndex(_)) => Kind::ReadIndex,
        Body::Request(Request::InstallSnapshot(_)) => Kind::InstallSnapshot,
        Body::Reply(Reply::AppendEntries(_)) => Kind::AppendEntriesReply,
        Body::Reply(Reply::RequestVote(_)) => Kind::RequestVoteReply,
        Body::Reply(Reply::PreVote(_)) => Kind::PreVoteReply,
        Body::Reply(Reply::TimeoutNow(_)) => Kind::TimeoutNowReply,
        Body::Reply(Reply::ReadIndex(_)) => Kind::ReadIndexReply,
        Body::Reply(Reply::InstallSnapshot(_)) => Kind::InstallSnapshotReply,
    }
}

impl Tally {
    /// A move led to another state.
    pub fn add(&mut self, facts: &Facts) {
        facts.kinds.iter().for_each(|kind| *self.counts.entry(*kind).or_default() += 1);
        facts.leader.iter().for_each(|id| *self.leaders.entry(*id).or_default() += 1);
    }

    pub fn add_all(&mut self, other: Tally) {
        other.counts.into_iter().for_each(|(kind, count)| *self.counts.entry(kind).or_default() += count);
        other.leaders.into_iter().for_each(|(id, count)| *self.leaders.entry(id).or_default() += count);
    }

    pub fn ticked(&mut self) {
        *self.counts.entry(Kind::Tick).or_default() += 1;
    }

    /// What a configuration claims to explore, and never came by.
    pub fn missing(&self, scope: &Scope) -> Vec<String> {
        let kinds =
            scope.claims().into_iter().filter(|kind| !self.counts.contains_key(kind)).map(|kind| format!("{kind:?}"));
        let idle = scope.campaigners.iter().filter(|id| !self.leaders.contains_key(id));
        kinds.chain(idle.map(|id| format!("n{id} leads"))).collect()
    }

    /// Past the test harness, as a table.
    pub fn tell(&self, name: &str) {
        let mut table = format!("model {name}:\n");
        for (kind, count) in &self.counts {
            let _ = writeln!(table, "{count:>12}  {kind:?}");
        }
        for (id, count) in &self.leaders {
            let _ = writeln!(table, "{count:>12}  Leads, n{id}");
        }
        std::io::stderr().write_all(table.as_bytes()).expect("the standard error stream takes a table");
    }
}

impl Scope {
    /// What has to happen at least once for this configuration to be about what it says it is about.
    pub fn claims(&self) -> Vec<Kind> {
        use Kind::*;
        let mut claims = self.reaches.clone();
        let mut claim = |when: bool, kinds: &[Kind]| claims.extend(kinds.iter().filter(|_| when));
        let campaigns = !self.campaigners.is_empty();
        claim(campaigns, &[Ring, Leads, RequestVote, RequestVoteReply]);
        claim(campaigns && self.pre_votes == PreVotes::Asked, &[PreVote, PreVoteReply]);
        claim(!self.only_elections, &[AppendEntries, AppendEntriesReply, Commits]);
        claim(campaigns && self.settled, &[StepsDown]);
        claim(self.proposals > 0, &[Propose, Answers]);
        claim(self.reads > 0, &[Read, AnswersRead, AnswersReadAsFollower, Refuses]);
        claim(self.leases && self.reads > 1, &[AnswersByLease]);
        claim(!self.changes.is_empty(), &[Change, Changes, AnswersChange]);
        claim(self.transfers > 0, &[Transfer, TimeoutNow, Leads, StepsDown]);
        claim(self.snapshots > 0, &[TakeSnapshot, WriteSnapshot]);
        claim(self.crashes > 0, &[Crash]);
        claim(self.crashes > 0 && !self.prompt_disks, &[CrashBeforeWrite, CrashAfterWrite]);
        claim(self.wipes > 0, &[Wipe, VotesAnew, RefusesDisk]);
        claim(self.breaks > 0, &[Undelivered]);
        claim(self.alone > 0, &[RingAlone, StepsDown]);
        claim(self.late_reports, &[LateReport]);
        claim(self.ticks > 0, &[Tick]);
        claim(!self.prompt_disks, &[Sync]);
        claims
    }
}
