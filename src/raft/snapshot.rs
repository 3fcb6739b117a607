//! Snapshots and log compaction (§7; thesis §5).
//!
//! Rules:
//! 1. A snapshot is due after so many entries or bytes, but not before the log since the last one is half as large as that
//!    one (thesis §5.1.3). It is ordered behind all that is ordered to be applied, so that its last entry is known before it
//!    is taken; its membership is the one as of that entry (N04).
//! 2. The log is compacted only when the snapshot is on disk, in steps, and up to a trail that spares slow followers a
//!    transfer. What a peer is being sent is not overtaken: no snapshot is taken meanwhile unless the log grows fourfold.
//! 3. InstallSnapshot (Figure 13): reply at once if `term < current_term`; store each chunk, one at a time, and reply when it
//!    is on disk.
//!    What is older than what is committed is not needed, and is answered with what is here (N01, N06).
//! 4. A received snapshot is installed in one order: it is on disk; the log stands on it, on disk; the state machine is
//!    restored; only then entries behind it are applied (N03). The log behind it stays if it has the entry that the snapshot
//!    ends with, else it goes (N02).
//! 5. A server starts as it would after an install: it is restored before it applies anything (N07).
//!
//! Invariant: `base <= snapshot <= commit_index`.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::time::Duration;

use super::{
    Raft, RoleState, Settings,
    events::{Base, Effect, Refusal},
    message::{InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Reply},
    types::{CallId, Entry, LogIndex, LogPosition, NodeId, SnapshotMetadata},
};

/// So many entries go in one step of a compaction.
const COMPACTION_STEP: u64 = 4096;

/// What an entry takes up besides its payload, in memory and on disk, about.
const ENTRY_OVERHEAD: u64 = 64;

/// What a server knows about its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Snapshots {
    finished: Option<SnapshotMetadata>,
    /// The last entry of the one that was ordered and not yet reported.
    taking: Option<LogPosition>,
    /// How far the log was when one was ordered last, or given up.
    ordered_index: LogIndex,
    /// Payload bytes of the entries behind that.
    bytes_since: u64,
    /// Who wants one that reaches so far.
    waiting: Vec<(LogIndex, CallId)>,
    /// The state machine is on its way to this; nothing is applied before it is there.
    restoring: Option<SnapshotMetadata>,
    receiving: Option<Receiving>,
}

/// A snapshot that a leader is sending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Receiving {
    snapshot: SnapshotMetadata,
    /// Bytes that are on disk, from the first on.
    stored: u64,
    /// Who is answered when the chunk that is on its way to the disk is there.
    chunk: Option<CallId>,
}

impl Snapshots {
    /// As a disk remembers them: the state machine has to be restored first.
    pub(super) fn recovered(finished: Option<SnapshotMetadata>, receiving: Option<(SnapshotMetadata, u64)>) -> Self {
        let receiving = receiving.map(|(snapshot, stored)| Receiving { snapshot, stored, chunk: None });
        let restoring = finished.clone();
        let ordered_index = finished.as_ref().map_or(0, |snapshot| snapshot.last_included.index);
        Snapshots { finished, restoring, receiving, ordered_index, ..Snapshots::default() }
    }

    /// The one that stands in for what the log does not have.
    pub(super) fn finished(&self) -> &SnapshotMetadata {
        self.finished.as_ref().expect("a log that stands on an entry has a snapshot of it")
    }

    /// The last entry of the finished one. 0@0: there is none.
    pub(super) fn position(&self) -> LogPosition {
        self.finished.as_ref().map_or(LogPosition::default(), |snapshot| snapshot.last_included)
    }

    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// These are about to be applied.
    pub(super) fn note_applied(&mut self, entries: &[Entry]) {
        self.bytes_since += entries.iter().map(|entry| entry.size() as u64).sum::<u64>();
    }
}

/// Taking them.
impl Raft {
    /// An operator wants one.
    pub(super) fn take_snapshot(&mut self, call: CallId, effects: &mut Vec<Effect>) {
        let index = self.applying_index;
        // A server that joined does not know who belonged to the cluster before the log said so: it has nothing to write
        // down yet (N04).
        if index == 0 || self.memberships.at(index).voters.is_empty() {
            effects.push(Effect::Refuse { call, refusal: Refusal::SnapshotFailed });
        } else if index <= self.snapshots.position().index {
            effects.push(Effect::AnswerSnapshot { call, index: self.snapshots.position().index });
        } else {
            self.snapshots.waiting.push((index, call));
        }
    }

