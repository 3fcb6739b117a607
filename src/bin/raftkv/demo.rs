//! `demo`: a real cluster in this process (SQLite files, gRPC on loopback), and a tour that checks what it shows.
//!
//! Nothing here knows more than a client and an operator could: it writes and reads over gRPC, looks at each node's
//! status, tree and message flow, and stops, starts and kills.

mod calls;
mod cluster;
mod crashes;
mod load;
mod newcomer;
mod partition;
mod report;
mod retry;
mod stay;
mod tour;
mod trace;
mod watcher;
mod writer;

use std::io::IsTerminal;

use crate::{
    args::Demo,
    error::{Failure, exit},
};
use cluster::Cluster;
use report::Report;

/// Runs it; returns the exit code.
pub async fn run(demo: Demo) -> Result<u8, Failure> {
    let mut cluster = Cluster::start(demo.nodes, demo.data.clone()).await?;
    let mut report = Report::open(&cluster);
    let toured = tour::run(&mut cluster, &mut report).await;
    if let Err(failure) = &toured {
        report.check("the tour", Err(failure.to_string()));
    }
    report.close();
    let stays = !demo.once && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if stays && toured.is_ok() {
        stay::run(&mut cluster).await?;
    }
    cluster.stop().await;
    Ok(if report.holds() { exit::DONE } else { exit::OTHER })
}
