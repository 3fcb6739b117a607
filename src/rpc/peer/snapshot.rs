//! Streams a snapshot to one peer.
//!
//! First a stream of one message asks how much is there already, then another goes on from that offset: after a break,
//! whoever broke, only what was not yet on the peer's disk is sent again. Chunks are asked for as the connection takes
//! them: no more than a stream's window is read ahead of the peer, whatever the snapshot's size.
//!
//! It has a connection of its own, which is opened with the first message and closed with the answer. HTTP/2 keeps
//! streams apart, TCP does not: behind chunks in a socket's buffer, a heartbeat on the same connection would wait for as
//! long as the link takes to empty it: 2 MiB on a link of 10 Mbit/s are 1.7 seconds, ten elections. On connections apart
//! it is the links' queues that are shared, and `snapshot_bytes_per_second` bounds that.
//!
//! The timeout is by progress: it begins anew with each chunk that the connection takes, and stands still while this
//! side itself makes the peer wait (a disk, the throttle). A link that carries a chunk in that time may take for ever. On a
//! slower one the connection is given up now and then (at the latest when all is on its way and the answer is waited for),
//! and the next one goes on with what is missing.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::transport::Channel;

use super::{Task, broken, lost, refused};
use crate::{
    raft::{Incarnation, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Reply},
    rpc::{
        channel, convert,
        identity::{self, Refused},
        pb,
        sockets::Sockets,
    },
    transport::{Chunks, Heard, Link},
};

/// The snapshot that is on its way, if there is one.
pub(super) struct SnapshotStream {
    link: Arc<Link>,
    sockets: Arc<dyn Sockets>,
    task: Option<Task>,
}

impl SnapshotStream {
    pub fn new(link: Arc<Link>, sockets: Arc<dyn Sockets>) -> Self {
        SnapshotStream { link, sockets, task: None }
    }

    /// Ends the one before, if it still goes on.
    pub fn send(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks) {
        let transfer = Arc::new(Transfer { link: self.link.clone(), sockets: self.sockets.clone(), session, request });
        self.task = Some(Task(tokio::spawn(async move {
            let heard = match transfer.run(chunks).await {
                Ok((incarnation, reply)) => {
                    Heard::Answer { session, incarnation, reply: Reply::InstallSnapshot(reply) }
                }
                Err(heard) => heard,
            };
            (transfer.link.heard)(heard);
        })));
    }
}

/// What the peer said, and which disk it has.
type Answer = (Incarnation, InstallSnapshotReply);

/// One snapshot on its way to one peer.
struct Transfer {
    link: Arc<Link>,
    sockets: Arc<dyn Sockets>,
    session: u64,
    /// Its first message, which brings no bytes.
    request: InstallSnapshotRequest,
}

/// Whether the chunks move.
#[derive(Clone)]
enum Pace {
    /// The connection has had something to do since then.
    Moving(Instant),
    /// This side makes the next chunk.
    Making,
    /// There is no next chunk.
    Failed(String),
}

impl Transfer {
    /// Asks, and sends what the peer has not.
    async fn run(self: &Arc<Self>, chunks: Chunks) -> Result<Answer, Heard> {
        let channel = channel::lazy_for_bulk(&*self.sockets, &self.link.address, self.link.snapshot_timeout);
        let channel = channel.map_err(|bad| lost(bad.to_string()))?;
        let question = self.message(true, self.request.offset, Bytes::new());
        let there = self.stream(&channel, |_| stream::iter([question])).await?;
        let InstallOutcome::Stored { offset } = there.1.outcome else { return Ok(there) };
        let size = self.request.snapshot.size;
        if offset > size {
            return Err(lost(format!("the peer says that it has {offset} of the snapshot's {size} bytes")));
        }
        self.stream(&channel, |pace| self.clone().messages(offset, chunks, pace)).await
    }

