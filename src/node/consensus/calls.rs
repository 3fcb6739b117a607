//! Who waits for the core: let in, waiting, and let go once nobody waits any more.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Consensus;
use crate::{
    flow::Context,
    node::{
        admission::Denied,
        messages::ConsensusMessage,
        ports::{Answer, ChangePort, Port, ProposePort, ReadPort, SnapshotPort},
        shared::Shared,
    },
    raft::{CallId, NodeId, Reply, Role},
};

/// So many calls are taken at once; then it is the others' turn.
const SLICE: usize = 256;

/// Calls that nobody waits for any more are looked for so often.
const SWEEP: Duration = Duration::from_secs(1);

/// Who waits.
pub(super) enum Call {
    Propose(ProposePort),
    Read(ReadPort),
    Change(ChangePort),
    /// Of this server.
    Request(NodeId, oneshot::Sender<Reply>),
    TakeSnapshot(SnapshotPort),
}

impl Call {
    fn abandoned(&self) -> bool {
        match self {
            Call::Propose(port) => port.abandoned(),
            Call::Read(port) => port.abandoned(),
            Call::Change(port) => port.abandoned(),
            Call::TakeSnapshot(port) => port.abandoned(),
            Call::Request(_, port) => port.is_closed(),
        }
    }
}

impl Consensus {
    /// A slice of the admission queue; the rest comes behind what stands in the mailbox by then.
    pub(super) fn take_calls(&mut self, context: &mut Context<ConsensusMessage>) {
        for _ in 0..SLICE {
            let Some(call) = self.intake.next() else { break };
            context.within(call, |message, context| self.hear(message, context));
        }
        if self.intake.more() {
            let _ = context.send(context.myself(), ConsensusMessage::CallsWaiting);
        }
    }

    /// A call of so many bytes that the core may take; `None`: it has its answer, or nobody waits for one.
    pub(super) fn let_in<A: Answer>(
        &self,
        mut port: Port<A>,
        bytes: usize,
        busy: impl FnOnce(&Shared, String) -> A,
    ) -> Option<Port<A>> {
        if port.abandoned() {
            // Its caller was told that nobody knows. Now it is not applied, which is one of the two.
            return None;
        }
        let node = self.shared.id();
        if port.needs_permit() {
            match self.shared.admission.admit(bytes) {
                Ok(permit) => port.permit(permit),
                Err(denied) => {
                    let answer = match denied {
                        Denied::Closed => A::lost(node, false),
                        Denied::Busy(limit) => busy(&self.shared, limit),
                    };
                    // Without a permit the port does not know where.
                    answer.result().into_iter().for_each(|result| self.shared.admission.answered.count(result));
                    port.answer(answer);
                    return None;
                }
            }
        }
        port.take(node);
        Some(port)
    }

    /// Whoever gave up waiting takes no permit any more, though the fate of what was proposed may be open for as long as this
    /// server is cut off: else those who come later would be refused for its sake. A server whose calls stay open has lost
    /// touch, so its alarm rings. What a leader took in stands in its log, which nothing else bounds (C02): those permits stay
    /// taken while it leads.
    pub(super) fn let_go_of_abandoned(&mut self) {
        let now = self.shared.clock.now();
        if now >= self.swept + SWEEP {
            self.swept = now;
            let leads = self.raft.role() == Role::Leader;
            self.calls.retain(|_, call| !call.abandoned() || (leads && matches!(call, Call::Propose(_))));
        }
    }

    pub(super) fn wait(&mut self, call: Call) -> CallId {
        self.last_call += 1;
        self.calls.insert(self.last_call, call);
        self.last_call
    }
}
