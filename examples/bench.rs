//! Measures three real `raftkv serve` processes on loopback, and etcd beside them where it is installed.
//!
//! ```text
//! cargo build --release && cargo run --release --example bench -- --rounds 3 --seconds 5
//! ```
//! Both systems get the same unary Put calls from the same load generator, in turns, each on an empty data directory
//! on the same disk; the figures are medians over the rounds. Both run with their default settings.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// What to measure.
#[derive(Parser)]
struct Options {
    /// Seconds a measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each measurement is repeated; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Concurrent clients, one measurement for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// Connections that the clients share, at most.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Bytes a value.
    #[arg(long, default_value_t = 64)]
    value_size: usize,
    /// Different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Which systems: raftkv, unrecorded (raftkv with its flight recorder off), etcd.
    #[arg(long, value_delimiter = ',', default_value = "raftkv,unrecorded,etcd")]
    systems: Vec<String>,
    /// Kill the leader with SIGKILL so often and time the next acknowledged write.
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// Load a cluster with 1,024 clients for so many seconds and count the elections.
    #[arg(long, default_value_t = 0)]
    calm: u64,
}

/// The same bytes for `raftkv.v1.PutRequest` and `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Whatever was answered.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

/// The fields of `raft.v1.StatusReply` that are needed here.
#[derive(Clone, PartialEq, prost::Message)]
struct RaftStatus {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    leader: u64,
    #[prost(uint64, tag = "15")]
    log_writes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EtcdStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<EtcdHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "6")]
    raft_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EtcdHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum System {
    Raftkv { recorder: bool },
    Etcd,
}

impl System {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "raftkv" => System::Raftkv { recorder: true },
            "unrecorded" => System::Raftkv { recorder: false },
            "etcd" => System::Etcd,
            _ => bail!("--systems knows raftkv, unrecorded and etcd, not {name}"),
        })
    }

    fn name(self) -> &'static str {
        match self {
            System::Raftkv { recorder: true } => "raftkv",
            System::Raftkv { recorder: false } => "unrecorded",
            System::Etcd => "etcd",
        }
    }

    fn put_path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            System::Raftkv { .. } => "/raftkv.v1.Kv/Put",
            System::Etcd => "/etcdserverpb.KV/Put",
        })
    }
}

struct Server {
    address: String,
    process: Child,
    command: Vec<String>,
    recorder: bool,
}

impl Server {
    fn start(command: Vec<String>, address: String, recorder: bool) -> Result<Self> {
        let process = Self::launch(&command, recorder)?;
        Ok(Server { address, process, command, recorder })
    }

    fn launch(command: &[String], recorder: bool) -> Result<Child> {
        Command::new(&command[0])
            .args(&command[1..])
            .env("RAFTKV_RECORDER", if recorder { "on" } else { "off" })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command[0]))
    }

    fn restart(&mut self) -> Result<()> {
        self.process = Self::launch(&self.command, self.recorder)?;
        Ok(())
    }

    /// User and system time so far, in seconds.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // Fields 14 and 15 of the line; `fields` starts at the third. A tick is 10 ms on Linux.
        (ticks(11) + ticks(12)) / 100.0
    }

    fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

