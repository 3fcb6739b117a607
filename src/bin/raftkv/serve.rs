//! `serve`: one node in this process, until SIGTERM, Ctrl-C, or a failure that it cannot heal.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use ractor_raft::{
    http,
    kv::{self, Kv},
    node::{Node, NodeRef, Status},
    rpc::{self, Grpc},
};
use tokio::signal;
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::{
    config::{ServeSettings, Settings},
    error::{Failure, exit},
    output::talk,
    page,
};

/// The health service's name for "a leader is known and this node has caught up"; "" is "the process is up".
const READY: &str = "ready";

/// How often readiness is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_millis(50);

/// Whoever asks again within this has asked once: GNU timeout and some terminals signal the process and its group.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// Runs it; returns the exit code.
pub async fn run(settings: &Settings) -> Result<u8, Failure> {
    let settings = settings.serve()?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(READY, ServingStatus::NotServing).await;
    // Before the node: what cannot be had stops nothing that has begun.
    let listener = match &settings.http {
        Some(address) => Some(page::bind(address).await?),
        None => None,
    };
    let node = start(&settings, Grpc::new().services(move |node| routes(node, health_service.clone()))).await?;
    node.flow().set_recording(settings.recorder);
    let page = listener.map(|listener| http::serve(node.as_ref().clone(), listener, http::Options::default()));
    say_ready(&settings, &node, page.as_ref());
    if let Some(page) = &page {
        page::warn_if_public(page);
    }
    if let Some(warning) = elsewhere(&settings, &node.status()) {
        talk(&warning);
    }
    tokio::select! {
        biased;
        stopped = node.stopped() => stopped?,
        () = keep_health(&node, &health) => unreachable!("readiness is looked at for ever"),
        signal = asked_to_stop() => {
            talk(&format!("{signal}: stopping; once more to leave at once"));
            health.set_service_status(READY, ServingStatus::NotServing).await;
            unless_asked_again(node.shutdown()).await??;
            talk("stopped");
        }
    }
    Ok(exit::DONE)
}

async fn start(settings: &ServeSettings, transport: Grpc) -> Result<Node<Kv>, Failure> {
    let members = settings.cluster.iter().map(|(id, address)| (*id, address.clone()));
    let builder = Node::builder(settings.id, Kv::default);
    let mut builder = match settings.join.is_empty() {
        true => builder.cluster(members),
        false => builder.join(settings.join.clone()).advertise(settings.advertise.clone()),
    };
    builder = builder
        .data_dir(&settings.data)
        .listen(settings.listen.clone())
        .transport(transport)
        .config(settings.config.clone());
    if let Some(name) = &settings.cluster_name {
        builder = builder.cluster_name(name);
    }
    for (peer, address) in &settings.peers {
        builder = builder.peer_address(*peer, address.clone());
    }
    Ok(builder.spawn().await?)
}

/// Everything a node answers besides `raft.v1`: the store, health, and the reflection that spares grpcurl its files.
pub fn routes(node: NodeRef, health: HealthServer<impl Health>) -> Routes {
    let store = node.typed::<Kv>().expect("the binary builds its nodes with Kv");
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rpc::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("build.rs has written these descriptors");
    Routes::new(kv::service(store)).add_service(health).add_service(reflection)
}

fn say_ready(settings: &ServeSettings, node: &Node<Kv>, page: Option<&http::Server>) {
    let ServeSettings { id, data, advertise, .. } = settings;
    let listen = node.bound_address().unwrap_or_else(|| settings.listen.clone());
    let page = page.map_or(String::new(), |page| format!(" http={}", page.address()));
    talk(&format!("ready node {id} listen={listen} advertise={advertise}{page} data={}", data.display()));
}

/// The others dial the address in the membership; a node that was started from its directory at another one waits there in
/// vain.
fn elsewhere(settings: &ServeSettings, status: &Status) -> Option<String> {
    let ServeSettings { id, listen, advertise, .. } = settings;
    let known = status.membership.address(*id).filter(|known| ![listen, advertise].contains(known))?;
    Some(format!(
        "warning: the cluster knows node {id} at {known}, and it was started at {advertise}: start it at {known}, give \
         --advertise {known} if that leads here, or say where it is now: raftkv member replace {id} {advertise}"
    ))
}

/// Keeps "ready" true to what the node says.
async fn keep_health(node: &Node<Kv>, health: &HealthReporter) {
    let mut ready = false;
    loop {
        let now_ready = http::readiness(&node.status(), ready).is_ok();
        if now_ready != ready {
            ready = now_ready;
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(READY, status).await;
        }
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

/// Waits for SIGTERM or Ctrl-C.
async fn asked_to_stop() -> &'static str {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())
        .expect("SIGTERM can be listened for in any process");
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = signal::ctrl_c() => "Ctrl-C",
    }
}

async fn unless_asked_again<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        signal = asked_again() => {
            let why = format!("{signal} came a second time; what was acknowledged is on disk");
            Err(Failure::other("stopped without a graceful end", why))
        }
    }
}

/// As [`asked_to_stop`], but for what comes too soon to be meant as a second request.
async fn asked_again() -> &'static str {
    let asked_first = Instant::now();
    loop {
        let signal = asked_to_stop().await;
        if asked_first.elapsed() >= ONE_REQUEST {
            return signal;
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
