//! The calls to one peer that must not wait behind data: votes, transfers, read indexes. Each has a deadline.
//!
//! One task sends them in order and waits for all their answers at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tonic::{Status, transport::Channel};

use super::{Task, broken, refused};
use crate::{
    flow::TraceId,
    raft::{LogIndex, Reply, Request},
    rpc::{
        channel,
        client::within,
        convert::{self, Malformed},
        identity::{self, Refused},
        pb, trace,
    },
    transport::{Heard, Link},
};

/// A call that is to be made.
struct Call {
    session: u64,
    request: Request,
    /// Whose doing it is; 0: no client's.
    trace: TraceId,
    deadline: Duration,
}

/// The calls to one peer.
pub(super) struct Calls {
    link: Arc<Link>,
    /// Opened with the first call.
    open: Option<(mpsc::UnboundedSender<Call>, Task)>,
}

impl Calls {
    pub fn new(link: Arc<Link>) -> Self {
        Calls { link, open: None }
    }

    pub fn send(&mut self, session: u64, request: Request, traces: &[(LogIndex, TraceId)], deadline: Duration) {
        let trace = traces.first().map_or(0, |(_, trace)| *trace);
        let call = Call { session, request, trace, deadline };
        if self.open.is_none() {
            match channel::lazy(&self.link.address) {
                Ok(channel) => {
                    let (calls, queue) = mpsc::unbounded_channel();
                    let task = Task(tokio::spawn(run(self.link.clone(), channel, queue)));
                    self.open = Some((calls, task));
                }
                Err(bad) => return (self.link.heard)(Heard::Broken { cause: bad.to_string(), wrong_peer: false }),
            }
        }
        let (calls, _task) = self.open.as_ref().expect("it was opened just now");
        if calls.send(call).is_err() {
            // The task ends with this value, or with the runtime.
            (self.link.heard)(Heard::Broken { cause: "the runtime is shutting down".to_owned(), wrong_peer: false });
        }
    }
}

async fn run(link: Arc<Link>, channel: Channel, mut queue: mpsc::UnboundedReceiver<Call>) {
    let client = pb::raft_client::RaftClient::new(channel);
    let mut waiting = FuturesUnordered::<BoxFuture<'static, Heard>>::new();
    loop {
        tokio::select! {
            biased;
            Some(heard) = waiting.next() => (link.heard)(heard),
            call = queue.recv() => match call {
                Some(call) => waiting.push(Box::pin(make(link.clone(), client.clone(), call))),
                None => return,
            },
        }
    }
}

async fn make(link: Arc<Link>, mut client: pb::raft_client::RaftClient<Channel>, call: Call) -> Heard {
    let Call { session, request, trace, deadline } = call;
    let header = identity::header(&link.from, link.to, session);
    let answer = match &request {
        Request::RequestVote(request) => {
            let message = dressed(convert::request_vote_to_pb(header, request), trace, deadline);
            let reply = within(deadline, client.request_vote(message)).await;
            reply.map(|reply| {
                read(
                    &reply.get_ref().header,
                    convert::request_vote_reply_from_pb(reply.get_ref()).map(Reply::RequestVote),
                )
            })
        }
        Request::PreVote(request) => {
            let message = dressed(convert::pre_vote_to_pb(header, request), trace, deadline);
            let reply = within(deadline, client.pre_vote(message)).await;
            reply.map(|reply| {
                read(&reply.get_ref().header, convert::pre_vote_reply_from_pb(reply.get_ref()).map(Reply::PreVote))
            })
        }
        Request::TimeoutNow(request) => {
            let message = dressed(convert::timeout_now_to_pb(header, request), trace, deadline);
            let reply = within(deadline, client.timeout_now(message)).await;
            reply.map(|reply| {
                read(
                    &reply.get_ref().header,
                    convert::timeout_now_reply_from_pb(reply.get_ref()).map(Reply::TimeoutNow),
                )
            })
        }
        Request::ReadIndex(request) => {
            let message = dressed(convert::read_index_to_pb(header, request), trace, deadline);
            let reply = within(deadline, client.read_index(message)).await;
            reply.map(|reply| {
                read(&reply.get_ref().header, convert::read_index_reply_from_pb(reply.get_ref()).map(Reply::ReadIndex))
            })
        }
        Request::AppendEntries(_) => Err(Status::internal("AppendEntries travels on its stream")),
    };
    match answer {
        Ok((header, reply)) => accept(&link, header, reply).unwrap_or_else(refused),
        Err(status) => broken(&status),
    }
}

type Answer = (Option<pb::Header>, Result<Reply, Malformed>);

fn read(header: &Option<pb::Header>, reply: Result<Reply, Malformed>) -> Answer {
    (*header, reply)
}

/// Who answers is checked before what is answered.
fn accept(link: &Link, header: Option<pb::Header>, reply: Result<Reply, Malformed>) -> Result<Heard, Refused> {
    let session = identity::check_reply(&link.from, link.to, header)?;
    let reply = reply.map_err(Refused::Malformed)?;
    Ok(Heard::Answer { session, reply })
}

fn dressed<M>(message: M, trace: TraceId, deadline: Duration) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    trace::write(trace, request.metadata_mut());
    request
}
