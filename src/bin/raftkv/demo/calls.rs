//! What the tour asks of nodes, as any client could.

use std::collections::BTreeMap;

use ractor_raft::kv::pb::{Consistency, GetRequest, GetResponse, HashRequest, PutRequest, ScanRequest, Session};

use crate::{
    client::{Client, Kind},
    commands::kv,
    error::Failure,
};

/// Writes under a session; returns the revision. Repeated, it is the first one's.
pub async fn put_once(client: &mut Client, key: &str, value: &str, session: Session) -> Result<u64, Failure> {
    let request = PutRequest { session: Some(session), ..put_request(key, value) };
    let reply = client.call(Kind::InSession, &request, |at, request| async move { kv(at).put(request).await }).await?;
    Ok(reply.revision)
}

/// Writes, whatever it takes; returns the revision.
pub async fn put(client: &mut Client, key: &str, value: &str) -> Result<u64, Failure> {
    let request = put_request(key, value);
    // To write the same twice does no harm here, so that an unknown outcome may be tried again.
    let reply = client.call(Kind::Read, &request, |at, request| async move { kv(at).put(request).await }).await?;
    Ok(reply.revision)
}

/// Without a session.
pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), session: None }
}

/// What stands at `key`, with its revision.
pub async fn get(client: &mut Client, key: &str, consistency: Consistency) -> Result<Option<(String, u64)>, Failure> {
    let request = GetRequest { key: key.to_owned().into(), consistency: consistency.into(), at_least: 0 };
    let reply = client.call(Kind::Read, &request, |at, request| async move { kv(at).get(request).await }).await?;
    let GetResponse { found, value, revision, .. } = reply;
    Ok(found.then(|| (String::from_utf8_lossy(&value).into_owned(), revision)))
}

/// All keys that begin with `prefix`, linearizably.
pub async fn scan(client: &mut Client, prefix: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut request = ScanRequest { prefix: prefix.to_owned().into(), ..ScanRequest::default() };
    let mut pairs = BTreeMap::new();
    loop {
        let page = client.call(Kind::Read, &request, |at, request| async move { kv(at).scan(request).await }).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        pairs.extend(page.pairs.iter().map(|pair| (text(&pair.key), text(&pair.value))));
        if page.next.is_empty() {
            return Ok(pairs);
        }
        request.from = page.next;
    }
}

/// The hash of the whole state, and the index it is of.
pub async fn hash(client: &mut Client) -> Result<(u64, String), Failure> {
    let reply =
        client.call(Kind::Read, &HashRequest {}, |at, request| async move { kv(at).hash(request).await }).await?;
    Ok((reply.applied_index, reply.hash.iter().map(|byte| format!("{byte:02x}")).collect()))
}
