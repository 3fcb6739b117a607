//! The caller's side of a proposal and of a read: admission, the wait, the leader sought, and never a second try of what
//! may have been applied.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Applied, Consistency,
    admission::{Denied, Permit},
    applier::Query,
    messages::{ApplierMessage, ConsensusMessage},
    ports::{ProposePort, ReadPort},
    shared::Shared,
};
use crate::{
    error::{ProposeError, ReadError},
    flow::{Envelope, Origin, TraceId},
    raft::{LogIndex, NodeId},
    state_machine::StateMachine,
};

/// How long one waits before the second try; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest wait before a try: a heartbeat or so.
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

impl Shared {
    /// See [`NodeRef::propose`](super::NodeRef::propose).
    ///
    /// Asks again only after an answer that says "not applied", and only for as long as an election takes: a write
    /// that comes between two leaders need not fail.
    pub(crate) async fn propose(&self, command: Bytes, forward: bool, trace: TraceId) -> Result<Applied, ProposeError> {
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        let patience = began + self.patience();
        let mut pause = FIRST_PAUSE;
        loop {
            let refused = match self.propose_once(command.clone(), trace, deadline).await {
                Err(ProposeError::NotLeader { leader, .. }) if forward => {
                    self.forward(leader, command.clone(), trace, deadline).await
                }
                answer => answer,
            };
            match refused {
                Err(ProposeError::NoLeader { .. } | ProposeError::Unavailable { .. }) => {}
                Err(ProposeError::NotLeader { .. }) if forward => {}
                answer => return answer,
            }
            if self.verdict.get().is_some() || !self.leader_within(patience.min(deadline), &mut pause).await {
                return refused;
            }
        }
    }

    async fn propose_once(&self, command: Bytes, trace: TraceId, deadline: Instant) -> Result<Applied, ProposeError> {
        let (node, limit) = (self.id(), self.config.max_entry_bytes);
        if command.len() > limit {
            return Err(ProposeError::TooLarge { size: command.len(), limit });
        }
        let (port, answer) = ProposePort::new(self.admit_command(&command)?, node);
        self.submit(Envelope::new(self.called(trace), ConsensusMessage::Propose { command, port }));
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ProposeError::Unknown { reason: format!("node {node} dropped the call") }),
            Err(_) => Err(self.too_late("it was not committed")),
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        command: Bytes,
        trace: TraceId,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        // Held until the answer is here: the call waits at this node as any other does.
        let _permit = self.admit_command(&command)?;
        let Some(link) = self.link(leader, Arc::new(|_| {})) else { return Err(self.not_leader(None)) };
        match timeout_at(deadline, self.transport.propose(&link, command, trace)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.too_late(&format!("node {leader} did not answer"))),
        }
    }

    fn admit_command(&self, command: &Bytes) -> Result<Permit, ProposeError> {
        self.admission.admit(command.len()).map_err(|denied| match denied {
            Denied::Closed => ProposeError::Unavailable { node: self.id() },
            Denied::Busy(limit) => self.busy(limit),
        })
    }

    fn too_late(&self, what: &str) -> ProposeError {
        ProposeError::Unknown { reason: format!("{what} within {:?} (request_timeout)", self.config.request_timeout) }
    }

    /// See [`Node::read_at`](super::Node::read_at).
    pub(crate) async fn read_at<M: StateMachine, R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        let node = self.id();
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        let trace = self.flow.new_trace();
        // Held until the answer is here: it counts those who wait.
        let permit = Arc::new(self.admit_read()?);
        let at_least = match consistency {
            Consistency::Linearizable => self.read_index(&permit, trace, began, deadline).await?,
            Consistency::AtLeast(index) => index,
            Consistency::Stale => 0,
        };
        let (port, answer) = oneshot::channel();
        let query: Box<dyn Query> = Box::new(TypedQuery { at_least, query, port, machine: std::marker::PhantomData });
        if self.applier.send(self.called(trace), ApplierMessage::Query(query)).is_err() {
            return Err(ReadError::Unavailable { node });
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok((Ok(result), at))) => Ok((result, at)),
            Ok(Ok((Err(panic), _))) => resume_unwind(panic),
            Ok(Err(_)) => Err(ReadError::Unavailable { node }),
            Err(_) => Err(ReadError::TimedOut { node, waited: began.elapsed() }),
        }
    }

    /// The index that a linearizable read must see (thesis §6.4).
    async fn read_index(
        &self,
        permit: &Arc<Permit>,
        trace: TraceId,
        began: Instant,
        deadline: Instant,
    ) -> Result<LogIndex, ReadError> {
        let node = self.id();
        let patience = began + self.patience();
        let mut pause = FIRST_PAUSE;
        loop {
            let (port, answer) = ReadPort::new(permit.clone(), node);
            self.submit(Envelope::new(self.called(trace), ConsensusMessage::Read { port }));
            let refused = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(read_index))) => return Ok(read_index),
                Ok(Ok(Err(refused))) => refused,
                Ok(Err(_)) => ReadError::Unavailable { node },
                Err(_) => return Err(ReadError::TimedOut { node, waited: began.elapsed() }),
            };
            let may_change = !matches!(refused, ReadError::Busy { .. }) && self.verdict.get().is_none();
            if !may_change || !self.leader_within(patience.min(deadline), &mut pause).await {
                return Err(match refused {
                    ReadError::TimedOut { node, .. } => ReadError::TimedOut { node, waited: began.elapsed() },
                    other => other,
                });
            }
        }
    }

    fn admit_read(&self) -> Result<Permit, ReadError> {
        self.admission.admit(0).map_err(|denied| match denied {
            Denied::Closed => ReadError::Unavailable { node: self.id() },
            Denied::Busy(limit) => self.read_busy(limit),
        })
    }

    /// How long a leader is waited for: two elections, the second for the case that the first one's votes were split.
    fn patience(&self) -> Duration {
        2 * self.config.election_timeout_max
    }

    /// Pauses, and then waits until a leader is known. Returns whether there is one before `deadline`.
    async fn leader_within(&self, deadline: Instant, pause: &mut Duration) -> bool {
        let leader = async {
            sleep(*pause).await;
            *pause = (2 * *pause).min(LONGEST_PAUSE);
            loop {
                let known = self.leader_known.notified();
                tokio::pin!(known);
                known.as_mut().enable();
                if self.standing.borrow().leader.is_some() {
                    return;
                }
                known.await;
            }
        };
        timeout_at(deadline, leader).await.is_ok()
    }

    fn called(&self, trace: TraceId) -> Origin {
        Origin { trace, ..self.client }
    }
}

/// What became of a query, and at which index.
type Answer<R> = (Result<R, Box<dyn Any + Send>>, LogIndex);

struct TypedQuery<M, R, F> {
    at_least: LogIndex,
    query: F,
    port: oneshot::Sender<Answer<R>>,
    machine: std::marker::PhantomData<fn(&M)>,
}

impl<M: StateMachine, R: Send, F: FnOnce(&M) -> R + Send> Query for TypedQuery<M, R, F> {
    fn at_least(&self) -> LogIndex {
        self.at_least
    }

    fn run(self: Box<Self>, machine: &dyn Any, at: LogIndex) {
        let machine = machine.downcast_ref::<M>().expect("a query is made by a handle of this state machine's type");
        let query = self.query;
        // The state machine is only looked at, so a panic leaves it whole.
        let answer = catch_unwind(AssertUnwindSafe(|| query(machine)));
        let _ = self.port.send((answer, at));
    }

    fn abandoned(&self) -> bool {
        self.port.is_closed()
    }
}
