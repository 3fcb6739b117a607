//! What several nodes recorded, joined and written: from simulated clusters, by golden files, and from hand-made recordings
//! whose critical path is known.
//!
//! The golden files are under `tests/trace/golden/`. `UPDATE_GOLDEN=1 cargo test --test trace` writes them anew: read what has
//! changed before you commit it.
#![cfg(feature = "testing")]

#[path = "trace/by_hand.rs"]
mod by_hand;
#[path = "trace/formats.rs"]
mod formats;
#[path = "trace/golden.rs"]
mod golden;
#[cfg(feature = "otel")]
#[path = "trace/otlp.rs"]
mod otlp;
#[cfg(feature = "otel")]
#[path = "support/receiver.rs"]
mod receiver;
#[path = "trace/stage.rs"]
mod stage;
#[path = "trace/truth.rs"]
mod truth;
#[path = "trace/whatever.rs"]
mod whatever;
