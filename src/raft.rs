//! The rules of Raft, and nothing else: one pure state machine that is told what happened and says what is to be done.
//!
//! *Architecture invariant: nothing in this module waits, fails, reads a clock, draws a random number, or names an
//! actor, a socket or a disk. The same inputs give the same effects, always.*

mod events;
mod message;
mod recovered;
mod types;

pub use events::*;
pub use message::*;
pub use recovered::Recovered;
pub use types::*;
