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
    /// This node leads, and a peer's disk has lost entries that it had acknowledged (L08, R007). The peer gets no more
    /// until it is replaced.
    PeerLostData {
        /// Who.
        peer: NodeId,
    },
    /// This node was removed from the cluster (R008): it campaigns no more.
    Removed,
    /// The cluster knows this node by another disk (R007): it takes no part until it is replaced.
    Wiped,
    /// The disk has no room for what is to be written (R016), or has room again.
    DiskFull {
        /// Whether it has none.
        full: bool,
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

    /// One that a task reads, which is told no more once it is `capacity` events behind.
    #[cfg(feature = "grpc")]
    pub(crate) fn of_task(capacity: usize) -> (Self, tokio::sync::mpsc::Receiver<NodeEvent>) {
        let (events, told) = tokio::sync::mpsc::channel(capacity);
        (Subscriber { tell: Box::new(move |event| events.try_send(event).is_ok()) }, told)
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
            _ => {}
        }
        self.all.retain(|subscriber| subscriber.tell(event.clone()));
    }
}

#[cfg(all(test, feature = "grpc"))]
mod tests {
    use super::*;

    // Fails when: `of_task` waits for room, or drops an event and goes on.
    #[test]
    fn a_reader_that_is_too_slow_is_told_no_more_and_misses_nothing_before() {
        let mut subscribers = Subscribers::default();
        let (subscriber, mut events) = Subscriber::of_task(3);
        subscribers.add(subscriber);
        let lost = |peer| NodeEvent::PeerLostData { peer };
        (1..=5).for_each(|peer| subscribers.publish(lost(peer)));
        assert!(subscribers.all.is_empty());
        let told: Vec<_> = std::iter::from_fn(|| events.blocking_recv()).collect();
        assert_eq!(told, [lost(1), lost(2), lost(3)]);
    }
}
