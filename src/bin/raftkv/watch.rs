//! watch: the changes of a prefix as they come, over whichever node answers, until Ctrl-C.

use std::ffi::OsString;

use ractor_raft::{
    kv::{Change, WatchClient},
    rpc::error::Told,
};
use serde::Serialize;
use tonic::{Code, Status};

use crate::{
    client::root_cause,
    config::ClientSettings,
    error::{Failure, exit},
    output::{Output, printable, talk, text_of},
};

/// Prints until it is interrupted; returns the exit code.
///
/// The timeout is for the time in which nobody can be watched: what is quiet may be quiet for as long as it likes.
pub async fn run(prefix: OsString, from: u64, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    let watch = WatchClient::new(settings.endpoints.iter().cloned(), prefix.into_encoded_bytes(), from);
    let mut watch = watch.patience(settings.timeout);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    if !output.json {
        output.line(b"REVISION  CHANGE  KEY  VALUE")?;
    }
    let mut told = None;
    loop {
        let watched = tokio::select! {
            biased;
            _ = &mut interrupted => break,
            watched = watch.next() => watched.map_err(|status| failure(&watch, &status, settings))?,
        };
        if told.is_none() {
            let begin = if from == 0 { watched.applied_index + 1 } else { from };
            talk(&format!("watching {} from revision {begin} on", watch.endpoint()));
        }
        for change in &watched.changes {
            print(&output, change)?;
        }
        told = Some(watched.applied_index);
    }
    if let Some(told) = told {
        talk(&format!("stopped; --from {} goes on from here", told + 1));
    }
    Ok(exit::DONE)
}

#[derive(Serialize)]
struct ChangeLine {
    v: u8,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    revision: u64,
    deleted: bool,
}

fn print(output: &Output, Change { key, value, revision }: &Change) -> Result<(), Failure> {
    if !output.json {
        let (what, value) = match value {
            Some(value) => ("put", printable(value)),
            None => ("delete", String::new()),
        };
        let line = format!("{revision:<8}  {what:<6}  {}  {value}", printable(key));
        return output.line(line.trim_end().as_bytes());
    }
    let (key, key_encoding) = text_of(key);
    let deleted = value.is_none();
    let (value, value_encoding) = value.as_ref().map(|value| text_of(value)).unzip();
    let value_encoding = value_encoding.flatten();
    output.object(&ChangeLine { v: 1, key, key_encoding, value, value_encoding, revision: *revision, deleted })
}

fn failure(watch: &WatchClient, status: &Status, settings: &ClientSettings) -> Failure {
    let causes: Vec<_> = watch.failures().map(|(endpoint, status)| format!("{endpoint}: {}", cause(status))).collect();
    let why = causes.join("; ");
    if let Some(told) = Told::of(status) {
        return Failure { why, ..Failure::told("", status, &told) };
    }
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
            Failure::other(format!("{} cannot be watched", watch.endpoint()), why)
        }
        _ => {
            let what = format!("no endpoint could be watched within {:?}", settings.timeout);
            let fix = format!(
                "start the nodes at {} (raftkv serve), or name others with --endpoints",
                settings.endpoints.join(",")
            );
            // One that answered knows more than those that did not.
            let told = watch.failures().find_map(|(_, status)| Some(Failure::told("", status, &Told::of(status)?)));
            match told {
                Some(told) => Failure { why, exit: exit::UNAVAILABLE, ..told },
                None => Failure::new(2, exit::UNAVAILABLE, what, why, fix),
            }
        }
    }
}

/// The cause of a broken connection is its source, that of an answer its message.
fn cause(status: &Status) -> String {
    std::error::Error::source(status).map_or(status.message().to_owned(), root_cause)
}
