//! What a leader knows about one peer, and what it may send next.
//!
//! ```text
//!               a reply matched
//!      Probe ───────────────────► Replicate
//!      │   ▲                       │   ▲
//!      │   └── conflict, or lost ──┘   │ installed, or matched after all
//!      │ nothing that is left agrees   │
//!      └──────► Snapshot ──────────────┘
//! ```
//! *Probe*: the leader does not know where the logs agree; one request at a time, repeated with the heartbeat.
//! *Replicate*: it knows; requests are pipelined up to a window by count and by bytes.
//! *Snapshot*: what the peer lacks was compacted; a snapshot is on its way, and heartbeats beside it.
//!
//! Invariants: `match_index < next_index`; `match_index` never falls while the leader leads.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::{collections::VecDeque, time::Duration};

use super::types::{LogIndex, LogPosition};

/// One peer, as its leader sees it (Figure 2, "volatile state on leaders").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The highest entry known to be on the peer's disk.
    pub match_index: LogIndex,
    /// The next entry to send.
    pub next_index: LogIndex,
    /// How to send it.
    pub mode: Mode,
    /// Tags every request; answers to requests of an earlier session count for nothing.
    pub session: u64,
    /// When the peer last answered in this session, or when the session's leader was elected.
    pub last_heard: Duration,
    /// Whether it answered anything since the last break.
    pub reachable: bool,
    /// The latest read round that it answered.
    pub read_round: u64,
    /// The latest read round that it was told.
    pub read_round_sent: u64,
    /// The highest commit index that it was told.
    pub commit_sent: LogIndex,
    /// The snapshot that it is being sent, until its log has come so far.
    pub sending: Option<LogPosition>,
    /// The configuration that it does not belong to any more, and since when; it is still told so (M05).
    pub leaving: Option<(LogIndex, Duration)>,
    /// Its disk lost what it had acknowledged, up to here: it gets no entries and counts for nothing (L08). It is still told
    /// so, in case that it fell before its disk was marked.
    pub lost_data: Option<LogIndex>,
    catch_up: CatchUp,
    heartbeat_due: bool,
    in_flight: VecDeque<Batch>,
    in_flight_bytes: usize,
}

/// How a leader sends to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Looking for the place where the logs agree.
    Probe,
    /// Pipelined.
    Replicate,
    /// Waiting for a snapshot to be installed.
    Snapshot,
}

/// How a peer catches up: in rounds, each of which replicates what the log was at its beginning. It has caught up once
/// a round took less than an election timeout (thesis §4.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct CatchUp {
    round_end: LogIndex,
    round_began: Duration,
    /// Nothing was missing when it began, so that its length says nothing.
    idle: bool,
    done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    last_index: LogIndex,
    bytes: usize,
}

/// How much may be unanswered at one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Requests with entries.
    pub batches: usize,
    /// Their payload bytes.
    pub bytes: usize,
}

