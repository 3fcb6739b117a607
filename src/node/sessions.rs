//! The sessions of clients: which of their commands were applied, and with what answer (thesis §6.3).
//!
//! Rules:
//! 1. A session's id is the index of the entry that opened it.
//! 2. A command whose (session, sequence) was applied before is not applied again: it gets the first answer (C01).
//!    Commands of one session may come in any order; each sequence is on its own.
//! 3. Answers are kept until the client says that it has them (`first_unanswered`). A command below that is not applied,
//!    whether it ever was or not: nobody waits for it any more.
//! 4. What would have to forget an answer that the client may still ask for is refused as not applied: a session keeps
//!    [`MAX_REPLIES`] answers and [`MAX_REPLY_BYTES`] at most, and one more for the first unanswered. A client that never says
//!    what it has (`first_unanswered` 0) loses its lowest answers instead; those commands are then below rule 3's line, so
//!    they are not applied again either.
//! 5. A session that was not used for [`EXPIRY`] entries is gone. Where there would be more than [`MAX_SESSIONS`], or more
//!    than [`MAX_ALL_REPLY_BYTES`] of answers, the least recently used one goes. "Used" is an entry of the log, so no clock
//!    decides.
//!
//! Invariant: the table is a function of the log. Every node has the same one at the same index, also where it began with
//! a snapshot. The limits are therefore constants: on two nodes with different ones, one command could be applied on one
//! and refused on the other.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use super::Applied;
use crate::{
    error::ProposeError,
    raft::{LARGEST, LogIndex, SessionCommand},
};

mod encoding;

/// The most sessions at a time.
pub const MAX_SESSIONS: usize = 16_384;

/// The most answers that one session keeps. A client has no more commands in flight than this.
pub const MAX_REPLIES: usize = 1024;

/// The most bytes of answers that one session keeps. One answer may exceed it alone.
pub const MAX_REPLY_BYTES: usize = 4 << 20;

/// The most bytes of answers that all sessions keep together.
pub const MAX_ALL_REPLY_BYTES: usize = 256 << 20;

/// A session that was not used for so many entries of the log is gone: about twenty minutes at 100,000 writes a second.
pub const EXPIRY: u64 = 1 << 27;

/// What an answer costs besides its bytes.
const AROUND_A_REPLY: usize = 64;

/// The bounds of a table. One for all nodes; tests have smaller ones.
#[derive(Clone, Copy, Debug)]
struct Limits {
    sessions: usize,
    replies: usize,
    reply_bytes: usize,
    all_reply_bytes: usize,
    expiry: u64,
}

const LIMITS: Limits = Limits {
    sessions: MAX_SESSIONS,
    replies: MAX_REPLIES,
    reply_bytes: MAX_REPLY_BYTES,
    all_reply_bytes: MAX_ALL_REPLY_BYTES,
    expiry: EXPIRY,
};

/// All sessions, as of the last entry that was about one.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: Limits,
    /// By id. Shared with the snapshots taken of it until it changes.
    table: OrdMap<u64, Arc<Session>>,
    /// Each session once, under the index of some use of it: never a later one than its last. So the first one here whose
    /// key *is* its last use is the least recently used of all, and a use need not touch this.
    order: BTreeMap<LogIndex, u64>,
    /// Of all answers.
    reply_bytes: usize,
}

/// One client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    last_used: LogIndex,
    /// The client wants nothing below this any more.
    first_unanswered: u64,
    /// By sequence.
    replies: BTreeMap<u64, Applied>,
    reply_bytes: usize,
}

/// The sessions as they were at one index.
pub(crate) struct SessionsSnapshot(OrdMap<u64, Arc<Session>>);

/// What is to be done with a command.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// It is new: apply it, and keep here what comes of it.
    Apply(Slot<'a>),
    /// It was applied before, with this answer.
    Repeated(Applied),
    /// The client said earlier that it has the answer, or it is so old that the answer is not kept. Not to be applied.
    AnsweredLongAgo,
    /// There is no such session, or no more. Not to be applied.
    Expired,
    /// The session keeps as many answers as it may. Not to be applied.
    Full,
}

/// Where the answer of a command is kept.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    session: &'a mut Session,
    all_reply_bytes: &'a mut usize,
    sequence: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions::with_limits(LIMITS)
    }
}

impl Sessions {
    fn with_limits(limits: Limits) -> Self {
        Sessions { limits, table: OrdMap::new(), order: BTreeMap::new(), reply_bytes: 0 }
    }

    /// The entry at `index` opens a session. Returns its id.
    pub(crate) fn open(&mut self, index: LogIndex) -> u64 {
        self.expire(index);
        while self.table.len() >= self.limits.sessions {
            self.evict();
        }
        let session = Session { last_used: index, first_unanswered: 1, replies: BTreeMap::new(), reply_bytes: 0 };
        self.table.insert(index, Arc::new(session));
        self.order.insert(index, index);
        index
    }

