//! The paper's rules, a test a sentence: Figure 2 and §5 of the extended Raft paper, and the core's rows of SAFETY.
//!
//! Each test drives one server by hand (`paper/fixture.rs`) and says in its comment the sentence, and with which bug it
//! fails: each was seen red with that bug in the core.

#[path = "paper/elections.rs"]
mod elections;
#[path = "paper/fixture.rs"]
mod fixture;
#[path = "paper/followers.rs"]
mod followers;
#[path = "paper/leaders.rs"]
mod leaders;
#[path = "paper/reads.rs"]
mod reads;
