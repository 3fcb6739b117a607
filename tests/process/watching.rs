//! `raftkv watch`, as a script would use it: a line for each change, while the node that it watches is killed.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    client::{kv, put_somewhere},
    cluster::Cluster,
    server::{PATIENCE, free_address, raftkv},
};

/// A `raftkv watch` with JSON on stdout.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(endpoints: &str, arguments: &[&str]) -> Watch {
        let mut command = raftkv();
        command.args(["--endpoints", endpoints, "-o", "json", "watch"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary is built");
        let stdout = child.stdout.take().expect("it is piped");
        Watch { child, lines: BufReader::new(stdout).lines() }
    }

    async fn next(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line comes").expect("it is text");
        let line = line.expect("it goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Whatever is still printed, and the exit code.
    async fn end(mut self) -> (Vec<String>, i32) {
        let rest = async {
            let mut rest = Vec::new();
            while let Some(line) = self.lines.next_line().await.expect("it is text") {
                rest.push(line);
            }
            (rest, self.child.wait().await.expect("it ends").code().expect("it was not killed"))
        };
        timeout(PATIENCE, rest).await.expect("it ends in time")
    }

    async fn interrupt(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().await.expect("kill is there");
        assert!(sent.success());
    }
}

/// Fails when: a key of the JSON is another than SURFACE says, a change is lost or repeated over a node that is killed,
/// or Ctrl-C is a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_over_a_killed_node_and_ends_with_ctrl_c() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let first = put_somewhere(cluster.addresses.values(), "watched/a", "1").await;
    put_somewhere(cluster.addresses.values(), "others/a", "1").await;
    // The leader is watched first.
    let others = cluster.addresses.iter().filter(|(id, _)| **id != leader.id).map(|(_, address)| address.clone());
    let endpoints: Vec<_> = [leader.address.clone()].into_iter().chain(others).collect();
    let mut watch = Watch::start(&endpoints.join(","), &["watched/", "--from", &first.to_string()]);
    let change = json!({"v": 1, "key": "watched/a", "value": "1", "revision": first, "deleted": false});
    assert_eq!(watch.next().await, change);

    cluster.kill(leader.id).await;
    let revision = put_somewhere(endpoints[1..].iter(), "watched/b", "2").await;
    let change = json!({"v": 1, "key": "watched/b", "value": "2", "revision": revision, "deleted": false});
    assert_eq!(watch.next().await, change);
    let delete = ractor_raft::kv::pb::DeleteRequest { key: "watched/a".into(), session: None };
    let deleted = kv(&endpoints[1]).delete(delete).await.expect("two of three run").into_inner().revision;
    let change = json!({"v": 1, "key": "watched/a", "value": null, "revision": deleted, "deleted": true});
    assert_eq!(watch.next().await, change);
    watch.interrupt().await;
    assert_eq!(watch.end().await, (Vec::new(), 0));
}

/// Fails when: a watch that finds nobody tries for ever, or has another exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_finds_nobody_says_so_in_time() {
    let (lines, exit) = Watch::start(&free_address(), &["a", "--timeout", "300ms"]).end().await;
    assert_eq!(exit, 3);
    let failure: Value = serde_json::from_str(&lines[0]).expect("an object");
    assert_eq!((&failure["error"], &failure["exit"]), (&json!("R002"), &json!(3)));
}

/// Fails when: the cause that one endpoint gave is said of another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_a_leader_names_each_endpoint_with_its_own_cause() {
    let mut cluster = Cluster::new(&[]);
    cluster.spawn(1, cluster.serve(1));
    cluster.are_ready().await;
    let (lines, exit) = Watch::start(&cluster.endpoints(), &["a", "--timeout", "300ms"]).end().await;
    assert_eq!(exit, 3);
    let failure: Value = serde_json::from_str(&lines[0]).expect("an object");
    let why = failure["why"].as_str().expect("a text");
    for (id, address) in &cluster.addresses {
        let (_, cause) = why.split_once(&format!("{address}: ")).expect("each endpoint is named");
        assert_eq!(cause.starts_with("Connection refused"), *id != 1, "{failure}");
    }
}
