//! A small client of the `Cluster` service, for operators and tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tonic::{Code, Request, transport::Channel};

use super::{
    NO_FORWARD,
    channel::{self, BadAddress},
    cluster, convert, error, pb, trace,
};
use crate::{
    error::{ChangeError, ProposeError},
    flow::TraceId,
    node::{Applied, Status},
    raft::{Change, LogIndex, NodeId, Payload, SessionCommand},
    transport::Order,
};

/// As it is generated.
type Generated = pb::cluster_client::ClusterClient<Channel>;

/// The `Cluster` service of one node.
///
/// It stays with the cluster whose answer came first: whatever it says to the log after that says which cluster it is for, and
/// a node of another one, restored from a backup at the same address perhaps, refuses it (R004). Its clones share that.
#[derive(Clone)]
pub struct ClusterClient {
    client: pb::cluster_client::ClusterClient<Channel>,
    timeout: Duration,
    /// Which cluster is meant. 0: whichever answers first.
    cluster_id: Arc<AtomicU64>,
}

impl ClusterClient {
    /// A client of the node at `address`; connected by its first call. A call takes `timeout` at most. Must be called
    /// on a tokio runtime.
    ///
    /// # Errors
    /// [`BadAddress`]: it cannot be an address.
    pub fn new(address: &str, timeout: Duration) -> Result<Self, BadAddress> {
        Ok(ClusterClient::over(channel::lazy(address)?, timeout))
    }

