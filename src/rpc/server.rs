//! The handlers of `raft.v1.Raft` and `raft.v1.Cluster`: each checks, translates, and forwards to the node in a line.

mod actors;
mod append_entries;
mod client_stream;
mod events;
mod flow;
mod incidents;
pub(super) mod install_snapshot;
mod orders;
mod save_snapshot;
mod strangers;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    NO_FORWARD, cluster, convert,
    identity::{self, Refused},
    listener::Signal,
    pb, trace,
};
use crate::{error::ProposeError, flow::TraceId, node::NodeRef, raft, transport::Caller};
use strangers::Strangers;

/// One node, as both services see it.
#[derive(Clone)]
pub(super) struct Handlers {
    node: NodeRef,
    /// Fires when the server begins to close, so that streams end.
    closing: Signal,
    strangers: Arc<Strangers>,
}

/// Whether a client lets its command be forwarded; it does unless it says otherwise.
pub fn wants_forwarding(metadata: &MetadataMap) -> bool {
    metadata.get(NO_FORWARD).is_none_or(|value| value.as_bytes() == b"0")
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Status {
        match refused {
            Refused::Malformed(malformed) => malformed.into(),
            Refused::WrongPeer(wrong) => wrong.into(),
        }
    }
}

impl Handlers {
    pub fn new(node: NodeRef, closing: Signal) -> Self {
        Handlers { node, closing, strangers: Arc::default() }
    }

    /// Checks the header of a request from `address`, and gives the reply's, and the caller.
    fn check(&self, header: Option<pb::Header>, address: Option<SocketAddr>) -> Result<(pb::Header, Caller), Refused> {
        let header = identity::check_request(self.node.identity(), header).inspect_err(|refused| {
            if let Refused::WrongPeer(wrong) = refused {
                self.strangers.refused(wrong, address);
            }
        })?;
        Ok((identity::reply_header(header, self.node.incarnation()), identity::caller(&header)))
    }

    /// Passes a request on, unless it comes from or is for another disk, or from a server that was removed.
    fn deliver(
        &self,
        from: Caller,
        address: Option<SocketAddr>,
        request: raft::Request,
        traces: Vec<(raft::LogIndex, TraceId)>,
    ) -> Result<oneshot::Receiver<raft::Reply>, Status> {
        self.node.deliver(from, request, traces).map_err(|wrong| {
            self.strangers.refused(&wrong, address);
            wrong.into()
        })
    }

    /// Passes a request on and waits for its answer. `trace` stands under index 0: it is about the request itself.
    async fn ask(
        &self,
        from: Caller,
        address: Option<SocketAddr>,
        request: raft::Request,
        trace: Option<TraceId>,
    ) -> Result<raft::Reply, Status> {
        let traces = trace.map(|trace| (0, trace)).into_iter().collect();
        let answer = self.deliver(from, address, request, traces)?;
        answer.await.map_err(|_| gone(&self.node))
    }
}

/// Consensus fell before it answered.
fn gone(node: &NodeRef) -> Status {
    ProposeError::Unavailable { node: node.identity().node_id }.into()
}

/// An answer that does not belong to its question.
fn misfit(reply: &raft::Reply) -> Status {
    Status::internal(format!("the node gave an answer of another kind: {reply:?}"))
}

/// Header, conversion, question, answer, conversion: the same for each unary call between nodes.
macro_rules! unary {
    ($handlers:expr, $request:expr, $kind:ident, $from_pb:expr, $to_pb:expr) => {{
        let trace = trace::read($request.metadata());
        let address = $request.remote_addr();
        let message = $request.into_inner();
        let (header, from) = $handlers.check(message.header, address)?;
        let request = raft::Request::$kind($from_pb(from.id, message)?);
        match $handlers.ask(from, address, request, trace).await? {
            raft::Reply::$kind(reply) => Ok(Response::new($to_pb(header, &reply))),
            other => Err(misfit(&other)),
        }
    }};
}

#[tonic::async_trait]
impl pb::raft_server::Raft for Handlers {
    type AppendEntriesStream = BoxStream<'static, Result<pb::AppendEntriesReply, Status>>;

    async fn append_entries(
        &self,
        request: Request<Streaming<pb::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        Ok(Response::new(append_entries::answers(self.clone(), request).boxed()))
    }

