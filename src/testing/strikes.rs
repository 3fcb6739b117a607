//! Actors that die at random messages.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::flow::{Crash, Moment, Saboteur};

/// The root of every tree.
const ROOT: &str = "node";

/// Lets actors die at random messages, before or after they are handled, by panics and kills. The root is spared: its death
/// is the node's. Clones are the same chance.
#[derive(Clone)]
pub(super) struct Strikes(Arc<Inner>);

struct Inner {
    /// Of a million moments.
    rate: AtomicU32,
    random: Mutex<SmallRng>,
    count: AtomicU64,
}

impl Strikes {
    pub(super) fn new(seed: u64) -> Self {
        let random = Mutex::new(SmallRng::seed_from_u64(seed));
        Strikes(Arc::new(Inner { rate: AtomicU32::new(0), random, count: AtomicU64::new(0) }))
    }

    pub(super) fn set_rate(&self, of_a_million: u32) {
        self.0.rate.store(of_a_million, Relaxed);
    }

    /// How many actors were hit.
    pub(super) fn count(&self) -> u64 {
        self.0.count.load(Relaxed)
    }

    /// After those that `own` wants.
    pub(super) fn after(&self, own: Option<Arc<dyn Saboteur>>) -> impl Saboteur {
        Both { own, strikes: self.clone() }
    }

    fn draw(&self) -> Option<Crash> {
        let rate = self.0.rate.load(Relaxed);
        if rate == 0 {
            return None;
        }
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        if random.random_range(0..1_000_000) >= rate {
            return None;
        }
        self.0.count.fetch_add(1, Relaxed);
        Some(if random.random_bool(0.5) { Crash::Panic } else { Crash::Kill })
    }
}

struct Both {
    own: Option<Arc<dyn Saboteur>>,
    strikes: Strikes,
}

impl Saboteur for Both {
    fn strikes(&self, path: &str, message: &'static str, moment: Moment) -> Option<Crash> {
        let own = self.own.as_ref().and_then(|own| own.strikes(path, message, moment));
        own.or_else(|| if path == ROOT { None } else { self.strikes.draw() })
    }
}
