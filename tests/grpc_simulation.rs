//! Whole clusters of real nodes that talk real gRPC over a simulated network: what happens to connections and streams.
//!
//! The network is turmoil's, below tonic and hyper. It delays, cuts and holds what goes from host to host, and it does not
//! send again what was lost: a TCP connection that lost a byte is half-open for ever, as real ones are whose other end lost
//! its power or whose firewall forgot them. Connections break at any byte besides ([`network`]), hosts lose power and come
//! back, processes are killed and shut down.
//!
//! `random` runs seeds: `SEEDS=1000` for more of them, `FIRST=1000` to begin there, `SEED=42` for that one alone. The other
//! files are stories about one thing each.
#![cfg(all(feature = "grpc", feature = "testing"))]

#[path = "grpc_simulation/chance.rs"]
mod chance;
#[path = "grpc_simulation/cluster.rs"]
mod cluster;
#[path = "grpc_simulation/half_open.rs"]
mod half_open;
#[path = "grpc_simulation/host.rs"]
mod host;
#[path = "grpc_simulation/linearizability.rs"]
mod linearizability;
#[path = "grpc_simulation/network.rs"]
mod network;
#[path = "grpc_simulation/random.rs"]
mod random;
#[path = "grpc_simulation/record.rs"]
mod record;
#[path = "grpc_simulation/streams.rs"]
mod streams;
