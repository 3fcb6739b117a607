//! Exactly-once over real gRPC: streams that break, answers that get lost, leaders that stop (C01).
#![cfg(all(feature = "grpc", feature = "testing"))]

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use ractor_raft::{
    config::Config,
    error::ProposeError,
    flow::Filter,
    node::{Applied, Consistency, Node},
    raft::{NodeId, Role, SessionCommand},
    rpc::{ClusterClient, Grpc, SessionClient, channel, error::Told, pb, reason},
    storage::MemoryStorage,
    testing::{Ledger, Line, Written},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener as AsyncListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tonic::{Code, Status};

#[path = "sessions/cut_off.rs"]
mod cut_off;
#[path = "sessions/other_cluster.rs"]
mod other_cluster;

/// More than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    nodes: Vec<Node<Ledger>>,
    members: Vec<(NodeId, String)>,
}

impl Cluster {
    async fn of(count: NodeId, name: &str) -> Self {
        let bind = |id| (id, TcpListener::bind("127.0.0.1:0").expect("a port"));
        let listeners: Vec<_> = (1..=count).map(bind).collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let members: Vec<_> = listeners.iter().map(|(id, listener)| (*id, address(listener))).collect();
        let mut config = Config::default();
        // Patient, so that on a loaded machine no election disturbs what is tested.
        config.election_timeout_min = Duration::from_millis(500);
        config.election_timeout_max = Duration::from_millis(1000);
        let mut nodes = Vec::new();
        for (id, listener) in listeners {
            let builder = Node::builder(id, Ledger::default).cluster(members.clone()).cluster_name(name);
            let builder = builder.storage(MemoryStorage::new()).config(config.clone());
            let builder = builder.transport(Grpc::with_listener(listener)).listen("127.0.0.1:0");
            nodes.push(builder.spawn().await.expect("the node starts"));
        }
        Cluster { nodes, members }
    }

    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|(_, address)| address.clone()).collect()
    }

    /// Waits until one leads and all know it. Returns its place.
    async fn elected(&self) -> usize {
        let mut place = None;
        eventually("a leader that all know", async || {
            let leads = |node: &Node<Ledger>| node.status().role == Role::Leader;
            place = self.nodes.iter().position(leads);
            let leader = place.map(|place| self.members[place].0);
            leader.is_some() && self.nodes.iter().all(|node| node.status().leader == leader)
        })
        .await;
        place.expect("just found")
    }

    /// Every line, as a node that has seen all of it has them.
    async fn lines(&self, place: usize) -> Vec<String> {
        let read = self.nodes[place].read(Consistency::Linearizable, |ledger| {
            ledger.lines().map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
        });
        timeout(PATIENCE, read).await.expect("in time").expect("there is a leader")
    }

    async fn shutdown(self) {
        for node in &self.nodes {
            // One may have been stopped by the test.
            let _ = timeout(PATIENCE, node.shutdown()).await.expect("it stops in time");
        }
    }
}

/// Looks again until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        ticks.tick().await;
    }
}

fn line(text: &str) -> Bytes {
    Line::new(text).encode_to_vec().into()
}

fn client(endpoints: impl IntoIterator<Item = String>) -> SessionClient {
    SessionClient::connect(endpoints).expect("addresses").with_timeout(PATIENCE)
}

