//! One call, made under a trace of its own, and its way through the actors of all nodes.

use std::{ffi::OsString, time::Duration};

use ractor_raft::{
    flow::TraceId,
    kv::pb::{GetRequest, PutRequest},
    rpc::{
        flow::{self, Collected, CommonClock, Found, Wanted},
        trace,
    },
    trace::{Recording, of_call},
};
use tokio::time::{Instant, sleep};
use tonic::{Request, transport::Channel};

use super::Tracer;
use crate::{
    args::Freshness,
    client::{Client, Kind},
    commands::{bytes, consistency_of, key_of, kv},
    config::ClientSettings,
    error::{Failure, exit},
    output::{printable, talk},
    status::LOOK_AGAIN,
};

/// How long the followers are waited for. They learn with the next heartbeat what is committed.
const FOLLOWING: Duration = Duration::from_secs(2);

/// Writes a value, and shows what that took.
pub async fn put(tracer: &Tracer<'_>, key: OsString, value: OsString) -> Result<u8, Failure> {
    let request = PutRequest { key: key_of(key)?.into(), value: bytes(value).into(), session: None };
    let (found, id) = (tracer.find().await?, new_trace());
    let send = move |channel: Channel, mut request: Request<PutRequest>| async move {
        trace::write(id, request.metadata_mut());
        kv(channel).put(request).await
    };
    let begun = CommonClock::start().now();
    let mut client = to_the_leader(tracer.settings, &found);
    let reply = client.call(Kind::Write, &request, send).await?;
    talk(&format!("written, revision {}, trace {id:016x}", reply.revision));
    let applied =
        |recordings: &[Recording]| recordings.iter().all(|recording| has(recording, "Applied", reply.revision));
    let collected = once(applied, tracer, &found, id, begun).await;
    tracer.show(&found, collected).await
}

/// Reads a value, and shows what that took.
pub async fn get(tracer: &Tracer<'_>, key: OsString, freshness: &Freshness) -> Result<u8, Failure> {
    let (consistency, at_least) = consistency_of(freshness)?;
    let key = key_of(key)?;
    let request = GetRequest { key: key.clone().into(), consistency: consistency.into(), at_least };
    let (found, id) = (tracer.find().await?, new_trace());
    let send = move |channel: Channel, mut request: Request<GetRequest>| async move {
        trace::write(id, request.metadata_mut());
        kv(channel).get(request).await
    };
    let begun = CommonClock::start().now();
    let mut client = to_the_leader(tracer.settings, &found);
    let reply = client.call(Kind::Read, &request, send).await?;
    let (key, value) = (printable(&key), printable(&reply.value));
    let read = if reply.found { format!("{key} is {value}") } else { format!("{key} is absent") };
    talk(&format!("{read}, revision {}, trace {id:016x}", reply.revision));
    let answered = |recordings: &[Recording]| recordings.iter().any(|recording| has(recording, "Query", 0));
    let collected = once(answered, tracer, &found, id, begun).await;
    tracer.show(&found, collected).await?;
    Ok(if reply.found { exit::DONE } else { exit::KEY_ABSENT })
}

/// The leader first: what a follower forwards goes a longer way.
fn to_the_leader(settings: &ClientSettings, found: &Found) -> Client {
    Client::new(&ClientSettings { endpoints: found.addresses(), timeout: settings.timeout })
}

fn new_trace() -> TraceId {
    rand::random_range(1..=TraceId::MAX)
}

/// Whether it is about this index or a later one.
fn has(recording: &Recording, message: &str, index: u64) -> bool {
    recording.events.iter().any(|event| event.message == message && event.mark.index >= index)
}

/// What the nodes that answer recorded of it since `begun`, once that is all, or after a while without.
async fn once(
    is_all: impl Fn(&[Recording]) -> bool,
    tracer: &Tracer<'_>,
    found: &Found,
    id: TraceId,
    begun: i64,
) -> Collected {
    // Everything of that time: a message that carries several commands is recorded under one of them alone.
    let wanted = Wanted { window: Some((begun, i64::MAX)), ..Wanted::default() };
    let deadline = Instant::now() + FOLLOWING.min(tracer.settings.timeout);
    loop {
        let mut collected = flow::collect(&found.addresses(), &wanted, tracer.settings.timeout).await;
        collected.recordings = of_call(&collected.recordings, id);
        if is_all(&collected.recordings) || Instant::now() + LOOK_AGAIN >= deadline {
            return collected;
        }
        sleep(LOOK_AGAIN).await;
    }
}
