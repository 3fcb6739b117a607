//! Stores: one suite that all of them pass, and what SQLite's must stand besides. `STORAGE_SEEDS=50 cargo test --test storage`
//! cuts the power more often, and flips more bits.

#[macro_use]
mod given;

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
