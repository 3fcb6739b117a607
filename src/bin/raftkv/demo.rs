//! `demo`: a real cluster in this process (SQLite files, gRPC on loopback), and a tour that checks what it shows.
//!
//! Nothing here knows more than a client and an operator could: it writes and reads over gRPC, looks at each node's
//! status, tree and message flow, and stops, starts and kills.

mod buttons;
mod calls;
mod cluster;
mod crashes;
mod load;
mod newcomer;
mod page;
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
pub async fn run(demo: Demo, http: Option<String>) -> Result<u8, Failure> {
    let stays = !demo.once && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let listener = page::bind(http).await?;
    let mut cluster = Cluster::start(demo.nodes, demo.data.clone()).await?;
    let (buttons, pressed) = buttons::buttons();
    let page = page::open(&cluster, listener, stays.then_some(buttons));
    let mut report = Report::open(&cluster, &page);
    let toured = tour::run(&mut cluster, &mut report).await;
    if let Err(failure) = &toured {
        report.check("the tour", Err(failure.to_string()));
    }
    report.close();
    if stays && toured.is_ok() {
        stay::run(&mut cluster, &page, pressed).await?;
    }
    page.stop().await;
    cluster.stop().await;
    Ok(if report.holds() { exit::DONE } else { exit::OTHER })
}
