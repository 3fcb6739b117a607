//! The message flow as an operator sees it: `raftkv trace` and `raftkv actors` against real nodes.

use std::{collections::BTreeSet, net::TcpListener, time::Duration};

use ractor_raft::{
    config::Config,
    kv::{Kv, service},
    node::{Crash, Node, NodeRef},
    raft::Role,
    rpc::Grpc,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::Routes;

use crate::{
    cluster::{Cluster, LOOK_AGAIN},
    command_line::{Run, run},
    server::{PATIENCE, free_address},
};

/// Every actor of a node of three, by its place.
fn places(node: u64) -> BTreeSet<String> {
    let replicators = (1..=3).filter(|peer| *peer != node).map(|peer| format!("consensus/replicator {peer}"));
    let others =
        ["node", "applier", "consensus", "consensus/election timer", "consensus/snapshotter", "log store", "server"];
    replicators.chain(others.map(str::to_owned)).collect()
}

/// The messages of the one picture that was printed.
fn messages_in(run: &Run) -> Vec<Value> {
    let pictures = run.json();
    assert_eq!(pictures.len(), 1, "one object on one line: {}", run.stdout);
    pictures[0]["steps"].as_array().expect("messages").clone()
}

fn text<'a>(message: &'a Value, key: &str) -> &'a str {
    message[key].as_str().unwrap_or_default()
}

/// DESIGN.md's eight steps of a write, but for the answer that the applier gives to the caller itself.
///
/// Fails when: a message of the write is not recorded, does not carry its trace, or is not collected; the followers are not
/// waited for; the clocks are lined up so badly that an arrow goes backwards by more than their error.
#[tokio::test(flavor = "multi_thread")]
async fn a_traced_write_shows_every_step_on_all_three_nodes() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await.id;
    let traced = run(&cluster.endpoints(), &["trace", "put", "ada", "1815", "--format", "json"]).await.exits_with(0);
    let messages = messages_in(&traced);
    let at = |node: u64, sender: &str, receiver: &str, message: &str| {
        let fits = |one: &&Value| {
            one["node"] == node
                && text(one, "sender").starts_with(sender)
                && text(one, "receiver").starts_with(receiver)
                && text(one, "message") == message
        };
        let found = messages.iter().find(fits);
        let found =
            found.unwrap_or_else(|| panic!("node {node}: no {sender} → {receiver} {message}: {}", traced.stdout));
        found["sent"].as_i64().expect("a number")
    };
    let proposed = at(leader, "client", "consensus", "Propose");
    let delivering = at(leader, "consensus", "consensus/replicator", "Deliver");
    let persisting = at(leader, "consensus", "log store", "Persist");
    let delivered = at(leader, "consensus/replicator", "consensus", "Delivered");
    at(leader, "log store", "consensus", "Persisted");
    let applying = at(leader, "consensus", "applier", "Apply");
    at(leader, "applier", "consensus", "Applied");
    assert!(proposed <= delivering && proposed <= persisting && delivered <= applying, "{}", traced.stdout);
    for follower in (1..=3).filter(|node| *node != leader) {
        let arrived = at(follower, "", "consensus", "AppendEntries");
        at(follower, "consensus", "log store", "Persist");
        at(follower, "log store", "consensus", "Persisted");
        at(follower, "consensus", "applier", "Apply");
        at(follower, "applier", "consensus", "Applied");
        assert!(arrived > delivering, "{}", traced.stdout);
    }
    let traces: BTreeSet<_> = messages.iter().map(|message| text(message, "trace")).collect();
    assert_eq!(traces.len(), 1, "one trace, and nothing else");
    assert!(traced.stderr.contains("clocks: node 1 ± "), "{}", traced.stderr);

    // The same once more, by its number; and as text.
    let id = traces.into_iter().next().expect("there is one").to_owned();
    let again = run(&cluster.endpoints(), &["trace", "--id", &id]).await.exits_with(0);
    assert!(again.stdout.contains("AppendEntries") && again.stdout.contains("fsync"), "{}", again.stdout);
    for (format, begins) in [("mermaid", "sequenceDiagram"), ("chrome", "{")] {
        let drawn = run(&cluster.endpoints(), &["trace", "--id", &id, "--format", format]).await.exits_with(0);
        assert!(drawn.stdout.starts_with(begins), "{}", drawn.stdout);
    }
    let read = run(&cluster.endpoints(), &["trace", "get", "ada", "-o", "json"]).await.exits_with(0);
    assert!(read.stdout.contains("Query") && read.stderr.contains("ada is 1815"), "{}{}", read.stdout, read.stderr);
}

