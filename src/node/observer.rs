//! Shows a test what consensus decides, step by step, so that the rules can be checked where they really run. Feature
//! `testing`.

use std::time::Duration;

use crate::raft::{Effect, NodeId, Raft};

/// What consensus is about to carry out.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// Whose it is.
    pub node: NodeId,
    /// Which life of its consensus.
    pub life: u32,
    /// The node's own clock.
    pub now: Duration,
    /// The rules' state after the step.
    pub raft: &'a Raft,
    /// What is carried out now, in order.
    pub effects: &'a [Effect],
    /// The write that these effects had waited for and that is on disk now. `None`: they come straight out of a step.
    pub released_by: Option<u64>,
    /// The rules were just made from what the disk remembers: this life's first step.
    pub begins: bool,
}

/// Looks on. It is called by consensus before anything of `effects` leaves it.
pub trait Observer: Send + Sync + 'static {
    /// A panic in here is one of consensus: note down what is wrong, and let the test panic.
    fn sees(&self, observed: Observed<'_>);

    /// A node's disk was taken away. It does not run, and begins with an empty one if it comes again.
    fn wiped(&self, node: NodeId) {
        let _ = node;
    }
}

impl<F: Fn(Observed<'_>) + Send + Sync + 'static> Observer for F {
    fn sees(&self, observed: Observed<'_>) {
        self(observed);
    }
}
