//! More calls than a node lets in (SAFETY: C02).

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::{
    kv::pb::kv_client::KvClient,
    rpc::{error::Told, pb::cluster_client::ClusterClient, reason},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    server::PATIENCE,
    witness::Witness,
};

/// What the servers are told by flag.
const MAX_PENDING: usize = 16;

/// So many write at a time, on one connection each.
const WRITERS: usize = 200;

/// Longer than an election timeout, so that heartbeats that waited would show.
const OVERLOAD: Duration = Duration::from_secs(4);
const ELECTION_TIMEOUT_MS: &str = "1500-3000";

/// Fails when: admission lets everybody in.
#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_the_leader_stays() {
    let max_pending = MAX_PENDING.to_string();
    let flags = ["--max-pending", &max_pending, "--election-timeout-ms", ELECTION_TIMEOUT_MS];
    let cluster = Cluster::start(&flags).await;
    let leader = cluster.leader().await;
    let witness = Witness::of(&cluster.addresses);
    let channels = connections(&leader.address).await;
    let end = Instant::now() + OVERLOAD;
    let mut writers = JoinSet::new();
    for (writer, channel) in channels.into_iter().enumerate() {
        let mut kv = KvClient::new(channel);
        writers.spawn(async move {
            let (mut acknowledged, mut refused) = (BTreeMap::new(), Vec::new());
            while Instant::now() < end {
                let key = format!("{writer}/{}", acknowledged.len() + refused.len());
                let request = ractor_raft::kv::pb::PutRequest { key: key.clone().into(), ..Default::default() };
                match timeout(PATIENCE, kv.put(request)).await.expect("an answer in time") {
                    Ok(reply) => drop(acknowledged.insert(key.into_bytes(), reply.into_inner().revision)),
                    Err(status) => {
                        let told = Told::of(&status).unwrap_or_else(|| panic!("the node says why: {status:?}"));
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        assert_eq!((told.reason.as_str(), told.code()), (reason::BUSY, Some("R019")));
                        let retry = status.get_details_retry_info().expect("details for programs").retry_delay;
                        assert!(retry.is_some_and(|delay| !delay.is_zero()), "{retry:?}");
                        refused.push(key.into_bytes());
                    }
                }
            }
            (acknowledged, refused)
        });
    }
    let (mut acknowledged, mut refused) = (BTreeMap::new(), Vec::new());
    while let Some(told) = writers.join_next().await {
        let (yes, no) = told.expect("no writer panics");
        acknowledged.extend(yes);
        refused.extend(no);
    }
    println!("{} writes are acknowledged, {} refused", acknowledged.len(), refused.len());
    assert!(acknowledged.len() > MAX_PENDING && !refused.is_empty());
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "no heartbeat was late");
    let state = cluster.agree().await;
    for (key, revision) in &acknowledged {
        assert_eq!(state.get(key).map(|(_, revision)| revision), Some(revision));
    }
    assert!(refused.iter().all(|key| !state.contains_key(key)), "what was refused is not applied");
    witness.finds_nothing_wrong();
}

/// One connection for each writer, open already: a machine that does other things besides may take longer to open so many
/// at once than one of them is waited for.
async fn connections(address: &str) -> Vec<Channel> {
    let deadline = Instant::now() + PATIENCE;
    let mut channels = Vec::new();
    for _ in 0..WRITERS {
        let channel = client::channel(address);
        while let Err(status) = client::status_over(&mut ClusterClient::new(channel.clone())).await {
            assert!(Instant::now() < deadline, "no connection: {status:?}");
        }
        channels.push(channel);
    }
    channels
}

/// Fails when: a call that is not let in waits for one that is in.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_too_many_is_refused_while_the_others_still_wait() {
    let max_pending = MAX_PENDING.to_string();
    let cluster = Cluster::start(&["--max-pending", &max_pending, "--election-timeout-ms", "2000-4000"]).await;
    let leader = cluster.leader().await;
    let followers = || cluster.servers.iter().filter(|(id, _)| **id != leader.id).map(|(_, server)| server);
    // Nobody confirms the writes, so none can be answered.
    for follower in followers() {
        follower.signal("STOP").await;
    }
    let mut calls = JoinSet::new();
    for call in 0..MAX_PENDING {
        let address = leader.address.clone();
        calls.spawn(async move { client::put(&address, format!("call {call}"), "value").await });
    }
    let deadline = Instant::now() + PATIENCE;
    while client::status(&leader.address).await.expect("it runs").last < leader.last + MAX_PENDING as u64 {
        assert!(Instant::now() < deadline, "the calls do not arrive");
        sleep(LOOK_AGAIN).await;
    }
    let status = client::put(&leader.address, "one more", "value").await.expect_err("it is one too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(calls.try_join_next().is_none(), "the others wait");
    for follower in followers() {
        follower.signal("CONT").await;
    }
    for answer in calls.join_all().await {
        answer.expect("it is confirmed now");
    }
    client::put(&leader.address, "one more", "value").await.expect("there is room again");
}
