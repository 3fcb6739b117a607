//! Whether a history of calls on keys is linearizable, told from nothing but when calls began and ended and what was
//! answered: no log index, no term, nothing that the system under test says of its own order.
//!
//! `zones` is for keys that are only written, with a value of its own each time, and read: one pass (Gibbons and Korach,
//! "Testing Shared Memories", 1997). `search` is for keys that are also swapped and deleted: it looks for an order (Wing and
//! Gong 1993, with Lowe's memory of the states that lead nowhere), so their histories have to be short.
//!
//! A call without an answer may have had its effect at any time after it began, or never.

pub mod search;
pub mod zones;

/// When, as a number that rises with each beginning and end of a call.
pub type Moment = u64;

/// A value that is written once in a history. Absence is `None` where there may be any.
pub type Value = u64;

/// One call on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub begun: Moment,
    /// `None`: there was no answer that says whether it had its effect.
    pub ended: Option<Moment>,
    pub act: Act,
}

/// What was asked, and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Write(Value),
    /// What stood there.
    Read(Option<Value>),
    Delete {
        /// What stood there before; without an answer it says nothing.
        found: Option<Value>,
    },
    Swap {
        expect: Option<Value>,
        set: Value,
        /// What stood there before; without an answer it says nothing.
        found: Option<Value>,
    },
}
