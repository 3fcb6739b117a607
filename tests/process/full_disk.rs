//! Disks without room (SAFETY: D05), for real: a library between the process and the system says so.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;

use ractor_raft::{
    kv::pb::GetRequest,
    rpc::{error::Told, reason},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    command_line::run,
    load::{Load, assert_kept},
    server::PATIENCE,
    session_load::{SessionLoad, assert_once},
    shim::Fault,
    witness::Witness,
};

async fn has_trouble(address: &str, trouble: &str) {
    let deadline = Instant::now() + PATIENCE;
    while client::status(address).await.expect("it is up").trouble != trouble {
        assert!(Instant::now() < deadline, "{address} does not say {trouble:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Fails when: a leader without room waits for a server that has what did not get to its own disk (`Raft::advance_transfer`),
/// so that under load nobody can take over; or a session waits for ever for a node that led (`SILENCE`).
#[tokio::test(flavor = "multi_thread")]
async fn with_one_full_disk_a_cluster_goes_on_whichever_it_is() {
    let cluster = Cluster::start_with_shim().await;
    let leader = cluster.leader().await;
    let witness = Witness::of(&cluster.addresses);
    let (load, sessions) = (Load::start(&cluster.addresses, 4), SessionLoad::start(&cluster.addresses, 2));
    load.goes_on(50).await;
    for full in [leader.id, leader.id % 3 + 1, (leader.id + 1) % 3 + 1] {
        cluster.disks().set(Fault::NoRoom, full);
        has_trouble(&cluster.addresses[&full], "disk full").await;
        load.goes_on(50).await;
        sessions.goes_on(5).await;
        cluster.disks().repair(Fault::NoRoom, full);
        has_trouble(&cluster.addresses[&full], "").await;
        load.goes_on(50).await;
    }
    nothing_is_lost(&cluster, load, sessions).await;
    witness.finds_nothing_wrong();
}

/// Fails when: a session takes R016 for an answer that lasts (`Pending::answered`).
#[tokio::test(flavor = "multi_thread")]
async fn with_all_disks_full_writes_are_refused_reads_go_on_and_nothing_is_lost() {
    // It takes an election timeout until the leader has given it up to hand over.
    let cluster = Cluster::start_with_shim_and(&["--election-timeout-ms", "1500-3000"]).await;
    let leader = cluster.leader().await;
    let witness = Witness::of(&cluster.addresses);
    let (load, sessions) = (Load::start(&cluster.addresses, 4), SessionLoad::start(&cluster.addresses, 2));
    client::put_somewhere(cluster.addresses.values(), "before", "there was room").await;
    load.goes_on(50).await;
    // The leader last: it has what nobody else could store.
    for id in [leader.id % 3 + 1, (leader.id + 1) % 3 + 1, leader.id] {
        cluster.disks().set(Fault::NoRoom, id);
        has_trouble(&cluster.addresses[&id], "disk full").await;
    }
    for address in cluster.addresses.values() {
        let answer = timeout(PATIENCE, client::put(address, "refused", "no room")).await;
        let status = answer.expect("an answer in time").expect_err("there is no room for it");
        let told = Told::of(&status).unwrap_or_else(|| panic!("the node says why: {status:?}"));
        assert_eq!((told.reason.as_str(), told.code()), (reason::DISK_FULL, Some("R016")), "{status:?}");
    }
    // A follower may lack what was committed without it.
    assert_eq!(read(&leader.address).await, "there was room");
    let refused = run(&cluster.endpoints(), &["put", "refused", "no room", "--timeout", "2s"]).await;
    assert!(refused.exit != 0 && refused.stderr.contains("R016"), "{}", refused.stderr);
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "nobody else could lead");

    (1..=3).for_each(|id| cluster.disks().repair(Fault::NoRoom, id));
    load.goes_on(50).await;
    sessions.goes_on(5).await;
    let state = nothing_is_lost(&cluster, load, sessions).await;
    assert!(!state.contains_key(&b"refused"[..]));
    witness.finds_nothing_wrong();
}

/// All is over: asserts that everybody has what was acknowledged.
async fn nothing_is_lost(cluster: &Cluster, load: Load, sessions: SessionLoad) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
    for address in cluster.addresses.values() {
        has_trouble(address, "").await;
    }
    let (writes, told) = (load.stop().await, sessions.stop().await);
    let state = cluster.agree().await;
    assert_kept(&writes, &state);
    assert_once(&told, &state);
    state
}

/// A linearizable read.
async fn read(address: &str) -> String {
    let request = GetRequest { key: "before".into(), ..GetRequest::default() };
    let answer = timeout(PATIENCE, client::kv(address).get(request)).await.expect("an answer in time");
    String::from_utf8_lossy(&answer.expect("reads need no disk").into_inner().value).into_owned()
}
