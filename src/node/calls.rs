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
    Applied, Consistency, ReadPoint,
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
        self: &Arc<Self>,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        let node = self.id();
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        let trace = self.flow.new_trace();
        // Held until the answer is here: it counts those who wait.
        let permit = Arc::new(self.admit_read()?);
        let (mut consistency, mut query) = (consistency, query);
        loop {
            let ReadPoint { index, lease_until } = match consistency {
                Consistency::Linearizable => self.read_point(false, &permit, trace, began, deadline).await?,
                Consistency::Lease => self.read_point(true, &permit, trace, began, deadline).await?,
                Consistency::AtLeast(index) => ReadPoint { index, lease_until: None },
                Consistency::Stale => ReadPoint { index: 0, lease_until: None },
            };
            let (port, answer) = oneshot::channel();
            let lease = lease_until.map(|until| (self.clone(), until));
            let machine = std::marker::PhantomData;
            let asked: Box<dyn Query> = Box::new(TypedQuery { at_least: index, lease, query, port, machine });
            if self.applier.send(self.called(trace), ApplierMessage::Query(asked)).is_err() {
                return Err(ReadError::Unavailable { node });
            }
            match timeout_at(deadline, answer).await {
                Ok(Ok(Answer::Of(result, at))) => return Ok((result, at)),
                Ok(Ok(Answer::Panicked(panic))) => resume_unwind(panic),
                // The lease ran out before the state machine was asked.
                Ok(Ok(Answer::TooLate(unasked))) => (consistency, query) = (Consistency::Linearizable, unasked),
                Ok(Err(_)) => return Err(ReadError::Unavailable { node }),
                Err(_) => return Err(ReadError::TimedOut { node, waited: began.elapsed() }),
            }
        }
    }

    /// What a linearizable read must see (thesis §6.4).
    async fn read_point(
        &self,
        lease: bool,
        permit: &Arc<Permit>,
        trace: TraceId,
        began: Instant,
        deadline: Instant,
    ) -> Result<ReadPoint, ReadError> {
        let node = self.id();
        let patience = began + self.patience();
        let mut pause = FIRST_PAUSE;
        loop {
            let (port, answer) = ReadPort::new(permit.clone(), node);
            self.submit(Envelope::new(self.called(trace), ConsensusMessage::Read { lease, port }));
            let refused = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(point))) => return Ok(point),
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

/// What became of a query.
enum Answer<R, F> {
    /// Its result, and of which index the state was.
    Of(R, LogIndex),
    Panicked(Box<dyn Any + Send>),
    /// It was not asked: the lease that it came under is over.
    TooLate(F),
}

struct TypedQuery<M, R, F> {
    at_least: LogIndex,
    /// Until when the state machine may be asked, and whose lease that is.
    lease: Option<(Arc<Shared>, Duration)>,
    query: F,
    port: oneshot::Sender<Answer<R, F>>,
    machine: std::marker::PhantomData<fn(&M)>,
}

impl<M: StateMachine, R: Send, F: FnOnce(&M) -> R + Send> Query for TypedQuery<M, R, F> {
    fn at_least(&self) -> LogIndex {
        self.at_least
    }

    fn run(self: Box<Self>, machine: &dyn Any, at: LogIndex) {
        let TypedQuery { lease, query, port, .. } = *self;
        // Nothing is applied between this look at the clock and the look at the state: the answer is of this moment (R04).
        if lease.is_some_and(|(shared, until)| !shared.lease_holds(until)) {
            let _ = port.send(Answer::TooLate(query));
            return;
        }
        let machine = machine.downcast_ref::<M>().expect("a query is made by a handle of this state machine's type");
        // The state machine is only looked at, so a panic leaves it whole.
        let answer = catch_unwind(AssertUnwindSafe(|| query(machine)));
        let _ = port.send(answer.map_or_else(Answer::Panicked, |result| Answer::Of(result, at)));
    }

    fn abandoned(&self) -> bool {
        self.port.is_closed()
    }
}