    async fn request_vote(
        &self,
        request: Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteReply>, Status> {
        unary!(self, request, RequestVote, convert::request_vote_from_pb, convert::request_vote_reply_to_pb)
    }

    async fn pre_vote(&self, request: Request<pb::PreVoteRequest>) -> Result<Response<pb::PreVoteReply>, Status> {
        unary!(self, request, PreVote, convert::pre_vote_from_pb, convert::pre_vote_reply_to_pb)
    }

    async fn timeout_now(
        &self,
        request: Request<pb::TimeoutNowRequest>,
    ) -> Result<Response<pb::TimeoutNowReply>, Status> {
        unary!(self, request, TimeoutNow, convert::timeout_now_from_pb, convert::timeout_now_reply_to_pb)
    }

    async fn read_index(&self, request: Request<pb::ReadIndexRequest>) -> Result<Response<pb::ReadIndexReply>, Status> {
        let from_pb = |_from, message| convert::read_index_from_pb(message);
        unary!(self, request, ReadIndex, from_pb, convert::read_index_reply_to_pb)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        install_snapshot::answer(self, request).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Handlers {
    async fn client_request(
        &self,
        request: Request<pb::ClientRequestRequest>,
    ) -> Result<Response<pb::ClientRequestReply>, Status> {
        cluster::check(&self.node, request.metadata())?;
        let trace = trace::read(request.metadata()).unwrap_or_else(|| self.node.flow().new_trace());
        let forward = wants_forwarding(request.metadata());
        // Copied out of the receive buffer: the log keeps it for long.
        let pb::ClientRequestRequest { command, session } = request.into_inner();
        let command = Bytes::copy_from_slice(&command);
        let applied = match session {
            None => self.node.propose(command, forward, trace).await?,
            Some(session) => {
                let command = convert::session_command_from_pb(session, command)?;
                self.node.propose_in_session(command, forward, trace).await?
            }
        };
        Ok(cluster::answer(&self.node, pb::ClientRequestReply { output: applied.output, index: applied.index }))
    }

    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        cluster::check(&self.node, request.metadata())?;
        let trace = trace::read(request.metadata()).unwrap_or_else(|| self.node.flow().new_trace());
        let id = self.node.open_session_traced(wants_forwarding(request.metadata()), trace).await?;
        Ok(cluster::answer(&self.node, pb::OpenSessionResponse { id }))
    }

    type ClientStreamStream = BoxStream<'static, Result<pb::ClientStreamReply, Status>>;

    async fn client_stream(
        &self,
        request: Request<Streaming<pb::ClientStreamRequest>>,
    ) -> Result<Response<Self::ClientStreamStream>, Status> {
        cluster::check(&self.node, request.metadata())?;
        Ok(Response::new(client_stream::answers(self.clone(), request.into_inner()).boxed()))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        let clock = Some(convert::flow_clock(self.node.flow()));
        Ok(cluster::answer(&self.node, pb::StatusReply { clock, ..convert::status_to_pb(&self.node.status()) }))
    }

    async fn take_snapshot(
        &self,
        request: Request<pb::TakeSnapshotRequest>,
    ) -> Result<Response<pb::TakeSnapshotReply>, Status> {
        cluster::check(&self.node, request.metadata())?;
        self.node.take_snapshot().await?;
        let taken = self.node.save_snapshot()?.metadata;
        Ok(Response::new(pb::TakeSnapshotReply { snapshot: Some(convert::snapshot_to_pb(&taken)) }))
    }

    type SaveSnapshotStream = BoxStream<'static, Result<pb::SaveSnapshotReply, Status>>;

    async fn save_snapshot(
        &self,
        request: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        cluster::check(&self.node, request.metadata())?;
        Ok(Response::new(save_snapshot::parts(self, request.into_inner().fresh).boxed()))
    }

    async fn add_server(&self, request: Request<pb::AddServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        orders::add_server(&self.node, request).await
    }

    async fn remove_server(
        &self,
        request: Request<pb::RemoveServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        orders::remove_server(&self.node, request).await
    }

    async fn promote_server(
        &self,
        request: Request<pb::PromoteServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        orders::promote_server(&self.node, request).await
    }

    async fn replace_server(
        &self,
        request: Request<pb::ReplaceServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        orders::replace_server(&self.node, request).await
    }

    async fn transfer_leadership(
        &self,
        request: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipReply>, Status> {
        orders::transfer_leadership(&self.node, request).await
    }

    type EventsStream = BoxStream<'static, Result<pb::Event, Status>>;

    async fn events(&self, _: Request<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(events::events(self.node.clone(), self.closing.clone()).boxed()))
    }

    type FlowStream = BoxStream<'static, Result<pb::FlowReply, Status>>;

    async fn flow(&self, request: Request<pb::FlowRequest>) -> Result<Response<Self::FlowStream>, Status> {
        let request = request.into_inner();
        let messages = match request.incident {
            0 => flow::messages(self, &request),
            incident => incidents::messages(self, incident).await?.boxed(),
        };
        Ok(Response::new(messages))
    }

    async fn incidents(&self, _: Request<pb::IncidentsRequest>) -> Result<Response<pb::IncidentsReply>, Status> {
        incidents::list(&self.node).await.map(Response::new)
    }

    async fn actors(&self, _: Request<pb::ActorsRequest>) -> Result<Response<pb::ActorsReply>, Status> {
        Ok(Response::new(actors::tree(&self.node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_forwarded_unless_the_client_says_otherwise() {
        let mut metadata = MetadataMap::new();
        assert!(wants_forwarding(&metadata));
        metadata.insert(NO_FORWARD, "1".parse().expect("ASCII"));
        assert!(!wants_forwarding(&metadata));
        metadata.insert(NO_FORWARD, "0".parse().expect("ASCII"));
        assert!(wants_forwarding(&metadata));
    }
}