struct Cluster {
    system: System,
    servers: Vec<Server>,
    _data: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.process.kill();
            let _ = server.process.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    async fn start(system: System, binary: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("raft-bench").tempdir()?;
        let ports = (0..6).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let client = |n: usize| format!("127.0.0.1:{}", ports[n]);
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[3 + n]);
        let mut servers = Vec::new();
        for n in 0..3 {
            let directory = data.path().join(format!("{n}")).display().to_string();
            let command: Vec<String> = match system {
                System::Raftkv { .. } => {
                    let members = (0..3).map(|n| format!("{}={}", n + 1, client(n))).collect::<Vec<_>>().join(",");
                    let id = (n + 1).to_string();
                    let arguments =
                        ["serve", "--id", &id, "--data", &directory, "--listen", &client(n), "--cluster", &members];
                    let binary = binary.display().to_string();
                    std::iter::once(binary).chain(arguments.map(str::to_owned)).collect()
                }
                System::Etcd => {
                    let members = (0..3).map(|n| format!("n{n}={}", peer(n))).collect::<Vec<_>>().join(",");
                    let url = format!("http://{}", client(n));
                    let name = format!("n{n}");
                    let peer = peer(n);
                    [
                        "etcd",
                        "--name",
                        &name,
                        "--data-dir",
                        &directory,
                        "--listen-client-urls",
                        &url,
                        "--advertise-client-urls",
                        &url,
                        "--listen-peer-urls",
                        &peer,
                        "--initial-advertise-peer-urls",
                        &peer,
                        "--initial-cluster",
                        &members,
                        "--log-level",
                        "error",
                        "--logger",
                        "zap",
                    ]
                    .map(str::to_owned)
                    .to_vec()
                }
            };
            servers.push(Server::start(command, client(n), system == System::Raftkv { recorder: true })?);
        }
        let cluster = Cluster { system, servers, _data: data };
        cluster.leader().await?;
        Ok(cluster)
    }

    async fn status(&self, server: &Server) -> Option<(u64, bool, u64)> {
        let channel = Endpoint::from_shared(format!("http://{}", server.address)).ok()?;
        let channel = channel.connect_timeout(Duration::from_millis(300)).timeout(Duration::from_millis(500));
        let mut client = Grpc::new(channel.connect().await.ok()?);
        client.ready().await.ok()?;
        match self.system {
            System::Raftkv { .. } => {
                let path = PathAndQuery::from_static("/raft.v1.Cluster/Status");
                let codec = ProstCodec::<Anything, RaftStatus>::default();
                let status = client.unary(Request::new(Anything {}), path, codec).await.ok()?.into_inner();
                Some((status.term, status.leader == status.id, status.log_writes))
            }
            System::Etcd => {
                let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
                let codec = ProstCodec::<Anything, EtcdStatus>::default();
                let status = client.unary(Request::new(Anything {}), path, codec).await.ok()?.into_inner();
                let id = status.header.map(|header| header.member_id).unwrap_or_default();
                Some((status.raft_term, status.leader == id, 0))
            }
        }
    }

    /// The index of the server that leads.
    async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            for (n, server) in self.servers.iter().enumerate() {
                if self.status(server).await.is_some_and(|(_, leads, _)| leads) {
                    return Ok(n);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} has no leader after 30 s", self.system.name())
    }

    async fn connect(&self, server: usize, connections: usize) -> Result<Vec<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.servers[server].address))?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }
}

/// One measurement.
#[derive(Clone, Copy)]
struct Figures {
    writes_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_write: f64,
    fsyncs_per_write_and_node: f64,
    leader_mib: f64,
    follower_mib: f64,
}

