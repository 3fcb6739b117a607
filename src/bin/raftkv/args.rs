//! What can be typed. Values stay text here: `config` reads them, so that each has the same rules from every source.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};

/// A replicated key-value store: Raft as a supervision tree of actors.
///
/// Exit codes: 0 done, 1 other, 2 usage, 3 no leader or unreachable, 4 key absent, 5 compare failed, 6 unhealthy,
/// 7 outcome unknown; serve besides: 10 corrupt data, 11 disk failed, 12 restart budget spent, 13 poison entry, 14 data
/// directory in use or another node's.
#[derive(Parser)]
#[command(name = "raftkv", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Where the nodes are: HOST:PORT,… [env: RAFTKV_ENDPOINTS] [default: 127.0.0.1:7001, :7002, :7003].
    #[arg(short, long, global = true, value_name = "ADDR,…", help_heading = "Client options")]
    pub endpoints: Option<String>,

    /// table or json: one object a line on stdout [env: RAFTKV_OUTPUT] [default: table].
    #[arg(short, long, global = true, value_name = "FORMAT", help_heading = "Client options")]
    pub output: Option<String>,

    /// How long to try, retries included: 5s, 300ms [env: RAFTKV_TIMEOUT] [default: 5s].
    #[arg(long, global = true, value_name = "TIME", help_heading = "Client options")]
    pub timeout: Option<String>,

    /// A TOML file with any of the settings: flags win over RAFTKV_… in the environment, that over the file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Start a real cluster in this process and check with your own eyes what it does.
    Demo(Demo),
    /// Run one node.
    Serve(Box<Serve>),
    /// Write a value.
    Put {
        /// Any bytes but none.
        key: OsString,
        /// Any bytes.
        value: OsString,
    },
    /// Read a value; exit code 4 if there is none.
    Get {
        /// The key.
        key: OsString,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Take a key away; that it is absent already is no failure.
    Del {
        /// The key.
        key: OsString,
    },
    /// Write a value if another stands there; exit code 5 if it does not.
    Cas {
        /// The key.
        key: OsString,
        /// What must stand there. Left out: the key must be absent.
        #[arg(long, value_name = "VALUE")]
        expect: Option<OsString>,
        /// What to write.
        #[arg(long, value_name = "VALUE")]
        set: OsString,
    },
    /// List the keys with a prefix, and their values.
    Scan {
        /// Left out: all keys.
        #[arg(default_value = "")]
        prefix: OsString,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Print the changes of the keys with a prefix as they come, until Ctrl-C; goes on at another node when one fails.
    Watch {
        /// Empty: all keys.
        prefix: OsString,
        /// Begin with the first change of this revision or a later one. Left out: with the next one.
        #[arg(long, value_name = "REV", default_value_t = 0, hide_default_value = true)]
        from: u64,
    },
    /// Who belongs to the cluster, and changes of it.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Who leads, and letting another one lead.
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// One line for each node: who leads, who lags, who cannot be reached; exit code 6 if nobody leads.
    Status {
        /// Look again every second, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// See the messages between the actors of all nodes: those of one call, of what happened last, or as they come.
    Trace(Trace),
    /// The supervision tree of every node: what each actor does, how many messages wait for it, and what it died of.
    Actors {
        /// Look again every second, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Take snapshots, keep them as backups, and make a new cluster out of one.
    #[command(subcommand)]
    Snapshot(Snapshot),
}

/// What `trace` shows: one of these.
#[derive(clap::Args)]
pub struct Trace {
    /// Make a call, and show its way.
    #[command(subcommand)]
    pub call: Option<TraceCall>,

    /// Show messages as they come, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["last", "incident", "id"])]
    pub follow: bool,

    /// Follow for so long: 5s, 300ms.
    #[arg(long = "for", value_name = "TIME", requires = "follow")]
    pub duration: Option<String>,

    /// Show the last one that the nodes still remember.
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["incident", "id"])]
    pub last: Option<Episode>,

    /// Show what went before something fell: the last incident, one by its number (of node 2: 2:NUMBER), or list them.
    #[arg(long, value_name = "last|ID|list", conflicts_with = "id")]
    pub incident: Option<String>,

    /// Show a client's call, by its W3C trace id or the low half of it.
    #[arg(long, value_name = "TRACEID")]
    pub id: Option<String>,

    /// As what [default: text; json with -o json].
    #[arg(long, global = true, value_name = "FORMAT")]
    pub format: Option<TraceFormat>,

    /// Send it as OpenTelemetry spans as well, over OTLP (gRPC), to this receiver: http://127.0.0.1:4317. Not with --follow.
    #[arg(long, global = true, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// A call to be traced.
#[derive(Subcommand)]
pub enum TraceCall {
    /// Write a value, and show its way through the actors of all nodes.
    Put {
        /// Any bytes but none.
        key: OsString,
        /// Any bytes.
        value: OsString,
    },
    /// Read a value, and show its way.
    Get {
        /// The key.
        key: OsString,
        #[command(flatten)]
        freshness: Freshness,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Episode {
    /// Somebody campaigned.
    Election,
    /// An actor died and was started again.
    Restart,
    /// A snapshot was taken, or sent.
    Snapshot,
    /// A server was added, promoted, removed or replaced.
    Membership,
}

/// How a trace is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A sequence diagram, as Markdown has it.
    Mermaid,
    /// For chrome://tracing and ui.perfetto.dev.
    Chrome,
}

/// What can be done with snapshots.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Let a node take a snapshot of its state now; the first of the endpoints that answers.
    Take,
    /// Write a backup: all that was written before it, the sessions of clients included. It takes the place of FILE only once
    /// it is whole and on disk.
    Save {
        /// Where to.
        file: PathBuf,
        /// The last snapshot that the node has, as it is: needs no leader, and no room on the node's disk.
        #[arg(long)]
        last: bool,
    },
    /// Make a data directory of a new cluster out of a backup: once for each of its nodes, with the same FILE and --cluster.
    /// The new cluster has an id of its own, so that its nodes and those of the old one never mix.
    Restore(Restore),
}

/// Flags of `snapshot restore`.
#[derive(clap::Args, Default)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,

    /// This node's number in --cluster.
    #[arg(long, value_name = "N")]
    pub id: Option<String>,

    /// Where the node will keep its data; nothing may be there yet.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,

    /// The new cluster's members, the same for every node, and the same that `serve` is started with.
    #[arg(long, value_name = "1=ADDR,2=ADDR,…")]
    pub cluster: Option<String>,

    /// The new cluster's name, if `serve` is started with one.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
}

/// What can be done about the servers of a cluster.
#[derive(Subcommand)]
pub enum MemberCommand {
    /// One line for each server, removed ones included.
    List,
    /// Add a server: a learner at first, which votes once it has caught up. Start it with `serve --join`.
    Add {
        /// A number that was never used in this cluster.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// Where the others reach it.
        #[arg(value_name = "ADDR")]
        address: String,
        /// It is to stay a learner: it receives the log, and never votes.
        #[arg(long)]
        learner: bool,
        /// Do not wait until it votes.
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove a server, for good.
    Remove {
        /// Never used again.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// Make a learner that has caught up a voter.
    Promote {
        /// The learner.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// Give an id whose disk is gone to another disk; start that one with `serve --join`.
    Replace {
        /// Whose disk is gone.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// Where the new one is.
        #[arg(value_name = "ADDR")]
        address: String,
        /// Do not wait until it votes.
        #[arg(long)]
        no_wait: bool,
    },
}

/// What can be done about the leadership.
#[derive(Subcommand)]
pub enum LeaderCommand {
    /// Who leads; exit code 3 if nobody does.
    Show,
    /// Let another one lead.
    Transfer {
        /// Who. Left out: whoever has most of the log.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,
    },
}

/// How fresh a read must be.
#[derive(clap::Args)]
pub struct Freshness {
    /// linearizable, lease, at-least:INDEX or stale.
    #[arg(long, value_name = "HOW", default_value = "linearizable")]
    pub consistency: String,
}

/// Flags of `serve`. Each is also RAFTKV_… in the environment and a key of the TOML file.
#[derive(clap::Args, Default)]
pub struct Serve {
    /// This node's number: one of --cluster, or one that was never used.
    #[arg(long, value_name = "N")]
    pub id: Option<String>,

    /// Where it keeps its term, vote and log.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,

    /// Where it listens, for nodes and clients.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Where the others reach it, if not where it listens. With --cluster that is its address there.
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,

    /// The first members, the same on every node, in any order, at every start.
    #[arg(long, value_name = "1=ADDR,2=ADDR,…")]
    pub cluster: Option<String>,

    /// Instead of --cluster: join the cluster that any of these belongs to. It is added, catches up and then votes.
    #[arg(long, value_name = "ADDR,…")]
    pub join: Option<String>,

    /// Tells clusters with the same first members apart: the same on every node, at every start.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// Dial that peer there instead (proxies, NAT). May be repeated.
    #[arg(long, value_name = "ID=ADDR")]
    pub peer: Vec<String>,

    /// How often a leader is heard from [default: 100].
    #[arg(long, value_name = "MS")]
    pub heartbeat_ms: Option<String>,

    /// How long a follower waits for a leader, drawn anew each time from this range [default: 150-300].
    #[arg(long, value_name = "MIN-MAX")]
    pub election_timeout_ms: Option<String>,

    /// The largest command: key, value and a few bytes [default: 1048576].
    #[arg(long, value_name = "BYTES")]
    pub max_entry_bytes: Option<String>,

    /// Take a snapshot after so many entries [default: 50000].
    #[arg(long, value_name = "ENTRIES")]
    pub snapshot_threshold: Option<String>,

    /// …or after entries of so many bytes [default: 67108864].
    #[arg(long, value_name = "BYTES")]
    pub snapshot_threshold_bytes: Option<String>,

    /// Keep so many entries behind a snapshot, for followers that are not far behind [default: 10000, or half of
    /// --snapshot-threshold if that is less].
    #[arg(long, value_name = "ENTRIES")]
    pub snapshot_trailing: Option<String>,

    /// Bytes of a snapshot in one message, and in memory [default: 262144].
    #[arg(long, value_name = "BYTES")]
    pub snapshot_chunk_bytes: Option<String>,

    /// How fast a snapshot is sent to another node at most [default: 67108864].
    #[arg(long, value_name = "BYTES")]
    pub snapshot_bytes_per_second: Option<String>,

    /// How many calls may wait at this node before it refuses more (R019) [default: 4096].
    #[arg(long, value_name = "CALLS")]
    pub max_pending: Option<String>,

    /// Show the whole cluster on a page there, to whoever reaches it; also /livez and /readyz. Left out: no page.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,

    /// Threads of the runtime, besides the log store's own [default: half of the cores].
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,

    /// Whether the flight recorder notes every message: on, or off to measure what it costs [default: on].
    #[arg(long, value_name = "on|off")]
    pub recorder: Option<String>,
}

/// Flags of `demo`.
#[derive(clap::Args)]
pub struct Demo {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=9))]
    pub nodes: u64,

    /// Leave after the tour, also where there is a terminal.
    #[arg(long)]
    pub once: bool,

    /// Where the page is, on which all of it can be seen [default: 127.0.0.1:7080, or any free port if that is taken].
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,

    /// Keep the nodes' data here. Left out: in a temporary directory.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}