    /// The first of several nodes that answers, and what it answered.
    ///
    /// # Errors
    /// What the last one said; `UNAVAILABLE` if there is none, `INVALID_ARGUMENT` for a bad address.
    pub async fn connect<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
    ) -> Result<(Self, Status), tonic::Status> {
        let mut last = tonic::Status::unavailable("there is no address to try");
        for address in addresses {
            let client = ClusterClient::new(address, timeout)
                .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
            match client.status().await {
                Ok(status) => return Ok((client, status)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A client over a connection that is there already.
    pub fn over(channel: Channel, timeout: Duration) -> Self {
        let client = pb::cluster_client::ClusterClient::new(channel).max_decoding_message_size(usize::MAX);
        ClusterClient { client, timeout, cluster_id: Arc::default() }
    }

    /// For this cluster, whichever answered before. 0: for the one that answers next.
    pub fn of_cluster(self, cluster_id: u64) -> Self {
        ClusterClient { cluster_id: Arc::new(AtomicU64::new(cluster_id)), ..self }
    }

    /// What the node is at the moment.
    ///
    /// # Errors
    /// It cannot be reached in time, or its answer cannot be read.
    pub async fn status(&self) -> Result<Status, tonic::Status> {
        let mut client = self.client.clone();
        let reply = within(self.timeout, client.status(Request::new(pb::StatusRequest {}))).await?;
        let status = convert::status_from_pb(reply.into_inner())
            .map_err(|malformed| tonic::Status::internal(malformed.to_string()))?;
        self.heard_of(status.cluster_id);
        Ok(status)
    }

    /// Proposes a command of the state machine, as bytes. Without `forward` a node that does not lead says who does.
    ///
    /// # Errors
    /// As the node said; [`ProposeError::Unknown`] whenever it is not certain that the command was not applied.
    pub async fn propose(&self, command: Bytes, forward: bool, trace: TraceId) -> Result<Applied, ProposeError> {
        self.propose_payload(0, Payload::Command(command), forward, trace).await
    }

    /// Proposes a command of a session, which is applied once however often it is proposed.
    ///
    /// # Errors
    /// As for [`propose`](Self::propose); another try under the same session and sequence is safe in any case.
    pub async fn propose_in_session(
        &self,
        command: SessionCommand,
        forward: bool,
        trace: TraceId,
    ) -> Result<Applied, ProposeError> {
        self.propose_payload(0, Payload::SessionCommand(command), forward, trace).await
    }

    /// Gives an operator's order, and returns the entry of the change; 0 where there is none. `cluster_id` is the cluster that
    /// is meant, 0 any. Without `forward` a node that does not lead says who does.
    ///
    /// # Errors
    /// As the node said; [`ChangeError::Unknown`] whenever it is not certain that nothing was changed.
    pub async fn order(&self, cluster_id: u64, order: Order, forward: bool) -> Result<LogIndex, ChangeError> {
        let answer = match order {
            Order::Change(Change::Add { id, address, promote }) => {
                let request = pb::AddServerRequest { id, address, learner: !promote, cluster_id };
                self.change(request, forward, async |mut client, request| client.add_server(request).await).await
            }
            Order::Change(Change::Promote { id }) => {
                let request = pb::PromoteServerRequest { id, cluster_id };
                self.change(request, forward, async |mut client, request| client.promote_server(request).await).await
            }
            Order::Change(Change::Remove { id }) => {
                let request = pb::RemoveServerRequest { id, cluster_id };
                self.change(request, forward, async |mut client, request| client.remove_server(request).await).await
            }
            Order::Change(Change::Replace { id, address }) => {
                let request = pb::ReplaceServerRequest { id, address, cluster_id };
                self.change(request, forward, async |mut client, request| client.replace_server(request).await).await
            }
            Order::Transfer(to) => {
                let request = pb::TransferLeadershipRequest { to: to.unwrap_or(0), cluster_id };
                let call = async |mut client: Generated, request| {
                    let answer = client.transfer_leadership(request).await?;
                    Ok(answer.map(|pb::TransferLeadershipReply {}| pb::ChangeReply { index: 0 }))
                };
                self.change(request, forward, call).await
            }
        };
        answer.map(|reply| reply.index).map_err(|status| error::change_error(&status, 0))
    }

    async fn change<M>(
        &self,
        message: M,
        forward: bool,
        call: impl AsyncFnOnce(Generated, Request<M>) -> Result<tonic::Response<pb::ChangeReply>, tonic::Status>,
    ) -> Result<pb::ChangeReply, tonic::Status> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if !forward {
            request.metadata_mut().insert(NO_FORWARD, tonic::metadata::MetadataValue::from_static("1"));
        }
        Ok(within(self.timeout, call(self.client.clone(), request)).await?.into_inner())
    }

    /// Opens a session. Another try may leave one behind that nobody uses, and does no harm besides.
    ///
    /// # Errors
    /// As the node said.
    pub async fn open_session(&self) -> Result<u64, ProposeError> {
        Ok(self.open_at(0, true, 0).await?.0)
    }

    /// As [`open_session`](Self::open_session), with the id of the cluster that it belongs to. 0: an older node answered.
    pub(super) async fn open_session_of_cluster(&self) -> Result<(u64, u64), ProposeError> {
        self.open_at(0, true, 0).await
    }

    /// Whatever a client may want in the log, at a node whose id is known to be `to`.
    pub(super) async fn propose_payload(
        &self,
        to: NodeId,
        payload: Payload,
        forward: bool,
        trace: TraceId,
    ) -> Result<Applied, ProposeError> {
        let (command, session) = match payload {
            Payload::Command(command) => (command, None),
            Payload::SessionCommand(SessionCommand { session: id, sequence, first_unanswered, command }) => {
                (command, Some(pb::Session { id, sequence, first_unanswered }))
            }
            Payload::OpenSession => {
                let (index, _) = self.open_at(to, forward, trace).await?;
                return Ok(Applied { output: Bytes::new(), index });
            }
            Payload::Noop | Payload::Membership(_) => unreachable!("no client says this"),
        };
        let request = self.request(pb::ClientRequestRequest { command, session }, forward, trace);
        let mut client = self.client.clone();
        match within(self.timeout, client.client_request(request)).await {
            Ok(reply) => {
                self.heard_of(cluster::read(reply.metadata()));
                let pb::ClientRequestReply { output, index } = reply.into_inner();
                Ok(Applied { output: Bytes::copy_from_slice(&output), index })
            }
            Err(status) => Err(error::propose_error(&status, to)),
        }
    }

    /// The session, and the cluster.
    async fn open_at(&self, to: NodeId, forward: bool, trace: TraceId) -> Result<(u64, u64), ProposeError> {
        let request = self.request(pb::OpenSessionRequest {}, forward, trace);
        let mut client = self.client.clone();
        match within(self.timeout, client.open_session(request)).await {
            Ok(reply) => {
                let cluster_id = cluster::read(reply.metadata());
                self.heard_of(cluster_id);
                Ok((reply.get_ref().id, cluster_id))
            }
            Err(status) => Err(error::propose_error(&status, to)),
        }
    }

    /// The first one that answers is the one that is meant. 0: an older node, which does not say.
    fn heard_of(&self, cluster_id: u64) {
        let _ = self.cluster_id.compare_exchange(0, cluster_id, Relaxed, Relaxed);
    }

    fn request<T>(&self, message: T, forward: bool, trace: TraceId) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        trace::write(trace, request.metadata_mut());
        cluster::write(self.cluster_id.load(Relaxed), request.metadata_mut());
        if !forward {
            request.metadata_mut().insert(NO_FORWARD, tonic::metadata::MetadataValue::from_static("1"));
        }
        request
    }
}

/// The call's own deadline travels with it and counts from when it is sent; this one counts from now.
pub(super) async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let late = |_| tonic::Status::new(Code::DeadlineExceeded, format!("no answer within {timeout:?}"));
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}
