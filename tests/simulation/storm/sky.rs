//! Sees every message that any actor handles: counts them, hashes them, and strikes some of the actors.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use ractor_raft::{
    flow::{Crash, Moment, Saboteur},
    raft::NodeId,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::Notify;

/// Clones are the same sky.
#[derive(Clone)]
pub struct Sky(Arc<Inner>);

struct Inner {
    events: AtomicU64,
    until: u64,
    reached: Notify,
    clear: AtomicBool,
    strikes: u64,
    state: Mutex<State>,
}

struct State {
    random: SmallRng,
    fingerprint: u64,
    struck: BTreeMap<Crash, u64>,
}

/// One node under it.
pub struct Place {
    sky: Sky,
    node: NodeId,
}

impl Sky {
    /// Of a million messages `strikes` strike; `until` so many are handled.
    pub fn new(seed: u64, strikes: u64, until: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ 0x1EAF);
        let state = Mutex::new(State { random, fingerprint: 0, struck: BTreeMap::new() });
        let (events, reached, clear) = (AtomicU64::new(0), Notify::new(), AtomicBool::new(true));
        Sky(Arc::new(Inner { events, until, reached, clear, strikes, state }))
    }

    pub fn over(&self, node: NodeId) -> Place {
        Place { sky: self.clone(), node }
    }

    /// How many messages were handled.
    pub fn events(&self) -> u64 {
        self.0.events.load(Relaxed)
    }

    /// Waits until enough were handled.
    pub async fn passed(&self) {
        while self.events() < self.0.until {
            self.0.reached.notified().await;
        }
    }

    /// From now on actors are struck.
    pub fn gathers(&self) {
        self.0.clear.store(false, Relaxed);
    }

    /// Nobody is struck any more.
    pub fn clears(&self) {
        self.0.clear.store(true, Relaxed);
    }

    pub fn fingerprint(&self) -> u64 {
        self.0.state.lock().expect("nothing panics with it").fingerprint
    }

    /// How many actors were struck, by how.
    pub fn struck(&self) -> BTreeMap<Crash, u64> {
        self.0.state.lock().expect("nothing panics with it").struck.clone()
    }
}

impl Saboteur for Place {
    fn strikes(&self, path: &str, message: &'static str, moment: Moment) -> Option<Crash> {
        let inner = &*self.sky.0;
        if moment == Moment::Before && inner.events.fetch_add(1, Relaxed) + 1 == inner.until {
            inner.reached.notify_one();
        }
        let mut state = inner.state.lock().expect("nothing panics with it");
        let mut hasher = DefaultHasher::new();
        (state.fingerprint, self.node, path, message, moment == Moment::After).hash(&mut hasher);
        state.fingerprint = hasher.finish();
        if inner.clear.load(Relaxed) || inner.strikes == 0 || state.random.random_range(0..2_000_000) >= inner.strikes {
            return None;
        }
        let crash = if state.random.random_range(0..2) == 0 { Crash::Panic } else { Crash::Kill };
        *state.struck.entry(crash).or_default() += 1;
        Some(crash)
    }
}

/// Their panics are as many as they are meant to be: nobody wants to read them.
pub fn silence_struck_actors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with("was told to crash")) {
                others(panic);
            }
        }));
    });
}
