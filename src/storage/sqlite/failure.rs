//! What an error of SQLite's means for the store.

use std::path::Path;

use rusqlite::ffi;

use crate::storage::StorageError;

/// Sorts an error of an open store: only a disk without room leaves it usable.
pub(super) fn classify(path: &Path, call: &'static str, error: &rusqlite::Error) -> StorageError {
    let Some(code) = error.sqlite_error().map(|error| error.extended_code) else {
        return StorageError::Failed { path: path.to_owned(), call, cause: error.to_string() };
    };
    match code & 0xff {
        ffi::SQLITE_FULL => StorageError::Full { path: path.to_owned(), call },
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => {
            corrupt(path, "the database", format!("{error} (SQLite's code {code})"))
        }
        _ => StorageError::Failed { path: path.to_owned(), call, cause: format!("{error} (SQLite's code {code})") },
    }
}

/// Sorts an error while a store is opened and read: the statements are known to be right and so are the types, so what
/// does not fit is the data.
pub(super) fn classify_at_open(path: &Path, error: &rusqlite::Error) -> StorageError {
    match error.sqlite_error().map(|error| error.extended_code & 0xff) {
        None | Some(ffi::SQLITE_ERROR) => corrupt(path, "the database", error.to_string()),
        Some(_) => classify(path, "open", error),
    }
}

/// Something in `path` does not fit.
pub(super) fn corrupt(path: &Path, place: impl Into<String>, cause: impl Into<String>) -> StorageError {
    StorageError::Corrupt { path: path.to_owned(), place: place.into(), cause: cause.into() }
}
