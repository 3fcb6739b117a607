//! snapshot take, save and restore.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use ractor_raft::{
    backup::{Backup, BackupError, Head, Saving},
    kv::pb::GetRequest,
    rpc::{
        convert,
        error::Told,
        pb::{
            self, SaveSnapshotReply, SaveSnapshotRequest, StatusRequest, TakeSnapshotRequest,
            cluster_client::ClusterClient, save_snapshot_reply::Part,
        },
        reason,
    },
};
use serde::Serialize;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    args::Snapshot,
    client::{Client, Kind},
    commands::kv,
    config::{RestoreSettings, Settings},
    error::{Failure, exit},
    output::{Output, talk},
};

/// How often a backup is begun anew when the node's next snapshot overtook it.
const ATTEMPTS: u32 = 5;

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Carries the command out; returns the exit code.
pub async fn run(command: Snapshot, settings: &Settings, output: Output) -> Result<u8, Failure> {
    match command {
        Snapshot::Take => take(&mut Client::new(&settings.client()?), &output).await,
        Snapshot::Save { file, last } => save(&mut Client::new(&settings.client()?), &output, &file, last).await,
        Snapshot::Restore(restore) => {
            let settings = settings.restore()?;
            let path = restore.file;
            let restored = tokio::task::spawn_blocking(move || restored(&path, &settings)).await;
            let line = restored.map_err(|error| Failure::other("the restoration did not end", error.to_string()))??;
            print_restored(&output, &line)
        }
    }
}

#[derive(Serialize)]
struct TakenLine {
    v: u8,
    id: u64,
    index: u64,
    term: u64,
    bytes: u64,
}

/// As long as the state takes to be written: the timeout is for finding a node.
async fn take(client: &mut Client, output: &Output) -> Result<u8, Failure> {
    let found = |channel: Channel, request| async move {
        let status = ClusterClient::new(channel.clone()).status(request).await?;
        Ok(status.map(|status| (channel, status)))
    };
    let (channel, pb::StatusReply { id, address, .. }) = client.call(Kind::Harmless, &StatusRequest {}, found).await?;
    let reply = ClusterClient::new(channel).take_snapshot(TakeSnapshotRequest {}).await;
    let reply = reply.map_err(|status| refused(&address, &status))?.into_inner();
    let snapshot = reply.snapshot.unwrap_or_default();
    let pb::SnapshotMetadata { last_included_index: index, last_included_term: term, size: bytes, .. } = snapshot;
    if output.json {
        output.object(&TakenLine { v: 1, id, index, term, bytes })?;
    } else {
        output.line(format!("node {id} has a snapshot up to entry {index}, {bytes} bytes").as_bytes())?;
    }
    Ok(exit::DONE)
}

#[derive(Serialize)]
struct SavedLine {
    v: u8,
    file: String,
    id: u64,
    cluster: String,
    index: u64,
    term: u64,
    bytes: u64,
    checksum: String,
}

async fn save(client: &mut Client, output: &Output, file: &Path, last: bool) -> Result<u8, Failure> {
    let Head { cluster_id, node_id: id, snapshot } = fetch(client, file, last).await?;
    let (index, term, bytes) = (snapshot.last_included.index, snapshot.last_included.term, snapshot.size);
    let (cluster, checksum) = (format!("{cluster_id:016x}"), format!("{:08x}", snapshot.checksum));
    let file = file.display().to_string();
    if output.json {
        output.object(&SavedLine { v: 1, file, id, cluster, index, term, bytes, checksum })?;
    } else {
        let line = format!("{file}: cluster {cluster} up to entry {index}, from node {id}, {bytes} bytes, verified");
        output.line(line.as_bytes())?;
    }
    Ok(exit::DONE)
}

/// Writes a backup to `file`: of all that was acknowledged before, or of the `last` snapshot that a node has.
pub async fn fetch(client: &mut Client, file: &Path, last: bool) -> Result<Head, Failure> {
    let mut attempt = 1;
    loop {
        let parts = begin(client, last).await?;
        match receive(parts, client.endpoint(), file).await {
            Ok(head) => return Ok(head),
            Err(Torn::Overtaken) if attempt < ATTEMPTS => attempt += 1,
            Err(Torn::Overtaken) => {
                let why = format!("{ATTEMPTS} times a later snapshot took the place of the one on its way");
                return Err(Failure::other("the node takes snapshots faster than it can hand them out", why));
            }
            Err(Torn::Failed(failure)) => return Err(failure),
        }
    }
}

/// The stream from whoever can say that it has all that was written before.
async fn begin(client: &mut Client, last: bool) -> Result<Streaming<SaveSnapshotReply>, Failure> {
    let send = move |channel: Channel, request| async move {
        if !last {
            // Linearizable: whoever answers it has applied every write that was acknowledged before.
            kv(channel.clone()).get(GetRequest { key: "any".into(), ..GetRequest::default() }).await?;
        }
        save_over(channel).save_snapshot(request).await
    };
    let begun: Result<_, Failure> = client.call(Kind::Harmless, &SaveSnapshotRequest { fresh: !last }, send).await;
    begun.map_err(|failure| match failure.code {
        Some(ractor_raft::error::Code(2)) if !last => {
            let fix = format!("{}; or save what a node has without a leader: --last", failure.fix);
            Failure { fix, ..failure }
        }
        _ => failure,
    })
}

