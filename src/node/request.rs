//! What an application's actors may say to a node without its handle.

use bytes::Bytes;

use super::{
    messages::ConsensusMessage,
    ports::{ChangePort, ProposePort, ReadPort, SnapshotPort},
};
use crate::{
    flow::Envelope,
    raft::{Change, NodeId},
};

/// A request to a node, sent as a message to [`NodeRef::actor`](super::NodeRef::actor). Each is answered, whatever becomes
/// of the node.
///
/// Unlike the calls of the handle it is not forwarded: a node that does not lead says who does.
///
/// ```
/// use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef};
/// use ractor_raft::{
///     node::{Consistency, Node, NodeRequest},
///     storage::MemoryStorage,
///     testing::{Ledger, Line},
///     transport::InProcess,
/// };
///
/// /// Writes down whatever it is told, and nothing twice at a time.
/// struct Clerk;
///
/// impl Actor for Clerk {
///     type Msg = String;
///     type State = DerivedActorRef<NodeRequest>;
///     type Arguments = DerivedActorRef<NodeRequest>;
///
///     async fn pre_start(&self, _: ActorRef<String>, node: Self::State) -> Result<Self::State, ActorProcessingErr> {
///         Ok(node)
///     }
///
///     async fn handle(&self, _: ActorRef<String>, text: String, node: &mut Self::State) -> Result<(), ActorProcessingErr> {
///         let command = prost::Message::encode_to_vec(&Line::new(text));
///         let written = ractor::call!(node, |port: ractor::RpcReplyPort<_>| NodeRequest::Propose {
///             command: command.into(),
///             port: port.into(),
///         });
///         println!("written at {}", written??.index);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(1, Ledger::default).cluster([(1, "clerk:1")]);
/// let node = node.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await?;
/// node.read(Consistency::Linearizable, |_| ()).await?; // it leads now
/// let (clerk, gone) = Actor::spawn(None, Clerk, node.actor().expect("it runs")).await?;
/// clerk.cast("a line".to_owned())?;
/// clerk.drain()?;
/// gone.await?;
/// assert_eq!(node.read(Consistency::Linearizable, |ledger| ledger.len()).await?, 1);
/// # node.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
pub enum NodeRequest {
    /// Replicate a command.
    Propose {
        /// Encoded as the state machine's [`Command`](crate::StateMachine::Command).
        command: Bytes,
        /// Answered once it is applied.
        port: ProposePort,
    },
    /// Tell which index must have been applied before a linearizable read is served.
    Read {
        /// Whether the leader's lease will do where it has one ([`Consistency::Lease`](super::Consistency::Lease)).
        lease: bool,
        /// Answered with the index.
        port: ReadPort,
    },
    /// Change the cluster's servers.
    ChangeMembership {
        /// How.
        change: Change,
        /// Answered once the change is committed.
        port: ChangePort,
    },
    /// Hand the leadership over.
    TransferLeadership {
        /// To whom. `None`: whoever has most of the log.
        to: Option<NodeId>,
        /// Answered once another leads, or is about to.
        port: ChangePort,
    },
    /// Take a snapshot of this node's own state.
    TakeSnapshot {
        /// Answered with its last entry, once it is on disk.
        port: SnapshotPort,
    },
}

#[cfg(feature = "cluster")]
impl ractor::Message for NodeRequest {}

/// On its way to consensus.
impl From<NodeRequest> for Envelope<ConsensusMessage> {
    fn from(request: NodeRequest) -> Self {
        Envelope::from(match request {
            NodeRequest::Propose { command, port } => ConsensusMessage::Propose { command, port },
            NodeRequest::Read { lease, port } => ConsensusMessage::Read { lease, port },
            NodeRequest::ChangeMembership { change, port } => ConsensusMessage::ChangeMembership { change, port },
            NodeRequest::TransferLeadership { to, port } => ConsensusMessage::TransferLeadership { to, port },
            NodeRequest::TakeSnapshot { port } => ConsensusMessage::TakeSnapshot { port },
        })
    }
}

/// Back again, where it could not be delivered. The rest of consensus' vocabulary is no application's.
impl TryFrom<Envelope<ConsensusMessage>> for NodeRequest {
    type Error = ();

    fn try_from(envelope: Envelope<ConsensusMessage>) -> Result<Self, ()> {
        match envelope.message {
            ConsensusMessage::Propose { command, port } => Ok(NodeRequest::Propose { command, port }),
            ConsensusMessage::Read { lease, port } => Ok(NodeRequest::Read { lease, port }),
            ConsensusMessage::ChangeMembership { change, port } => Ok(NodeRequest::ChangeMembership { change, port }),
            ConsensusMessage::TransferLeadership { to, port } => Ok(NodeRequest::TransferLeadership { to, port }),
            ConsensusMessage::TakeSnapshot { port } => Ok(NodeRequest::TakeSnapshot { port }),
            _ => Err(()),
        }
    }
}
