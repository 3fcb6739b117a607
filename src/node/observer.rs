//! Shows a test what consensus decides, step by step, so that the rules can be checked where they really run.

use std::{sync::Arc, time::Duration};

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
}

/// Looks on. It is called by consensus before anything of `effects` leaves it.
pub trait Observer: Send + Sync + 'static {
    /// A panic in here is one of consensus: note down what is wrong, and let the test panic.
    fn sees(&self, observed: Observed<'_>);
}

impl<F: Fn(Observed<'_>) + Send + Sync + 'static> Observer for F {
    fn sees(&self, observed: Observed<'_>) {
        self(observed);
    }
}

/// Where one is kept that need not be there.
pub(crate) type MaybeObserver = Option<Arc<dyn Observer>>;
