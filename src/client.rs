//! A client inside the application: a session with the cluster, through one of its nodes.
//!
//! [`Node::propose`] tells its caller when an outcome is unknown, and then nobody can try again without the risk that the
//! command counts twice. A [`Client`] numbers its commands under a session (thesis §6.3), so that it can: it tries again over
//! lost answers and leaders that change, and the command is applied once.
//!
//! *What it promises ends with the session*, which expires when it is not used for long, or when more clients come than
//! sessions are kept ([`crate::node::sessions`]). Another one is opened where nothing is in doubt; a command that is in doubt
//! then ends as [`ProposeError::Unknown`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    error::ProposeError,
    node::{Applied, Node},
    raft::SessionCommand,
    state_machine::StateMachine,
};

/// How long a command is tried without [`Client::with_timeout`].
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most commands in flight. A session keeps more answers than that.
const WINDOW: usize = 512;

/// The most bytes of commands in flight. One command may exceed it alone.
const WINDOW_BYTES: usize = 8 << 20;

/// How long to wait before the second try; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest wait before a try: a heartbeat or so.
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// A session with the cluster. Its clones share it.
///
/// ```
/// use ractor_raft::{Node, kv::{Command, Kv}, storage::MemoryStorage, transport::InProcess};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(1, Kv::default)
///     .cluster([(1, "here")])
///     .storage(MemoryStorage::new())
///     .transport(InProcess::new())
///     .spawn()
///     .await?;
/// let client = node.client();
/// // Pipelined, and applied once each, whatever happens to leaders meanwhile.
/// let (ada, grace) = tokio::join!(
///     client.propose(Command::put("ada", "1815")),
///     client.propose(Command::put("grace", "1906")),
/// );
/// assert_ne!(ada?, grace?, "each has its own revision");
/// node.shutdown().await?;
/// # Ok(()) }
/// ```
pub struct Client<M> {
    node: Node<M>,
    session: Arc<Session>,
    timeout: Duration,
}

impl<M> Clone for Client<M> {
    fn clone(&self) -> Self {
        Client { node: self.node.clone(), session: self.session.clone(), timeout: self.timeout }
    }
}

impl<M: StateMachine> Node<M> {
    /// A client with a session of its own, through this node. It is opened by the first command.
    pub fn client(&self) -> Client<M> {
        Client { node: self.clone(), session: Arc::default(), timeout: TIMEOUT }
    }
}

impl<M: StateMachine> Client<M> {
    /// Tries each command for so long; 30 seconds without this.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Replicates a command, applied once, and returns what the state machine made of it. Calls may run concurrently, up to
    /// 512 commands or 8 MiB at a time, and are applied in any order. A call that is dropped may be applied all the same,
    /// once at most.
    ///
    /// # Errors
    /// When the time is over: [`ProposeError::Unknown`], if it may have been applied, else what stood in the way. Before
    /// that only what another try cannot change: `TooLarge`, `Rejected`, `Unavailable` once the node has stopped, `Unknown`
    /// if the session expired while the command was in doubt.
    pub async fn propose(&self, command: M::Command) -> Result<M::Output, ProposeError> {
        let applied = self.propose_encoded(command.encode_to_vec().into()).await?;
        M::Output::decode(applied.output).map_err(|error| {
            let reason = format!("applied at {}, but its result cannot be read here: {error}", applied.index);
            ProposeError::Unknown { reason }
        })
    }

