//! Shows what is about to be carried out to whoever looks on. Without the feature `testing` nobody does.

use super::Consensus;
#[cfg(any(test, feature = "testing"))]
use crate::node::observer::Observed;
use crate::{flow::Context, node::messages::ConsensusMessage, raft::Effect};

impl Consensus {
    /// `released_by` is the write that these effects had waited for, if they had; `begins` says that this is the first step
    /// of a life.
    pub(super) fn show_observer(
        &self,
        effects: &[Effect],
        released_by: Option<u64>,
        begins: bool,
        context: &Context<ConsensusMessage>,
    ) {
        #[cfg(any(test, feature = "testing"))]
        if let Some(observer) = &self.shared.seams.observer {
            let (node, life, now) = (self.shared.id(), context.incarnation(), self.shared.clock.now());
            observer.sees(Observed { node, life, now, raft: &self.raft, effects, released_by, begins });
        }
        #[cfg(not(any(test, feature = "testing")))]
        let _ = (effects, released_by, begins, context);
    }
}
