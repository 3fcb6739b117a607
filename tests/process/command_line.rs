//! The client commands, as a script would use them: exit codes, and JSON on stdout.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    cluster::Cluster,
    server::{PATIENCE, free_address, raftkv},
};

/// What a command left behind.
pub struct Run {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The objects on stdout, one a line.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Asserts its exit code.
    pub fn exits_with(self, code: i32) -> Run {
        assert_eq!(self.exit, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Runs a client command to its end.
pub async fn run(endpoints: &str, arguments: &[&str]) -> Run {
    let mut command = raftkv();
    command.args(["--endpoints", endpoints]).args(arguments);
    let output = timeout(PATIENCE, command.output()).await.expect("a command ends").expect("the binary is built");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let exit = output.status.code().expect("it was not killed");
    Run { exit, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Fails when: an exit code or a key of the JSON is another than SURFACE says.
#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_with_exit_codes_and_json() {
    let cluster = Cluster::start(&["--max-entry-bytes", "5000"]).await;
    let leader = cluster.leader().await;
    let all = cluster.endpoints();
    let follower = cluster.addresses[&(leader.id % 3 + 1)].clone();
    let json_of = async |endpoints: &str, arguments: &[&str], code: i32| {
        let ran = run(endpoints, &[arguments, &["-o", "json"]].concat()).await.exits_with(code);
        let mut lines = ran.json();
        assert_eq!(lines.len(), 1, "{}", ran.stdout);
        lines.remove(0)
    };

    let put = json_of(&all, &["put", "ada", "1815"], 0).await;
    let revision = put["revision"].as_u64().expect("a number");
    assert_eq!(put, json!({"v": 1, "key": "ada", "revision": revision}));
    let got = json_of(&follower, &["get", "ada"], 0).await;
    assert_eq!((&got["found"], &got["value"], &got["revision"]), (&json!(true), &json!("1815"), &json!(revision)));
    assert_eq!(run(&all, &["get", "ada"]).await.exits_with(0).stdout, "1815\n");
    assert_eq!(json_of(&all, &["get", "nobody"], 4).await["found"], false);

    let lost = json_of(&all, &["cas", "ada", "--expect", "1816", "--set", "x"], 5).await;
    assert_eq!((&lost["swapped"], &lost["current"]), (&json!(false), &json!("1815")));
    json_of(&all, &["cas", "ada", "--set", "x"], 5).await;
    assert_eq!(json_of(&follower, &["cas", "ada", "--expect", "1815", "--set", "1852"], 0).await["swapped"], true);
    assert_eq!(json_of(&all, &["cas", "alan", "--set", "1912"], 0).await["swapped"], true);

    let scanned = run(&all, &["scan", "a", "-o", "json"]).await.exits_with(0);
    let pairs = scanned.json();
    let applied = pairs[0]["applied_index"].as_u64().expect("a number");
    assert!(pairs.iter().all(|pair| pair["revision"].as_u64() <= Some(applied)), "{pairs:?}");
    assert!(scanned.stderr.contains(&format!("--from {}", applied + 1)), "{}", scanned.stderr);
    let nothing = run(&all, &["scan", "nothing begins with this"]).await.exits_with(0);
    assert!(nothing.stderr.contains("of applied index"), "{}", nothing.stderr);
    let found: Vec<_> = pairs.iter().map(|pair| (pair["key"].as_str(), pair["value"].as_str())).collect();
    assert_eq!(found, [(Some("ada"), Some("1852")), (Some("alan"), Some("1912"))]);
    let deleted = json_of(&follower, &["del", "ada"], 0).await;
    assert_eq!((&deleted["existed"], &deleted["previous"]), (&json!(true), &json!("1852")));
    assert_eq!(json_of(&all, &["del", "ada"], 0).await["existed"], false);

    let refused = run(&all, &["put", "large", &"x".repeat(6000)]).await.exits_with(2);
    assert!(refused.stderr.contains("error[R018]") && refused.stderr.contains("5000"), "{}", refused.stderr);
    let refused = json_of(&all, &["put", "larger", &"x".repeat(60_000)], 2).await;
    assert_eq!((&refused["error"], &refused["exit"]), (&json!("R018"), &json!(2)));
    for usage in
        [&["put", "only a key"][..], &["get", "ada", "--timeout", "soon"], &["get", "ada", "-o", "xml"], &["get", ""]]
    {
        run(&all, usage).await.exits_with(2);
    }
}

/// Fails when: `status` prints other keys than SURFACE names, or leaves a node out that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn status_prints_a_line_for_each_node_reachable_or_not() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let one = cluster.addresses[&1].clone();
    let lines = run(&one, &["status", "-o", "json"]).await.exits_with(0).json();
    assert_eq!(lines.len(), 3, "the others are found through one");
    let keys = [
        "v",
        "id",
        "address",
        "reachable",
        "role",
        "term",
        "leader",
        "commit",
        "applied",
        "last",
        "snapshot",
        "voters",
        "learners",
        "restarts",
    ];
    for (line, (id, address)) in lines.iter().zip(&cluster.addresses) {
        let found: BTreeSet<_> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(found, BTreeSet::from(keys));
        assert_eq!((&line["v"], &line["id"], &line["address"]), (&json!(1), &json!(id), &json!(address)));
        assert_eq!((&line["reachable"], &line["term"]), (&json!(true), &json!(leader.term)));
        let role = if *id == leader.id { "leader" } else { "follower" };
        assert_eq!((&line["role"], &line["leader"]), (&json!(role), &json!(leader.id)));
        assert_eq!((&line["voters"], &line["learners"]), (&json!([1, 2, 3]), &json!([])));
        for number in ["commit", "applied", "last", "snapshot", "restarts"] {
            assert!(line[number].is_u64(), "{number} in {line}");
        }
    }
    assert!(run(&one, &["status"]).await.exits_with(0).stderr.contains(&format!("node {} leads", leader.id)));

    let follower = leader.id % 3 + 1;
    cluster.kill(follower).await;
    let lines = run(&leader.address, &["status", "-o", "json"]).await.exits_with(0).json();
    let reachable: Vec<_> = lines.iter().map(|line| line["reachable"] == true).collect();
    assert_eq!(reachable, (1..=3).map(|id| id != follower).collect::<Vec<_>>());
}

/// Fails when: a node that was reached and has no answer yet is called unreachable.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_takes_too_long_is_not_called_unreachable() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let future = ["get", "key", "--consistency", "at-least:99999", "--timeout", "300ms"];
    let late = run(&leader.address, &future).await.exits_with(3).stderr;
    assert!(late.contains("error[R002]: no answer within 300ms") && late.contains("--timeout"), "{late}");
}

/// Fails when: a write that may have been applied is called anything else, or one that was not is called that.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_commands_say_no_leader_or_unknown() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let nobody = free_address();
    let unreachable = run(&nobody, &["get", "key", "--timeout", "300ms"]).await.exits_with(3);
    assert!(unreachable.stderr.contains("error[R002]") && unreachable.stderr.contains(&nobody));
    run(&nobody, &["status", "--timeout", "300ms"]).await.exits_with(3);

    // The leader takes the write in, and nobody is left to agree.
    for id in (1..=3).filter(|id| *id != leader.id) {
        cluster.servers.get_mut(&id).expect("it runs").start_kill();
    }
    for id in (1..=3).filter(|id| *id != leader.id) {
        cluster.servers.remove(&id).expect("it ran").ended().await;
    }
    let write = run(&leader.address, &["put", "key", "value", "-o", "json", "--timeout", "2s"]).await;
    let error = write.json().remove(0);
    match write.exit {
        7 => assert_eq!(error["error"], "R014"),
        // It had noticed already that it does not lead any more.
        3 => assert_eq!(error["error"], "R002"),
        _ => panic!("{}", write.stderr),
    }
    let refused = run(&leader.address, &["put", "key", "value", "--timeout", "2s"]).await.exits_with(3);
    assert!(refused.stderr.contains("error[R002]"), "{}", refused.stderr);
    run(&leader.address, &["get", "key", "--timeout", "1s"]).await.exits_with(3);
    let lines = run(&leader.address, &["status", "-o", "json"]).await.exits_with(6).json();
    assert_eq!(lines.iter().filter(|line| line["reachable"] == true).count(), 1);
}
