//! In-process clusters with simulated time, network and disk, for tests: ours and yours. (To come.)

#[cfg(feature = "sqlite")]
pub mod disk;
