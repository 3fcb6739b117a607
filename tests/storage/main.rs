//! Stores: one suite that all of them pass, and what SQLite's must stand besides.

mod conformance;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod damage;
mod given;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod model;
#[cfg(all(feature = "sqlite", feature = "testing"))]
mod power;
