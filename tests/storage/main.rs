//! Stores: one suite that all of them pass, and what SQLite's must stand besides. `STORAGE_SEEDS=50 cargo test --test storage`
//! cuts the power more often, and flips more bits.

#[macro_use]
mod given;

// The store of an example, which is to do what it says.
#[path = "../../examples/own_storage/frames.rs"]
mod frames;
#[path = "../../examples/own_storage/journal.rs"]
mod journal;
#[path = "../../examples/own_storage/records.rs"]
mod records;

mod compaction;
mod conformance;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod damage;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod model;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod power;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod snapshot_faults;
mod snapshots;
