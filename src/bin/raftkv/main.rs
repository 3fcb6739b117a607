//! `raftkv`: a replicated key-value server built on `ractor-raft`, and its command line.
//!
//! | file | idea |
//! |---|---|
//! | `args` | what can be typed |
//! | `config` | flags over environment over file, every value with its source |
//! | `client` | one call over several endpoints: hints followed, retried only what is certainly not applied |
//! | `commands` | put, get, del, cas, scan |
//! | `snapshot` | snapshots taken, saved and restored |
//! | `watch` | the changes of a prefix, until Ctrl-C |
//! | `status` | one line for each node of the cluster |
//! | `trace` | the messages between the actors of all nodes: of a call, of what happened last, as they come |
//! | `actors` | the supervision tree of every node |
//! | `again` | what is looked at every second, until Ctrl-C |
//! | `member`, `leader` | who belongs to the cluster, who leads it, and changes of both |
//! | `serve` | one node, until a signal or a failure |
//! | `page` | the port of the page |
//! | `demo` | a whole cluster in this process, and a tour that checks what it shows |
//! | `output` | tables and JSON lines |
//! | `error` | what went wrong, why, the fix, and the exit code |

mod actors;
mod again;
mod args;
mod client;
mod commands;
mod config;
mod demo;
mod error;
mod leader;
mod member;
mod output;
mod page;
mod serve;
mod snapshot;
mod status;
mod trace;
mod watch;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    args::{Args, Command},
    config::Settings,
    error::Failure,
    output::Output,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let as_json = args.output.as_deref() == Some("json");
    match run(args) {
        Ok(exit) => ExitCode::from(exit),
        Err(failure) => {
            if as_json {
                println!("{}", failure.to_json());
            }
            // Nobody is left to tell if that fails too.
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.exit)
        }
    }
}

fn run(args: Args) -> Result<u8, Failure> {
    log_to_stderr(&args.command);
    let settings = Settings::read(&args, |name| std::env::var(name).ok())?;
    runtime(&args.command, &settings)?.block_on(async {
        match args.command {
            Command::Serve(_) => serve::run(&settings).await,
            Command::Demo(demo) => demo::run(demo, settings.http()?).await,
            Command::Status { watch } => status::run(watch, &settings.client()?, Output::to_stdout(&settings)?).await,
            Command::Trace(trace) => trace::run(trace, &settings.client()?, Output::to_stdout(&settings)?).await,
            Command::Actors { watch } => actors::run(watch, &settings.client()?, Output::to_stdout(&settings)?).await,
            Command::Snapshot(command) => snapshot::run(command, &settings, Output::to_stdout(&settings)?).await,
            Command::Member(command) => member::run(command, &settings.client()?, Output::to_stdout(&settings)?).await,
            Command::Leader(command) => leader::run(command, &settings.client()?, Output::to_stdout(&settings)?).await,
            Command::Watch { prefix, from } => {
                watch::run(prefix, from, &settings.client()?, Output::to_stdout(&settings)?).await
            }
            command => commands::run(command, &settings.client()?, Output::to_stdout(&settings)?).await,
        }
    })
}

fn runtime(command: &Command, settings: &Settings) -> Result<Runtime, Failure> {
    let mut builder = match command {
        Command::Serve(_) => match settings.threads()? {
            1 => Builder::new_current_thread(),
            threads => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(threads);
                builder
            }
        },
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().build().map_err(|error| Failure::other("the runtime did not start", error.to_string()))
}

/// `RAFTKV_LOG` (as `RUST_LOG`) chooses; a server says what happens to it, the others keep quiet.
fn log_to_stderr(command: &Command) {
    // A directive holds for all names that begin with it: "ractor" would silence this library, too.
    let default = if matches!(command, Command::Serve(_)) { "info,ractor=off,ractor_raft=info" } else { "off" };
    let filter = EnvFilter::new(std::env::var("RAFTKV_LOG").unwrap_or_else(|_| default.to_owned()));
    let uncoloured = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let coloured = std::io::stderr().is_terminal() && !uncoloured;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(coloured);
    let told_once = matches!(command, Command::Serve(_));
    let lines = lines.with_filter(filter_fn(move |line| !(told_once && is_told_at_the_end(line))));
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Why a node ends by itself is what `serve` fails with, and `main` tells that with its fix.
fn is_told_at_the_end(line: &Metadata<'_>) -> bool {
    *line.level() == Level::ERROR && line.target().starts_with("ractor_raft::node")
}