    async fn propose_encoded(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let deadline = Instant::now() + self.timeout;
        let _room = timeout_at(deadline, self.session.room(command.len())).await.map_err(|_| self.too_busy())?;
        let mut number = self.number(deadline).await?;
        let mut tries = Tries { in_doubt: false, pause: FIRST_PAUSE };
        // One for all tries.
        let trace = self.node.trace();
        loop {
            let call = number.command(&command);
            let tried = self.node.propose_in_session(call, true, trace);
            let error = match timeout_at(deadline, tried).await {
                Ok(Ok(applied)) => return Ok(applied),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.too_late()),
            };
            match &error {
                ProposeError::SessionExpired { .. } if !tries.in_doubt => {
                    self.session.numbers().end(number.session);
                    number = self.number(deadline).await?;
                    continue;
                }
                ProposeError::Unknown { .. } => tries.in_doubt = true,
                ProposeError::NotLeader { .. }
                | ProposeError::NoLeader { .. }
                | ProposeError::Unavailable { .. }
                | ProposeError::Busy { .. }
                // It may be replaced.
                | ProposeError::NodeWiped { .. }
                // It gets room again, or its node hands over.
                | ProposeError::DiskFull { .. } => {}
                ProposeError::SessionExpired { .. } => {
                    self.session.numbers().end(number.session);
                    return Err(tries.conclude(error));
                }
                _ => return Err(tries.conclude(error)),
            }
            if self.node.has_stopped() || !tries.pause(deadline).await {
                return Err(tries.conclude(error));
            }
        }
    }

    /// The next number of the session, which is opened if there is none.
    async fn number(&self, deadline: Instant) -> Result<Number, ProposeError> {
        let mut tries = Tries { in_doubt: false, pause: FIRST_PAUSE };
        loop {
            if let Some(number) = Session::next(&self.session) {
                return Ok(number);
            }
            // One opens it, and the others wait for that one.
            let Ok(opening) = timeout_at(deadline, self.session.opening.acquire()).await else {
                return Err(ProposeError::Unavailable { node: self.node.identity().node_id });
            };
            let opening = opening.expect("it is never closed");
            if self.session.numbers().session != 0 {
                continue;
            }
            let opened = timeout_at(deadline, self.node.open_session()).await;
            match opened.unwrap_or_else(|_| Err(ProposeError::Unavailable { node: self.node.identity().node_id })) {
                Ok(session) => self.session.numbers().begin(session),
                // Nothing of the command was sent yet.
                Err(error) => {
                    drop(opening);
                    if self.node.has_stopped() || !tries.pause(deadline).await {
                        return Err(match error {
                            ProposeError::Unknown { .. } => {
                                ProposeError::Unavailable { node: self.node.identity().node_id }
                            }
                            error => error,
                        });
                    }
                }
            }
        }
    }

    fn too_late(&self) -> ProposeError {
        ProposeError::Unknown { reason: format!("no answer came within {:?}", self.timeout) }
    }

    fn too_busy(&self) -> ProposeError {
        let limit = format!("{WINDOW} commands or {WINDOW_BYTES} bytes wait already, longer than {:?}", self.timeout);
        ProposeError::Busy { node: self.node.identity().node_id, limit, retry_after: self.timeout }
    }
}

/// The tries of one command.
struct Tries {
    in_doubt: bool,
    pause: Duration,
}

impl Tries {
    /// Waits before the next one. Returns whether there is time for it.
    async fn pause(&mut self, deadline: Instant) -> bool {
        let pause = self.pause;
        self.pause = (2 * pause).min(LONGEST_PAUSE);
        timeout_at(deadline, sleep(pause)).await.is_ok()
    }

    /// What the last answer means after all of them.
    fn conclude(&self, error: ProposeError) -> ProposeError {
        if self.in_doubt && !error.may_have_been_applied() {
            let reason = format!("an earlier try may have been applied; the last one was not: {error}");
            return ProposeError::Unknown { reason };
        }
        error
    }
}

/// What the clones of a client share.
struct Session {
    /// Locked for a few instructions at a time, by the callers of this client alone.
    numbers: Mutex<Numbers>,
    opening: Semaphore,
    room: Semaphore,
    room_bytes: Semaphore,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            numbers: Mutex::default(),
            opening: Semaphore::new(1),
            room: Semaphore::new(WINDOW),
            room_bytes: Semaphore::new(WINDOW_BYTES),
        }
    }
}

/// The numbers of a session's commands.
#[derive(Debug, Default)]
struct Numbers {
    /// 0: none is open.
    session: u64,
    last_sequence: u64,
    unanswered: BTreeSet<u64>,
}

impl Numbers {
    fn begin(&mut self, session: u64) {
        *self = Numbers { session, ..Numbers::default() };
    }

    /// This session is over, if it is not another one by now.
    fn end(&mut self, session: u64) {
        if self.session == session {
            *self = Numbers::default();
        }
    }
}

impl Session {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Nothing can be half done in there.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one command of so many bytes.
    async fn room(&self, bytes: usize) -> (SemaphorePermit<'_>, SemaphorePermit<'_>) {
        let bytes = u32::try_from(bytes.min(WINDOW_BYTES)).expect("the window is smaller than that");
        let command = self.room.acquire().await.expect("it is never closed");
        (command, self.room_bytes.acquire_many(bytes).await.expect("it is never closed"))
    }

    fn next(session: &Arc<Self>) -> Option<Number> {
        let mut numbers = session.numbers();
        if numbers.session == 0 {
            return None;
        }
        numbers.last_sequence += 1;
        let sequence = numbers.last_sequence;
        numbers.unanswered.insert(sequence);
        Some(Number { session: numbers.session, sequence, of: session.clone() })
    }
}

/// One command's number. Dropping it says that its answer is here, or that nobody wants it any more.
struct Number {
    session: u64,
    sequence: u64,
    of: Arc<Session>,
}

impl Number {
    fn command(&self, command: &Bytes) -> SessionCommand {
        let numbers = self.of.numbers();
        let first = numbers.unanswered.first().copied();
        // Another session may have begun meanwhile: then this command is the last of its own that is asked for.
        let first_unanswered = if numbers.session == self.session { first } else { None };
        SessionCommand {
            session: self.session,
            sequence: self.sequence,
            first_unanswered: first_unanswered.unwrap_or(self.sequence).min(self.sequence),
            command: command.clone(),
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut numbers = self.of.numbers();
        if numbers.session == self.session {
            numbers.unanswered.remove(&self.sequence);
        }
    }
}