/// Writes these lines concurrently; each must be answered.
fn write(client: &SessionClient, texts: impl IntoIterator<Item = String>) -> JoinSet<(String, Applied)> {
    let mut writes = JoinSet::new();
    for text in texts {
        let client = client.clone();
        writes.spawn(async move {
            let applied = client.propose(line(&text)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
            (text, applied)
        });
    }
    writes
}

/// Waits for them, and looks that each stands where its answer says, and that none stands there twice.
async fn assert_once(cluster: &Cluster, place: usize, writes: JoinSet<(String, Applied)>) {
    let answers = timeout(2 * PATIENCE, writes.join_all()).await.expect("every write is answered");
    let lines = cluster.lines(place).await;
    assert_eq!(lines.len(), answers.len(), "so many lines for so many writes");
    for (text, applied) in answers {
        let written = Written::decode(applied.output).expect("the ledger's answer");
        assert_eq!((lines.get(written.before as usize), written.index), (Some(&text), applied.index));
    }
}

/// Fails when: the stream does not follow the redirect; an answer goes under another sequence; more than one message's
/// commands are lost.
#[tokio::test]
async fn commands_are_pipelined_to_the_leader_whichever_node_is_named() {
    let cluster = Cluster::of(3, "pipelined").await;
    let leader = cluster.elected().await;
    let follower = (leader + 1) % 3;
    let client = client([cluster.members[follower].1.clone()]);
    let writes = write(&client, (0..2000).map(|n| format!("{n}")));
    assert_once(&cluster, leader, writes).await;
    cluster.shutdown().await;
}

/// Fails when: what is not answered at the break is not sent again, or under other sequences; the hint is not followed.
#[tokio::test]
async fn a_leader_that_stops_takes_no_command_with_it_and_none_counts_twice() {
    let cluster = Cluster::of(3, "stopped leader").await;
    let client = client(cluster.endpoints());
    let leader = cluster.elected().await;
    let survivor = (leader + 1) % 3;
    client.propose(line("0")).await.expect("there is a leader");
    let mut writes = write(&client, (1..1500).map(|n| format!("{n}")));
    timeout(PATIENCE, writes.join_next()).await.expect("in time").expect("there are some").expect("no panic");
    timeout(PATIENCE, cluster.nodes[leader].shutdown()).await.expect("in time").expect("by order");
    let answers = timeout(2 * PATIENCE, writes.join_all()).await.expect("every write is answered");
    assert_eq!(answers.len(), 1498, "all but the one that was awaited before");
    let mut lines = cluster.lines(survivor).await;
    let count = lines.len();
    lines.sort();
    lines.dedup();
    assert_eq!((count, lines.len()), (1500, 1500), "each once");
    cluster.shutdown().await;
}

/// The way to the node swallows answers and hangs up, again and again: the client never knows what became of what it sent.
///
/// Fails when: a repeated command is applied; what was sent before a break is not sent again.
#[tokio::test]
async fn answers_that_get_lost_are_answered_again_and_nothing_counts_twice() {
    let cluster = Cluster::of(1, "lost answers").await;
    cluster.elected().await;
    let way = Way::towards(&cluster.members[0].1).await;
    let client = client([way.address.clone()]);
    client.propose(line("first")).await.expect("the way is open");
    for round in 0..8 {
        // From here on the node hears, and is not heard.
        way.deaf.store(round + 1, SeqCst);
        let before = cluster.nodes[0].status().applied_index;
        let writes = write(&client, (0..50).map(|n| format!("{round}/{n}")));
        eventually("the node to have applied what nobody was told", async || {
            cluster.nodes[0].status().applied_index >= before + 50
        })
        .await;
        way.cut().await;
        let answers = timeout(PATIENCE, writes.join_all()).await.expect("every write is answered");
        let lines = cluster.lines(0).await;
        assert_eq!(lines.len(), 1 + 50 * (round + 1));
        for (text, applied) in answers {
            let written = Written::decode(applied.output).expect("the ledger's answer");
            assert_eq!(lines.get(written.before as usize), Some(&text), "the first answer");
        }
    }
    drop(client);
    cluster.shutdown().await;
}

/// Fails when: a command that nobody may have applied is called unknown; or the time is not kept.
#[tokio::test]
async fn a_command_that_never_left_is_not_called_unknown() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let client =
        SessionClient::connect([nobody.to_string()]).expect("an address").with_timeout(Duration::from_millis(200));
    let refused = timeout(PATIENCE, client.propose(line("x"))).await.expect("in time").expect_err("nobody is there");
    assert!(!refused.may_have_been_applied(), "{refused}");
    assert!(SessionClient::connect(["not an address"]).is_err());
    assert!(SessionClient::connect(Vec::<String>::new()).is_err());
}