    /// The entry at `index` is a command of a session.
    pub(crate) fn command(&mut self, index: LogIndex, call: &SessionCommand) -> Verdict<'_> {
        self.expire(index);
        let limits = self.limits;
        let Some(session) = self.table.get_mut(&call.session) else { return Verdict::Expired };
        let session = Arc::make_mut(session);
        session.last_used = index;
        self.reply_bytes -= session.forget_below(call.first_unanswered);
        if let Some(reply) = session.replies.get(&call.sequence) {
            return Verdict::Repeated(reply.clone());
        }
        if call.sequence < session.first_unanswered {
            return Verdict::AnsweredLongAgo;
        }
        while session.is_full(&limits) {
            let lowest = session.replies.first_key_value().map_or(u64::MAX, |(sequence, _)| *sequence);
            // The one that all others wait for must get through, or the session were stuck for ever.
            if call.first_unanswered == call.sequence {
                break;
            }
            if call.first_unanswered > 0 || lowest > call.sequence {
                return Verdict::Full;
            }
            self.reply_bytes -= session.forget_below(lowest + 1);
        }
        Verdict::Apply(Slot { session, all_reply_bytes: &mut self.reply_bytes, sequence: call.sequence })
    }

    /// The table as it is now, at the cost of one pointer.
    pub(crate) fn snapshot(&self) -> SessionsSnapshot {
        SessionsSnapshot(self.table.clone())
    }
    /// Lets go what was not used for long, and what is too much.
    fn expire(&mut self, index: LogIndex) {
        let expiry = self.limits.expiry;
        while let Some((&key, _)) = self.order.first_key_value()
            && key + expiry < index
        {
            self.settle_first(|last_used| last_used + expiry < index);
        }
        while self.reply_bytes > self.limits.all_reply_bytes {
            self.evict();
        }
    }

    /// Lets the least recently used session go.
    fn evict(&mut self) {
        let sessions = self.table.len();
        while self.table.len() == sessions && sessions > 0 {
            let key = self.order.first_key_value().map_or(0, |(key, _)| *key);
            self.settle_first(|last_used| last_used == key);
        }
    }

    /// Takes the first of the order: lets it go if `goes` for its last use, else puts it where it belongs.
    fn settle_first(&mut self, goes: impl Fn(LogIndex) -> bool) {
        let Some((_, id)) = self.order.pop_first() else { return };
        let session = self.table.get(&id).expect("the order has the sessions of the table, each once");
        let last_used = session.last_used;
        if goes(last_used) {
            self.reply_bytes -= session.reply_bytes;
            self.table.remove(&id);
        } else {
            self.order.insert(last_used, id);
        }
    }
}

impl Session {
    /// The client does not want these answers any more. Returns their bytes.
    fn forget_below(&mut self, first_unanswered: u64) -> usize {
        if first_unanswered <= self.first_unanswered {
            return 0;
        }
        self.first_unanswered = first_unanswered;
        let mut freed = 0;
        while let Some(first) = self.replies.first_entry()
            && *first.key() < first_unanswered
        {
            freed += size(&first.remove().output);
        }
        self.reply_bytes -= freed;
        freed
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.replies.len() >= limits.replies || self.reply_bytes >= limits.reply_bytes
    }
}

impl Slot<'_> {
    /// The command was applied, with this answer: the first, and the one that every repetition gets.
    pub(crate) fn keep(self, applied: Applied) {
        let bytes = size(&applied.output);
        self.session.reply_bytes += bytes;
        *self.all_reply_bytes += bytes;
        self.session.replies.insert(self.sequence, applied);
    }
}

/// Whether the log can carry it. What it cannot is refused before it is proposed: every follower would refuse it.
pub(crate) fn check(call: &SessionCommand) -> Result<(), ProposeError> {
    if !(1..=LARGEST).contains(&call.session) {
        return Err(ProposeError::SessionExpired { session: call.session });
    }
    if !(1..=LARGEST).contains(&call.sequence) {
        let reason = format!("the sequence is {}; sequences go from 1 to {LARGEST}", call.sequence);
        return Err(ProposeError::Rejected { reason });
    }
    if call.first_unanswered > call.sequence {
        let reason = format!("first_unanswered is {}, beyond the sequence {}", call.first_unanswered, call.sequence);
        return Err(ProposeError::Rejected { reason });
    }
    Ok(())
}

fn size(output: &Bytes) -> usize {
    output.len() + AROUND_A_REPLY
}

#[cfg(test)]
mod tests;
