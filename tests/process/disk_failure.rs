//! A disk whose fsync fails (SAFETY: D01), for real: a library between the process and the system says so.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ractor_raft::rpc::pb::StatusReply;
use tokio::task::JoinSet;

use crate::{client, cluster::Cluster, witness::Witness};

/// Fails every sync once the file named by SYNC_FAILS_WITH exists.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(void) {
    const char *trigger = getenv("SYNC_FAILS_WITH");
    if (trigger == NULL || access(trigger, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}

int fsync(int file) { return fails() ? -1 : syscall(SYS_fsync, file); }
int fdatasync(int file) { return fails() ? -1 : syscall(SYS_fdatasync, file); }
"#;

/// Fails when: the store goes on after a failed fsync, or `Persisted` is said all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_fsync_fails_acknowledges_nothing_more_and_stops_with_the_cause() {
    let (mut cluster, leader) = cluster_with_shims().await;
    let address = &cluster.addresses[&leader.id];
    let witness = Witness::of(&cluster.addresses);
    client::put(address, "before", "the failure").await.expect("the disk works");
    fs::write(trigger(&cluster, leader.id), "").expect("the directory is ours");
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let address = address.clone();
        writers.spawn(async move { client::put(&address, format!("after {number}"), "the failure").await });
    }
    while let Some(answer) = writers.join_next().await {
        let answer = answer.expect("no writer panics");
        assert!(answer.is_err(), "acknowledged at {answer:?} by a node that cannot write");
    }
    stops_with_the_cause(&mut cluster, leader.id).await;
    let next = cluster.leader().await;
    assert!(next.term > leader.term);
    client::put(&next.address, "meanwhile", "the others go on").await.expect("two are a majority");

    // The disk is repaired.
    cluster.restart(leader.id).await;
    let state = cluster.agree().await;
    assert!(state.contains_key(&b"before"[..]) && state.contains_key(&b"meanwhile"[..]));
    witness.finds_nothing_wrong();
}

/// Fails when: a follower says that it has what its disk refused; or its end makes the others elect.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_fsync_fails_stops_and_the_others_go_on_in_the_same_term() {
    let (mut cluster, leader) = cluster_with_shims().await;
    let follower = leader.id % 3 + 1;
    fs::write(trigger(&cluster, follower), "").expect("the directory is ours");
    let written = client::put(&leader.address, "key", "value").await.expect("two are a majority");
    stops_with_the_cause(&mut cluster, follower).await;
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term));
    cluster.restart(follower).await;
    assert_eq!(cluster.agree().await[&b"key"[..]].1, written);
}

async fn stops_with_the_cause(cluster: &mut Cluster, id: u64) {
    let mut server = cluster.servers.remove(&id).expect("it ran");
    // SQLite's code for a failed fsync.
    server.ends_with(11, &["error[R016]", "raft.db", "1034"]).await;
}

/// A cluster whose disks can be made to fail, and its leader.
async fn cluster_with_shims() -> (Cluster, StatusReply) {
    let mut cluster = Cluster::new(&[]);
    let shim = compile_shim(cluster.directory());
    for id in 1..=3 {
        let mut command = cluster.serve(id);
        command.env("LD_PRELOAD", &shim).env("SYNC_FAILS_WITH", trigger(&cluster, id));
        cluster.spawn(id, command);
    }
    cluster.are_ready().await;
    let leader = cluster.leader().await;
    (cluster, leader)
}

fn trigger(cluster: &Cluster, id: u64) -> PathBuf {
    cluster.directory().join(format!("node {id} cannot sync"))
}

/// The build needs a C compiler anyway, for SQLite.
fn compile_shim(directory: &Path) -> PathBuf {
    let (source, shim) = (directory.join("shim.c"), directory.join("shim.so"));
    fs::write(&source, SHIM).expect("the directory is ours");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).status();
    assert!(compiled.expect("there is a C compiler").success());
    shim
}
