//! The task behind a [`SessionClient`](super::SessionClient): opens the session, keeps a stream to whoever leads, and puts
//! commands and answers through.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::{
    Command, WINDOW,
    pending::{Heard, Pending},
};
use crate::{
    error::ProposeError,
    node::Applied,
    rpc::{
        channel,
        client::ClusterClient,
        cluster,
        error::{self, Told},
        pb, reason,
        sockets::Sockets,
    },
};

/// How long to wait before the second try; doubled before each further one that nothing was heard before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest wait before a try: a heartbeat or so.
const LONGEST_PAUSE: Duration = Duration::from_millis(80);
/// How long a node may take to open a stream or a session, before another one is asked.
const OPENING: Duration = Duration::from_secs(2);
/// How long a node may say nothing at all while commands wait at it, before they are sent to another one. It may be a leader
/// that is cut off from the others: it keeps what it took in until it learns what became of it.
const SILENCE: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    sockets: Box<dyn Sockets>,
    endpoints: Vec<String>,
    /// Which of them is asked when nobody knows better.
    turn: usize,
    /// Where the leader was said to be.
    hint: Option<String>,
    queue: mpsc::Receiver<Command>,
    /// Handles may still send.
    open: bool,
    /// Just received; empty between two steps.
    received: Vec<Command>,
    /// 0: none is open.
    session: u64,
    /// Where that session was opened. 0: it is not known.
    cluster_id: u64,
    /// So many endpoints said since the last answer that they are of another cluster.
    elsewhere: usize,
    pending: Pending,
    pause: Duration,
    /// Hints followed since anything was applied: nodes may point at each other for a while.
    hints: u32,
    /// What a command hears that nobody ever took.
    nothing: ProposeError,
}

/// Why a stream ended.
enum End {
    /// The leader is there.
    Redirected(String),
    /// It broke, or its node does not serve.
    Broken,
    /// The session is gone, and everything that was sent is answered.
    Expired,
    /// All is done.
    Done,
}

impl Driver {
    pub(super) fn new(sockets: Box<dyn Sockets>, endpoints: Vec<String>, queue: mpsc::Receiver<Command>) -> Self {
        Driver {
            sockets,
            endpoints,
            turn: 0,
            hint: None,
            queue,
            open: true,
            received: Vec::new(),
            session: 0,
            cluster_id: 0,
            elsewhere: 0,
            pending: Pending::default(),
            pause: FIRST_PAUSE,
            hints: 0,
            nothing: ProposeError::Unavailable { node: 0 },
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.pending.is_empty() {
                let Some(command) = self.queue.recv().await else { return };
                if self.session == 0 { self.pending.put_off(command) } else { self.pending.add(command) }
            }
            let address = self.hint.take().unwrap_or_else(|| self.endpoints[self.turn].clone());
            match self.serve(&address).await {
                End::Redirected(leader) => {
                    self.hint = Some(leader);
                    self.hints += 1;
                    if self.hints > 1 {
                        self.rest().await;
                    }
                }
                End::Expired => self.session = 0,
                End::Done => return,
                End::Broken => {
                    self.turn = (self.turn + 1) % self.endpoints.len();
                    self.rest().await;
                }
            }
            self.pending.broke();
            self.pending.expire(Instant::now(), &self.nothing);
        }
    }

    async fn rest(&mut self) {
        let until = self.later();
        sleep_until(until).await;
    }

    /// With one node, for as long as it goes well.
    async fn serve(&mut self, address: &str) -> End {
        let Ok(channel) = channel::lazy_over(&*self.sockets, address) else { return End::Broken };
        if self.session == 0 {
            let client = ClusterClient::over(channel.clone(), OPENING);
            match self.meanwhile(async move { client.open_session_of_cluster().await }).await {
                Ok((session, cluster_id)) => {
                    (self.session, self.cluster_id) = (session, cluster_id);
                    self.pending.begin();
                }
                Err(refused) => {
                    self.nothing = refused;
                    return End::Broken;
                }
            }
        }
        let (messages, outgoing) = mpsc::unbounded_channel();
        self.send(&messages, 1);
        let opening = open(channel, self.cluster_id, outgoing);
        match self.meanwhile(timeout_at(Instant::now() + OPENING, opening)).await {
            Ok(Ok(answers)) => {
                // What came while it was opened.
                self.send(&messages, 1);
                self.converse(answers, &messages).await
            }
            Ok(Err(status)) => self.failed(&status),
            Err(_) => End::Broken,
        }
    }

