//! Using a cluster, and what can be seen of it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{Cluster, Committed};
use crate::{
    error::{ProposeError, ReadError},
    node::{Consistency, NodeEvent, NodeRef, Status},
    raft::{LogIndex, NodeId, Role, Term},
    state_machine::StateMachine,
    testing::application::Told,
};

/// Using it.
impl<M: StateMachine> Cluster<M> {
    /// Proposes to the leader, which is waited for.
    ///
    /// # Errors
    /// As for [`Node::propose`](crate::node::Node::propose).
    pub async fn propose(&self, command: M::Command) -> Result<Committed<M::Output>, ProposeError> {
        let leader = self.leader().await;
        self.propose_on(leader, command).await
    }

    /// Proposes to a certain node, which forwards the command if it does not lead.
    ///
    /// # Errors
    /// As for [`Node::propose`](crate::node::Node::propose); `Unavailable` if the node does not run.
    ///
    /// # Panics
    /// If there is no answer a second after the request's timeout: no caller may hang.
    pub async fn propose_on(&self, id: NodeId, command: M::Command) -> Result<Committed<M::Output>, ProposeError> {
        let Some(node) = self.node(id) else { return Err(ProposeError::Unavailable { node: id }) };
        let node: &NodeRef = &node;
        let answer = node.propose(command.encode_to_vec().into(), true, node.flow().new_trace());
        let applied = self.promptly(&format!("node {id} to answer a proposal"), answer).await?;
        let output = M::Output::decode(applied.output).expect("the state machine's own output");
        Ok(Committed { output, index: applied.index })
    }

    /// Asks the state machine of a certain node, and tells which index the answer is of.
    ///
    /// # Errors
    /// As for [`Node::read`](crate::node::Node::read); `Unavailable` if the node does not run.
    ///
    /// # Panics
    /// If there is no answer a second after the request's timeout: no caller may hang.
    pub async fn read_on<R: Send + 'static>(
        &self,
        id: NodeId,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        let Some(node) = self.node(id) else { return Err(ReadError::Unavailable { node: id }) };
        self.promptly(&format!("node {id} to answer a read"), node.read_at(consistency, query)).await
    }

    /// What a node's state machine holds now, however old.
    ///
    /// # Panics
    /// If the node does not run.
    pub async fn look<R: Send + 'static>(&self, id: NodeId, query: impl FnOnce(&M) -> R + Send + 'static) -> R {
        let seen = self.read_on(id, Consistency::Stale, query).await;
        seen.unwrap_or_else(|error| panic!("node {id} cannot be looked into: {error}")).0
    }

    /// What a node is; `None` while it does not run.
    pub fn status(&self, id: NodeId) -> Option<Status> {
        self.node(id).map(|node| node.status())
    }

    /// The leader that a majority follows, once there is one.
    pub async fn leader(&self) -> NodeId {
        self.until("a leader that a majority follows", |cluster| cluster.known_leader()).await
    }

    /// The leader that a majority follows now.
    pub fn known_leader(&self) -> Option<NodeId> {
        let statuses: Vec<_> = self.ids().into_iter().filter_map(|id| self.status(id)).collect();
        let leaders = statuses.iter().filter(|status| status.role == Role::Leader);
        let leader = leaders.max_by_key(|status| status.term)?;
        let voters = &leader.membership.voters;
        let follows = |status: &&Status| status.term == leader.term && status.leader == Some(leader.id);
        let following = statuses.iter().filter(follows).filter(|status| voters.contains_key(&status.id)).count();
        (following > voters.len() / 2).then_some(leader.id)
    }

    /// What happened to the nodes so far, as their subscriber was told.
    pub fn events(&self) -> Vec<(NodeId, NodeEvent)> {
        self.0.diary.events()
    }

    /// How nodes ended so far, as their supervisors were told. Crashes of whole nodes are not among them.
    pub fn ends(&self) -> Vec<(NodeId, Told)> {
        self.0.diary.ends()
    }

    /// Who led in which term. "At most one leader can be elected in a given term" (§5.2).
    pub fn leaders(&self) -> BTreeMap<Term, BTreeSet<NodeId>> {
        let mut leaders: BTreeMap<Term, BTreeSet<NodeId>> = BTreeMap::new();
        for (id, event) in self.events() {
            if let NodeEvent::RoleChanged { role: Role::Leader, term, .. } = event {
                leaders.entry(term).or_default().insert(id);
            }
        }
        leaders
    }
}
