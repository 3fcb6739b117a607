//! One client's stream of commands under its session: they are passed on together as they come, and answered as they are
//! applied, whatever waits in one message. No task and no timer for any of them.
//!
//! The stream ends with `UNAVAILABLE` when the server closes. What is not answered by then is sent again by its client, to
//! this node or another, and applied once.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Handlers, gone, pb};
use crate::{
    error::ProposeError,
    node::{Applied, sessions::MAX_REPLIES},
    raft::SessionCommand,
    rpc::{
        convert::{self, Malformed},
        listener::oversized::too_large,
        trace,
    },
};

/// The most answers in one message.
const MOST_ANSWERS: usize = 1024;

type Answer = (u64, Result<Applied, ProposeError>);

/// The stream of answers to a stream of commands.
pub(super) fn answers(
    handlers: Handlers,
    requests: Streaming<pb::ClientStreamRequest>,
) -> impl Stream<Item = Result<pb::ClientStreamReply, Status>> {
    let (port, answers) = mpsc::unbounded_channel();
    let conversation =
        Conversation { handlers, requests, reading: true, session: 0, port, answers, answered: Vec::new(), waiting: 0 };
    stream::unfold(Some(conversation), |conversation| async {
        let mut conversation = conversation?;
        match conversation.next().await? {
            Ok(reply) => Some((Ok(reply), Some(conversation))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

struct Conversation {
    handlers: Handlers,
    requests: Streaming<pb::ClientStreamRequest>,
    /// Whether more requests may come.
    reading: bool,
    /// Whose stream it is; 0 until the first message.
    session: u64,
    /// Cloned for each command under way.
    port: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
    /// Empty between two messages; kept for its room.
    answered: Vec<Answer>,
    /// Commands that are not answered. Past what a session may have in flight no more are read, and the client's window
    /// closes.
    waiting: usize,
}

impl Conversation {
    /// The next message of answers; an error ends the stream, and so does `None`.
    async fn next(&mut self) -> Option<Result<pb::ClientStreamReply, Status>> {
        loop {
            if !self.reading && self.waiting == 0 {
                return None;
            }
            tokio::select! {
                biased;
                _ = &mut self.handlers.closing => return Some(Err(gone(&self.handlers.node))),
                answered = self.answers.recv_many(&mut self.answered, MOST_ANSWERS), if self.waiting > 0 => {
                    self.waiting -= answered;
                    let answers = self.answered.drain(..).map(answer).collect();
                    return Some(Ok(pb::ClientStreamReply { answers }));
                }
                request = self.requests.next(), if self.reading && self.waiting < MAX_REPLIES => match request {
                    Some(Ok(request)) => {
                        if let Err(malformed) = self.submit(request) {
                            return Some(Err(malformed.into()));
                        }
                    }
                    Some(Err(status)) => return Some(Err(too_large(&status).map_or(status, Status::from))),
                    None => self.reading = false,
                },
            }
        }
    }

    fn submit(&mut self, request: pb::ClientStreamRequest) -> Result<(), Malformed> {
        let pb::ClientStreamRequest { session, first_unanswered, commands } = request;
        if self.session != 0 && session != self.session {
            let problem = format!("is {session}; the stream began with {}", self.session);
            return Err(Malformed::new("session", problem));
        }
        self.session = session;
        let mut submitted = Vec::with_capacity(commands.len());
        for (place, pb::StreamCommand { sequence, command }) in commands.into_iter().enumerate() {
            // Copied out of the receive buffer: the log keeps it for long.
            let command = Bytes::copy_from_slice(&command);
            let session = pb::Session { id: session, sequence, first_unanswered };
            let command = convert::session_command_from_pb(session, command)
                .map_err(|error| error.within(format_args!("commands[{place}]")))?;
            submitted.push(command);
        }
        self.waiting += submitted.len();
        self.pass_on(submitted);
        Ok(())
    }

    fn pass_on(&self, commands: Vec<SessionCommand>) {
        if let Some(first) = commands.first() {
            let node = &self.handlers.node;
            let trace = trace::of_command(node.identity().cluster_id, first.session, first.sequence);
            node.submit_in_session(commands, trace, &self.port);
        }
    }
}

fn answer((sequence, result): Answer) -> pb::StreamAnswer {
    match result {
        Ok(Applied { output, index }) => pb::StreamAnswer { sequence, index, output, failure: None },
        Err(error) => {
            let status = Status::from(error);
            let failure = pb::StreamFailure {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
            };
            pb::StreamAnswer { sequence, index: 0, output: Bytes::new(), failure: Some(failure) }
        }
    }
}