fn save_over(channel: Channel) -> ClusterClient<Channel> {
    // What a node reads from its disk in one piece it may also send.
    ClusterClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Why a backup was not finished.
enum Torn {
    /// The node has a later one now.
    Overtaken,
    Failed(Failure),
}

impl From<BackupError> for Torn {
    fn from(error: BackupError) -> Self {
        Torn::Failed(error.into())
    }
}

async fn receive(mut parts: Streaming<SaveSnapshotReply>, endpoint: &str, file: &Path) -> Result<Head, Torn> {
    let Some(Part::Head(head)) = next(&mut parts, endpoint).await? else {
        return Err(Torn::Failed(Failure::other("the backup has no beginning", "the node sent none")));
    };
    let head = convert::backup_head_from_pb(head).map_err(|malformed| {
        Torn::Failed(Failure::other("the backup's beginning cannot be read", malformed.to_string()))
    })?;
    let size = head.snapshot.size;
    let (mut saving, mut progress) = (Saving::begin(file, head)?, Progress::new(size));
    while saving.written() < size {
        match next(&mut parts, endpoint).await? {
            Some(Part::Data(data)) => saving.write(&data)?,
            Some(Part::Head(_)) => {
                return Err(Torn::Failed(Failure::other("the backup begins twice", "the node sent two heads")));
            }
            None => {
                let why = format!("{} of {size} bytes came; the node stopped, or closed its port", saving.written());
                return Err(Torn::Failed(Failure::new(
                    2,
                    exit::UNAVAILABLE,
                    "the backup is not whole",
                    why,
                    "try again",
                )));
            }
        }
        progress.at(saving.written());
    }
    progress.end();
    Ok(saving.finish()?)
}

async fn next(parts: &mut Streaming<SaveSnapshotReply>, endpoint: &str) -> Result<Option<Part>, Torn> {
    match parts.message().await {
        Ok(message) => Ok(message.and_then(|message| message.part)),
        Err(status) => match Told::of(&status) {
            Some(told) if told.reason == reason::SNAPSHOT_REPLACED => Err(Torn::Overtaken),
            _ => Err(Torn::Failed(refused(endpoint, &status))),
        },
    }
}

#[derive(Serialize)]
struct RestoredLine {
    v: u8,
    data: String,
    id: u64,
    cluster: String,
    from_cluster: String,
    index: u64,
    bytes: u64,
}

fn restored(file: &Path, settings: &RestoreSettings) -> Result<RestoredLine, Failure> {
    let RestoreSettings { id, data, cluster, cluster_name } = settings;
    let restored = Backup::open(file)?.restore(data, *id, cluster_name.as_deref(), cluster)?;
    Ok(RestoredLine {
        v: 1,
        data: data.display().to_string(),
        id: *id,
        cluster: format!("{:016x}", restored.cluster_id),
        from_cluster: format!("{:016x}", restored.from_cluster_id),
        index: restored.last_included.index,
        bytes: restored.size,
    })
}

fn print_restored(output: &Output, line: &RestoredLine) -> Result<u8, Failure> {
    if output.json {
        output.object(line)?;
        return Ok(exit::DONE);
    }
    let RestoredLine { data, id, cluster, from_cluster, index, .. } = line;
    output.line(
        format!("{data}: node {id} of the new cluster {cluster}, with the state of {from_cluster} at entry {index}")
            .as_bytes(),
    )?;
    talk("do the same for each of its nodes, then start them all: raftkv serve with the same --cluster");
    Ok(exit::DONE)
}

/// A status of `endpoint` as a failure.
fn refused(endpoint: &str, status: &Status) -> Failure {
    match Told::of(status) {
        Some(told) if told.reason == reason::SNAPSHOT_ABSENT => {
            let node = told.metadata.get("node").map_or("", String::as_str);
            let what = format!("node {node} at {endpoint} has no snapshot yet");
            let why = "a node takes its first one after --snapshot-threshold entries";
            let fix = format!("let it take one: `raftkv snapshot take -e {endpoint}`, or name another node");
            Failure::new(2, exit::OTHER, what, why, fix)
        }
        Some(told) => Failure::told(endpoint, status, &told),
        None => {
            let (what, why) =
                (format!("{endpoint} gave no snapshot"), format!("{:?}: {}", status.code(), status.message()));
            Failure::new(2, exit::UNAVAILABLE, what, why, "try again, or name another node with --endpoints")
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let (what, exit) = match &error {
            BackupError::File { .. } => ("a file cannot be read or written", exit::OTHER),
            BackupError::NoBackup { .. } => ("the file is no backup", exit::CORRUPT_DATA),
            BackupError::Damaged { .. } => ("the backup cannot be trusted", exit::CORRUPT_DATA),
            BackupError::Format { .. } => ("the backup is of a later version", exit::CORRUPT_DATA),
            BackupError::Occupied { .. } => ("the data directory is not empty", exit::DATA_NOT_OURS),
            BackupError::NoMember { .. } => ("the node does not belong to the new cluster", exit::USAGE),
            _ => ("the new store cannot be written", exit::OTHER),
        };
        Failure { code: Some(error.code()), what: what.to_owned(), why: error.to_string(), fix: error.fix(), exit }
    }
}

/// How far it is, on a terminal only; a small backup is there before anybody could look.
struct Progress {
    size: u64,
    shown: Option<Instant>,
    on_terminal: bool,
}

impl Progress {
    fn new(size: u64) -> Self {
        Progress { size, shown: None, on_terminal: size >= 1 << 20 && std::io::stderr().is_terminal() }
    }

    fn at(&mut self, written: u64) {
        if self.on_terminal && self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_INTERVAL) {
            self.shown = Some(Instant::now());
            let share = (written * 100).checked_div(self.size).unwrap_or(100);
            // Nobody is hurt if it cannot be shown.
            let _ = write!(std::io::stderr(), "\r{share:>3} % of {} MiB ", self.size >> 20);
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r{:40}\r", "");
        }
    }
}
