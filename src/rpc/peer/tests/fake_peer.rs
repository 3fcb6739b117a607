//! A peer that answers over real sockets, well or as it was told to.

use super::*;

/// How the peer behaves.
#[derive(Clone)]
pub(super) struct Behaviour {
    /// Whom it says it is.
    pub(super) identity: Identity,
    /// Its disk. 0: it does not say.
    pub(super) disk: u64,
    /// Ends its streams after so many replies.
    pub(super) replies: usize,
    /// Refuses every stream with this.
    pub(super) refuses: Option<identity::WrongPeer>,
    /// Never answers votes and commands.
    pub(super) mute: bool,
}

pub(super) const GOOD: Behaviour =
    Behaviour { identity: PEER, disk: 22, replies: usize::MAX, refuses: None, mute: false };

#[derive(Clone)]
pub(super) struct FakePeer {
    pub(super) behaviour: Behaviour,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) traceparents: Arc<Mutex<Vec<Option<TraceId>>>>,
    /// Fires when a call arrived that will not be answered.
    pub(super) unanswered: Arc<Notify>,
    /// Fires when such a call is waited for no longer.
    pub(super) given_up: Arc<Notify>,
}

impl FakePeer {
    fn header(&self, asked: Option<pb::Header>) -> pb::Header {
        let asked = asked.expect("every request has a header");
        let Behaviour { identity, disk, .. } = &self.behaviour;
        let own = pb::Header { cluster_id: identity.cluster_id, to: identity.node_id, ..asked };
        identity::reply_header(own, *disk)
    }

    async fn mute(&self) {
        if self.behaviour.mute {
            let _waiting = Waiting(self.given_up.clone());
            self.unanswered.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for FakePeer {
    type AppendEntriesStream = BoxStream<'static, Result<pb::AppendEntriesReply, Status>>;

    async fn append_entries(
        &self,
        requests: tonic::Request<Streaming<pb::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        if let Some(wrong) = &self.behaviour.refuses {
            return Err(wrong.clone().into());
        }
        let peer = self.clone();
        let reply = move |request: Result<pb::AppendEntriesRequest, Status>| {
            let request = request?;
            let outcome = AppendOutcome::Matched { match_index: request.prev_log_index };
            let reply = AppendEntriesReply { term: request.term, outcome, read_round: 0 };
            Ok(convert::append_reply_to_pb(peer.header(request.header), &reply))
        };
        let replies = requests.into_inner().map(reply).take(self.behaviour.replies);
        Ok(Response::new(replies.boxed()))
    }

    async fn request_vote(
        &self,
        request: tonic::Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteReply>, Status> {
        self.traceparents.lock().expect("no panic").push(crate::rpc::trace::read(request.metadata()));
        self.mute().await;
        let request = request.into_inner();
        let reply =
            pb::RequestVoteReply { header: Some(self.header(request.header)), term: request.term, vote_granted: true };
        Ok(Response::new(reply))
    }

    async fn pre_vote(&self, _: tonic::Request<pb::PreVoteRequest>) -> Result<Response<pb::PreVoteReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn timeout_now(
        &self,
        _: tonic::Request<pb::TimeoutNowRequest>,
    ) -> Result<Response<pb::TimeoutNowReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read_index(
        &self,
        _: tonic::Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn install_snapshot(
        &self,
        _: tonic::Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for FakePeer {
    async fn client_request(
        &self,
        request: tonic::Request<pb::ClientRequestRequest>,
    ) -> Result<Response<pb::ClientRequestReply>, Status> {
        assert!(!crate::rpc::wants_forwarding(request.metadata()), "a forwarded command is not forwarded again");
        self.mute().await;
        Ok(Response::new(pb::ClientRequestReply { output: request.into_inner().command, index: 5 }))
    }

    async fn open_session(
        &self,
        _: tonic::Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ClientStreamStream = futures_util::stream::Empty<Result<pb::ClientStreamReply, Status>>;

    async fn client_stream(
        &self,
        _: tonic::Request<tonic::Streaming<pb::ClientStreamRequest>>,
    ) -> Result<Response<Self::ClientStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: tonic::Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn take_snapshot(
        &self,
        _: tonic::Request<pb::TakeSnapshotRequest>,
    ) -> Result<Response<pb::TakeSnapshotReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type SaveSnapshotStream = BoxStream<'static, Result<pb::SaveSnapshotReply, Status>>;

    async fn save_snapshot(
        &self,
        _: tonic::Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn add_server(&self, _: tonic::Request<pb::AddServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_server(
        &self,
        _: tonic::Request<pb::RemoveServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn promote_server(
        &self,
        _: tonic::Request<pb::PromoteServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn replace_server(
        &self,
        _: tonic::Request<pb::ReplaceServerRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leadership(
        &self,
        _: tonic::Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type EventsStream = futures_util::stream::Empty<Result<pb::Event, Status>>;

    async fn events(&self, _: tonic::Request<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    type FlowStream = futures_util::stream::Empty<Result<pb::FlowReply, Status>>;

    async fn flow(&self, _: tonic::Request<pb::FlowRequest>) -> Result<Response<Self::FlowStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn incidents(&self, _: tonic::Request<pb::IncidentsRequest>) -> Result<Response<pb::IncidentsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn actors(&self, _: tonic::Request<pb::ActorsRequest>) -> Result<Response<pb::ActorsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}

/// Someone waits for an answer until this is dropped.
struct Waiting(Arc<Notify>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A peer at work; dropping it closes its port and cuts its connections.
pub(super) struct Running {
    pub(super) address: String,
    pub(super) peer: FakePeer,
    _stop: oneshot::Sender<()>,
}

pub(super) async fn start(behaviour: Behaviour) -> Running {
    start_at("127.0.0.1:0", behaviour).await
}

pub(super) async fn start_at(address: &str, behaviour: Behaviour) -> Running {
    let listener = listener::bind(&Tcp, address).await.expect("a port");
    let address = listener.address.clone();
    let peer = FakePeer {
        behaviour,
        connections: Arc::default(),
        traceparents: Arc::default(),
        unanswered: Arc::default(),
        given_up: Arc::default(),
    };
    let services = Routes::new(pb::raft_server::RaftServer::new(peer.clone()))
        .add_service(pb::cluster_server::ClusterServer::new(peer.clone()));
    let (stop, stopping) = listener::signal();
    let counted = peer.connections.clone();
    let incoming = listener::connections(listener, stopping.clone()).inspect(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    tokio::spawn(Server::builder().serve_with_incoming_shutdown(services.prepare(), incoming, stopping.map(drop)));
    Running { address, peer, _stop: stop }
}
