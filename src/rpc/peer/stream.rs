//! The stream of AppendEntries to one peer.
//!
//! Each break is reported once, by the stream that broke; what is sent after that opens the next one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Channel};

use super::{Task, broken, lost, refused};
use crate::{
    flow::TraceId,
    raft::{AppendEntriesRequest, LogIndex, Reply},
    rpc::{
        channel::{self, BadAddress},
        convert,
        identity::{self, Refused},
        pb,
        sockets::Sockets,
    },
    transport::{Heard, Link},
};

/// The stream, or the place where it will be.
pub(super) struct AppendStream {
    link: Arc<Link>,
    sockets: Arc<dyn Sockets>,
    /// Made with the first request; it dials again by itself.
    channel: Option<Result<Channel, BadAddress>>,
    open: Option<Open>,
}

/// A stream that was opened, and may have broken since.
struct Open {
    requests: mpsc::UnboundedSender<pb::AppendEntriesRequest>,
    /// Set before the break is reported: a request that is queued before that is covered by the report, a request after
    /// it goes to the next stream. (The queue's own end comes too late: the connection may hold it for a while longer.)
    broken: Arc<AtomicBool>,
    _task: Task,
}

impl AppendStream {
    pub fn new(link: Arc<Link>, sockets: Arc<dyn Sockets>) -> Self {
        AppendStream { link, sockets, channel: None, open: None }
    }

    pub fn send(&mut self, session: u64, request: AppendEntriesRequest, traces: Vec<(LogIndex, TraceId)>) {
        let header = identity::header(&self.link, session);
        let mut message = convert::append_entries_to_pb(header, request, traces);
        if let Some(open) = self.open.as_ref().filter(|open| !open.broken.load(Ordering::Acquire)) {
            match open.requests.send(message) {
                Ok(()) => return,
                Err(unsent) => message = unsent.0,
            }
        }
        self.open = None;
        let dial = || channel::lazy_over(&*self.sockets, &self.link.address);
        match self.channel.get_or_insert_with(dial) {
            Ok(channel) => self.open = Some(open(self.link.clone(), channel.clone(), message)),
            Err(bad) => (self.link.heard)(lost(bad)),
        }
    }
}

fn open(link: Arc<Link>, channel: Channel, first: pb::AppendEntriesRequest) -> Open {
    let (requests, queue) = mpsc::unbounded_channel();
    let _ = requests.send(first);
    let broken = Arc::new(AtomicBool::new(false));
    let told = broken.clone();
    let task = tokio::spawn(async move {
        let heard = converse(&link, channel, queue).await;
        told.store(true, Ordering::Release);
        (link.heard)(heard);
    });
    Open { requests, broken, _task: Task(task) }
}

/// Runs the stream until it breaks; returns why it did.
async fn converse(link: &Link, channel: Channel, queue: mpsc::UnboundedReceiver<pb::AppendEntriesRequest>) -> Heard {
    let requests = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|request| (request, queue)) });
    // The core bounds what is in flight; replies are small.
    let mut client = pb::raft_client::RaftClient::new(channel);
    let replies = match client.append_entries(requests).await {
        Ok(response) => response.into_inner(),
        Err(status) => return broken(&status),
    };
    hear(link, replies).await
}

async fn hear(link: &Link, mut replies: Streaming<pb::AppendEntriesReply>) -> Heard {
    loop {
        match replies.message().await {
            Ok(Some(reply)) => match accept(link, &reply) {
                Ok(heard) => (link.heard)(heard),
                Err(why) => return refused(why),
            },
            Ok(None) => return broken(&Status::unavailable("the peer ended the stream")),
            Err(status) => return broken(&status),
        }
    }
}

fn accept(link: &Link, reply: &pb::AppendEntriesReply) -> Result<Heard, Refused> {
    let (session, incarnation) = identity::check_reply(link, reply.header)?;
    let reply = convert::append_reply_from_pb(reply).map_err(Refused::Malformed)?;
    Ok(Heard::Answer { session, incarnation, reply: Reply::AppendEntries(reply) })
}
