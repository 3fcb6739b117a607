//! put, get, del, cas, scan: one request each, and what it answered. Writes open a session first, so that they are applied
//! once over lost answers and changes of the leader.

use std::ffi::OsString;

use ractor_raft::{
    kv::pb::{
        self, CompareAndSwapRequest, DeleteRequest, GetRequest, PutRequest, ScanRequest, Session, kv_client::KvClient,
    },
    rpc::pb::{OpenSessionRequest, cluster_client::ClusterClient},
};
use serde::Serialize;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    args::{Command, Freshness},
    client::{Client, Kind},
    config::ClientSettings,
    error::{Failure, exit},
    output::{Output, printable, talk, text_of},
};

/// Carries the command out; returns the exit code.
pub async fn run(command: Command, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    let mut client = Client::new(settings);
    match command {
        Command::Put { key, value } => put(&mut client, &output, key_of(key)?, bytes(value)).await,
        Command::Get { key, freshness } => get(&mut client, &output, key_of(key)?, &freshness).await,
        Command::Del { key } => delete(&mut client, &output, key_of(key)?).await,
        Command::Cas { key, expect, set } => {
            compare_and_swap(&mut client, &output, key_of(key)?, expect.map(bytes), bytes(set)).await
        }
        Command::Scan { prefix, freshness } => scan(&mut client, &output, bytes(prefix), &freshness).await,
        Command::Demo(_)
        | Command::Serve(_)
        | Command::Status { .. }
        | Command::Trace(_)
        | Command::Actors { .. }
        | Command::Member(_)
        | Command::Leader(_)
        | Command::Snapshot(_)
        | Command::Watch { .. } => {
            unreachable!("main has carried these out")
        }
    }
}

#[derive(Serialize)]
struct PutLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    revision: u64,
}

async fn put(client: &mut Client, output: &Output, key: Vec<u8>, value: Vec<u8>) -> Result<u8, Failure> {
    let (session, deadline) = open_session(client).await?;
    let request = PutRequest { key: key.clone().into(), value: value.into(), session: Some(session) };
    let send = |at, request| async move { kv(at).put(request).await };
    let reply = client.call_until(deadline, Kind::InSession, &request, send).await?;
    if output.json {
        let (key, key_encoding) = text_of(&key);
        output.object(&PutLine { v: 1, key, key_encoding, revision: reply.revision })?;
    } else {
        output.line(format!("written, revision {}", reply.revision).as_bytes())?;
    }
    Ok(exit::DONE)
}

#[derive(Serialize)]
struct GetLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    found: bool,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    revision: u64,
    applied_index: u64,
}

async fn get(client: &mut Client, output: &Output, key: Vec<u8>, freshness: &Freshness) -> Result<u8, Failure> {
    let (consistency, at_least) = consistency_of(freshness)?;
    let request = GetRequest { key: key.clone().into(), consistency: consistency.into(), at_least };
    let reply = client.call(Kind::Read, &request, |at, request| async move { kv(at).get(request).await }).await?;
    if output.json {
        let (key, key_encoding) = text_of(&key);
        let (value, value_encoding) = reply.found.then(|| text_of(&reply.value)).unzip();
        let value_encoding = value_encoding.flatten();
        let pb::GetResponse { found, revision, applied_index, .. } = reply;
        output.object(&GetLine { v: 1, key, key_encoding, found, value, value_encoding, revision, applied_index })?;
    } else if reply.found {
        output.line(&reply.value)?;
    } else {
        talk(&format!("{} is absent", printable(&key)));
    }
    Ok(if reply.found { exit::DONE } else { exit::KEY_ABSENT })
}

#[derive(Serialize)]
struct DeleteLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    existed: bool,
    previous: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_encoding: Option<&'static str>,
    revision: u64,
}

async fn delete(client: &mut Client, output: &Output, key: Vec<u8>) -> Result<u8, Failure> {
    let (session, deadline) = open_session(client).await?;
    let request = DeleteRequest { key: key.clone().into(), session: Some(session) };
    let send = |at, request| async move { kv(at).delete(request).await };
    let reply = client.call_until(deadline, Kind::InSession, &request, send).await?;
    let pb::DeleteResponse { existed, previous, revision } = reply;
    if output.json {
        let (key, key_encoding) = text_of(&key);
        let (previous, previous_encoding) = existed.then(|| text_of(&previous)).unzip();
        let previous_encoding = previous_encoding.flatten();
        output.object(&DeleteLine { v: 1, key, key_encoding, existed, previous, previous_encoding, revision })?;
    } else {
        let done = if existed { "deleted" } else { "absent already" };
        output.line(format!("{done}, revision {revision}").as_bytes())?;
    }
    Ok(exit::DONE)
}

#[derive(Serialize)]
struct CompareAndSwapLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    swapped: bool,
    current: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_encoding: Option<&'static str>,
    revision: u64,
}

