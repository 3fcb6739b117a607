//! What a node tells the actors that subscribed to it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ractor::{ActorRef, Message};

use crate::{
    error::NodeError,
    raft::{LogIndex, Membership, NodeId, Role, Term},
};

/// Something happened to a node. Subscribers hear all of it, in order, from what is the case when they subscribe on.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Its role, term or known leader changed.
    RoleChanged {
        /// What it is now.
        role: Role,
        /// In which term.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// The servers of the cluster changed.
    MembershipChanged(Membership),
    /// It took a snapshot of its state machine, and its log may be compacted up to there.
    SnapshotTaken {
        /// The last entry in it.
        index: LogIndex,
    },
    /// Its state machine was put at a snapshot that came from the leader.
    SnapshotInstalled {
        /// The last entry in it.
        index: LogIndex,
    },
    /// An actor of the tree died and was started again; a keeper together with the other keepers.
    ActorRestarted {
        /// Its place in the tree: "applier", "consensus/replicator 2", …
        path: String,
        /// Why it died.
        cause: String,
    },
    /// The node stopped: `None` because it was told to. The last event.
    Stopped {
        /// What its supervisor was told.
        cause: Option<NodeError>,
    },
}

/// An actor that hears a node's events, as messages of its own vocabulary.
pub struct Subscriber {
    tell: Box<dyn Fn(NodeEvent) -> bool + Send>,
}

impl Subscriber {
    pub(crate) fn new<M: Message>(actor: &ActorRef<M>, message: impl Fn(NodeEvent) -> M + Send + 'static) -> Self {
        let actor = actor.clone();
        Subscriber { tell: Box::new(move |event| actor.cast(message(event)).is_ok()) }
    }

    /// Returns whether it may be told more. Its closure is the application's, and so is a panic in it: the root, which
    /// calls it, goes on without this subscriber.
    fn tell(&self, event: NodeEvent) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.tell)(event))).unwrap_or_else(|_| {
            tracing::error!("a subscriber panicked at an event of the node and is told no more");
            false
        })
    }
}

/// Everyone who subscribed, and what a new one is told first.
#[derive(Default)]
pub(crate) struct Subscribers {
    all: Vec<Subscriber>,
    role: Option<NodeEvent>,
    membership: Option<NodeEvent>,
}

impl Subscribers {
    pub(crate) fn add(&mut self, subscriber: Subscriber) {
        let now = [self.membership.clone(), self.role.clone()];
        if now.into_iter().flatten().all(|event| subscriber.tell(event)) {
            self.all.push(subscriber);
        }
    }

    /// Tells everyone; forgets those who are gone or panicked.
    pub(crate) fn publish(&mut self, event: NodeEvent) {
        match &event {
            NodeEvent::RoleChanged { .. } => self.role = Some(event.clone()),
            NodeEvent::MembershipChanged(_) => self.membership = Some(event.clone()),
            NodeEvent::SnapshotTaken { .. }
            | NodeEvent::SnapshotInstalled { .. }
            | NodeEvent::ActorRestarted { .. }
            | NodeEvent::Stopped { .. } => {}
        }
        self.all.retain(|subscriber| subscriber.tell(event.clone()));
    }
}
