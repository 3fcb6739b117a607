//! The real services of a real node over real gRPC, and clients that send whatever they like: bytes that are no message,
//! messages that mean nothing, frames whose length is a lie, streams that break off.
//!
//! Each call gets its answer in time, in a code that says whose fault it was; nothing of the node falls; and it serves on.

use std::{net::TcpListener, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, future::join_all, stream};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use ractor_raft::{
    Config, Node,
    kv::{Kv, pb, service},
    node::NodeRef,
    raft::Role,
    rpc::{Grpc, pb as raft_pb},
    storage::MemoryStorage,
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{
    Code, Request, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Service, http},
    service::Routes,
    transport::{Channel, Endpoint},
};

use crate::{given::looks_like_protobuf, memory};

/// More than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every method of the node's own services.
const METHODS: [&str; 29] = [
    "raft.v1.Raft/AppendEntries",
    "raft.v1.Raft/RequestVote",
    "raft.v1.Raft/PreVote",
    "raft.v1.Raft/InstallSnapshot",
    "raft.v1.Raft/TimeoutNow",
    "raft.v1.Raft/ReadIndex",
    "raft.v1.Cluster/ClientRequest",
    "raft.v1.Cluster/OpenSession",
    "raft.v1.Cluster/ClientStream",
    "raft.v1.Cluster/Status",
    "raft.v1.Cluster/TakeSnapshot",
    "raft.v1.Cluster/SaveSnapshot",
    "raft.v1.Cluster/Flow",
    "raft.v1.Cluster/Incidents",
    "raft.v1.Cluster/Actors",
    "raft.v1.Cluster/AddServer",
    "raft.v1.Cluster/RemoveServer",
    "raft.v1.Cluster/PromoteServer",
    "raft.v1.Cluster/ReplaceServer",
    "raft.v1.Cluster/TransferLeadership",
    "raft.v1.Cluster/Events",
    "raftkv.v1.Kv/Put",
    "raftkv.v1.Kv/Get",
    "raftkv.v1.Kv/Delete",
    "raftkv.v1.Kv/CompareAndSwap",
    "raftkv.v1.Kv/Scan",
    "raftkv.v1.Kv/Watch",
    "raftkv.v1.Kv/Hash",
    "raftkv.v1.Kv/NoSuchMethod",
];

/// Bytes as they are, in gRPC's frames.
#[derive(Clone, Copy)]
struct AsTheyAre;

impl Codec for AsTheyAre {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsTheyAre;
    type Decoder = AsTheyAre;

    fn encoder(&mut self) -> AsTheyAre {
        AsTheyAre
    }

    fn decoder(&mut self) -> AsTheyAre {
        AsTheyAre
    }
}

impl Encoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A node that is a cluster of its own, and a connection to it.
struct Served {
    node: Node<Kv>,
    channel: Channel,
}

impl Served {
    async fn start() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let mut config = Config::default();
        // What cannot be had is waited for that long.
        config.request_timeout = Duration::from_millis(300);
        config.max_entry_bytes = 4 << 10;
        let services = |node: NodeRef| Routes::new(service(node.typed().expect("it is built with Kv")));
        let node = Node::builder(1, Kv::default)
            .cluster([(1, address.clone())])
            .storage(MemoryStorage::new())
            .transport(Grpc::with_listener(listener).services(services))
            .config(config);
        let node = node.spawn().await.expect("it starts");
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Served { node, channel }
    }

    /// The whole of a call: so many messages, and then the end of them, or their sender is gone. The first answer counts.
    async fn call(&self, method: &'static str, messages: Vec<Bytes>, breaks_off: bool) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/{method}").parse().expect("a path");
        let said = stream::iter(messages);
        let call = async {
            if breaks_off {
                let said = Request::new(said.chain(stream::pending()));
                // Without an answer, the request is dropped in the middle.
                let answering = grpc.streaming(said, path, AsTheyAre);
                return match timeout(Duration::from_millis(20), answering).await {
                    Ok(answers) => answers.map(drop),
                    Err(_) => Ok(()),
                };
            }
            let mut answers = grpc.streaming(Request::new(said), path, AsTheyAre).await?.into_inner();
            // A stream of events may have nothing to say yet.
            match timeout(Duration::from_millis(700), answers.message()).await {
                Ok(answer) => answer.map(drop),
                Err(_) => Ok(()),
            }
        };
        timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("{method} hangs"))
    }

    /// A request whose body is this text, whatever it says about itself.
    async fn raw(&self, method: &str, body: String) -> Result<(), Status> {
        let mut channel = self.channel.clone();
        let request = http::Request::post(format!("/{method}")).header("content-type", "application/grpc");
        let request = request.body(Body::new(body)).expect("a request");
        let answer = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("it is connected");
            channel.call(request).await.expect("the connection holds")
        };
        let response = timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{method} hangs"));
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(()),
        }
    }

    /// It has lost nothing on the way, and serves.
    async fn serves(&self) {
        let mut kv = pb::kv_client::KvClient::new(self.channel.clone());
        let serving = async {
            loop {
                let put = pb::PutRequest { key: "key".into(), value: "value".into(), session: None };
                match kv.put(put).await {
                    Ok(_) => return,
                    Err(status) => {
                        assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status}")
                    }
                }
            }
        };
        timeout(PATIENCE, serving).await.expect("it serves");
        let status = self.node.status();
        assert_eq!((status.role, status.restarts), (Role::Leader, 0), "an actor fell");
        memory::nothing_was_believed();
    }
}

