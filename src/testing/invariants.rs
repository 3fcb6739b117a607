//! What must hold after every step of every node, checked where the rules really run: an [`Observer`] for whole clusters.
//!
//! | file | what it knows |
//! |---|---|
//! | `server` | one node: its log as of its last step, and what its disk must still have after a crash |
//! | `properties` | all nodes together: the five properties of Figure 3, votes, commits, state machines |
//! | `outgoing` | what leaves a node rests on its disk, not on its memory |
//!
//! A step costs what is new in it, however long the log is; only a new leader and a restarted node are looked at whole.
//!
//! ```
//! use ractor_raft::testing::{Cluster, Invariants, Ledger, Line};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)] // in your tests: #[tokio::test(start_paused = true)]
//! async fn main() {
//!     let invariants = Invariants::new();
//!     let cluster = Cluster::builder(Ledger::default).observed_by(invariants.clone()).start().await;
//!     cluster.propose(Line::new("kept")).await.expect("there is a leader");
//!     invariants.assert_unbroken();
//!     assert!(invariants.steps() > 0);
//! }
//! ```

mod outgoing;
mod properties;
mod server;

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use self::{properties::Seen, server::Server};
use crate::{
    node::{Observed, Observer},
    raft::{Entry, LogIndex, NodeId, Role, Term},
};

/// Checks every step of every node of one cluster. Clones are the same one.
///
/// It never panics by itself, since that would be a panic of the node: [`violation`](Invariants::violation) tells the first
/// thing that was wrong, [`violated`](Invariants::violated) waits for it, and
/// [`assert_unbroken`](Invariants::assert_unbroken) panics with it.
#[derive(Clone, Default)]
pub struct Invariants(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    violated: Notify,
}

#[derive(Default)]
struct State {
    steps: u64,
    fingerprint: u64,
    violation: Option<Violation>,
    servers: BTreeMap<NodeId, Server>,
    seen: Seen,
}

/// What was broken first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name: "Election Safety", "Log Matching", …
    pub invariant: &'static str,
    /// How.
    pub detail: String,
    /// In which step, counted over all nodes from 1.
    pub step: u64,
    /// On the clock of the node that made the step.
    pub at: Duration,
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (step {}, at {:?})", self.invariant, self.detail, self.step, self.at)
    }
}

/// An invariant that does not hold, and how.
struct Broken(&'static str, String);

/// What a check comes to.
type Check = Result<(), Broken>;

/// `Err` of the invariant's name, and of the words that are only put together then.
fn expect(holds: bool, invariant: &'static str, detail: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Broken(invariant, detail())) }
}

impl Invariants {
    /// For one cluster: give a clone to [`observed_by`](super::ClusterBuilder::observed_by).
    pub fn new() -> Self {
        Invariants::default()
    }

    /// The first violation, if there was any.
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Waits for the first violation.
    pub async fn violated(&self) -> Violation {
        loop {
            let noted = self.0.violated.notified();
            if let Some(violation) = self.violation() {
                return violation;
            }
            noted.await;
        }
    }

    /// Goes on if nothing was broken so far.
    ///
    /// # Panics
    /// With the first violation.
    pub fn assert_unbroken(&self) {
        if let Some(violation) = self.violation() {
            panic!("{violation}");
        }
    }

    /// How many steps were checked.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// A hash of every step: whose, when, and what the node was after it.
    pub fn fingerprint(&self) -> u64 {
        self.lock().fingerprint
    }

    /// Every entry that was ever committed, from the first on.
    pub fn committed(&self) -> Vec<Entry> {
        self.lock().seen.committed()
    }

    /// Tells the hash of a state machine that stands at `index`: all that stand there must have the same. Let the state
    /// machine under test say so after each command, and after each restoration.
    pub fn state(&self, index: LogIndex, hash: u128) {
        let mut state = self.lock();
        let checked = state.seen.state(index, hash);
        self.note(&mut state, checked, Duration::ZERO);
    }

    fn note(&self, state: &mut State, checked: Check, at: Duration) {
        if let Err(Broken(invariant, detail)) = checked
            && state.violation.is_none()
        {
            state.violation = Some(Violation { invariant, detail, step: state.steps, at });
            self.0.violated.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A check that panicked has broken nothing that the others rest on.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Invariants {
    fn sees(&self, observed: Observed<'_>) {
        let mut state = self.lock();
        state.steps += 1;
        state.mix(&observed);
        if state.violation.is_none() {
            let checked = state.check(&observed);
            self.note(&mut state, checked, observed.now);
        }
    }

    fn wiped(&self, node: NodeId) {
        let mut state = self.lock();
        state.servers.entry(node).or_default().wiped();
        state.seen.wiped(node);
    }
}

impl State {
    fn check(&mut self, observed: &Observed<'_>) -> Check {
        let State { servers, seen, .. } = self;
        let (id, raft) = (observed.node, observed.raft);
        let mut server = servers.remove(&id).unwrap_or_default();
        let checked = (|| {
            let mut recovered = None;
            if observed.begins {
                seen.begins(raft);
                recovered = Some(server.begins(id, raft)?);
            }
            if let Some(seq) = observed.released_by {
                server.persisted(id, seq)?;
            }
            let new = recovered.unwrap_or_else(|| server.follow_log(raft));
            seen.check_log(id, &server, raft, new)?;
            seen.check_votes(id, &mut server, raft)?;
            seen.check_commit(id, &server, raft, servers)?;
            seen.check_leadership(id, &server, raft, new)?;
            observed.effects.iter().try_for_each(|effect| seen.check_effect(id, &mut server, observed, effect))?;
            server.leads = (raft.role() == Role::Leader).then(|| raft.current_term());
            server.commit_index = raft.commit_index();
            Ok(())
        })();
        servers.insert(id, server);
        checked
    }

    fn mix(&mut self, observed: &Observed<'_>) {
        let raft = observed.raft;
        let (term, role): (Term, Role) = (raft.current_term(), raft.role());
        let words = [
            observed.node << 32 | u64::from(observed.life) << 8 | role as u64,
            observed.now.as_nanos() as u64,
            term << 32 | raft.last_index(),
            raft.commit_index() << 32 | raft.last_applied(),
            observed.effects.len() as u64 | observed.released_by.unwrap_or(0) << 16,
        ];
        for word in words {
            self.fingerprint = (self.fingerprint ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
    }
}

#[cfg(test)]
mod tests;