    /// One stream of messages, to its answer.
    async fn stream<S>(
        &self,
        channel: &Channel,
        messages: impl FnOnce(Arc<watch::Sender<Pace>>) -> S,
    ) -> Result<Answer, Heard>
    where
        S: Stream<Item = pb::InstallSnapshotRequest> + Send + 'static,
    {
        let (pace, mut paced) = watch::channel(Pace::Moving(Instant::now()));
        let pace = Arc::new(pace);
        let mut client = pb::raft_client::RaftClient::new(channel.clone());
        let mut answer = pin!(client.install_snapshot(messages(pace.clone())));
        loop {
            let now = paced.borrow_and_update().clone();
            let late = match now {
                Pace::Moving(since) => Some(since + self.link.snapshot_timeout),
                Pace::Making => None,
                Pace::Failed(cause) => return Err(lost(cause)),
            };
            tokio::select! {
                biased;
                answer = &mut answer => return self.accept(answer.map_err(|status| broken(&status))?.get_ref()),
                // Never an error: the sender is held above.
                Ok(()) = paced.changed() => {}
                () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => {
                    return Err(lost(format!("the snapshot made no progress for {:?}", self.link.snapshot_timeout)));
                }
            }
        }
    }

    fn accept(&self, reply: &pb::InstallSnapshotReply) -> Result<Answer, Heard> {
        let (session, incarnation) = identity::check_reply(&self.link, reply.header).map_err(refused)?;
        if session != self.session {
            return Err(lost(format!("the peer answered session {session}, and was asked in {}", self.session)));
        }
        let reply = convert::install_reply_from_pb(reply);
        Ok((incarnation, reply.map_err(|malformed| refused(Refused::Malformed(malformed)))?))
    }

    fn message(&self, first: bool, offset: u64, data: Bytes) -> pb::InstallSnapshotRequest {
        let header = identity::header(&self.link, self.session);
        convert::install_snapshot_to_pb(header, first, &self.request, offset, data)
    }

    /// The snapshot from `offset` on, each chunk asked for once the one before it was taken.
    fn messages(
        self: Arc<Self>,
        offset: u64,
        chunks: Chunks,
        pace: Arc<watch::Sender<Pace>>,
    ) -> impl Stream<Item = pb::InstallSnapshotRequest> + Send + use<> {
        let size = self.request.snapshot.size;
        let rest = Rest { offset, end: size, first: true, chunks, pace };
        stream::unfold(Some(rest), move |rest| {
            let transfer = self.clone();
            async move {
                let mut rest = rest?;
                let (first, offset) = (rest.first, rest.offset);
                let data = rest.next().await?;
                let message = transfer.message(first, offset, data);
                Some((message, (rest.offset < rest.end).then_some(rest)))
            }
        })
    }
}

/// What of a snapshot is still to be sent.
struct Rest {
    offset: u64,
    end: u64,
    /// Whether nothing was sent yet.
    first: bool,
    chunks: Chunks,
    pace: Arc<watch::Sender<Pace>>,
}

impl Rest {
    /// The next chunk; an empty one where the peer has all of it already. `None`: nobody waits for it any more.
    async fn next(&mut self) -> Option<Bytes> {
        self.pace.send_replace(Pace::Making);
        let data = tokio::select! {
            biased;
            () = self.pace.closed() => return None,
            data = (self.chunks)(self.offset) => data,
        };
        let missing = self.end - self.offset;
        match data {
            Some(data) if data.len() as u64 <= missing && (missing == 0 || !data.is_empty()) => {
                self.pace.send_replace(Pace::Moving(Instant::now()));
                self.offset += data.len() as u64;
                self.first = false;
                Some(data)
            }
            Some(data) => self.fail(format!("the snapshot has {} bytes where {missing} are missing", data.len())).await,
            None => self.fail("the snapshot is not there any more: a newer one took its place".to_owned()).await,
        }
    }

    /// Leaves the end to the one who waits for the answer: the stream must not look complete.
    async fn fail(&mut self, cause: String) -> Option<Bytes> {
        self.pace.send_replace(Pace::Failed(cause));
        self.pace.closed().await;
        None
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
