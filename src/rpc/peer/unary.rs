//! The calls to one peer that must not wait behind data: votes, transfers, read indexes. Each has a deadline.
//!
//! One task sends them in order and waits for all their answers at once. A deadline that passes is a lost request and no
//! more: nothing is reported, so that the stream of AppendEntries beside it stays as it is. Who asked asks again when its
//! own alarm goes off (a candidate after its timeout, a follower with reads as well).

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tonic::{Code, Status, TimeoutExpired, transport::Channel};

use super::{Task, broken, lost, refused};
use crate::{
    flow::TraceId,
    raft::{LogIndex, Reply, Request},
    rpc::{
        channel,
        client::within,
        convert,
        identity::{self, Refused},
        pb,
        sockets::Sockets,
        trace,
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
    sockets: Arc<dyn Sockets>,
    /// Opened with the first call.
    open: Option<(mpsc::UnboundedSender<Call>, Task)>,
}

impl Calls {
    pub fn new(link: Arc<Link>, sockets: Arc<dyn Sockets>) -> Self {
        Calls { link, sockets, open: None }
    }

    pub fn send(&mut self, session: u64, request: Request, traces: &[(LogIndex, TraceId)], deadline: Duration) {
        let trace = traces.first().map_or(0, |(_, trace)| *trace);
        let call = Call { session, request, trace, deadline };
        if self.open.is_none() {
            match channel::lazy_over(&*self.sockets, &self.link.address) {
                Ok(channel) => {
                    let (calls, queue) = mpsc::unbounded_channel();
                    let task = Task(tokio::spawn(run(self.link.clone(), channel, queue)));
                    self.open = Some((calls, task));
                }
                Err(bad) => return (self.link.heard)(lost(bad)),
            }
        }
        let (calls, _task) = self.open.as_ref().expect("it was opened just now");
        if calls.send(call).is_err() {
            // The task ends with this value, or with the runtime.
            (self.link.heard)(lost("the runtime is shutting down"));
        }
    }
}

async fn run(link: Arc<Link>, channel: Channel, mut queue: mpsc::UnboundedReceiver<Call>) {
    let client = pb::raft_client::RaftClient::new(channel);
    let mut waiting = FuturesUnordered::<BoxFuture<'static, Option<Heard>>>::new();
    loop {
        tokio::select! {
            biased;
            Some(answered) = waiting.next() => answered.into_iter().for_each(|heard| (link.heard)(heard)),
            call = queue.recv() => match call {
                Some(call) => waiting.push(Box::pin(make(link.clone(), client.clone(), call))),
                None => return,
            },
        }
    }
}

/// Conversion, call, conversion: the same for each kind. Who answers is checked before what is answered.
macro_rules! ask {
    ($link:expr, $call:expr, $request:expr, $client:ident . $method:ident, $kind:ident, $to_pb:path, $from_pb:path) => {{
        let header = identity::header(&$link, $call.session);
        let mut message = tonic::Request::new($to_pb(header, $request));
        message.set_timeout($call.deadline);
        trace::write($call.trace, message.metadata_mut());
        within($call.deadline, $client.$method(message)).await.map(|reply| {
            let reply = reply.get_ref();
            let (session, incarnation) = identity::check_reply(&$link, reply.header)?;
            let reply = Reply::$kind($from_pb(reply).map_err(Refused::Malformed)?);
            Ok(Heard::Answer { session, incarnation, reply })
        })
    }};
}

/// `None`: there was no answer in time.
async fn make(link: Arc<Link>, mut client: pb::raft_client::RaftClient<Channel>, call: Call) -> Option<Heard> {
    use convert::{
        pre_vote_reply_from_pb, pre_vote_to_pb, read_index_reply_from_pb, read_index_to_pb, request_vote_reply_from_pb,
        request_vote_to_pb, timeout_now_reply_from_pb, timeout_now_to_pb,
    };
    let answer: Result<Result<Heard, Refused>, Status> = match &call.request {
        Request::RequestVote(request) => {
            ask!(link, call, request, client.request_vote, RequestVote, request_vote_to_pb, request_vote_reply_from_pb)
        }
        Request::PreVote(request) => {
            ask!(link, call, request, client.pre_vote, PreVote, pre_vote_to_pb, pre_vote_reply_from_pb)
        }
        Request::TimeoutNow(request) => {
            ask!(link, call, request, client.timeout_now, TimeoutNow, timeout_now_to_pb, timeout_now_reply_from_pb)
        }
        Request::ReadIndex(request) => {
            ask!(link, call, request, client.read_index, ReadIndex, read_index_to_pb, read_index_reply_from_pb)
        }
        Request::AppendEntries(_) | Request::InstallSnapshot(_) => {
            unreachable!("{} travels on a stream of its own", call.request.name())
        }
    };
    match answer {
        Ok(Ok(heard)) => Some(heard),
        Ok(Err(why)) => Some(refused(why)),
        Err(status) if is_late(&status) => None,
        Err(status) => Some(broken(&status)),
    }
}

/// Whether the deadline passed: for us, or first for tonic, which has it from the request's header, at either end.
fn is_late(status: &Status) -> bool {
    match status.code() {
        Code::DeadlineExceeded => true,
        // A connection that breaks may cancel calls, too.
        Code::Cancelled => status.message() == TimeoutExpired(()).to_string(),
        _ => false,
    }
}