async fn compare_and_swap(
    client: &mut Client,
    output: &Output,
    key: Vec<u8>,
    expect: Option<Vec<u8>>,
    set: Vec<u8>,
) -> Result<u8, Failure> {
    let expect = expect.map(Into::into);
    let (session, deadline) = open_session(client).await?;
    let session = Some(session);
    let request = CompareAndSwapRequest { key: key.clone().into(), expect, set: set.into(), session };
    let send = |at, request| async move { kv(at).compare_and_swap(request).await };
    let reply = client.call_until(deadline, Kind::InSession, &request, send).await?;
    let pb::CompareAndSwapResponse { swapped, current, revision } = reply;
    if output.json {
        let (key, key_encoding) = text_of(&key);
        let (current, current_encoding) = current.as_deref().map(text_of).unzip();
        let current_encoding = current_encoding.flatten();
        output.object(&CompareAndSwapLine { v: 1, key, key_encoding, swapped, current, current_encoding, revision })?;
    } else if swapped {
        output.line(format!("swapped, revision {revision}").as_bytes())?;
    } else {
        let current = current.map_or("is absent".to_owned(), |value| format!("has {:?}", printable(&value)));
        talk(&format!("not swapped: {} {current}", printable(&key)));
    }
    Ok(if swapped { exit::DONE } else { exit::COMPARE_FAILED })
}

#[derive(Serialize)]
struct PairLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    revision: u64,
    /// Of the state that the line is from: that of its page.
    applied_index: u64,
}

/// Page by page, each as fresh as asked; together they are not one moment's state.
async fn scan(client: &mut Client, output: &Output, prefix: Vec<u8>, freshness: &Freshness) -> Result<u8, Failure> {
    let (consistency, at_least) = consistency_of(freshness)?;
    let mut request =
        ScanRequest { prefix: prefix.into(), consistency: consistency.into(), at_least, ..ScanRequest::default() };
    let mut applied = None;
    loop {
        let page = client.call(Kind::Read, &request, |at, request| async move { kv(at).scan(request).await }).await?;
        if output.json {
            for pb::KeyValue { key, value, revision } in &page.pairs {
                let ((key, key_encoding), (value, value_encoding)) = (text_of(key), text_of(value));
                let (revision, applied_index) = (*revision, page.applied_index);
                output.object(&PairLine { v: 1, key, key_encoding, value, value_encoding, revision, applied_index })?;
            }
        } else if !page.pairs.is_empty() {
            let row =
                |pair: &pb::KeyValue| vec![printable(&pair.key), pair.revision.to_string(), printable(&pair.value)];
            let head: &[&str] = if applied.is_none() { &["KEY", "REVISION", "VALUE"] } else { &[] };
            output.table(head, page.pairs.iter().map(row).collect())?;
        }
        // What came after the first page was read may be missing in it.
        let applied = *applied.get_or_insert(page.applied_index);
        if page.next.is_empty() {
            talk(&format!("of applied index {applied}; raftkv watch --from {} tells what came since", applied + 1));
            return Ok(exit::DONE);
        }
        request.from = page.next;
    }
}

/// A session for the one write that follows, and until when both are tried. One that is opened in vain does no harm.
pub async fn open_session(client: &mut Client) -> Result<(Session, Instant), Failure> {
    let deadline = client.deadline();
    let send = |at, request| async move { ClusterClient::new(at).open_session(request).await };
    let opened = client.call_until(deadline, Kind::Harmless, &OpenSessionRequest {}, send).await?;
    Ok((Session { id: opened.id, sequence: 1, first_unanswered: 1 }, deadline))
}

/// The store of one node.
pub fn kv(channel: Channel) -> KvClient<Channel> {
    // What a node stored it may also send: its own limit holds, not the client's.
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// As they were typed.
pub fn bytes(text: OsString) -> Vec<u8> {
    text.into_encoded_bytes()
}

/// The store has no empty key: in a scan it would be the beginning.
pub fn key_of(text: OsString) -> Result<Vec<u8>, Failure> {
    if text.is_empty() {
        let why = "a key has at least one byte; a variable of the shell that is not set gives none";
        return Err(Failure::new(20, exit::USAGE, "the key is empty", why, "give a key"));
    }
    Ok(bytes(text))
}

/// What `--consistency` says, and the index of `at-least`.
pub fn consistency_of(Freshness { consistency }: &Freshness) -> Result<(pb::Consistency, u64), Failure> {
    let (how, index) = consistency.split_once([':', '=']).unwrap_or((consistency, ""));
    match (how, index, index.parse()) {
        ("linearizable", "", _) => Ok((pb::Consistency::Linearizable, 0)),
        ("lease", "", _) => Ok((pb::Consistency::Lease, 0)),
        ("stale", "", _) => Ok((pb::Consistency::Stale, 0)),
        ("at-least", _, Ok(index)) => Ok((pb::Consistency::AtLeast, index)),
        _ => {
            let wanted = "linearizable, lease, at-least:INDEX or stale";
            Err(Failure::bad_setting("consistency", consistency, "the flag --consistency", wanted))
        }
    }
}
