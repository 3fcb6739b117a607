//! Lets single actors of a node die, for demonstrations and for tests of the supervision.

use ractor::registry::where_is;

use super::{
    NodeRef,
    messages::{
        ApplierMessage, ConsensusMessage, ElectionTimerMessage, LogStoreMessage, NodeMessage, ReplicatorMessage,
        ServerMessage, SnapshotterMessage,
    },
};
use crate::flow::{Crash, Envelope, Message};

impl NodeRef {
    /// Lets the actor at `path` die ("applier", "consensus/replicator 2"; "node" is the root). Returns whether one lives
    /// there. What happens then is the contract of supervision.
    pub fn crash(&self, path: &str, how: Crash) -> bool {
        let Some(actor) = where_is(format!("{}/{path}", self.flow().name())) else { return false };
        match how {
            Crash::Kill => {
                actor.kill();
                true
            }
            Crash::Panic => match path {
                "node" => self.say(&actor, NodeMessage::Crash),
                "log store" => self.say(&actor, LogStoreMessage::Crash),
                "applier" => self.say(&actor, ApplierMessage::Crash),
                "consensus" => self.say(&actor, ConsensusMessage::Crash),
                "consensus/election timer" => self.say(&actor, ElectionTimerMessage::Crash),
                "consensus/snapshotter" => self.say(&actor, SnapshotterMessage::Crash),
                "server" => self.say(&actor, ServerMessage::Crash),
                _ => self.say(&actor, ReplicatorMessage::Crash),
            },
        }
    }

    fn say<M: Message>(&self, actor: &ractor::ActorCell, message: M) -> bool {
        actor.send_message(Envelope::new(self.shared().client, message)).is_ok()
    }
}