    /// Orders a snapshot if one is due and none is under way.
    pub(super) fn order_snapshot(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let index = self.applying_index;
        let Snapshots { taking, restoring, waiting, .. } = &self.snapshots;
        if taking.is_some() || restoring.is_some() || index <= self.snapshots.position().index {
            return;
        }
        if self.memberships.at(index).voters.is_empty() {
            return;
        }
        if waiting.is_empty() && !self.snapshot_is_due(now) {
            return;
        }
        self.order_snapshot_now(effects);
    }

    fn order_snapshot_now(&mut self, effects: &mut Vec<Effect>) {
        let index = self.applying_index;
        let last_included = self.log.position_at(index);
        let membership = self.memberships.at(index).clone();
        self.snapshots.taking = Some(last_included);
        self.snapshots.ordered_index = index;
        self.snapshots.bytes_since = 0;
        effects.push(Effect::TakeSnapshot { last_included, membership });
    }

    fn snapshot_is_due(&self, now: Duration) -> bool {
        let Snapshots { finished, ordered_index, bytes_since, .. } = &self.snapshots;
        let entries = self.applying_index - ordered_index;
        let Settings { snapshot_threshold, snapshot_threshold_bytes, .. } = self.settings;
        let reached = |times| entries / times >= snapshot_threshold || bytes_since / times >= snapshot_threshold_bytes;
        let size = finished.as_ref().map_or(0, |snapshot| snapshot.size);
        let worth_it = 2 * (bytes_since + entries * ENTRY_OVERHEAD) >= size;
        reached(1) && worth_it && (reached(4) || self.compaction_held_at(now).is_none())
    }

    /// What is being sent to a peer that was heard not long ago has to be followed by what comes behind it.
    fn compaction_held_at(&self, now: Duration) -> Option<LogIndex> {
        let RoleState::Leader(leadership) = &self.role else { return None };
        let patience = 10 * self.settings.election_timeout_max;
        let heard = leadership.progress.values().filter(|peer| now <= peer.last_heard + patience);
        heard.filter_map(|peer| peer.sending).map(|snapshot| snapshot.index).min()
    }

    pub(super) fn snapshot_written(&mut self, snapshot: SnapshotMetadata, effects: &mut Vec<Effect>) {
        // One that was ordered before another was installed is not the one that is under way.
        self.snapshots.taking.take_if(|taking| *taking == snapshot.last_included);
        self.keep_newer(&snapshot);
        self.answer_snapshot_calls(effects);
    }

    /// Whoever waits for a snapshot that reaches no farther than the finished one has it.
    fn answer_snapshot_calls(&mut self, effects: &mut Vec<Effect>) {
        let index = self.snapshots.position().index;
        let answered = self.snapshots.waiting.extract_if(.., |(wanted, _)| *wanted <= index);
        effects.extend(answered.map(|(_, call)| Effect::AnswerSnapshot { call, index }));
    }

    /// There was no room: it is tried again when as much has been applied again.
    pub(super) fn snapshot_failed(&mut self, effects: &mut Vec<Effect>) {
        self.snapshots.taking = None;
        let waiting = std::mem::take(&mut self.snapshots.waiting);
        effects.extend(waiting.into_iter().map(|(_, call)| Effect::Refuse { call, refusal: Refusal::SnapshotFailed }));
    }

    /// The snapshotter died with what it was doing.
    pub(super) fn snapshotter_lost(&mut self, effects: &mut Vec<Effect>) {
        if self.snapshots.taking.take().is_some() {
            self.order_snapshot_now(effects);
        }
        // Where the log does not stand on it yet, the order is still to come.
        if let Some(snapshot) = self.snapshots.restoring.as_ref().filter(|_| self.outbox.base_is_durable()) {
            effects.push(Effect::Restore { snapshot: snapshot.clone() });
        }
    }

