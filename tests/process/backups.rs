//! Backups, and new clusters out of them.

use std::{fs, path::Path};

use ractor_raft::{
    kv::pb::{PutRequest, Session},
    rpc::pb::{OpenSessionRequest, cluster_client::ClusterClient},
};
use serde_json::Value;

use crate::{
    client,
    cluster::Cluster,
    command_line::{Run, run},
    server::{Server, free_address},
};

async fn save(cluster: &Cluster, file: &Path) -> Value {
    let file = file.to_str().expect("text");
    let mut lines = run(&cluster.endpoints(), &["snapshot", "save", file, "-o", "json"]).await.exits_with(0).json();
    lines.remove(0)
}

/// Makes the directory of one node of `new`.
async fn restore(file: &Path, new: &Cluster, id: u64) -> Run {
    let (file, data) = (file.to_str().expect("text"), new.data(id));
    let (data, id) = (data.to_str().expect("text"), id.to_string());
    let flags = ["-o", "json", "snapshot", "restore", file, "--data", data, "--id", &id, "--cluster", &new.members()];
    run(&free_address(), &flags).await
}

async fn open_session(address: &str) -> u64 {
    let opened = ClusterClient::new(client::channel(address)).open_session(OpenSessionRequest {}).await;
    opened.expect("nothing is in its way").into_inner().id
}

/// The first write of this session, however often; its revision.
async fn put_once(address: &str, id: u64) -> u64 {
    put_in_session(address, id, 1, "once").await
}

async fn put_in_session(address: &str, id: u64, sequence: u64, key: &'static str) -> u64 {
    let session = Some(Session { id, sequence, first_unanswered: 1 });
    let request = PutRequest { key: key.into(), value: "only".into(), session };
    client::kv(address).put(request).await.expect("nothing is in its way").into_inner().revision
}

/// Fails when: the membership or the id of the old cluster is kept, the nodes do not agree on the new one, or a write that
/// was acknowledged before the backup is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_that_the_old_one_has_nothing_to_do_with() {
    let mut old = Cluster::start(&[]).await;
    let leader = old.leader().await;
    for number in 0..20 {
        client::put(&leader.address, format!("key {number}"), "before").await.expect("nothing is in its way");
    }
    let session = open_session(&leader.address).await;
    let revision = put_once(&leader.address, session).await;
    let file = old.directory().join("backup");
    let saved = save(&old, &file).await;
    client::put(&leader.address, "key 0", "after").await.expect("nothing is in its way");
    assert_eq!(saved["cluster"], format!("{:016x}", leader.cluster_id));

    let mut new = Cluster::new(&[]);
    let mut ids = Vec::new();
    for id in 1..=3 {
        let line = restore(&file, &new, id).await.exits_with(0).json().remove(0);
        assert_eq!((&line["from_cluster"], &line["index"]), (&saved["cluster"], &saved["index"]));
        ids.push(line["cluster"].clone());
        new.spawn(id, new.serve(id));
    }
    new.are_ready().await;
    let led = new.leader().await;
    assert_eq!(ids, vec![Value::String(format!("{:016x}", led.cluster_id)); 3]);
    assert_ne!(led.cluster_id, leader.cluster_id);
    assert_eq!(
        led.voters.iter().map(|voter| &voter.address).collect::<Vec<_>>(),
        new.addresses.values().collect::<Vec<_>>()
    );
    let state = new.agree().await;
    for number in 0..20 {
        assert_eq!(state[format!("key {number}").as_bytes()].0, b"before", "key {number}");
    }

    // Sessions are part of the state: what was written before is not written again, and they go on.
    assert_eq!(put_once(&led.address, session).await, revision);
    let second = put_in_session(&led.address, session, 2, "twice").await;
    assert!(second > revision, "it is written here");
    assert_eq!(put_in_session(&led.address, session, 2, "twice").await, second);

    // It is a cluster like any other: it starts again from what it wrote.
    for id in 1..=3 {
        new.kill(id).await;
        new.restart(id).await;
    }
    new.leader().await;
    let again = new.agree().await;
    assert_eq!(again[&b"key 7"[..]].0, b"before");
    let kept = |key: &'static str| again[key.as_bytes()].1;
    assert_eq!((kept("once"), kept("twice")), (revision, second));
    let leader = new.leader().await;
    assert_eq!(put_in_session(&leader.address, session, 2, "twice").await, second, "also after a start");

    // A node of the new one that takes those of the old one for its peers.
    for id in 1..=3 {
        new.kill(id).await;
    }
    old.kill(3).await;
    let mut lost = new.serve(3);
    for peer in [1, 2] {
        lost.args(["--peer", &format!("{peer}={}", old.addresses[&peer])]);
    }
    let lost = Server::spawn("the one that went to the wrong cluster", lost);
    assert!(lost.says("R004").await);
    for id in [1, 2] {
        assert!(old.servers[&id].says("a request was refused: node").await, "node {id} tells its own operator");
    }
}

