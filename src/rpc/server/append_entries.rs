//! One peer's stream of AppendEntries: requests are passed on in order and at once, replies are sent as they come.
//!
//! A reply that needs no disk (a heartbeat's) may overtake one that does. The stream ends with `UNAVAILABLE` when
//! consensus falls, since what it has not answered is lost, and when the server closes.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt, stream, stream::FuturesUnordered};
use tokio::sync::oneshot;
use tonic::{Request, Status, Streaming};

use super::{Handlers, gone, misfit, pb, raft};
use crate::rpc::convert;

/// So many requests may wait for their answer, for each that this node itself would have in flight. Past it no more
/// are read, and the sender's window closes.
const PER_IN_FLIGHT_BATCH: usize = 4;

/// The stream of replies to a stream of requests.
pub(super) fn answers(
    handlers: Handlers,
    requests: Request<Streaming<pb::AppendEntriesRequest>>,
) -> impl Stream<Item = Result<pb::AppendEntriesReply, Status>> {
    let most = handlers.node.config().max_in_flight_batches.saturating_mul(PER_IN_FLIGHT_BATCH);
    let (address, requests) = (requests.remote_addr(), requests.into_inner());
    let waiting = FuturesUnordered::new();
    let conversation = Conversation { handlers, address, requests, reading: true, waiting, most };
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
    /// Whose it is.
    address: Option<SocketAddr>,
    requests: Streaming<pb::AppendEntriesRequest>,
    /// Whether more requests may come.
    reading: bool,
    waiting: FuturesUnordered<Answer>,
    /// How many may wait.
    most: usize,
}

impl Conversation {
    /// The next reply, in whatever order; an error ends the stream, and so does `None`.
    async fn next(&mut self) -> Option<Result<pb::AppendEntriesReply, Status>> {
        loop {
            if !self.reading && self.waiting.is_empty() {
                return None;
            }
            let room = self.waiting.len() < self.most;
            tokio::select! {
                biased;
                _ = &mut self.handlers.closing => return Some(Err(gone(&self.handlers.node))),
                Some((header, reply)) = self.waiting.next() => return Some(self.reply(header, reply)),
                request = self.requests.next(), if self.reading && room => match request {
                    Some(Ok(request)) => {
                        if let Err(status) = self.deliver(request) {
                            return Some(Err(status));
                        }
                    }
                    Some(Err(status)) => return Some(Err(status)),
                    None => self.reading = false,
                },
            }
        }
    }

    fn deliver(&self, request: pb::AppendEntriesRequest) -> Result<(), Status> {
        let (header, from) = self.handlers.check(request.header, self.address)?;
        let (request, traces) = convert::append_entries_from_pb(from.id, request)?;
        let reply = self.handlers.deliver(from, self.address, raft::Request::AppendEntries(request), traces)?;
        self.waiting.push(Answer { header, reply });
        Ok(())
    }

    fn reply(
        &self,
        header: pb::Header,
        reply: Result<raft::Reply, oneshot::error::RecvError>,
    ) -> Result<pb::AppendEntriesReply, Status> {
        match reply {
            Ok(raft::Reply::AppendEntries(reply)) => Ok(convert::append_reply_to_pb(header, &reply)),
            Ok(other) => Err(misfit(&other)),
            Err(_) => Err(gone(&self.handlers.node)),
        }
    }
}

/// An answer to come, and what heads it.
struct Answer {
    header: pb::Header,
    reply: oneshot::Receiver<raft::Reply>,
}

impl Future for Answer {
    type Output = (pb::Header, Result<raft::Reply, oneshot::error::RecvError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(context).map(|reply| (self.header, reply))
    }
}