/// What other clients in other languages rely on.
///
/// Fails when: `OpenSession` or a session on `ClientRequest` is not passed on by a follower; a stream's failure does not say
/// what a unary call's does; a second session on one stream is taken.
#[tokio::test]
async fn the_calls_beneath_say_what_they_mean() {
    let cluster = Cluster::of(3, "calls beneath").await;
    let leader = cluster.elected().await;
    let follower = (leader + 1) % 3;
    let at = |place: usize| ClusterClient::new(&cluster.members[place].1, PATIENCE).expect("an address");
    let session = at(follower).open_session().await.expect("it is forwarded");
    let call = |session| SessionCommand { session, sequence: 1, first_unanswered: 0, command: line("once") };
    let first = at(follower).propose_in_session(call(session), true, 0).await.expect("applied");
    assert_eq!(at(leader).propose_in_session(call(session), true, 0).await, Ok(first.clone()));
    let refused = at(follower).propose_in_session(call(session + 7), true, 0).await;
    assert_eq!(refused, Err(ProposeError::SessionExpired { session: session + 7 }));

    // On a stream of a follower each command gets the redirect; of the leader, its answer.
    let failure = stream_once(&cluster.members[follower].1, session, 1).await.failure.expect("it does not lead");
    let status = Status::with_details(Code::from_i32(failure.code), failure.message, failure.details);
    let told = Told::of(&status).expect("a node says so");
    assert_eq!((status.code(), &told.reason[..]), (Code::FailedPrecondition, reason::NOT_LEADER));
    assert_eq!(told.metadata.get("leader_addr"), Some(&cluster.members[leader].1));
    let answer = stream_once(&cluster.members[leader].1, session, 1).await;
    assert_eq!((answer.index, answer.output, answer.failure), (first.index, first.output, None));

    let mut stream =
        pb::cluster_client::ClusterClient::new(channel::lazy(&cluster.members[leader].1).expect("an address"));
    let two = [message(session, 2), message(session + 1, 3)];
    let mut replies = stream.client_stream(tokio_stream::iter(two)).await.expect("it is opened").into_inner();
    let refused = loop {
        match timeout(PATIENCE, replies.message()).await.expect("in time") {
            Ok(reply) => assert!(reply.is_some(), "two sessions on one stream"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(Told::of(&refused).expect("a node says so").metadata.get("field").map(String::as_str), Some("session"));
    cluster.shutdown().await;
}

// Fails when: each node, or each try, makes up a trace of its own for a command of a stream.
#[tokio::test]
async fn a_command_that_is_sent_again_to_another_node_keeps_its_trace() {
    let cluster = Cluster::of(3, "sent again").await;
    let leader = cluster.elected().await;
    let session = cluster.nodes[leader].as_ref().open_session().await.expect("there is a leader");
    let mut traces = Vec::new();
    for place in [(leader + 1) % 3, leader] {
        stream_once(&cluster.members[place].1, session, 1).await;
        let seen = cluster.nodes[place].as_ref().flow().events(&Filter::default());
        let seen = seen.into_iter().find(|event| event.message == "ProposeInSession").expect("it is recorded");
        traces.push(seen.trace);
    }
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], 0);
    cluster.shutdown().await;
}

fn message(session: u64, sequence: u64) -> pb::ClientStreamRequest {
    let commands = vec![pb::StreamCommand { sequence, command: line("streamed") }];
    pb::ClientStreamRequest { session, first_unanswered: 1, commands }
}

/// One command on a stream of its own.
async fn stream_once(address: &str, session: u64, sequence: u64) -> pb::StreamAnswer {
    let mut client = pb::cluster_client::ClusterClient::new(channel::lazy(address).expect("an address"));
    let replies = client.client_stream(tokio_stream::iter([message(session, sequence)])).await.expect("it is opened");
    let reply = timeout(PATIENCE, replies.into_inner().message()).await.expect("in time").expect("no failure");
    reply.expect("an answer").answers.remove(0)
}

/// A way to a server that can be made to swallow what comes back.
struct Way {
    address: String,
    /// The first so many connections are not heard any more.
    deaf: Arc<AtomicUsize>,
    cuts: tokio::sync::watch::Sender<usize>,
    _connections: JoinSet<()>,
}

impl Way {
    async fn towards(server: &str) -> Way {
        let listener = AsyncListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (deaf, cuts) = (Arc::new(AtomicUsize::new(0)), tokio::sync::watch::channel(0).0);
        let mut connections = JoinSet::new();
        let (server, hears, cut) = (server.to_owned(), deaf.clone(), cuts.subscribe());
        connections.spawn(async move {
            let mut open = JoinSet::new();
            let mut number = 0;
            loop {
                let (near, _) = listener.accept().await.expect("it listens");
                let Ok(far) = TcpStream::connect(&server).await else { continue };
                open.spawn(carry(near, far, number, hears.clone(), cut.clone()));
                number += 1;
            }
        });
        Way { address, deaf, cuts, _connections: connections }
    }

    /// Hangs up on those who are not heard.
    async fn cut(&self) {
        self.cuts.send_replace(self.deaf.load(SeqCst));
    }
}

async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    number: usize,
    deaf: Arc<AtomicUsize>,
    mut cuts: tokio::sync::watch::Receiver<usize>,
) {
    let (mut there, mut back) = (vec![0; 16384], vec![0; 16384]);
    loop {
        tokio::select! {
            read = near.read(&mut there) => match read {
                Ok(read @ 1..) if far.write_all(&there[..read]).await.is_ok() => {}
                _ => return,
            },
            read = far.read(&mut back) => match read {
                Ok(1..) if deaf.load(SeqCst) > number => {}
                Ok(read @ 1..) if near.write_all(&back[..read]).await.is_ok() => {}
                _ => return,
            },
            _ = async { cuts.wait_for(|cut| *cut > number).await.is_ok() } => return,
        }
    }
}
