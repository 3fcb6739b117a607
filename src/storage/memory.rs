//! A store in memory. (To come.)
/// A disk in memory.
pub struct MemoryStorage;
