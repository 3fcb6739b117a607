use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::{net::TcpListener, sync::Notify};
use tonic::{Request, Response, Status};

use super::*;
use crate::{
    error::ProposeError,
    rpc::{ClusterClient, sockets::Tcp},
};

const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: usize = 10_000;

/// A cluster service that never tells its status, but tells that it was asked.
struct Stuck(Arc<Notify>);

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Stuck {
    async fn client_request(
        &self,
        request: Request<pb::ClientRequestRequest>,
    ) -> Result<Response<pb::ClientRequestReply>, Status> {
        Ok(Response::new(pb::ClientRequestReply { output: request.into_inner().command, index: 1 }))
    }

    async fn open_session(
        &self,
        _: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ClientStreamStream = futures_util::stream::Empty<Result<pb::ClientStreamReply, Status>>;

    async fn client_stream(
        &self,
        _: Request<tonic::Streaming<pb::ClientStreamRequest>>,
    ) -> Result<Response<Self::ClientStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        self.0.notify_one();
        std::future::pending().await
    }

    async fn take_snapshot(
        &self,
        _: Request<pb::TakeSnapshotRequest>,
    ) -> Result<Response<pb::TakeSnapshotReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type SaveSnapshotStream = BoxStream<'static, Result<pb::SaveSnapshotReply, Status>>;

    async fn save_snapshot(
        &self,
        _: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn add_server(&self, _: Request<pb::AddServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_server(&self, _: Request<pb::RemoveServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn promote_server(&self, _: Request<pb::PromoteServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn replace_server(&self, _: Request<pb::ReplaceServerRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leadership(
        &self,
        _: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type EventsStream = futures_util::stream::Empty<Result<pb::Event, Status>>;

    async fn events(&self, _: Request<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    type FlowStream = futures_util::stream::Empty<Result<pb::FlowReply, Status>>;

    async fn flow(&self, _: Request<pb::FlowRequest>) -> Result<Response<Self::FlowStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn incidents(&self, _: Request<pb::IncidentsRequest>) -> Result<Response<pb::IncidentsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn actors(&self, _: Request<pb::ActorsRequest>) -> Result<Response<pb::ActorsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}

struct Served {
    address: String,
    server: tokio::task::JoinHandle<()>,
    close: oneshot::Sender<()>,
    stuck: Arc<Notify>,
}

async fn served() -> Served {
    let listener = bind(&Tcp, "127.0.0.1:0").await.expect("a port");
    let address = listener.address.clone();
    let (close, closing) = signal();
    let stuck = Arc::new(Notify::new());
    let service = pb::cluster_server::ClusterServer::new(Stuck(stuck.clone())).max_decoding_message_size(LIMIT);
    let server = tokio::spawn(run(listener, Routes::new(service), closing));
    Served { address, server, close, stuck }
}

/// More patient than the tests: no call ends by itself.
fn client(address: &str) -> ClusterClient {
    ClusterClient::new(address, 2 * PATIENCE).expect("an address")
}

async fn write(address: &str, size: usize) -> Result<usize, ProposeError> {
    client(address).propose(Bytes::from(vec![0; size]), true, 0).await.map(|applied| applied.output.len())
}

// Fails when: `Oversized` passes tonic's own refusal on (then the outcome is unknown), or tonic changes its words.
#[tokio::test]
async fn a_message_that_is_too_large_to_be_read_is_refused_with_the_limit() {
    let served = served().await;
    assert_eq!(write(&served.address, LIMIT - 100).await, Ok(LIMIT - 100));
    for size in [LIMIT + 1, 100 * LIMIT, 1000 * LIMIT] {
        match write(&served.address, size).await {
            Err(ProposeError::TooLarge { size: told, limit }) => {
                assert!(told >= size);
                assert_eq!(limit, limits::command_within(LIMIT));
            }
            other => panic!("{other:?}"),
        }
    }
}

// Fails when: the connections left after the grace are not cut: the stuck call keeps the server for ever.
#[tokio::test]
async fn closing_ends_every_task_even_of_a_call_that_is_stuck() {
    let alive = tokio::runtime::Handle::current().metrics();
    let before = alive.num_alive_tasks();
    let Served { address, server, close, stuck: asked } = served().await;
    let stuck = tokio::spawn({
        let client = client(&address);
        async move { client.status().await }
    });
    tokio::time::timeout(PATIENCE, asked.notified()).await.expect("it is asked");

    let began = Instant::now();
    drop(close);
    tokio::time::timeout(PATIENCE, server).await.expect("the server ends").expect("without a panic");
    assert!(began.elapsed() >= GRACE, "calls under way have their grace");
    assert!(tokio::time::timeout(PATIENCE, stuck).await.expect("it is cut").expect("no panic").is_err());
    let gone = async {
        while alive.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("every task ends");
}

#[tokio::test]
async fn closing_frees_the_port_at_once() {
    let Served { address, server, close, stuck: asked } = served().await;
    // A call that stays open, so that the server drains meanwhile.
    let lasting = tokio::spawn({
        let client = client(&address);
        async move { client.status().await }
    });
    tokio::time::timeout(PATIENCE, asked.notified()).await.expect("it is asked");
    drop(close);
    let again = tokio::time::timeout(PATIENCE, bind(&Tcp, &address)).await.expect("in time").expect("the port is free");
    assert_eq!(again.address, address);
    assert!(!server.is_finished(), "it still drains");
    lasting.abort();
    tokio::time::timeout(PATIENCE, server).await.expect("the server ends").expect("without a panic");
}

#[tokio::test]
async fn a_port_of_another_program_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let error =
        tokio::time::timeout(PATIENCE, bind(&Tcp, &address)).await.expect("in time").err().expect("it is taken");
    assert!(error.to_string().contains(&address), "{error}");
}