impl Progress {
    /// A peer of which nothing is known, behind a leader whose log ends before `next_index`.
    pub fn new(next_index: LogIndex, session: u64, now: Duration) -> Self {
        Progress {
            match_index: 0,
            next_index,
            mode: Mode::Probe,
            session,
            last_heard: now,
            reachable: false,
            read_round: 0,
            read_round_sent: 0,
            commit_sent: 0,
            sending: None,
            leaving: None,
            lost_data: None,
            catch_up: CatchUp { round_end: next_index - 1, round_began: now, idle: false, done: false },
            heartbeat_due: true,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Whether a request with entries may be sent now. A probe carries none: it is repeated with every heartbeat, and a
    /// peer that hangs must not be sent the same entries again and again.
    pub fn may_send(&self, window: Window) -> bool {
        let room = self.in_flight.len() < window.batches && self.in_flight_bytes < window.bytes;
        self.mode == Mode::Replicate && room
    }

    /// Whether the peer has not been told that so much is committed.
    pub fn lacks_notice(&self, commit_index: LogIndex) -> bool {
        self.mode == Mode::Replicate && self.commit_sent < commit_index
    }

    /// The next request is due even if it has nothing to say.
    pub fn heartbeat_due(&mut self) {
        self.heartbeat_due = true;
    }

    /// Whether a request without entries is due. Taken by asking.
    pub fn take_heartbeat(&mut self) -> bool {
        std::mem::take(&mut self.heartbeat_due)
    }

    /// A request was sent, with entries up to `last` of so many payload bytes, or with none (`None`).
    pub fn sent(&mut self, last: Option<LogIndex>, bytes: usize) {
        self.heartbeat_due = false;
        if let Some(last_index) = last {
            self.next_index = last_index + 1;
            self.in_flight.push_back(Batch { last_index, bytes });
            self.in_flight_bytes += bytes;
        }
    }

    /// The peer has the leader's log up to `match_index` on its disk. Acknowledgements may repeat and overtake each
    /// other; the highest counts.
    pub fn matched(&mut self, match_index: LogIndex) {
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index + 1);
        self.mode = Mode::Replicate;
        self.sending.take_if(|snapshot| snapshot.index <= match_index);
        while let Some(batch) = self.in_flight.front()
            && batch.last_index <= match_index
        {
            self.in_flight_bytes -= batch.bytes;
            self.in_flight.pop_front();
        }
    }

    /// The peer has the leader's log up to `last_index`, or not yet: another step of its catching up. One whose round
    /// took less than `patience` keeps up.
    pub fn catch_up(&mut self, now: Duration, last_index: LogIndex, patience: Duration) {
        let CatchUp { round_end, round_began, idle, done } = &mut self.catch_up;
        if self.match_index >= *round_end {
            *done = *idle || now - *round_began < patience;
            (*round_end, *round_began, *idle) = (last_index, now, self.match_index >= last_index);
        }
    }

    /// Whether it keeps up, so that the cluster need not wait for its vote (M10). One that answers heartbeats, for which no
    /// disk is needed, and whose disk does not get on, does not.
    pub fn has_caught_up(&self, now: Duration, patience: Duration) -> bool {
        let CatchUp { round_end, round_began, done, .. } = self.catch_up;
        let goes_on = self.match_index >= round_end || now < round_began + patience;
        done && goes_on && self.mode == Mode::Replicate && self.is_in_touch(now, patience)
    }

    /// Whether it answered lately, and counts.
    pub fn is_in_touch(&self, now: Duration, patience: Duration) -> bool {
        self.reachable && self.lost_data.is_none() && now <= self.last_heard + patience
    }

    /// The leader's log begins behind `next_index` now. Whether the peer has what it begins behind, a probe will tell.
    pub fn fell_behind(&mut self) {
        self.restart(self.next_index);
        self.heartbeat_due = true;
    }

    /// A snapshot did not get to its end. The probe that leads to the next try waits for the heartbeat: a peer that has no
    /// room for it would else be asked again and again.
    pub fn snapshot_stopped(&mut self) {
        self.restart(self.next_index);
    }

    /// What is left of the leader's log begins behind `base`, and nothing there agrees: a snapshot has to be sent.
    pub fn needs_snapshot(&mut self, session: u64, snapshot: LogPosition) {
        self.restart(snapshot.index + 1);
        self.session = session;
        self.mode = Mode::Snapshot;
        self.sending = Some(snapshot);
    }

    /// The peer's log differs from the leader's just before `next_index`; they may agree up to `agree_at_most`, or, as
    /// far as is known, at the leader's `base`.
    pub fn conflicted(&mut self, agree_at_most: LogIndex, base: LogIndex) {
        // The entry before `next_index` is known to differ: go back by one at least.
        let next_index = (agree_at_most + 1).min(self.next_index - 1).max(self.match_index + 1).max(base + 1);
        // A peer whose disk lost what it had acknowledged conflicts for ever (L08): where there is nowhere to go back to,
        // the next probe waits for the heartbeat.
        self.heartbeat_due = next_index < self.next_index;
        self.restart(next_index);
    }

    /// Requests may be lost. With `at_once`, the next probe does not wait for the heartbeat.
    pub fn lost(&mut self, session: u64, at_once: bool) {
        // What a lost disk had acknowledged is said again, behind a place that is no earlier (L08).
        self.restart(self.match_index.max(self.lost_data.unwrap_or(0)) + 1);
        self.heartbeat_due = at_once;
        self.session = session;
        self.reachable = false;
    }

    /// Forgets what is only read to choose among peers, and what is under way where there is no bound to that.
    #[cfg(feature = "testing")]
    pub(super) fn forget(&mut self, choice: bool, in_flight: bool) {
        if choice {
            self.reachable = false;
            self.catch_up = CatchUp::default();
        }
        if in_flight {
            self.in_flight.clear();
            self.in_flight_bytes = 0;
        }
    }

    fn restart(&mut self, next_index: LogIndex) {
        self.mode = Mode::Probe;
        self.next_index = next_index;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.commit_sent = 0;
        self.read_round_sent = 0;
    }
}
