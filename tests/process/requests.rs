//! Requests that cannot be served, each refused with its reason, and the services that every server has (SAFETY: L12).

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use ractor_raft::{
    kv::{
        Command,
        pb::{CompareAndSwapRequest, DeleteRequest, GetRequest, PutRequest, ScanRequest},
    },
    rpc::{
        NO_FORWARD,
        error::Told,
        pb::{ClientRequestRequest, cluster_client::ClusterClient},
        reason,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    server::PATIENCE,
};

/// What the servers of `oversized…` are told by flag.
const LIMIT: usize = 10_000;

/// Fails when: admission does not look at the size, or the transport refuses in its own words.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_commands_are_refused_with_the_limit() {
    let cluster = Cluster::start(&["--max-entry-bytes", &LIMIT.to_string()]).await;
    let leader = cluster.leader().await;
    for address in cluster.addresses.values() {
        // Read and then refused; too large to be read at all.
        for size in [LIMIT, 10 * LIMIT, 5_000_000] {
            let mut kv = client::kv(address);
            let request = PutRequest { key: "key".into(), value: vec![7; size].into(), session: None };
            assert_too_large(&kv.put(request).await.expect_err("it is too large"));

            let mut cluster = ClusterClient::new(client::channel(address));
            let command = Bytes::from(vec![7; size + 1]);
            let request = ClientRequestRequest { command, session: None };
            assert_too_large(&cluster.client_request(request).await.expect_err("it is too large"));
        }
        client::put(address, "key", "v".repeat(LIMIT - 100)).await.expect("this one just fits");
    }
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term));
    cluster.agree().await;
}

fn assert_too_large(status: &Status) {
    let told = told(status);
    let limit = LIMIT.to_string();
    assert_eq!((status.code(), told.reason.as_str()), (Code::InvalidArgument, reason::TOO_LARGE), "{status:?}");
    assert_eq!((told.code(), told.metadata.get("limit")), (Some("R018"), Some(&limit)), "{status:?}");
    assert!(status.message().contains(&limit), "{status:?}");
}

/// A message whose fields have other types than those of every request here.
#[derive(Clone, PartialEq, prost::Message)]
struct Nonsense {
    #[prost(fixed64, tag = "1")]
    first: u64,
}

/// Fails when: a handler lets through what it should check, or one bad client ends the service for the others.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_by_field_and_the_server_goes_on() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let address = &leader.address;
    let mut kv = client::kv(address);
    let no_key = [
        kv.put(PutRequest::default()).await.map(drop),
        kv.get(GetRequest::default()).await.map(drop),
        kv.delete(DeleteRequest::default()).await.map(drop),
        kv.compare_and_swap(CompareAndSwapRequest::default()).await.map(drop),
    ];
    for answer in no_key {
        assert_names_field(&answer.expect_err("the key is empty"), "key");
    }
    let unknown = GetRequest { key: "key".into(), consistency: 9, at_least: 0 };
    assert_names_field(&kv.get(unknown).await.expect_err("there is no such consistency"), "consistency");
    let both = ScanRequest { prefix: "a".into(), start: "b".into(), ..ScanRequest::default() };
    assert_names_field(&kv.scan(both).await.expect_err("it is one or the other"), "prefix");

    let mut cluster_client = ClusterClient::new(client::channel(address));
    let garbage = ClientRequestRequest { command: vec![0xff; 100].into(), session: None };
    let status = cluster_client.client_request(garbage).await.expect_err("it is no command");
    assert_eq!((status.code(), told(&status).reason.as_str()), (Code::InvalidArgument, reason::REJECTED));

    let mut grpc = tonic::client::Grpc::new(client::channel(address));
    grpc.ready().await.expect("it is connected");
    let codec = tonic_prost::ProstCodec::<Nonsense, Nonsense>::default();
    let path = "/raftkv.v1.Kv/Put".parse().expect("it is a path");
    grpc.unary(Request::new(Nonsense { first: 1 }), path, codec).await.expect_err("it cannot be read");

    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n\0\xff nonsense").await.expect("it is connected");
    let mut answer = Vec::new();
    // It may be cut off in the middle of a word.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("such a connection is closed");

    assert_eq!(cluster.leader().await.term, leader.term);
    let revision = client::put(address, "key", "value").await.expect("it goes on");
    let command = prost::Message::encode_to_vec(&Command::put("key", "another")).into();
    let reply = cluster_client
        .client_request(ClientRequestRequest { command, session: None })
        .await
        .expect("this is a command");
    assert!(reply.into_inner().index > revision);
    cluster.agree().await;
}

