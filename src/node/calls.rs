//! The caller's side of a proposal and of a read: admission, the wait, the leader sought, and never a second try of what
//! may have been applied, unless a session sees to it that it counts once.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    Applied, Consistency, ReadPoint,
    admission::{Denied, Permit},
    answered,
    applier::Query,
    messages::{ApplierMessage, ConsensusMessage},
    ports::{ProposePort, ReadPort},
    shared::Shared,
};
use crate::{
    error::{ProposeError, ReadError},
    flow::{Envelope, Mark, Origin, Sender, TraceId},
    raft::{LogIndex, NodeId, Payload, SessionCommand},
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
    /// that comes between two leaders need not fail. What may be in the log twice is asked again, and until the end, also
    /// after an answer that says "unknown".
    pub(crate) async fn propose(
        &self,
        payload: Payload,
        forward: bool,
        origin: Origin,
    ) -> Result<Applied, ProposeError> {
        let _call = self.flow.call(origin.trace);
        let mut passed_on = false;
        let answer = self.propose_until_answered(payload, forward, origin, &mut passed_on).await;
        let result = if passed_on && answer.is_ok() { answered::FORWARDED } else { answered::result(&answer) };
        self.admission.answered.count(result);
        answer
    }

    /// `passed_on`: whether the answer is another node's.
    async fn propose_until_answered(
        &self,
        payload: Payload,
        forward: bool,
        origin: Origin,
        passed_on: &mut bool,
    ) -> Result<Applied, ProposeError> {
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        let mut pause = FIRST_PAUSE;
        let mut tries = Tries::new(&payload, self.patience());
        loop {
            let until = tries.next(deadline);
            *passed_on = false;
            let refused = match self.propose_once(payload.clone(), origin, until).await {
                Err(ProposeError::NotLeader { leader, .. }) if forward => {
                    *passed_on = true;
                    self.forward(leader, payload.clone(), origin.trace, until).await
                }
                answer => answer,
            };
            let again = match &refused {
                Err(ProposeError::NoLeader { .. } | ProposeError::Unavailable { .. }) => true,
                Err(ProposeError::NotLeader { .. }) => forward,
                // Of the one that it was passed on to: there is another leader.
                Err(ProposeError::NodeWiped { node } | ProposeError::NodeRemoved { node }) => *node != self.id(),
                Err(ProposeError::Unknown { .. }) => tries.repeatable,
                Err(ProposeError::Busy { .. }) => tries.in_doubt,
                _ => false,
            };
            tries.in_doubt |= matches!(refused, Err(ProposeError::Unknown { .. }));
            if !again {
                return tries.conclude(refused);
            }
            let patience = if tries.in_doubt { deadline } else { deadline.min(began + self.patience()) };
            if self.verdict.get().is_some() || !self.leader_within(patience, &mut pause).await {
                return tries.conclude(refused);
            }
        }
    }

    async fn propose_once(&self, payload: Payload, origin: Origin, until: Instant) -> Result<Applied, ProposeError> {
        let (node, limit) = (self.id(), self.config.max_entry_bytes);
        let size = command_of(&payload).len();
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let (port, answer) = ProposePort::new(self.admit_command(size)?, node);
        let message = match payload {
            Payload::Command(command) => ConsensusMessage::Propose { command, port },
            Payload::SessionCommand(call) => ConsensusMessage::ProposeInSession { commands: vec![(call, port)] },
            Payload::OpenSession => ConsensusMessage::OpenSession { port },
            Payload::Noop | Payload::Membership(_) => unreachable!("no client says this"),
        };
        self.submit(Envelope::new(origin, message));
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ProposeError::Unknown { reason: format!("node {node} dropped the call") }),
            Err(_) => Err(self.too_late("it was not committed")),
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        payload: Payload,
        trace: TraceId,
        until: Instant,
    ) -> Result<Applied, ProposeError> {
        // Held until the answer is here: the call waits at this node as any other does.
        let _permit = self.admit_command(command_of(&payload).len())?;
        let Some(link) = self.link(leader, Arc::new(|_| {})) else { return Err(self.not_leader(None)) };
        // No actor passes it on, so its leaving and the answer are noted.
        let door = self.flow.outside(&format!("node {leader}"), trace);
        let left = self.flow.note(door.sender.actor, self.called(trace), "Propose", Mark::default());
        match timeout_at(until, self.transport.propose(&link, payload, trace)).await {
            Ok(answer) => {
                let index = answer.as_ref().map_or(0, |applied| applied.index);
                self.flow.note(self.client.sender.actor, left, "Answered", Mark { term: 0, index });
                answer
            }
            Err(_) => Err(self.too_late(&format!("node {leader} did not answer"))),
        }
    }

    /// See [`NodeRef::submit_in_session`](super::NodeRef::submit_in_session).
    pub(crate) fn submit_in_session(
        &self,
        commands: Vec<SessionCommand>,
        trace: TraceId,
        answers: &mpsc::UnboundedSender<(u64, Result<Applied, ProposeError>)>,
    ) {
        let (node, bytes) = (self.id(), commands.iter().map(|call| call.command.len()).sum());
        let permit = match self.admission.admit_all(commands.len(), bytes) {
            Ok(permit) => Arc::new(permit),
            Err(denied) => {
                let refused = self.denied(denied);
                commands.iter().for_each(|_| self.admission.answered.count(answered::result(&Err(refused.clone()))));
                // Whoever has stopped listening needs no answer.
                commands.iter().for_each(|call| drop(answers.send((call.sequence, Err(refused.clone())))));
                return;
            }
        };
        let with_port = |call: SessionCommand| {
            let port = ProposePort::of_stream(permit.clone(), node, answers.clone(), call.sequence);
            (call, port)
        };
        let commands = commands.into_iter().map(with_port).collect();
        self.submit(Envelope::new(self.called(trace), ConsensusMessage::ProposeInSession { commands }));
    }

    fn admit_command(&self, size: usize) -> Result<Permit, ProposeError> {
        self.admission.admit(size).map_err(|denied| self.denied(denied))
    }

    fn denied(&self, denied: Denied) -> ProposeError {
        match denied {
            Denied::Closed => ProposeError::Unavailable { node: self.id() },
            Denied::Busy(limit) => self.busy(limit),
        }
    }

    fn too_late(&self, what: &str) -> ProposeError {
        ProposeError::Unknown { reason: format!("{what} within {:?} (request_timeout)", self.config.request_timeout) }
    }

    /// See [`Node::read_traced`](super::Node::read_traced).
    pub(crate) async fn read_at<M: StateMachine, R: Send + 'static>(
        self: &Arc<Self>,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
        origin: Origin,
    ) -> Result<(R, LogIndex), ReadError> {
        let _call = self.flow.call(origin.trace);
        let node = self.id();
        let began = Instant::now();
        let deadline = began + self.config.request_timeout;
        // Held until the answer is here: it counts those who wait.
        let permit = Arc::new(self.admit_read()?);
        let (mut consistency, mut query) = (consistency, query);
        loop {
            let ReadPoint { index, lease_until } = match consistency {
                Consistency::Linearizable => self.read_point(false, &permit, origin, began, deadline).await?,
                Consistency::Lease => self.read_point(true, &permit, origin, began, deadline).await?,
                Consistency::AtLeast(index) => ReadPoint { index, lease_until: None },
                Consistency::Stale => ReadPoint { index: 0, lease_until: None },
            };
            let (port, answer) = oneshot::channel();
            let lease = lease_until.map(|until| (self.clone(), until));
            let machine = std::marker::PhantomData;
            let asked: Box<dyn Query> = Box::new(TypedQuery { at_least: index, lease, query, port, machine });
            if self.applier.send(origin, ApplierMessage::Query(asked)).is_err() {
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
        origin: Origin,
        began: Instant,
        deadline: Instant,
    ) -> Result<ReadPoint, ReadError> {
        let node = self.id();
        let patience = began + self.patience();
        let mut pause = FIRST_PAUSE;
        loop {
            let (port, answer) = ReadPort::new(permit.clone(), node);
            self.submit(Envelope::new(origin, ConsensusMessage::Read { lease, port }));
            let refused = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(point))) => return Ok(point),
                Ok(Ok(Err(refused))) => refused,
                Ok(Err(_)) => ReadError::Unavailable { node },
                Err(_) => return Err(ReadError::TimedOut { node, waited: began.elapsed() }),
            };
            let lasts =
                matches!(refused, ReadError::Busy { .. } | ReadError::NodeWiped { .. } | ReadError::NodeRemoved { .. });
            let may_change = !lasts && self.verdict.get().is_none();
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
    pub(super) fn patience(&self) -> Duration {
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

    /// What a call carries that is made here and now, through a handle that says why or does not. `trace` 0: it belongs to what it
    /// is made in, else to a trace of its own.
    pub(crate) fn calling(&self, why: Option<Origin>, trace: TraceId) -> Origin {
        let Origin { sender, cause, trace: found } = why.unwrap_or_else(|| self.flow.current());
        let sender = if sender == Sender::default() { self.client.sender } else { sender };
        let trace = [trace, found].into_iter().find(|trace| *trace != 0).unwrap_or_else(|| self.flow.new_trace());
        Origin { sender, cause, trace }
    }
}

/// The tries to get one payload into the log.
struct Tries {
    /// It may be in the log twice: a session tells the second from the first, and a second session does no harm.
    repeatable: bool,
    /// The outcome of an earlier try is not known.
    in_doubt: bool,
    /// How long the next try is waited for, if there may be another one. Doubled each time, so that a slow disk is not
    /// given more and more to write.
    wait: Duration,
}

impl Tries {
    fn new(payload: &Payload, wait: Duration) -> Self {
        let repeatable = matches!(payload, Payload::OpenSession | Payload::SessionCommand(_));
        Tries { repeatable, in_doubt: false, wait }
    }

    /// Until when the next try is waited for.
    fn next(&mut self, deadline: Instant) -> Instant {
        let wait = self.wait;
        self.wait *= 2;
        if self.repeatable { deadline.min(Instant::now() + wait) } else { deadline }
    }

    /// What the last answer means after all of them: "not applied" said of one try says nothing of an earlier one.
    fn conclude(&self, answer: Result<Applied, ProposeError>) -> Result<Applied, ProposeError> {
        match answer {
            Err(error) if self.in_doubt && !error.may_have_been_applied() => Err(ProposeError::Unknown {
                reason: format!("an earlier try may have been applied; the last one was not: {error}"),
            }),
            answer => answer,
        }
    }
}

/// The part that the limits count.
fn command_of(payload: &Payload) -> &[u8] {
    match payload {
        Payload::Command(command) => command,
        Payload::SessionCommand(call) => &call.command,
        Payload::Noop | Payload::OpenSession | Payload::Membership(_) => &[],
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
