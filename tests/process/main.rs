//! The binary itself: processes of `raftkv serve` with real files and real gRPC, killed, starved, lied to and started again.
//!
//! Nothing here sleeps to let something happen: each wait has a deadline and ends with an event (a line on stderr, an
//! answer, the end of a process). Where there is no event to wait for, a status is asked for again and again.
//! `KILLS=1000 cargo test --test process histories` kills more often, `FAULTS=all` lets every call on a file fail and not a
//! sample of them, `FLIPS=500` damages files in more places, `STATE_MB=200` makes the states larger that snapshots are of,
//! `GROWTH=20` lets more clusters grow and shrink; `SEED` repeats what was drawn.
#![cfg(all(feature = "server", unix))]

mod backups;
mod client;
mod cluster;
mod command_line;
mod damage;
mod data_directory;
mod demo;
mod directory;
mod disk_failure;
mod each_call;
mod each_call_in_a_cluster;
mod flow;
mod full_disk;
mod growth;
mod history;
mod identity;
mod kept_watch;
mod kills;
mod leases;
mod linearizability;
mod links;
mod load;
mod members;
mod meter;
mod overload;
mod pauses;
#[cfg(feature = "otel")]
#[path = "../support/receiver.rs"]
mod receiver;
mod requests;
mod server;
mod session_load;
mod sessions;
mod shim;
mod shutdown;
mod snapshots;
mod spans;
mod valve;
mod watching;
mod witness;