/// Fails when: an actor has no line, its numbers are not there, or a node that is gone takes the others with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_actors_of_every_node_are_shown_and_who_is_gone_is_named() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.leader().await;
    let all = cluster.endpoints();
    let shown = run(&all, &["actors", "-o", "json"]).await.exits_with(0);
    let nodes = shown.json();
    assert_eq!(nodes.iter().map(|node| node["node"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    for (node, line) in (1..=3).zip(&nodes) {
        let actors = line["actors"].as_array().expect("actors");
        let paths: BTreeSet<_> = actors.iter().map(|actor| text(actor, "path").to_owned()).collect();
        assert_eq!(paths, places(node));
        assert!(actors.iter().all(|actor| actor["status"] == "running" && actor["restarts"] == 0), "{line}");
        let consensus = actors.iter().find(|actor| actor["path"] == "consensus").expect("it is there");
        assert!(consensus["handled"].as_u64() > Some(0) && consensus["messages_per_second"].is_number(), "{consensus}");
    }
    let table = run(&all, &["actors"]).await.exits_with(0);
    assert!(table.stdout.contains("NODE 3") && table.stdout.contains("election timer"), "{}", table.stdout);

    cluster.kill(3).await;
    let shown = run(&all, &["actors", "-o", "json"]).await.exits_with(0);
    let missing = shown.json().into_iter().find(|line| line["reachable"] == false).expect("it is named");
    assert_eq!(missing["node"], 3);
    let traced = run(&all, &["trace", "put", "ada", "1816"]).await.exits_with(0);
    assert!(traced.stderr.contains("node 3 at") && traced.stderr.contains("tells nothing"), "{}", traced.stderr);
    let nobody = free_address();
    for command in
        [&["actors"][..], &["trace", "put", "k", "v"], &["trace", "--last", "election"], &["trace", "--follow"]]
    {
        let ran = run(&nobody, command).await.exits_with(3);
        assert!(ran.stderr.contains("error[R002]") && ran.stderr.contains(&nobody), "{}", ran.stderr);
    }
}

/// Fails when: an election is not found, or one of another kind is made up; following does not end in time; two things at once
/// are no usage error.
#[tokio::test(flavor = "multi_thread")]
async fn what_happened_last_is_found_and_what_did_not_is_said() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let all = cluster.endpoints();
    let election = run(&all, &["trace", "--last", "election", "-o", "json"]).await.exits_with(0);
    assert!(election.stderr.contains(&format!("term {}", leader.term)), "{}", election.stderr);
    let messages = messages_in(&election);
    for follower in (1..=3).filter(|node| *node != leader.id) {
        let asked = |one: &&Value| one["node"] == follower && text(one, "message") == "RequestVote";
        assert!(messages.iter().any(|one| asked(&one)), "node {follower} was asked for its vote: {}", election.stdout);
    }
    assert!(
        messages.iter().any(|one| one["node"] == leader.id && text(one, "message") == "Timeout"),
        "{}",
        election.stdout
    );
    for (what, fix) in
        [("restart", "raftkv actors"), ("snapshot", "raftkv snapshot take"), ("membership", "raftkv member list")]
    {
        let ran = run(&all, &["trace", "--last", what]).await.exits_with(1);
        assert!(ran.stderr.contains(fix), "{}", ran.stderr);
    }
    run(&all, &["snapshot", "take"]).await.exits_with(0);
    let snapshot = run(&all, &["trace", "--last", "snapshot", "-o", "json"]).await.exits_with(0);
    assert!(snapshot.stdout.contains("SnapshotWritten"), "{}", snapshot.stdout);
    let follow = timeout(PATIENCE, run(&all, &["trace", "--follow", "--for", "700ms", "-o", "json"])).await;
    let heard = follow.expect("it ends").exits_with(0);
    let nodes: BTreeSet<_> = heard.json().iter().map(|one| one["node"].as_u64()).collect();
    assert_eq!(nodes, BTreeSet::from([Some(1), Some(2), Some(3)]), "heartbeats are heard everywhere");
    run(&all, &["trace"]).await.exits_with(2);
    run(&all, &["trace", "put", "k", "v", "--follow"]).await.exits_with(2);
    run(&all, &["trace", "--id", "nonsense"]).await.exits_with(2);
    run(&all, &["trace", "--id", "1"]).await.exits_with(1);
    run(&all, &["trace", "--incident", "last"]).await.exits_with(1);
}

/// Three nodes in this process, with real files and real gRPC, so that their actors can be crashed.
struct Crashable {
    nodes: Vec<Node<Kv>>,
    members: Vec<(u64, String)>,
    directory: TempDir,
}

impl Crashable {
    async fn start() -> Crashable {
        let listeners: Vec<_> = (1..=3).map(|id| (id, TcpListener::bind("127.0.0.1:0").expect("a port"))).collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
        let members: Vec<_> = listeners.iter().map(|(id, listener)| (*id, address(listener))).collect();
        let directory = TempDir::new().expect("there is room for temporary files");
        let mut nodes = Vec::new();
        for (id, listener) in listeners {
            let services = |node: NodeRef| Routes::new(service(node.typed().expect("it is built with Kv")));
            let mut config = Config::default();
            (config.election_timeout_min, config.election_timeout_max) =
                (Duration::from_millis(300), Duration::from_millis(600));
            let builder = Node::builder(id, Kv::default).cluster(members.clone()).config(config);
            let builder = builder.data_dir(directory.path().join(id.to_string()));
            let transport = Grpc::with_listener(listener).services(services);
            nodes.push(builder.transport(transport).spawn().await.expect("it starts"));
        }
        Crashable { nodes, members, directory }
    }

    fn endpoints(&self) -> String {
        self.members.iter().map(|(_, address)| address.clone()).collect::<Vec<_>>().join(",")
    }

    async fn leader(&self) -> &Node<Kv> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = self.nodes.iter().all(|node| node.status().leader.is_some());
            if let Some(leader) = self.nodes.iter().find(|node| known && node.status().role == Role::Leader) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn has_restarts(node: &Node<Kv>, restarts: u64) {
        let deadline = Instant::now() + PATIENCE;
        while node.status().restarts < restarts {
            assert!(Instant::now() < deadline, "it is not started again");
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Fails when: the message at which an actor died, its supervisor's judgement or its next start is not in the picture; the
/// incident is not kept, is not on disk, or is not found afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_its_restart_and_the_incident_are_shown() {
    let cluster = Crashable::start().await;
    let all = cluster.endpoints();
    let leader = cluster.leader().await;
    let id = leader.identity().node_id;
    let peer = id % 3 + 1;
    let courier = format!("consensus/replicator {peer}");
    assert!(leader.crash(&courier, Crash::Panic), "it lives");
    Crashable::has_restarts(leader, 1).await;
    let restart = run(&all, &["trace", "--last", "restart", "-o", "json"]).await.exits_with(0);
    let messages = messages_in(&restart);
    let of_courier = |message: &str, outcome: &str| {
        let fits = |one: &Value| {
            text(one, "receiver") == courier && text(one, "message") == message && text(one, "outcome") == outcome
        };
        assert!(messages.iter().any(fits), "no {message} {outcome}: {}", restart.stdout);
    };
    of_courier("Crash", "panicked");
    of_courier("Start", "handled");
    let told = |one: &Value| text(one, "message") == "ChildStopped" && text(one, "sender") == courier;
    assert!(messages.iter().any(told), "{}", restart.stdout);
    let shown = run(&all, &["actors", "-o", "json"]).await.exits_with(0);
    let nodes = shown.json();
    let node = nodes.iter().find(|node| node["node"] == id).expect("it is there");
    let actors = node["actors"].as_array().expect("actors");
    let crashed = actors.iter().find(|actor| text(actor, "path") == courier).expect("it is there");
    assert!(crashed["restarts"] == 1 && text(crashed, "last_cause").contains("panicked at Crash"), "{crashed}");

    // The courier's panic is one incident; a keeper that is killed a second later is another.
    sleep(Duration::from_secs(1)).await;
    assert!(leader.crash("applier", Crash::Kill), "it lives");
    Crashable::has_restarts(leader, 2).await;
    leader.flow().incidents_settled().await;
    let listed = run(&all, &["trace", "--incident", "list", "-o", "json"]).await.exits_with(0);
    let causes: Vec<_> = listed.json().iter().map(|one| text(one, "cause").to_owned()).collect();
    assert!(causes[0].contains(&format!("{courier} panicked")), "{causes:?}");
    assert!(causes.iter().any(|cause| cause.contains("keeper applier fell: killed")), "{causes:?}");
    let first = run(&all, &["trace", "--incident", &format!("{id}:1"), "-o", "json"]).await.exits_with(0);
    assert!(messages_in(&first).iter().any(|one| text(one, "outcome") == "panicked"), "{}", first.stdout);
    let files = std::fs::read_dir(cluster.directory.path().join(id.to_string()).join("incidents"));
    assert_eq!(files.expect("it is there").count(), causes.len());
    for node in &cluster.nodes {
        timeout(PATIENCE, node.shutdown()).await.expect("in time").expect("it stops by order");
    }
}

/// Fails when: a leader that lost its leadership keeps nothing, or a process that was killed afterwards takes it along.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_keeps_what_went_before_and_it_outlives_the_process() {
    let mut cluster = Cluster::start(&[]).await;
    let deposed = cluster.leader().await.id;
    let all = cluster.endpoints();
    run(&all, &["leader", "transfer"]).await.exits_with(0);
    let deadline = Instant::now() + PATIENCE;
    let endpoint = cluster.addresses[&deposed].clone();
    let file = cluster.data(deposed).join("incidents").join("incident-0000000001");
    while !file.exists() {
        assert!(Instant::now() < deadline, "nothing is kept");
        sleep(LOOK_AGAIN).await;
    }
    cluster.kill(deposed).await;
    cluster.restart(deposed).await;
    let listed = run(&endpoint, &["trace", "--incident", "list", "-o", "json"]).await.exits_with(0);
    let of_deposed = |one: &&Value| one["node"] == deposed && text(one, "cause").contains("lost its leadership");
    let listed = listed.json();
    let kept = listed.iter().find(of_deposed).unwrap_or_else(|| panic!("it is forgotten: {listed:?}"));
    assert!(kept["messages"].as_u64() > Some(10), "{kept}");
    let shown = run(&endpoint, &["trace", "--incident", &format!("{deposed}:1"), "-o", "json"]).await.exits_with(0);
    assert!(shown.stdout.contains("AppendEntries") || shown.stdout.contains("Delivered"), "{}", shown.stdout);
}