    /// One step of the compaction behind the finished snapshot, each with a write of its own.
    pub(super) fn compact(&mut self, now: Duration) {
        let base = self.log.base().index;
        let target = self.snapshots.position().index.saturating_sub(self.settings.snapshot_trailing);
        if target <= base || !self.outbox.is_idle() || self.snapshots.is_restoring() {
            return;
        }
        // A snapshot that entries overtook while it came may reach beyond what was applied.
        let target = target.min(self.applying_index).min(self.compaction_held_at(now).unwrap_or(LogIndex::MAX));
        if target <= base {
            return;
        }
        let index = target.min(base + COMPACTION_STEP);
        let position = self.log.position_at(index);
        let membership = self.memberships.at(index).clone();
        self.stand_on(Base { position, membership });
    }

    fn stand_on(&mut self, base: Base) {
        self.log.stand_on(base.position);
        self.memberships.stand_on(base.position.index, base.membership.clone());
        self.outbox.stand_on(base);
    }
}

/// Receiving them.
impl Raft {
    /// Receiver's side of InstallSnapshot.
    pub(super) fn install_snapshot(
        &mut self,
        now: Duration,
        call: CallId,
        request: InstallSnapshotRequest,
        effects: &mut Vec<Effect>,
    ) {
        if !self.hear_leader(now, request.term, request.leader_id, effects) {
            return self.reply_installing(call, InstallOutcome::Stale, effects);
        }
        let InstallSnapshotRequest { snapshot, offset, data, .. } = request;
        if snapshot.last_included.index <= self.commit_index {
            // "If existing log entry has same index and term as snapshot's last included entry, retain log entries following
            // it and reply" (Figure 13): what is committed here is the leader's log, and goes farther.
            let match_index = self.commit_index.min(self.outbox.durable_index());
            return self.reply_installing(call, InstallOutcome::Installed { match_index }, effects);
        }
        let receiving = match self.snapshots.receiving.take() {
            Some(receiving) if receiving.snapshot == snapshot => receiving,
            // It may be the last one of a snapshot that then is the finished one: nothing else until that is known.
            Some(receiving) if receiving.chunk.is_some() => {
                self.snapshots.receiving = Some(receiving);
                return self.reply_installing(call, InstallOutcome::Stored { offset: 0 }, effects);
            }
            _ => Receiving { snapshot: snapshot.clone(), stored: 0, chunk: None },
        };
        let receiving = self.snapshots.receiving.insert(receiving);
        let stored = receiving.stored;
        if receiving.chunk.is_some() || offset != stored || data.is_empty() {
            return self.reply_installing(call, InstallOutcome::Stored { offset: stored }, effects);
        }
        receiving.chunk = Some(call);
        effects.push(Effect::StoreChunk { call, snapshot, offset, data });
    }

    pub(super) fn chunk_stored(
        &mut self,
        now: Duration,
        call: CallId,
        stored: u64,
        complete: bool,
        effects: &mut Vec<Effect>,
    ) {
        // Another transfer has taken its place.
        let Some(receiving) = self.snapshots.receiving.as_mut().filter(|receiving| receiving.chunk == Some(call))
        else {
            return self.reply_installing(call, InstallOutcome::Stored { offset: 0 }, effects);
        };
        receiving.chunk = None;
        receiving.stored = stored;
        if !complete {
            return self.reply_installing(call, InstallOutcome::Stored { offset: stored }, effects);
        }
        let snapshot = receiving.snapshot.clone();
        self.snapshots.receiving = None;
        // A disk that was slow to store it is no reason for an election.
        self.timeout_since = now;
        if snapshot.last_included.index > self.commit_index || self.replaces_restoring(&snapshot) {
            self.install(snapshot, effects);
        } else {
            self.keep_newer(&snapshot);
        }
        self.answer_snapshot_calls(effects);
        let match_index = self.commit_index.min(self.outbox.durable_index());
        let reply =
            InstallSnapshotReply { term: self.current_term(), outcome: InstallOutcome::Installed { match_index } };
        // The log stands on it, on disk, before anyone is told.
        self.outbox.after_write(Effect::Reply { call, reply: Reply::InstallSnapshot(reply) });
    }

    /// Whether an earlier one is still to be restored, which is not there any more: `snapshot` took its place.
    fn replaces_restoring(&self, snapshot: &SnapshotMetadata) -> bool {
        self.snapshots.is_restoring() && snapshot.last_included.index > self.snapshots.position().index
    }

    /// It is the finished one, unless one that was installed meanwhile reaches farther. Where entries overtook a received
    /// one, it took the place of the one before all the same.
    fn keep_newer(&mut self, snapshot: &SnapshotMetadata) {
        if snapshot.last_included.index > self.snapshots.position().index {
            self.snapshots.finished = Some(snapshot.clone());
        }
    }