fn assert_names_field(status: &Status, field: &str) {
    assert_eq!((status.code(), told(status).reason.as_str()), (Code::InvalidArgument, reason::MALFORMED));
    assert_eq!(told(status).metadata["field"], field);
    let details = status.get_details_bad_request().expect("details for programs");
    assert_eq!(details.field_violations[0].field, field);
}

/// Fails when: the metadata is not looked at, or the hint leads elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_forwards_or_says_who_leads() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let follower = &cluster.addresses[&(leader.id % 3 + 1)];
    let revision = client::put(follower, "key", "value").await.expect("it is forwarded");
    let mut kv = client::kv(follower);
    let read = kv.get(GetRequest { key: "key".into(), ..GetRequest::default() }).await.expect("it asks the leader");
    assert_eq!((&read.get_ref().value[..], read.get_ref().revision), (&b"value"[..], revision));

    let mut request = Request::new(PutRequest { key: "key".into(), value: "other".into(), session: None });
    request.metadata_mut().insert(NO_FORWARD, MetadataValue::from_static("1"));
    let status = kv.put(request).await.expect_err("it is not to be forwarded");
    let told = told(&status);
    assert_eq!((status.code(), told.reason.as_str()), (Code::FailedPrecondition, reason::NOT_LEADER));
    assert_eq!((told.code(), told.metadata["leader_id"].as_str()), (Some("R001"), leader.id.to_string().as_str()));
    assert_eq!(told.metadata["leader_addr"], leader.address);
}

/// Fails when: readiness does not follow the node's status, or a service is not registered.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let mut cluster = Cluster::new(&[]);
    cluster.spawn(1, cluster.serve(1));
    cluster.are_ready().await;
    let address = cluster.addresses[&1].clone();
    assert_eq!(health(&address, "").await, ServingStatus::Serving, "the process is up");
    assert_eq!(health(&address, "ready").await, ServingStatus::NotServing, "nobody leads");
    (2..=3).for_each(|id| cluster.spawn(id, cluster.serve(id)));
    cluster.are_ready().await;
    becomes(&address, ServingStatus::Serving).await;

    let mut reflection = ServerReflectionClient::new(client::channel(&address));
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = reflection.server_reflection_info(stream::iter([request])).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("a list, not {answer:?}") };
    let services: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["raft.v1.Raft", "raft.v1.Cluster", "raftkv.v1.Kv", "grpc.health.v1.Health"] {
        assert!(services.contains(&service), "{service} is not in {services:?}");
    }

    for id in [2, 3] {
        cluster.kill(id).await;
    }
    becomes(&address, ServingStatus::NotServing).await;
    assert_eq!(health(&address, "").await, ServingStatus::Serving, "the process is up");
}

async fn becomes(address: &str, wanted: ServingStatus) {
    let deadline = Instant::now() + PATIENCE;
    while health(address, "ready").await != wanted {
        assert!(Instant::now() < deadline, "it does not become {wanted:?}");
        sleep(LOOK_AGAIN).await;
    }
}

async fn health(address: &str, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(client::channel(address));
    let answer = timeout(Duration::from_secs(5), client.check(request)).await.expect("in time");
    answer.expect("the service is known").into_inner().status()
}

fn told(status: &Status) -> Told {
    Told::of(status).unwrap_or_else(|| panic!("the node says why: {status:?}"))
}
