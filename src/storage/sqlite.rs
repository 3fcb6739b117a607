//! A store in SQLite. (To come.)
/// A directory with a SQLite file.
pub struct SqliteStorage;