async fn load(cluster: &Cluster, options: &Options, clients: usize, length: Duration) -> Result<Figures> {
    let leader = cluster.leader().await?;
    let channels = cluster.connect(leader, clients.min(options.connections)).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let path = cluster.system.put_path();
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
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (channel, stop, path) = (channels[client % channels.len()].clone(), stop.clone(), path.clone());
            let (keys, value) = (options.keys, vec![b'v'; options.value_size]);
            tokio::spawn(async move {
                let mut grpc = Grpc::new(channel);
                let mut latencies = Histogram::<u64>::new(3)?;
                let mut n = client as u64 * 7919;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let put = Put { key: format!("key-{:08}", n % keys).into_bytes(), value: value.clone() };
                    let sent = Instant::now();
                    grpc.ready().await?;
                    let codec = ProstCodec::<Put, Anything>::default();
                    grpc.unary(Request::new(put), path.clone(), codec).await?;
                    latencies.record(sent.elapsed().as_micros() as u64)?;
                }
                Ok::<_, anyhow::Error>(latencies)
            })
        })
        .collect();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::<u64>::new(3)?;
    for task in tasks {
        latencies.add(task.await??)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu: f64 = cluster.servers.iter().map(Server::cpu).sum::<f64>() - cpu_before;
    let writes = latencies.len() as f64;
    ensure!(writes > 0.0, "no write was acknowledged");
    let followers = cluster.servers.iter().enumerate().filter(|(n, _)| *n != leader);
    Ok(Figures {
        writes_per_second: writes / seconds,
        p50_us: latencies.value_at_quantile(0.5) as f64,
        p99_us: latencies.value_at_quantile(0.99) as f64,
        cpu_us_per_write: cpu * 1e6 / writes,
        fsyncs_per_write_and_node: (log_writes().await - writes_before) as f64 / 3.0 / writes,
        leader_mib: cluster.servers[leader].resident_mib(),
        follower_mib: followers.map(|(_, server)| server.resident_mib()).fold(0.0, f64::max),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_row(system: &str, clients: usize, rounds: &[Figures]) {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
    println!(
        "{system:<11}{clients:>8}{:>11.0}{:>10.0}{:>10.0}{:>12.0}{:>14.3}{:>12.1}{:>14.1}",
        of(|f| f.writes_per_second),
        of(|f| f.p50_us),
        of(|f| f.p99_us),
        of(|f| f.cpu_us_per_write),
        of(|f| f.fsyncs_per_write_and_node),
        of(|f| f.leader_mib),
        of(|f| f.follower_mib),
    );
}

/// From SIGKILL of the leader to the next acknowledged write, by a client that knows the two others.
async fn kill_leader(cluster: &mut Cluster) -> Result<Duration> {
    let leader = cluster.leader().await?;
    let path = cluster.system.put_path();
    let killed = Instant::now();
    cluster.servers[leader].process.kill()?;
    cluster.servers[leader].process.wait()?;
    let deadline = killed + Duration::from_secs(20);
    let mut n = leader;
    loop {
        ensure!(Instant::now() < deadline, "no write was acknowledged within 20 s of the leader's death");
        n = (n + 1) % 3;
        if n == leader {
            continue;
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.servers[n].address))?;
        let Ok(channel) = endpoint.connect().await else { continue };
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let mut put = Request::new(Put { key: b"failover".to_vec(), value: b"done".to_vec() });
        put.set_timeout(Duration::from_secs(2));
        if grpc.unary(put, path.clone(), ProstCodec::<Put, Anything>::default()).await.is_ok() {
            break;
        }
    }
    let took = killed.elapsed();
    cluster.servers[leader].restart()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.status(&cluster.servers[leader]).await.is_none() {
        ensure!(Instant::now() < deadline, "the killed server did not come back within 20 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It must have caught up before the next one falls.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(took)
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let binary = env::current_exe()?.parent().and_then(Path::parent).map(|target| target.join("raftkv"));
    let binary: PathBuf = binary.filter(|path| path.exists()).context("build raftkv first: cargo build --release")?;
    let has_etcd = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let mut systems = options.systems.iter().map(|name| System::parse(name)).collect::<Result<Vec<_>>>()?;
    if !has_etcd && systems.contains(&System::Etcd) {
        eprintln!("etcd is not installed: measuring without it");
        systems.retain(|system| *system != System::Etcd);
    }
    println!(
        "{:<11}{:>8}{:>11}{:>10}{:>10}{:>12}{:>14}{:>12}{:>14}",
        "", "clients", "writes/s", "p50 µs", "p99 µs", "CPU µs/w", "fsync/w/node", "leader MiB", "follower MiB"
    );
    let mut medians = Vec::new();
    for &clients in &options.clients {
        let mut rounds: Vec<Vec<Figures>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (system, figures) in systems.iter().zip(&mut rounds) {
                let cluster = Cluster::start(*system, &binary).await?;
                load(&cluster, &options, clients, Duration::from_secs(1)).await?;
                figures.push(load(&cluster, &options, clients, Duration::from_secs(options.seconds)).await?);
            }
        }
        for (system, figures) in systems.iter().zip(&rounds) {
            print_row(system.name(), clients, figures);
            medians.push((
                system.name(),
                clients,
                median(figures.iter().map(|f| f.writes_per_second)),
                median(figures.iter().map(|f| f.p50_us)),
                median(figures.iter().map(|f| f.cpu_us_per_write)),
            ));
        }
    }
    for &(name, clients, writes, p50, cpu) in &medians {
        if let Some(etcd) = medians.iter().find(|other| other.0 == "etcd" && other.1 == clients && name != "etcd") {
            println!(
                "{name} / etcd at {clients} clients: writes/s {:.2}, p50 {:.2}, CPU a write {:.2}",
                writes / etcd.2,
                p50 / etcd.3,
                cpu / etcd.4
            );
        }
    }
    for system in systems.iter().filter(|system| **system != (System::Raftkv { recorder: false })) {
        if options.kills > 0 {
            let mut cluster = Cluster::start(*system, &binary).await?;
            let mut times = Vec::new();
            for _ in 0..options.kills {
                times.push(kill_leader(&mut cluster).await?.as_secs_f64() * 1e3);
            }
            let most = times.iter().copied().fold(0.0, f64::max);
            let median = median(times.into_iter());
            println!(
                "{}: SIGKILL of the leader to the next write: median {median:.0} ms, longest {most:.0} ms of {}",
                system.name(),
                options.kills
            );
        }
        if options.calm > 0 && matches!(system, System::Raftkv { .. }) {
            let cluster = Cluster::start(*system, &binary).await?;
            let term = cluster.status(&cluster.servers[cluster.leader().await?]).await.map(|status| status.0);
            let figures = load(&cluster, &options, 1024, Duration::from_secs(options.calm)).await?;
            print_row(system.name(), 1024, &[figures]);
            let after = cluster.status(&cluster.servers[cluster.leader().await?]).await.map(|status| status.0);
            println!("{}: term before {term:?}, after {after:?}", system.name());
        }
    }
    Ok(())
}
