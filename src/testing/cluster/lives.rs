//! The lives of a cluster's nodes: how they begin and end.

use std::sync::Arc;

use ractor::ActorRef;
use rand::RngExt;

use super::{Cluster, Running, Seat};
#[cfg(feature = "sqlite")]
use crate::testing::setup::Disk;
use crate::{
    error::NodeError,
    node::Node,
    raft::{Address, NodeId},
    state_machine::StateMachine,
    testing::{
        application::{Application, Heard, kill_tree},
        pace::{Pace, Paced},
        setup::address_of,
    },
};

/// Its nodes' lives.
impl<M: StateMachine> Cluster<M> {
    /// Cuts a node's power: all its actors are gone at once, and its disk keeps only what was durable. Does nothing to a
    /// node that does not run.
    pub async fn crash(&self, id: NodeId) {
        let Some(Running { node, application }) = self.running().remove(&id) else { return };
        self.0.network.set_down(id, true);
        #[cfg(feature = "sqlite")]
        if let Disk::Simulated(disk) = self.seat(id).disk {
            disk.power_loss(&mut *self.random());
        }
        self.end(id, node, application).await;
    }

    /// Kills a node's process: all its actors are gone at once, and its disk keeps what was written, durable or not.
    pub async fn kill(&self, id: NodeId) {
        let Some(Running { node, application }) = self.running().remove(&id) else { return };
        self.0.network.set_down(id, true);
        #[cfg(feature = "sqlite")]
        if let Disk::Simulated(disk) = self.seat(id).disk {
            disk.process_crash();
        }
        self.end(id, node, application).await;
    }

    async fn end(&self, id: NodeId, node: Node<M>, application: ActorRef<Heard>) {
        application.kill();
        self.within("every actor of a crashed node to be gone", kill_tree(&node)).await;
        // Nobody waits for a stopped process that was killed, nor for the disk of one.
        node.flow().resume();
        self.seat(id).pace.recover();
        self.0.network.set_down(id, false);
    }

    /// Shuts a node down in order, and waits until it is gone.
    ///
    /// # Errors
    /// It had stopped by itself before, because of this.
    pub async fn stop(&self, id: NodeId) -> Result<(), NodeError> {
        let Some(Running { node, application }) = self.running().remove(&id) else { return Ok(()) };
        node.flow().resume();
        let stopped = self.within(&format!("node {id} to shut down"), node.shutdown()).await;
        application.stop(None);
        let _ = application.wait(None).await;
        self.seat(id).pace.recover();
        stopped
    }

    /// Starts a node that is none of the first members, on an empty disk: it asks those that run to be added, and this
    /// returns when it was. It catches up and becomes a voter by itself.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn join(&self, id: NodeId) -> Node<M> {
        self.try_join(id).await.unwrap_or_else(|error| panic!("node {id} does not join: {error}"))
    }

    /// As [`join`](Cluster::join), where it may be refused.
    ///
    /// # Errors
    /// What [`spawn_linked`](crate::node::Builder::spawn_linked) says.
    pub async fn try_join(&self, id: NodeId) -> Result<Node<M>, NodeError> {
        let (address, disk) = (self.address(id), (self.0.new_disk)(id));
        self.seats().entry(id).or_insert(Seat { address, disk, pace: Pace::new(id), joins: true }).joins = true;
        self.try_restart(id).await
    }

    /// Cuts a node's power, and gives it an empty disk.
    pub async fn wipe(&self, id: NodeId) {
        self.crash(id).await;
        if let Some(observer) = &self.0.observer {
            observer.wiped(id);
        }
        let disk = (self.0.new_disk)(id);
        if let Some(seat) = self.seats().get_mut(&id) {
            seat.disk = disk;
        }
    }

    /// Where a node of this number is, or would be.
    pub fn address(&self, id: NodeId) -> Address {
        address_of(id)
    }

    /// Starts a node from its disk. One that still runs is crashed before.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&self, id: NodeId) -> Node<M> {
        self.try_restart(id).await.unwrap_or_else(|error| panic!("node {id} does not start: {error}"))
    }

    /// As [`restart`](Cluster::restart), for a disk that may refuse.
    ///
    /// # Errors
    /// What [`spawn_linked`](crate::node::Builder::spawn_linked) says.
    pub async fn try_restart(&self, id: NodeId) -> Result<Node<M>, NodeError> {
        self.crash(id).await;
        let (inner, factory) = (&self.0, self.0.factory.clone());
        let seed = self.random().random();
        let Seat { address, disk, pace, joins } = self.seat(id);
        let builder = Node::builder(id, move || factory());
        let builder = if joins {
            let others: Vec<_> =
                self.seats().iter().filter(|(other, _)| **other != id).map(|(_, seat)| seat.address.clone()).collect();
            builder.join(others).listen(address)
        } else {
            builder.cluster(inner.members.clone()).cluster_name(inner.name.clone())
        };
        let builder = builder
            .config(inner.config.clone())
            .restart_policy(inner.policy)
            .transport(inner.transport.clone())
            .recorded(inner.recorded)
            .seed(seed);
        let builder = match &inner.observer {
            Some(observer) => builder.observer(observer.clone()),
            None => builder,
        };
        let own = inner.saboteur.as_ref().map(|make| make(id));
        let builder = builder
            .sabotage(Arc::new(inner.strikes.after(own)))
            .clock_rate((inner.clock_rate)(id))
            .storage(Paced { storage: disk.storage(), pace });
        let application = Application::start(id, inner.diary.clone()).await;
        let started = self.within(&format!("node {id} to start"), builder.spawn_linked(application.get_cell())).await;
        if started.is_err() {
            application.stop(None);
            let _ = application.wait(None).await;
        }
        let node = started?;
        Application::subscribe(&application, &node);
        self.running().insert(id, Running { node: node.clone(), application });
        Ok(node)
    }
}
