use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;

/// Nothing here takes longer, or it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

async fn status_of(health: &mut HealthClient<Channel>, service: &str) -> i32 {
    let request = HealthCheckRequest { service: service.to_owned() };
    health.check(request).await.expect("health is served").into_inner().status
}

#[tokio::test]
async fn health_follows_the_node_and_reflection_names_the_services() {
    let story = async {
        let data = tempfile::tempdir().expect("a temporary directory is there");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (reporter, health_service) = tonic_health::server::health_reporter();
        reporter.set_service_status(READY, ServingStatus::NotServing).await;
        let transport = Grpc::with_listener(listener).services(move |node| routes(node, health_service.clone()));
        let settings = ServeSettings {
            id: 1,
            data: data.path().to_owned(),
            listen: address.clone(),
            advertise: address.clone(),
            join: Vec::new(),
            cluster: [(1, address.clone())].into(),
            cluster_name: None,
            peers: Default::default(),
            http: None,
            recorder: true,
            config: Default::default(),
        };
        let node = start(&settings, transport).await.expect("it starts");
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("it is an address");
        let channel = endpoint.connect().await.expect("its port is open");
        let mut health = HealthClient::new(channel.clone());
        assert_eq!(status_of(&mut health, "").await, ServingStatus::Serving as i32);
        assert_eq!(status_of(&mut health, READY).await, ServingStatus::NotServing as i32);

        let mut changes =
            health.watch(HealthCheckRequest { service: READY.to_owned() }).await.expect("served").into_inner();
        let becomes_ready = async {
            while changes.message().await.expect("it goes on").expect("it has no end").status
                != ServingStatus::Serving as i32
            {}
        };
        tokio::select! {
            () = keep_health(&node, &reporter) => unreachable!("readiness is looked at for ever"),
            () = becomes_ready => {}
        }

        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let mut reflection = ServerReflectionClient::new(channel);
        let answers = reflection.server_reflection_info(stream::iter([request])).await.expect("reflection is served");
        let answer = answers.into_inner().next().await.expect("it answers").expect("it knows the services");
        let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
            panic!("services were asked for, {answer:?} came")
        };
        let names = listed.service.into_iter().map(|service| service.name).collect::<Vec<_>>();
        for name in ["raft.v1.Raft", "raft.v1.Cluster", "raftkv.v1.Kv", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|listed| listed == name), "{name} is not among {names:?}");
        }
        node.shutdown().await.expect("nothing was wrong with it");
    };
    timeout(DEADLINE, story).await.expect("it does not hang");
}