    /// Waits for what a node may take long to do. Commands are taken in meanwhile, and those whose time is over are told.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let room = if self.open { self.pending.room() } else { 0 };
            let deadline = self.pending.deadline();
            tokio::select! {
                biased;
                done = &mut work => return done,
                received = self.queue.recv_many(&mut self.received, room.min(WINDOW)), if room > 0 => {
                    self.open = received > 0;
                    let Driver { session, pending, received, .. } = self;
                    let homeless = *session == 0;
                    received.drain(..).for_each(|command| {
                        if homeless { pending.put_off(command) } else { pending.add(command) }
                    });
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.pending.expire(Instant::now(), &self.nothing);
                }
            }
        }
    }

    async fn converse(
        &mut self,
        mut answers: Streaming<pb::ClientStreamReply>,
        messages: &mpsc::UnboundedSender<pb::ClientStreamRequest>,
    ) -> End {
        let (mut again, mut expired) = (None, false);
        let mut silent_since = Instant::now();
        loop {
            if expired && self.pending.is_settled() {
                return End::Expired;
            }
            if !self.open && self.pending.is_empty() {
                return End::Done;
            }
            let room = if expired || !self.open { 0 } else { self.pending.room() };
            let deadline = self.pending.deadline();
            tokio::select! {
                biased;
                reply = answers.message() => match reply {
                    Ok(Some(reply)) => {
                        silent_since = Instant::now();
                        match self.hear(reply) {
                            Heard::Answered => {}
                            Heard::Again => again = again.or(Some(self.later())),
                            Heard::Expired => expired = true,
                            Heard::Elsewhere(Some(leader)) => return End::Redirected(leader),
                            Heard::Elsewhere(None) => return End::Broken,
                        }
                    }
                    Ok(None) => return End::Broken,
                    Err(status) => return self.failed(&status),
                },
                received = self.queue.recv_many(&mut self.received, room.min(WINDOW)), if room > 0 => {
                    self.open = received > 0;
                    if self.pending.is_settled() {
                        silent_since = Instant::now();
                    }
                    let sequence = self.pending.next_sequence();
                    self.received.drain(..).for_each(|command| self.pending.add(command));
                    self.send(messages, sequence);
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    (again, silent_since) = (None, Instant::now());
                    self.send(messages, 1);
                }
                () = sleep_until(silent_since + SILENCE), if !self.pending.is_settled() => return End::Broken,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.pending.expire(Instant::now(), &self.nothing);
                }
            }
        }
    }

    fn send(&mut self, messages: &mpsc::UnboundedSender<pb::ClientStreamRequest>, from: u64) {
        for message in self.pending.messages(self.session, from) {
            // A stream that has broken says so at its other end.
            let _ = messages.send(message);
        }
    }

    /// What a message of answers means for the stream; the gravest of them counts.
    fn hear(&mut self, reply: pb::ClientStreamReply) -> Heard {
        let mut gravest = Heard::Answered;
        for answer in reply.answers {
            let (sequence, answer) = read(answer);
            if answer.is_ok() {
                (self.pause, self.hints, self.elsewhere) = (FIRST_PAUSE, 0, 0);
            }
            match (self.pending.answered(sequence, answer), &gravest) {
                (Heard::Answered, _) | (_, Heard::Elsewhere(Some(_))) => {}
                (Heard::Again, Heard::Elsewhere(_) | Heard::Expired) => {}
                (Heard::Expired, Heard::Elsewhere(_)) => {}
                (graver, _) => gravest = graver,
            }
        }
        gravest
    }

    fn later(&mut self) -> Instant {
        let at = Instant::now() + self.pause;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        at
    }

    fn failed(&mut self, status: &Status) -> End {
        if Told::of(status).is_some_and(|told| told.reason == reason::WRONG_CLUSTER) {
            // Another cluster is there now, restored from a backup of the former perhaps. It does not know the session, and
            // has not looked at what was sent. One stranger among the endpoints is not yet the end of the former.
            self.elsewhere += 1;
            if self.elsewhere < self.endpoints.len() {
                return End::Broken;
            }
            tracing::warn!(status = %status.message(), "all endpoints are of another cluster; a new session begins there");
            self.elsewhere = 0;
            self.pending.all_expired(self.session);
            return End::Expired;
        }
        match error::propose_error(status, 0) {
            ProposeError::TooLarge { size, limit } => {
                self.pending.too_large(ProposeError::TooLarge { size, limit }, limit);
            }
            refused if !refused.may_have_been_applied() => self.nothing = refused,
            _ => {}
        }
        End::Broken
    }
}

async fn open(
    channel: Channel,
    cluster_id: u64,
    mut outgoing: mpsc::UnboundedReceiver<pb::ClientStreamRequest>,
) -> Result<Streaming<pb::ClientStreamReply>, Status> {
    let requests = stream::poll_fn(move |context| outgoing.poll_recv(context));
    let mut client = pb::cluster_client::ClusterClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut request = Request::new(requests);
    cluster::write(cluster_id, request.metadata_mut());
    Ok(client.client_stream(request).await?.into_inner())
}

fn read(answer: pb::StreamAnswer) -> (u64, Result<Applied, ProposeError>) {
    let pb::StreamAnswer { sequence, index, output, failure } = answer;
    let answer = match failure {
        // Copied out of the receive buffer: the caller may keep it for long.
        None => Ok(Applied { output: Bytes::copy_from_slice(&output), index }),
        Some(pb::StreamFailure { code, message, details }) => {
            let status = Status::with_details(Code::from_i32(code), message, Bytes::copy_from_slice(&details));
            Err(error::propose_error(&status, 0))
        }
    };
    (sequence, answer)
}