/// A refusal in words of the node or of gRPC: no handler that fell, no connection that was cut.
fn assert_in_words(method: &str, answer: &Result<(), Status>) {
    let Err(status) = answer else { return };
    let text = status.message();
    let in_words = match status.code() {
        Code::Internal => ["failed to decode", "Missing request", "Unexpected EOF", "protobuf", "protocol error"]
            .iter()
            .any(|words| text.contains(words)),
        Code::Unknown | Code::Cancelled | Code::DataLoss => false,
        Code::Unimplemented => true,
        _ => !text.is_empty(),
    };
    assert!(in_words, "{method}: {status:?}");
}

// Fails when: a handler panics on what it reads (its connection then breaks), or waits for ever.
#[test]
fn whatever_clients_send_each_call_is_answered_and_the_node_serves_on() {
    let runtime = Runtime::new().expect("a runtime");
    let served = runtime.block_on(Served::start());
    let message = prop_oneof![
        4 => looks_like_protobuf(),
        1 => vec(any::<u8>(), 0..64),
        1 => (5000_usize..20_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ];
    let call = (0..METHODS.len(), vec(message.prop_map(Bytes::from), 0..4), prop::bool::weighted(0.2));
    let cases = ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() };
    let ran = TestRunner::new(cases).run(&vec(call, 24), |calls| {
        let served = &served;
        let calls = calls.into_iter().map(|(method, messages, breaks_off)| async move {
            let method = METHODS[method];
            assert_in_words(method, &served.call(method, messages, breaks_off).await);
        });
        runtime.block_on(async {
            join_all(calls).await;
            served.serves().await;
        });
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(served.node.shutdown()).expect("nothing was wrong with it");
}

// Fails when: a frame's length is believed before its bytes are there, or a stream that breaks off is waited for.
#[test]
fn frames_whose_length_is_a_lie_are_refused() {
    let runtime = Runtime::new().expect("a runtime");
    let bodies = [
        "",
        "\0\0",
        "\0\0\0\0",
        "\0\0\0\0\x05hel",
        "\0\x7f\x7f\x7f\x7f",
        "\0\x7f\x7f\x7f\x7fabc",
        "\x01\0\0\0\x01a",
        "\x07\0\0\0\0",
        "\0\0\0\0\0\0\x7f\x7f\x7f\x7f",
        "GET / HTTP/1.1",
    ];
    runtime.block_on(async {
        let served = Served::start().await;
        served.serves().await;
        for method in METHODS {
            let answers = bodies.iter().map(|body| served.raw(method, (*body).to_owned()));
            for (answer, body) in join_all(answers).await.iter().zip(bodies) {
                assert_in_words(&format!("{method} {body:?}"), answer);
            }
        }
        served.serves().await;
        served.node.shutdown().await.expect("nothing was wrong with it");
    });
}

// Fails when: a session may change on its stream, or a sequence is taken that the log cannot carry.
#[test]
fn a_stream_of_commands_out_of_order_is_refused_by_field() {
    use raft_pb::{ClientStreamRequest, StreamCommand, cluster_client::ClusterClient};
    let command = |sequence| StreamCommand { sequence, command: Bytes::from_static(b"x") };
    let frame = |session, first_unanswered, sequences: &[u64]| ClientStreamRequest {
        session,
        first_unanswered,
        commands: sequences.iter().map(|sequence| command(*sequence)).collect(),
    };
    let cases = [
        (vec![frame(1, 0, &[1]), frame(2, 0, &[2])], "session"),
        (vec![frame(1, 0, &[1]), frame(0, 0, &[])], "session"),
        (vec![frame(1, 0, &[0])], "commands[0].session.sequence"),
        (vec![frame(1, 0, &[1, u64::MAX])], "commands[1].session.sequence"),
        (vec![frame(1, 9, &[9, 8])], "commands[1].session.first_unanswered"),
        (vec![frame(1, u64::MAX, &[9])], "commands[0].session.first_unanswered"),
    ];
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let served = Served::start().await;
        for (frames, field) in cases {
            let mut cluster = ClusterClient::new(served.channel.clone());
            let story = async {
                let mut answers = cluster.client_stream(stream::iter(frames)).await?.into_inner();
                while answers.message().await?.is_some() {}
                Ok::<_, Status>(())
            };
            let status = timeout(PATIENCE, story).await.expect("it does not hang").expect_err(field);
            assert!(status.code() == Code::InvalidArgument && status.message().contains(field), "{field}: {status}");
        }
        // Sessions that were never opened are refused one command at a time; the stream goes on.
        let strangers = [frame(0, 0, &[1]), frame(u64::MAX, 0, &[1]), frame(9, 0, &[5, 5, 4])];
        for (frame, answers) in strangers.into_iter().zip([1, 1, 3]) {
            let mut cluster = ClusterClient::new(served.channel.clone());
            let story = async {
                let mut replies = cluster.client_stream(stream::iter([frame])).await?.into_inner();
                let mut answered = Vec::new();
                while let Some(reply) = replies.message().await? {
                    answered.extend(reply.answers);
                }
                Ok::<_, Status>(answered)
            };
            let answered = timeout(PATIENCE, story).await.expect("it does not hang").expect("it is answered");
            assert_eq!(answered.len(), answers);
            assert!(answered.iter().all(|answer| answer.failure.is_some()), "{answered:?}");
        }
        served.serves().await;
        served.node.shutdown().await.expect("nothing was wrong with it");
    });
}