    /// The finished snapshot becomes what this server stands on: its log, and then its state machine.
    pub(super) fn install(&mut self, snapshot: SnapshotMetadata, effects: &mut Vec<Effect>) {
        let position = snapshot.last_included;
        let membership = self.memberships.current().clone();
        if self.log.term_at(position.index) != Some(position.term) {
            // Entries that overtook it are committed, and it is not of their history.
            if position.index <= self.commit_index {
                self.denies_committed(position.index);
            }
            // "Discard the entire log" (Figure 13, 7): nothing in it is known to follow the snapshot.
            self.outbox.truncate_from(self.log.base().index + 1);
            self.memberships.truncated_from(0);
            for (_, call) in std::mem::take(&mut self.proposals) {
                effects.push(Effect::Refuse { call, refusal: Refusal::Unknown });
            }
        }
        self.stand_on(Base { position, membership: snapshot.membership.clone() });
        self.forget_proposals_up_to(position.index, effects);
        if *self.memberships.current() != membership {
            effects.push(Effect::MembershipChanged(self.memberships.current().clone()));
        }
        self.commit_index = self.commit_index.max(position.index);
        self.applying_index = self.applying_index.max(position.index);
        self.snapshots.finished = Some(snapshot.clone());
        self.snapshots.restoring = Some(snapshot.clone());
        self.snapshots.taking = None;
        (self.snapshots.ordered_index, self.snapshots.bytes_since) = (position.index, 0);
        self.outbox.after_write(Effect::Restore { snapshot });
    }

    /// A server starts at its snapshot. Where it fell before its log stood on it, that is made up for.
    pub(super) fn start_from(&mut self, snapshot: SnapshotMetadata, effects: &mut Vec<Effect>) {
        let position = snapshot.last_included;
        if self.log.term_at(position.index) != Some(position.term) {
            return self.install(snapshot, effects);
        }
        (self.commit_index, self.applying_index) = (position.index, position.index);
        effects.push(Effect::Restore { snapshot });
    }

    /// What a snapshot brought was not applied here, so that its outcome is not known here.
    fn forget_proposals_up_to(&mut self, index: LogIndex, effects: &mut Vec<Effect>) {
        while let Some(&(at, call)) = self.proposals.front()
            && at <= index
        {
            self.proposals.pop_front();
            effects.push(Effect::Refuse { call, refusal: Refusal::Unknown });
        }
    }

    pub(super) fn restored(&mut self, index: LogIndex, effects: &mut Vec<Effect>) {
        // A newer one may have taken the place of the one that was ordered, while entries overtook both.
        let restoring = self.snapshots.restoring.take_if(|snapshot| snapshot.last_included.index <= index);
        if restoring.is_some() {
            self.last_applied = self.last_applied.max(index);
            self.applying_index = self.applying_index.max(index);
            self.forget_proposals_up_to(self.applying_index, effects);
        }
    }

    pub(super) fn install_snapshot_reply(
        &mut self,
        now: Duration,
        from: NodeId,
        session: u64,
        reply: &InstallSnapshotReply,
    ) {
        let (term, last_index) = (self.hard_state.current_term, self.log.last().index);
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let Some(peer) = leadership.progress.get_mut(&from) else { return };
        if peer.session != session || reply.term != term {
            return;
        }
        // Nobody has more of this log than there is, as for AppendEntries.
        if matches!(reply.outcome, InstallOutcome::Installed { match_index } if match_index > last_index) {
            return;
        }
        peer.last_heard = now;
        peer.reachable = true;
        if peer.lost_data.is_some() {
            // A late word, as for AppendEntries (L08).
            return;
        }
        match reply.outcome {
            InstallOutcome::Installed { match_index } => {
                peer.matched(match_index);
                self.advance_commit_index();
                self.note_catching_up(now, from);
            }
            // It ended before the end: from where it stopped, once the log's base was probed again.
            InstallOutcome::Stored { .. } => peer.snapshot_stopped(),
            InstallOutcome::Stale => {}
        }
    }

    fn reply_installing(&mut self, call: CallId, outcome: InstallOutcome, effects: &mut Vec<Effect>) {
        let reply = InstallSnapshotReply { term: self.current_term(), outcome };
        self.reply(call, Reply::InstallSnapshot(reply), effects);
    }
}
