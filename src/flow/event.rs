//! A recorded message as a reader sees it: names instead of numbers.

use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
    sync::Arc,
    time::Duration,
};

use super::{EventId, Mark, TraceId, recorder::event_parts};

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was handled.
    #[default]
    Handled,
    /// Its handler returned an error, and the actor ended.
    Failed,
    /// Its handler panicked, and the actor ended.
    Panicked,
    /// It came from an earlier life of its sender, or was too late otherwise, and was dropped.
    Stale,
    /// The actor was killed while it handled it.
    Killed,
    /// No actor handled it: it left the node, or entered it.
    Noted,
}

impl Outcome {
    const ALL: [Outcome; 6] =
        [Outcome::Handled, Outcome::Failed, Outcome::Panicked, Outcome::Stale, Outcome::Killed, Outcome::Noted];

    pub(super) fn number(self) -> u8 {
        self as u8
    }

    pub(super) fn from_number(number: u8) -> Self {
        Outcome::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Handled => "handled",
            Outcome::Failed => "failed",
            Outcome::Panicked => "panicked",
            Outcome::Stale => "dropped as stale",
            Outcome::Killed => "killed",
            Outcome::Noted => "noted",
        })
    }
}

/// One message, from its sending to the end of its handling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number on this node.
    pub id: EventId,
    /// The event in which it was sent. 0: none that was recorded.
    pub cause: EventId,
    /// The client's call that it belongs to. 0: none.
    pub trace: TraceId,
    /// Who sent it: a place in the tree, or what [`Flow::outside`](super::Flow::outside) was told.
    pub sender: Arc<str>,
    /// Which life of the sender. 0: not an actor of the tree.
    pub sender_incarnation: u32,
    /// Who received it.
    pub receiver: Arc<str>,
    /// Which life of the receiver. 0: not an actor of the tree.
    pub receiver_incarnation: u32,
    /// The message's name. Borrowed where it was recorded here, owned where another node told it.
    pub message: Cow<'static, str>,
    /// The term and index it is about.
    pub mark: Mark,
    /// When it was sent, since the node's epoch.
    pub sent: Duration,
    /// How long it stood in the mailbox.
    pub waited: Duration,
    /// How long its handler took, what it awaited included.
    pub handling: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

impl Event {
    /// When its handling began, since the node's epoch.
    pub fn began(&self) -> Duration {
        self.sent + self.waited
    }

    /// When its handling ended, since the node's epoch.
    pub fn ended(&self) -> Duration {
        self.began() + self.handling
    }
}

/// `12.000345 consensus → log store Persist 5@3 waited 12µs took 340µs (3.17 by 2.9)`
impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} {}", self.sent.as_secs_f64(), self.sender)?;
        write_restarts(f, self.sender_incarnation)?;
        write!(f, " → {}", self.receiver)?;
        write_restarts(f, self.receiver_incarnation)?;
        write!(f, " {}", self.message)?;
        match self.mark {
            Mark { term: 0, index: 0 } => {}
            Mark { term, index: 0 } => write!(f, " term {term}")?,
            Mark { term: 0, index } => write!(f, " index {index}")?,
            Mark { term, index } => write!(f, " {index}@{term}")?,
        }
        if self.outcome != Outcome::Noted {
            write!(f, " waited {:?} took {:?}", self.waited, self.handling)?;
        }
        if !matches!(self.outcome, Outcome::Handled | Outcome::Noted) {
            write!(f, " {}", self.outcome)?;
        }
        write!(f, " ({}", ShortId(self.id))?;
        if self.cause != 0 {
            write!(f, " by {}", ShortId(self.cause))?;
        }
        write!(f, ")")
    }
}

/// A first life is not worth a word; later ones are.
fn write_restarts(f: &mut Formatter<'_>, incarnation: u32) -> fmt::Result {
    if incarnation > 1 { write!(f, "#{incarnation}") } else { Ok(()) }
}

struct ShortId(EventId);

impl Display for ShortId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (receiver, count) = event_parts(self.0);
        write!(f, "{}.{count}", receiver.0)
    }
}

/// Which events one wants to see. The default: all that the recorder still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this client's call.
    pub trace: Option<TraceId>,
    /// Only those that ended at or after this time, since the node's epoch.
    pub since: Option<Duration>,
    /// Only those that were sent at or before this time, since the node's epoch.
    pub until: Option<Duration>,
    /// Only those that were sent or received at a place in the tree that begins so: "applier", "consensus/replicator" for
    /// all of them.
    pub actor: Option<String>,
    /// Only those of this name: "Persist".
    pub message: Option<String>,
    /// Of so many clients' calls only one, chosen by its trace alone, so that it is the same one on every node. What belongs to
    /// no call passes all the same. 0 and 1: all calls.
    pub one_call_in: u64,
    /// Of what is left, only the last so many.
    pub last: Option<usize>,
}

/// Whether the call of this trace is the one of so many that is looked at.
pub(crate) fn is_one_in(trace: TraceId, calls: u64) -> bool {
    // What clients choose as trace ids may be numbers in a row.
    let mixed = trace.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    calls <= 1 || mixed.is_multiple_of(calls)
}

impl Filter {
    /// The events of one client's call.
    pub fn of_trace(trace: TraceId) -> Self {
        Filter { trace: Some(trace), ..Filter::default() }
    }

    /// What the actors at places that begin so sent and received.
    pub fn of_actor(path: impl Into<String>) -> Self {
        Filter { actor: Some(path.into()), ..Filter::default() }
    }

    /// The messages of this name.
    pub fn of_message(name: impl Into<String>) -> Self {
        Filter { message: Some(name.into()), ..Filter::default() }
    }

    /// The last so many events.
    pub fn last(count: usize) -> Self {
        Filter { last: Some(count), ..Filter::default() }
    }
}

/// The last events before something fell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Its number on this node's disk, or in this process where it is kept in memory alone. Later ones are higher.
    pub id: u64,
    /// What happened; all of it, where several things fell within a second.
    pub cause: String,
    /// When, since the node's epoch.
    pub at: Duration,
    /// When, since 1970, by the calendar of the node's machine.
    pub since_1970: Duration,
    /// [`Flow::life`](super::Flow::life) of the process that it happened in. Its times count from that one's epoch.
    pub life: u64,
    /// What went before, in the order in which it began.
    pub events: Vec<Event>,
}
