//! What the sources give, key by key, as text: the flags, and the TOML file.

use std::path::Path;

use crate::{
    args::{Args, Command, Restore, Serve, Snapshot},
    error::{Failure, exit},
};

/// Every key of the TOML file. In the environment it is RAFTKV_ and the key in capitals.
pub(super) const KEYS: [&str; 23] = [
    "advertise",
    "cluster",
    "cluster_name",
    "data",
    "election_timeout_ms",
    "endpoints",
    "heartbeat_ms",
    "http",
    "id",
    "join",
    "listen",
    "max_entry_bytes",
    "max_pending",
    "output",
    "peer",
    "recorder",
    "snapshot_bytes_per_second",
    "snapshot_chunk_bytes",
    "snapshot_threshold",
    "snapshot_threshold_bytes",
    "snapshot_trailing",
    "threads",
    "timeout",
];

/// Flags that were given, under their keys.
pub(super) fn flags(args: &Args) -> impl Iterator<Item = (&'static str, String)> {
    let none = Serve::default();
    let serve = if let Command::Serve(serve) = &args.command { serve } else { &none };
    let none = Restore::default();
    let restore = if let Command::Snapshot(Snapshot::Restore(restore)) = &args.command { restore } else { &none };
    let http = if let Command::Demo(demo) = &args.command { &demo.http } else { &serve.http };
    let peer = (!serve.peer.is_empty()).then(|| serve.peer.join(","));
    let flags = [
        ("endpoints", args.endpoints.clone()),
        ("output", args.output.clone()),
        ("timeout", args.timeout.clone()),
        ("id", serve.id.clone().or(restore.id.clone())),
        ("data", serve.data.clone().or(restore.data.clone())),
        ("listen", serve.listen.clone()),
        ("advertise", serve.advertise.clone()),
        ("cluster", serve.cluster.clone().or(restore.cluster.clone())),
        ("cluster_name", serve.cluster_name.clone().or(restore.cluster_name.clone())),
        ("join", serve.join.clone()),
        ("peer", peer),
        ("heartbeat_ms", serve.heartbeat_ms.clone()),
        ("election_timeout_ms", serve.election_timeout_ms.clone()),
        ("http", http.clone()),
        ("max_entry_bytes", serve.max_entry_bytes.clone()),
        ("max_pending", serve.max_pending.clone()),
        ("recorder", serve.recorder.clone()),
        ("snapshot_bytes_per_second", serve.snapshot_bytes_per_second.clone()),
        ("snapshot_chunk_bytes", serve.snapshot_chunk_bytes.clone()),
        ("snapshot_threshold", serve.snapshot_threshold.clone()),
        ("snapshot_threshold_bytes", serve.snapshot_threshold_bytes.clone()),
        ("snapshot_trailing", serve.snapshot_trailing.clone()),
        ("threads", serve.threads.clone()),
    ];
    flags.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

/// Keys and values of the file, as text. Lists may be arrays, members may be a table.
pub(super) fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    let unreadable = |why: String| {
        let what = format!("the config file {} cannot be read", path.display());
        Failure::new(20, exit::USAGE, what, why, format!("correct {}, or leave --config out", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| unreadable(error.to_string()))?;
    table.into_iter().map(|(key, value)| Ok((known_key(&key, path)?, text_of(value)))).collect()
}

fn known_key(key: &str, path: &Path) -> Result<&'static str, Failure> {
    KEYS.into_iter().find(|known| *known == key).ok_or_else(|| {
        let why = format!("it stands in the file {}", path.display());
        let fix = format!("correct or remove {key:?}; the settings are {}", KEYS.join(", "));
        Failure::new(20, exit::USAGE, format!("{key:?} is not a setting"), why, fix)
    })
}

fn text_of(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        toml::Value::Array(values) => values.into_iter().map(text_of).collect::<Vec<_>>().join(","),
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| format!("{key}={}", text_of(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
