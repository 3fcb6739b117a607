//! Measures three real `raftkv serve` processes on loopback, and etcd beside them where it is installed.
//!
//! ```text
//! cargo build --release && cargo run --release --example bench -- --rounds 3 --seconds 5
//! ```
//! Both systems get the same unary Put and Get calls from the same load generator, in turns, each on an empty data directory
//! on the same disk; `raftkv` besides gets writes on streams, each of which is a session. The figures are medians over the
//! rounds. Both run with their default settings.
//!
//! What the flight recorder costs, on and off in turns: `-- --systems raftkv,unrecorded --clients 256 --readers 0 --streams 0
//! --rounds 9`. Neighbouring rounds are compared with each other, so that a machine that grows busier counts for both.

mod cluster;
mod large;
mod load;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use self::{
    cluster::{Anything, Cluster, Put, System},
    load::{Figures, Workload, load},
};

/// What to measure.
#[derive(Parser)]
struct Options {
    /// Seconds a measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each measurement is repeated; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Concurrent clients of unary writes, one measurement for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// Concurrent clients of linearizable reads, one measurement for each number; 0: none.
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    readers: Vec<usize>,
    /// Streams of writes under a session each; 0: none.
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// Writes that are not answered at a time, on each of the streams.
    #[arg(long, default_value_t = 64)]
    outstanding: usize,
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
    /// Instead of all that: fill a cluster with so many keys, and measure what a snapshot costs its writers, and a restart.
    #[arg(long, default_value_t = 0)]
    large: u64,
    /// Load a cluster with 1,024 clients for so many seconds and count the elections.
    #[arg(long, default_value_t = 0)]
    calm: u64,
}

impl Options {
    fn workloads(&self) -> Vec<Workload> {
        let puts = self.clients.iter().map(|&clients| Workload::Puts { clients });
        let gets = self.readers.iter().filter(|clients| **clients > 0).map(|&clients| Workload::Gets { clients });
        let session = Workload::Session { streams: self.streams, outstanding: self.outstanding };
        puts.chain((self.streams > 0).then_some(session)).chain(gets).collect()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What is compared between systems.
struct Median {
    system: System,
    workload: Workload,
    per_second: f64,
    p50_us: f64,
    cpu_us: f64,
}

impl Median {
    fn of(system: System, workload: Workload, rounds: &[Figures]) -> Self {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        let (per_second, p50_us, cpu_us) = (of(|f| f.per_second), of(|f| f.p50_us), of(|f| f.cpu_us));
        Median { system, workload, per_second, p50_us, cpu_us }
    }
}

/// The median over the rounds of the ratio of writes a second (or reads) with the recorder to those without it, and of the CPU.
fn print_recorder(workload: Workload, systems: &[System], rounds: &[Vec<Figures>]) {
    let of = |recorder| systems.iter().position(|system| *system == System::Raftkv { recorder }).map(|at| &rounds[at]);
    let (Some(on), Some(off)) = (of(true), of(false)) else { return };
    let ratio = |figure: fn(&Figures) -> f64| {
        let mut ratios: Vec<f64> = on.iter().zip(off).map(|(on, off)| figure(on) / figure(off)).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
        (at(2), at(1), at(3))
    };
    let ((speed, slow, fast), (cpu, ..)) = (ratio(|f| f.per_second), ratio(|f| f.cpu_us));
    println!(
        "recorder on / off, {} at {} clients: {speed:.3} as many a second (half of the rounds: {slow:.3} to {fast:.3}), CPU {cpu:.3}",
        workload.name(),
        workload.clients()
    );
}

/// Each beside etcd's figures in the same run; sessions beside etcd's unary puts with as many clients.
fn print_ratios(medians: &[Median]) {
    for Median { system, workload, per_second, p50_us, cpu_us } in medians {
        let as_etcd = match *workload {
            Workload::Session { .. } => Workload::Puts { clients: workload.clients() },
            other => other,
        };
        let etcd = medians.iter().find(|other| other.system == System::Etcd && other.workload == as_etcd);
        let Some(etcd) = etcd.filter(|_| *system != System::Etcd) else { continue };
        println!(
            "{} {} / etcd {} at {} clients: {:.2} as many a second, p50 {:.2}, CPU {:.2}",
            system.name(),
            workload.name(),
            as_etcd.name(),
            workload.clients(),
            per_second / etcd.per_second,
            p50_us / etcd.p50_us,
            cpu_us / etcd.cpu_us
        );
    }
}

fn print_row(system: System, workload: Workload, rounds: &[Figures]) {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
    println!(
        "{:<11}{:>9}{:>9}{:>11.0}{:>10.0}{:>10.0}{:>10.0}{:>14.3}{:>12.1}{:>14.1}",
        system.name(),
        workload.name(),
        workload.clients(),
        of(|f| f.per_second),
        of(|f| f.p50_us),
        of(|f| f.p99_us),
        of(|f| f.cpu_us),
        of(|f| f.fsyncs_per_node),
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
    if options.large > 0 {
        return large::measure(&Options { keys: options.large, ..options }, &binary).await;
    }
    let has_etcd = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let mut systems = options.systems.iter().map(|name| System::parse(name)).collect::<Result<Vec<_>>>()?;
    if !has_etcd && systems.contains(&System::Etcd) {
        eprintln!("etcd is not installed: measuring without it");
        systems.retain(|system| *system != System::Etcd);
    }
    println!(
        "{:<11}{:>9}{:>9}{:>11}{:>10}{:>10}{:>10}{:>14}{:>12}{:>14}",
        "", "", "clients", "a second", "p50 µs", "p99 µs", "CPU µs", "fsync/node", "leader MiB", "follower MiB"
    );
    let mut medians = Vec::new();
    for workload in options.workloads() {
        let only_raftkv = matches!(workload, Workload::Session { .. });
        let systems: Vec<_> =
            systems.iter().copied().filter(|system| *system != System::Etcd || !only_raftkv).collect();
        let mut rounds: Vec<Vec<Figures>> = systems.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            let mut turns: Vec<_> = systems.iter().zip(&mut rounds).collect();
            // Nobody always comes first.
            if round % 2 == 1 {
                turns.reverse();
            }
            for (system, figures) in turns {
                let cluster = Cluster::start(*system, &binary).await?;
                // Whatever is read must be there.
                load(&cluster, &options, Workload::Puts { clients: 64 }, Duration::from_secs(1)).await?;
                load(&cluster, &options, workload, Duration::from_secs(1)).await?;
                figures.push(load(&cluster, &options, workload, Duration::from_secs(options.seconds)).await?);
            }
        }
        for (system, figures) in systems.iter().zip(&rounds) {
            print_row(*system, workload, figures);
            medians.push(Median::of(*system, workload, figures));
        }
        print_recorder(workload, &systems, &rounds);
    }
    let recorder = ractor_raft::flow::Flow::new("raft/bench/1".to_owned());
    println!("the flight recorder takes {} KiB of memory on each node, and no more", recorder.recorder_limit() / 1024);
    print_ratios(&medians);
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
            let busy = Workload::Puts { clients: 1024 };
            let term = cluster.status(&cluster.servers[cluster.leader().await?]).await.map(|status| status.0);
            let figures = load(&cluster, &options, busy, Duration::from_secs(options.calm)).await?;
            print_row(*system, busy, &[figures]);
            let after = cluster.status(&cluster.servers[cluster.leader().await?]).await.map(|status| status.0);
            println!("{}: term before {term:?}, after {after:?}", system.name());
        }
    }
    Ok(())
}