/// Fails when: a restored directory takes whatever `--cluster` it is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_belongs_to_its_node_and_cluster() {
    let old = Cluster::start(&[]).await;
    client::put_somewhere(old.addresses.values(), "key", "value").await;
    let file = old.directory().join("backup");
    save(&old, &file).await;
    let new = Cluster::new(&[]);
    restore(&file, &new, 1).await.exits_with(0);
    let members = format!("1={},2={}", new.addresses[&1], new.addresses[&2]);
    Server::spawn("another cluster", new.serve_with(1, &members)).ends_with(14, &["error[R006]"]).await;

    let again = restore(&file, &new, 1).await.exits_with(14);
    assert!(again.stderr.contains("error[R006]"), "{}", again.stderr);
    // Made of the same backup for the same members, and yet another node's.
    fs::rename(new.data(1), new.data(2)).expect("nobody has it");
    Server::spawn("another node", new.serve(2)).ends_with(14, &["error[R006]", "belongs to node 1"]).await;
}

/// Fails when: the file is believed, or something is left where the data was to be.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_backup_is_not_restored() {
    let old = Cluster::start(&[]).await;
    client::put_somewhere(old.addresses.values(), "key", "value").await;
    let file = old.directory().join("backup");
    save(&old, &file).await;
    let whole = fs::read(&file).expect("it was saved");
    let new = Cluster::new(&[]);
    let mut flipped = whole.clone();
    flipped[whole.len() - 3] ^= 1;
    for (bytes, words) in
        [(&flipped[..], "checksum"), (&whole[..whole.len() - 1], "should have"), (&b"something else"[..], "no backup")]
    {
        fs::write(&file, bytes).expect("there is room");
        let refused = restore(&file, &new, 1).await.exits_with(10);
        assert!(refused.stderr.contains("error[R017]") && refused.stderr.contains(words), "{}", refused.stderr);
        assert_eq!(fs::read_dir(new.directory()).expect("it is there").count(), 0, "nothing is left");
    }
}

/// Fails when: `--last` asks for a leader, or a backup without one claims to have everything.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_a_node_gives_the_last_snapshot_that_it_has() {
    let mut cluster = Cluster::start(&[]).await;
    client::put_somewhere(cluster.addresses.values(), "key", "value").await;
    let file = cluster.directory().join("backup");
    let saved = save(&cluster, &file).await;
    let id = saved["id"].as_u64().expect("a number");
    let at = cluster.addresses[&id].clone();
    for other in (1..=3).filter(|other| *other != id) {
        cluster.kill(other).await;
    }
    let name = file.to_str().expect("text");
    let refused = run(&at, &["snapshot", "save", name, "--timeout", "1s"]).await.exits_with(3);
    assert!(refused.stderr.contains("--last"), "{}", refused.stderr);
    let last = run(&at, &["snapshot", "save", name, "--last", "-o", "json"]).await.exits_with(0).json().remove(0);
    assert_eq!(last, saved);

    // One that has none, and nothing to take one of.
    let mut fresh = Cluster::new(&[]);
    fresh.spawn(1, fresh.serve(1));
    fresh.are_ready().await;
    let at = &fresh.addresses[&1];
    let none = run(at, &["snapshot", "save", name, "--last"]).await.exits_with(1).stderr;
    assert!(none.contains(&format!("node 1 at {at} has no snapshot yet")) && none.contains("snapshot take"), "{none}");
}
