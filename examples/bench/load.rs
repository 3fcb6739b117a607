//! What is done to a cluster while it is measured, and what is measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use prost::Message as _;
use ractor_raft::{kv::Command, rpc::SessionClient};
use tokio::task::JoinHandle;
use tonic::{Request, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    Options,
    cluster::{Anything, Cluster, Get, Put, Server},
};

/// What the clients do, each one thing after another.
#[derive(Clone, Copy, PartialEq)]
pub enum Workload {
    /// Unary writes.
    Puts { clients: usize },
    /// Unary linearizable reads of keys that are there.
    Gets { clients: usize },
    /// Writes on streams, each of which is one session.
    Session { streams: usize, outstanding: usize },
}

impl Workload {
    pub fn clients(self) -> usize {
        match self {
            Workload::Puts { clients } | Workload::Gets { clients } => clients,
            Workload::Session { streams, outstanding } => streams * outstanding,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Workload::Puts { .. } => "put",
            Workload::Gets { .. } => "get",
            Workload::Session { .. } => "session",
        }
    }
}

/// One measurement.
#[derive(Clone, Copy)]
pub struct Figures {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Of the servers.
    pub cpu_us: f64,
    pub fsyncs_per_node: f64,
    pub leader_mib: f64,
    pub follower_mib: f64,
}

/// Runs a workload for so long.
pub async fn load(cluster: &Cluster, options: &Options, workload: Workload, length: Duration) -> Result<Figures> {
    load_until(cluster, options, workload, tokio::time::sleep(length)).await
}

/// Runs a workload until something else is over.
pub async fn load_until(
    cluster: &Cluster,
    options: &Options,
    workload: Workload,
    end: impl Future<Output = ()>,
) -> Result<Figures> {
    let leader = cluster.leader().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let log_writes = async || {
        let mut sum = 0;
        for server in &cluster.servers {
            sum += cluster.status(server).await.map_or(0, |(_, _, writes)| writes);
        }
        sum
    };
    let writes_before = log_writes().await;
    let cpu_before: f64 = cluster.servers.iter().map(Server::cpu).sum();
    let started = Instant::now();
    let clients = start(cluster, options, workload, leader, &stop).await?;
    end.await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::<u64>::new(3)?;
    for client in clients {
        latencies.add(client.await??)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu: f64 = cluster.servers.iter().map(Server::cpu).sum::<f64>() - cpu_before;
    let done = latencies.len() as f64;
    ensure!(done > 0.0, "nothing was answered");
    let followers = cluster.servers.iter().enumerate().filter(|(n, _)| *n != leader);
    Ok(Figures {
        per_second: done / seconds,
        p50_us: latencies.value_at_quantile(0.5) as f64,
        p99_us: latencies.value_at_quantile(0.99) as f64,
        cpu_us: cpu * 1e6 / done,
        fsyncs_per_node: (log_writes().await - writes_before) as f64 / 3.0 / done,
        leader_mib: cluster.servers[leader].resident_mib(),
        follower_mib: followers.map(|(_, server)| server.resident_mib()).fold(0.0, f64::max),
    })
}

type Client = JoinHandle<Result<Histogram<u64>>>;

async fn start(
    cluster: &Cluster,
    options: &Options,
    workload: Workload,
    leader: usize,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Client>> {
    let keys = Keys { next: 0, different: options.keys, value: vec![b'v'; options.value_size] };
    let keys = |client: usize| Keys { next: client as u64 * 7919, ..keys.clone() };
    if let Workload::Session { streams, outstanding } = workload {
        let mut clients = Vec::new();
        for stream in 0..streams {
            let session = SessionClient::connect([cluster.servers[leader].address.clone()])?;
            let writer = |n| in_session(session.clone(), keys(stream * outstanding + n), stop.clone());
            clients.extend((0..outstanding).map(|n| tokio::spawn(writer(n))));
        }
        return Ok(clients);
    }
    let clients = workload.clients();
    let channels = cluster.connect(leader, clients.min(options.connections)).await?;
    let system = cluster.system;
    let client = |n: usize| {
        let (channel, keys, stop) = (channels[n % channels.len()].clone(), keys(n), stop.clone());
        match workload {
            Workload::Gets { .. } => tokio::spawn(unary(channel, system.get_path(), keys, stop, |key, _| Get { key })),
            _ => tokio::spawn(unary(channel, system.put_path(), keys, stop, |key, value| Put { key, value })),
        }
    };
    Ok((0..clients).map(client).collect())
}

/// One client's keys, one after another.
#[derive(Clone)]
struct Keys {
    next: u64,
    different: u64,
    value: Vec<u8>,
}

impl Keys {
    fn next(&mut self) -> (Vec<u8>, Vec<u8>) {
        self.next += 1;
        (format!("key-{:08}", self.next % self.different).into_bytes(), self.value.clone())
    }
}

async fn unary<T: prost::Message + 'static>(
    channel: Channel,
    path: tonic::codegen::http::uri::PathAndQuery,
    mut keys: Keys,
    stop: Arc<AtomicBool>,
    message: impl Fn(Vec<u8>, Vec<u8>) -> T,
) -> Result<Histogram<u64>> {
    let mut grpc = Grpc::new(channel);
    let mut latencies = Histogram::<u64>::new(3)?;
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = keys.next();
        let message = message(key, value);
        let sent = Instant::now();
        grpc.ready().await?;
        let codec = ProstCodec::<T, Anything>::default();
        grpc.unary(Request::new(message), path.clone(), codec).await?;
        latencies.record(sent.elapsed().as_micros() as u64)?;
    }
    Ok(latencies)
}

/// Writes every key once, over streams.
pub async fn fill(cluster: &Cluster, options: &Options) -> Result<()> {
    let leader = cluster.leader().await?;
    let (streams, outstanding) = (options.streams.max(1), options.outstanding);
    let writers = (streams * outstanding) as u64;
    let mut tasks = Vec::new();
    for stream in 0..streams {
        let session = SessionClient::connect([cluster.servers[leader].address.clone()])?;
        for n in 0..outstanding {
            let (session, first) = (session.clone(), (stream * outstanding + n) as u64);
            let (keys, value) = (options.keys, vec![b'v'; options.value_size]);
            tasks.push(tokio::spawn(async move {
                for key in (first..keys).step_by(writers as usize) {
                    let command = Command::put(format!("key-{key:08}"), value.clone());
                    session.propose(command.encode_to_vec().into()).await?;
                }
                anyhow::Ok(())
            }));
        }
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn in_session(session: SessionClient, mut keys: Keys, stop: Arc<AtomicBool>) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::<u64>::new(3)?;
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = keys.next();
        let command = Command::put(key, value).encode_to_vec();
        let sent = Instant::now();
        session.propose(command.into()).await?;
        latencies.record(sent.elapsed().as_micros() as u64)?;
    }
    Ok(latencies)
}
