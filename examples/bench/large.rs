//! A large state: what a snapshot of it costs the writers, and how long a restart takes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    Options,
    cluster::{Anything, Cluster, Get, System},
    load::{Workload, fill, load, load_until},
};

/// Three servers with `options.keys` keys.
pub async fn measure(options: &Options, binary: &Path) -> Result<()> {
    // No snapshot but the one that is asked for.
    let never = ["--snapshot-threshold", "1000000000", "--snapshot-threshold-bytes", "1000000000000"];
    let mut cluster = Cluster::start_with(System::Raftkv { recorder: true }, binary, &never).await?;
    let began = Instant::now();
    fill(&cluster, options).await?;
    println!("{} keys of {} bytes written in {:.1?}", options.keys, options.value_size, began.elapsed());

    let workload = Workload::Session { streams: options.streams.max(1), outstanding: options.outstanding };
    let length = Duration::from_secs(options.seconds);
    load(&cluster, options, workload, Duration::from_secs(1)).await?;
    let before = load(&cluster, options, workload, length).await?;
    let began = Instant::now();
    let snapshots = async {
        let taken = join_all(cluster.servers.iter().map(|server| take_snapshot(&server.address))).await;
        taken.into_iter().for_each(|taken| {
            if let Err(error) = taken {
                eprintln!("a snapshot failed: {error:#}")
            }
        });
    };
    let during = load_until(&cluster, options, workload, snapshots).await?;
    let took = began.elapsed();
    let after = load(&cluster, options, workload, length).await?;
    println!(
        "a snapshot on every node takes {took:.1?}; writes/s before {:.0}, meanwhile {:.0} ({:.2} of before), after {:.0}",
        before.per_second,
        during.per_second,
        during.per_second / before.per_second,
        after.per_second,
    );
    restart(&mut cluster, options).await
}

/// SIGKILL to all; each is back when it answers a read that only its own state machine can.
async fn restart(cluster: &mut Cluster, options: &Options) -> Result<()> {
    for server in &mut cluster.servers {
        server.process.kill()?;
        server.process.wait()?;
    }
    let began = Instant::now();
    for server in &mut cluster.servers {
        server.restart()?;
    }
    for server in &cluster.servers {
        while !has_keys(&server.address, options.keys).await {
            ensure!(began.elapsed() < Duration::from_secs(120), "a server did not come back within two minutes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    println!("all three restarted with {} keys in {:.1?}", options.keys, began.elapsed());
    Ok(())
}

async fn take_snapshot(address: &str) -> Result<()> {
    let mut grpc = Grpc::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/raft.v1.Cluster/TakeSnapshot");
    grpc.unary(Request::new(Anything {}), path, ProstCodec::<Anything, Anything>::default()).await?;
    Ok(())
}

/// The last key, read linearizably: the whole log before it has been applied.
async fn has_keys(address: &str, keys: u64) -> bool {
    let read = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(10));
        let mut grpc = Grpc::new(endpoint.connect().await?);
        grpc.ready().await?;
        let path = System::Raftkv { recorder: true }.get_path();
        let get = Get { key: format!("key-{:08}", keys - 1).into_bytes() };
        grpc.unary(Request::new(get), path, ProstCodec::<Get, Anything>::default()).await?;
        anyhow::Ok(())
    };
    read.await.is_ok()
}
