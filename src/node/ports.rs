//! Where a client's answer goes. A port that is dropped answers by itself, so that no caller is ever left hanging.

use std::sync::Arc;

use ractor::RpcReplyPort;
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{ChangeError, ProposeError, ReadError, SnapshotError},
    node::{Applied, ReadPoint, admission::Permit, answered},
    raft::{LogIndex, NodeId},
};

/// Answers a proposal. `Unknown` if it is dropped after consensus took the command, `Unavailable` if before.
pub type ProposePort = Port<Result<Applied, ProposeError>>;

/// Answers a read with what it must see. `Unavailable` if it is dropped.
pub type ReadPort = Port<Result<ReadPoint, ReadError>>;

/// Answers a call for a snapshot with its last entry. `Unavailable` if it is dropped.
pub type SnapshotPort = Port<Result<LogIndex, SnapshotError>>;
/// Answers an operator's order with the entry of the change; 0 where there was none to make. `Unknown` if it is dropped
/// after consensus took the order, `Unavailable` if before.
pub type ChangePort = Port<Result<LogIndex, ChangeError>>;

/// An answer that can be given by a port that nobody answered through.
pub trait Answer: Send + 'static {
    /// What `node` answers to a call that was `taken` by consensus, or was not.
    fn lost(node: NodeId, taken: bool) -> Self;

    /// By which name it is counted where answers of its kind are.
    fn result(&self) -> Option<&'static str> {
        None
    }
}

/// Where the answer to one call goes.
pub struct Port<A: Answer> {
    reply: Option<ReplyTo<A>>,
    /// Given back when the call is answered. A read's is shared with its caller, who then waits for the applier; calls
    /// that came together share one, which is given back with the last of them.
    permit: Option<Arc<Permit>>,
    /// Who was asked; 0 until a node has taken the call.
    node: NodeId,
    /// Whether consensus has given the call to the core.
    taken: bool,
    /// Whether the caller counts what came of it, perhaps after other tries.
    counted: bool,
}

/// The way to one who waits.
enum ReplyTo<A> {
    /// For this call alone.
    Caller(RpcReplyPort<A>),
    /// For many calls, each under its own number: a stream's.
    Stream(mpsc::UnboundedSender<(u64, A)>, u64),
}

impl<A: Answer> ReplyTo<A> {
    fn is_closed(&self) -> bool {
        match self {
            ReplyTo::Caller(port) => port.is_closed(),
            ReplyTo::Stream(answers, _) => answers.is_closed(),
        }
    }

    fn send(self, answer: A) {
        // A caller that has stopped waiting is no failure.
        match self {
            ReplyTo::Caller(port) => drop(port.send(answer)),
            ReplyTo::Stream(answers, number) => drop(answers.send((number, answer))),
        }
    }
}

/// A user's actor that casts to [`NodeRef::actor`](crate::node::NodeRef::actor) itself makes its port of ractor's.
impl<A: Answer> From<RpcReplyPort<A>> for Port<A> {
    fn from(reply: RpcReplyPort<A>) -> Self {
        Port { reply: Some(ReplyTo::Caller(reply)), permit: None, node: 0, taken: false, counted: false }
    }
}

impl<A: Answer> Port<A> {
    /// For a caller who counts what comes of it.
    pub(crate) fn new(permit: impl Into<Arc<Permit>>, node: NodeId) -> (Self, oneshot::Receiver<A>) {
        let (sender, receiver) = oneshot::channel();
        let reply = Some(ReplyTo::Caller(sender.into()));
        (Port { reply, permit: Some(permit.into()), node, taken: false, counted: true }, receiver)
    }

    /// One of many whose answers go to `answers`, this one's under `number`.
    pub(crate) fn of_stream(
        permit: Arc<Permit>,
        node: NodeId,
        answers: mpsc::UnboundedSender<(u64, A)>,
        number: u64,
    ) -> Self {
        let reply = Some(ReplyTo::Stream(answers, number));
        Port { reply, permit: Some(permit), node, taken: false, counted: false }
    }

    /// For a call that an operator makes: it waits behind no limit.
    pub(crate) fn without_permit(node: NodeId) -> (Self, oneshot::Receiver<A>) {
        let (sender, receiver) = oneshot::channel();
        let reply = Some(ReplyTo::Caller(sender.into()));
        (Port { reply, permit: None, node, taken: false, counted: false }, receiver)
    }

    /// Whether it still needs a permit, because it came past the admission.
    pub(crate) fn needs_permit(&self) -> bool {
        self.permit.is_none()
    }

    pub(crate) fn permit(&mut self, permit: Permit) {
        self.permit = Some(permit.into());
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(ReplyTo::is_closed)
    }

    /// Consensus of `node` gives the call to the core.
    pub(crate) fn take(&mut self, node: NodeId) {
        self.node = node;
        self.taken = true;
    }

    /// Gives the answer and the permit back.
    pub(crate) fn answer(mut self, answer: A) {
        self.settle(|_, _| answer);
    }

    fn settle(&mut self, answer: impl FnOnce(NodeId, bool) -> A) {
        let Some(reply) = self.reply.take() else { return };
        let answer = answer(self.node, self.taken);
        if let (Some(permit), Some(result)) = (&self.permit, answer.result()) {
            if result == answered::APPLIED {
                permit.answered().times.add_shared(permit.age());
            }
            if !self.counted {
                permit.answered().count(result);
            }
        }
        // The permit first: whoever hears the answer may ask again at once.
        self.permit = None;
        reply.send(answer);
    }
}

impl<A: Answer> Drop for Port<A> {
    fn drop(&mut self) {
        self.settle(A::lost);
    }
}

impl Answer for Result<Applied, ProposeError> {
    fn lost(node: NodeId, taken: bool) -> Self {
        Err(if taken {
            ProposeError::Unknown { reason: format!("node {node} stopped or started its actors anew meanwhile") }
        } else {
            ProposeError::Unavailable { node }
        })
    }

    fn result(&self) -> Option<&'static str> {
        Some(answered::result(self))
    }
}

impl Answer for Result<ReadPoint, ReadError> {
    fn lost(node: NodeId, _: bool) -> Self {
        Err(ReadError::Unavailable { node })
    }
}

impl Answer for Result<LogIndex, SnapshotError> {
    fn lost(node: NodeId, _: bool) -> Self {
        Err(SnapshotError::Unavailable { node })
    }
}

impl Answer for Result<LogIndex, ChangeError> {
    fn lost(node: NodeId, taken: bool) -> Self {
        Err(if taken {
            ChangeError::Unknown { reason: format!("node {node} stopped or started its actors anew meanwhile") }
        } else {
            ChangeError::Unavailable { node }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::admission::Admission;

    // Fails when: `Port` has no `Drop`, or `take` is not remembered.
    #[test]
    fn a_dropped_port_says_whether_the_command_may_have_been_applied() {
        let admission = Admission::new(10, 1000);
        let (port, mut untaken) = ProposePort::new(admission.admit(10).ok().expect("there is room"), 1);
        drop(port);
        assert_eq!(untaken.try_recv(), Ok(Err(ProposeError::Unavailable { node: 1 })));

        let (mut port, mut taken) = ProposePort::new(admission.admit(10).ok().expect("there is room"), 1);
        port.take(1);
        drop(port);
        assert!(matches!(taken.try_recv(), Ok(Err(ProposeError::Unknown { .. }))));
        assert_eq!(admission.pending(), 0);
    }
}
