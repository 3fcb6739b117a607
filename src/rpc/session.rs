//! A client with a session: every command is applied once, over lost answers, leaders that change and nodes that restart.
//!
//! [`SessionClient`] is the handle; a task behind it holds the session, numbers the commands and keeps what is not answered.
//! They go over one `Cluster.ClientStream`: whatever waits goes into one message, answers come in any order. When the
//! stream breaks, or the node does not lead, or says nothing for two seconds, the task opens another one (where the leader
//! is said to be, else at the next endpoint), and sends again what was not answered, under the same session and sequences.
//!
//! The task ends when the last handle is gone and everything is answered.

mod driver;
mod pending;

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use self::driver::Driver;
use super::{
    channel::{self, BadAddress},
    sockets::{Sockets, Tcp},
};
use crate::{error::ProposeError, node::Applied};

/// How long a command is tried without [`SessionClient::with_timeout`].
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most commands in flight. A session keeps more answers than that.
const WINDOW: usize = 512;

/// The most bytes of commands in flight. One command may exceed it alone.
const WINDOW_BYTES: usize = 8 << 20;

/// A session with a cluster. Its clones share it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use ractor_raft::rpc::SessionClient;
///
/// let client = SessionClient::connect(["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"])?;
/// let (first, second) = tokio::join!(client.propose("one".into()), client.propose("two".into())); // in one message
/// println!("applied, once each, at {} and {}", first?.index, second?.index);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SessionClient {
    commands: mpsc::Sender<Command>,
    timeout: Duration,
}

/// A command on its way to the task.
struct Command {
    command: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
}

impl SessionClient {
    /// For the cluster that these nodes (`host:port`) belong to; it is dialled with the first command. Must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`BadAddress`]: there is none, or one that cannot be an address.
    pub fn connect(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, BadAddress> {
        SessionClient::connect_over(Tcp, endpoints)
    }

    /// As [`connect`](Self::connect), over other sockets.
    ///
    /// # Errors
    /// [`BadAddress`]: there is none, or one that cannot be an address.
    pub fn connect_over(
        sockets: impl Sockets,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, BadAddress> {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        for endpoint in &endpoints {
            channel::endpoint(endpoint)?;
        }
        if endpoints.is_empty() {
            return Err(BadAddress { address: String::new(), cause: "there is no endpoint".to_owned() });
        }
        let (commands, queue) = mpsc::channel(WINDOW);
        tokio::spawn(Driver::new(Box::new(sockets), endpoints, queue).run());
        Ok(SessionClient { commands, timeout: TIMEOUT })
    }

    /// Tries each command for so long; 30 seconds without this.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Replicates an encoded command and returns what the state machine made of it. Calls may run concurrently: they are
    /// pipelined, up to 512 commands or 8 MiB at a time, and applied in any order. A call that is dropped may be applied
    /// all the same, once at most.
    ///
    /// # Errors
    /// When the time is over: [`ProposeError::Unknown`], if it may have been applied, else what stood in the way. Before
    /// that only what another try cannot change, such as `TooLarge`, `Rejected`, or `Unknown` if the session expired while
    /// nothing was heard of the command.
    pub async fn propose(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let sent = self.commands.send(Command { command, deadline, answer });
        match tokio::time::timeout_at(deadline, sent).await {
            Ok(Ok(())) => {}
            // Nothing was sent: the window is full, or the runtime is ending.
            Ok(Err(_)) => return Err(ProposeError::Unavailable { node: 0 }),
            Err(_) => {
                let limit = format!("{WINDOW} commands wait already, longer than {:?}", self.timeout);
                return Err(ProposeError::Busy { node: 0, limit, retry_after: self.timeout });
            }
        }
        let ended = |_| Err(ProposeError::Unknown { reason: "the client ended before the answer came".to_owned() });
        answered.await.unwrap_or_else(ended)
    }
}
