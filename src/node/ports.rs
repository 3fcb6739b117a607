//! Where a client's answer goes. A port that is dropped answers by itself, so that no caller is ever left hanging.

use std::sync::Arc;

use ractor::RpcReplyPort;
use tokio::sync::oneshot;

use crate::{
    error::{ProposeError, ReadError},
    node::{Applied, admission::Permit},
    raft::{LogIndex, NodeId},
};

/// Answers a proposal. `Unknown` if it is dropped after consensus took the command, `Unavailable` if before.
pub struct ProposePort(Port<Result<Applied, ProposeError>>);

/// Answers a read with the index that it must see.
pub struct ReadPort(Port<Result<LogIndex, ReadError>>);

/// An answer that can be given by a port that nobody answered through.
trait Answer: Send + 'static {
    fn lost(node: NodeId, taken: bool) -> Self;
}

struct Port<A: Answer> {
    reply: Option<RpcReplyPort<A>>,
    /// Given back when the call is answered. A read's is shared with its caller, who then waits for the applier.
    permit: Option<Arc<Permit>>,
    /// Who was asked; 0 until a node has taken the call.
    node: NodeId,
    /// Whether consensus has given the call to the core.
    taken: bool,
}

impl ProposePort {
    pub(crate) fn new(permit: Permit, node: NodeId) -> (Self, oneshot::Receiver<Result<Applied, ProposeError>>) {
        let (port, receiver) = Port::new(permit.into(), node);
        (ProposePort(port), receiver)
    }

    /// Gives the answer and the permit back.
    pub(crate) fn answer(self, answer: Result<Applied, ProposeError>) {
        self.0.answer(answer);
    }

    /// Whether it still needs a permit, because it came past the admission.
    pub(crate) fn needs_permit(&self) -> bool {
        self.0.permit.is_none()
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn abandoned(&self) -> bool {
        self.0.abandoned()
    }

    pub(crate) fn permit(&mut self, permit: Permit) {
        self.0.permit = Some(permit.into());
    }

    pub(crate) fn take(&mut self, node: NodeId) {
        self.0.take(node);
    }
}

impl ReadPort {
    pub(crate) fn new(permit: Arc<Permit>, node: NodeId) -> (Self, oneshot::Receiver<Result<LogIndex, ReadError>>) {
        let (port, receiver) = Port::new(permit, node);
        (ReadPort(port), receiver)
    }

    /// Gives the answer and the permit back.
    pub(crate) fn answer(self, answer: Result<LogIndex, ReadError>) {
        self.0.answer(answer);
    }

    pub(crate) fn needs_permit(&self) -> bool {
        self.0.permit.is_none()
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn abandoned(&self) -> bool {
        self.0.abandoned()
    }

    pub(crate) fn permit(&mut self, permit: Permit) {
        self.0.permit = Some(permit.into());
    }

    pub(crate) fn take(&mut self, node: NodeId) {
        self.0.take(node);
    }
}

/// A user's actor that casts to [`NodeRef::actor`](crate::node::NodeRef::actor) itself makes its port of ractor's.
impl From<RpcReplyPort<Result<Applied, ProposeError>>> for ProposePort {
    fn from(reply: RpcReplyPort<Result<Applied, ProposeError>>) -> Self {
        ProposePort(Port { reply: Some(reply), permit: None, node: 0, taken: false })
    }
}

impl From<RpcReplyPort<Result<LogIndex, ReadError>>> for ReadPort {
    fn from(reply: RpcReplyPort<Result<LogIndex, ReadError>>) -> Self {
        ReadPort(Port { reply: Some(reply), permit: None, node: 0, taken: false })
    }
}

impl<A: Answer> Port<A> {
    fn new(permit: Arc<Permit>, node: NodeId) -> (Self, oneshot::Receiver<A>) {
        let (sender, receiver) = oneshot::channel();
        (Port { reply: Some(sender.into()), permit: Some(permit), node, taken: false }, receiver)
    }

    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(RpcReplyPort::is_closed)
    }

    fn take(&mut self, node: NodeId) {
        self.node = node;
        self.taken = true;
    }

    fn answer(mut self, answer: A) {
        // The permit first: whoever hears the answer may ask again at once.
        self.permit = None;
        if let Some(reply) = self.reply.take() {
            // A caller that has stopped waiting is no failure.
            let _ = reply.send(answer);
        }
    }
}

impl<A: Answer> Drop for Port<A> {
    fn drop(&mut self) {
        self.permit = None;
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(A::lost(self.node, self.taken));
        }
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
}

impl Answer for Result<LogIndex, ReadError> {
    fn lost(node: NodeId, _: bool) -> Self {
        Err(ReadError::Unavailable { node })
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
