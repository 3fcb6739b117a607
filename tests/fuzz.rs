//! Bytes from outside, whatever they are: no panic, no hang, no memory for a length that is only claimed, and an error
//! that names what is wrong. What is valid comes back as it was.
//!
//! `PROPTEST_CASES=100000 cargo test --test fuzz` looks longer; a failure prints the input, and how to keep it. The same
//! inputs are made by libFuzzer in `fuzz/`. Decoders that are private to a module are tested beside it, by the same rules.
#![cfg(all(feature = "grpc", feature = "sqlite", feature = "testing"))]

#[path = "fuzz/core.rs"]
mod core;
#[path = "fuzz/decoders.rs"]
mod decoders;
#[path = "fuzz/given.rs"]
mod given;
#[path = "fuzz/lies.rs"]
mod lies;
#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/messages.rs"]
mod messages;
#[path = "fuzz/services.rs"]
mod services;
