//! Raw gRPC: what a client in any language would do.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::{
    kv::pb::{Consistency, GetRequest, HashRequest, HashResponse, PutRequest, ScanRequest, kv_client::KvClient},
    rpc::{
        channel,
        pb::{StatusReply, StatusRequest, cluster_client::ClusterClient},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Status, transport::Channel};

use crate::{cluster::LOOK_AGAIN, server::PATIENCE};

/// A connection that opens with its first call.
pub fn channel(address: &str) -> Channel {
    channel::lazy(address).expect("it is an address")
}

/// The store of one node.
pub fn kv(address: &str) -> KvClient<Channel> {
    KvClient::new(channel(address)).max_decoding_message_size(usize::MAX)
}

/// What a node says it is; `Err` if it does not answer.
pub async fn status(address: &str) -> Result<StatusReply, Status> {
    status_over(&mut ClusterClient::new(channel(address))).await
}

/// The same over a connection that is kept.
pub async fn status_over(client: &mut ClusterClient<Channel>) -> Result<StatusReply, Status> {
    let answer = timeout(Duration::from_secs(2), client.status(StatusRequest {})).await;
    Ok(answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?.into_inner())
}

/// Writes to whoever takes it, and returns the revision.
pub async fn put_somewhere(addresses: impl Iterator<Item = &String> + Clone, key: &str, value: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for address in addresses.clone() {
            match put(address, key, value).await {
                Ok(revision) => return revision,
                Err(status) => assert!(Instant::now() < deadline, "nobody takes a write: {status:?}"),
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// One write to one node; the revision.
pub async fn put(address: &str, key: impl Into<String>, value: impl Into<String>) -> Result<u64, Status> {
    let (key, value) = (key.into().into(), value.into().into());
    let mut request = Request::new(PutRequest { key, value, session: None });
    request.set_timeout(PATIENCE);
    Ok(kv(address).put(request).await?.into_inner().revision)
}

/// Waits until a node has applied the log up to here.
pub async fn has_applied(address: &str, index: u64) {
    let key = "any".into();
    let request = GetRequest { key, consistency: Consistency::AtLeast.into(), at_least: index };
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = kv(address).get(request.clone()).await {
        assert!(Instant::now() < deadline, "{address} does not get to {index}: {status:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// The hash of a node's state and the index it is of.
pub async fn hash(address: &str) -> HashResponse {
    let answer = timeout(PATIENCE, async { kv(address).hash(HashRequest {}).await }).await;
    answer.expect("an answer in time").expect("a hash").into_inner()
}

/// All that a node has, by key: value and revision.
pub async fn everything(address: &str) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
    let mut client = kv(address);
    let mut request = ScanRequest { consistency: Consistency::Stale.into(), ..ScanRequest::default() };
    let mut all = BTreeMap::new();
    loop {
        let page =
            timeout(PATIENCE, client.scan(request.clone())).await.expect("in time").expect("a page").into_inner();
        let pairs = page.pairs.into_iter();
        all.extend(pairs.map(|pair| (pair.key.to_vec(), (pair.value.to_vec(), pair.revision))));
        if page.next.is_empty() {
            return all;
        }
        request.from = page.next;
    }
}
