//! What a seed means.

use std::{ops::Range, time::Duration};

use ractor_raft::Config;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// So many events are handled before all is mended.
const EVENTS: u64 = 4200;

/// What can happen to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    PowerCut,
    PowerCutForAll,
    Kill,
    Stop,
    Start,
    StartAll,
    Wipe,
    LeaderIsolated,
    Halves,
    OneWay,
    BadLinks,
    SlowLinks,
    Mend,
    Join,
    Remove,
    Transfer,
    Snapshot,
}

/// Everything that must have happened in a run of many storms, by name.
pub const KINDS: &[&str] = &[
    "power cut", "power cut for all", "kill", "stop", "start", "start all", "wipe", "leader isolated", "halves", "one way",
    "bad links", "slow links", "mend", "join", "remove", "transfer", "snapshot", "actor panics", "actor killed",
    "server replaced", "server added", "server removed", "leadership transferred", "snapshot taken", "snapshot installed",
    "watched changes", "session commands", "swaps", "lease reads", "stale reads", "reads of an index", "refused", "unknown",
];

impl Kind {
    pub const ALL: [(Kind, &'static str); 17] = [
        (Kind::PowerCut, "power cut"),
        (Kind::PowerCutForAll, "power cut for all"),
        (Kind::Kill, "kill"),
        (Kind::Stop, "stop"),
        (Kind::Start, "start"),
        (Kind::StartAll, "start all"),
        (Kind::Wipe, "wipe"),
        (Kind::LeaderIsolated, "leader isolated"),
        (Kind::Halves, "halves"),
        (Kind::OneWay, "one way"),
        (Kind::BadLinks, "bad links"),
        (Kind::SlowLinks, "slow links"),
        (Kind::Mend, "mend"),
        (Kind::Join, "join"),
        (Kind::Remove, "remove"),
        (Kind::Transfer, "transfer"),
        (Kind::Snapshot, "snapshot"),
    ];
}

/// One storm to be.
pub struct Plan {
    pub seed: u64,
    pub nodes: u64,
    pub events: u64,
    pub config: Config,
    pub clients: u64,
    /// Of them, those with a session.
    pub sessions: u64,
    pub watchers: u64,
    /// Milliseconds between an answer and the next call.
    pub thinking: Range<u64>,
    /// Of a hundred calls.
    pub writes: u64,
    pub swaps: u64,
    /// Milliseconds between two faults.
    pub calm: Range<u64>,
    /// How often each fault comes, in comparison.
    pub weights: Vec<(Kind, u32)>,
    /// Of a million messages, so many strike their actor.
    pub strikes: u64,
    /// Of a thousand letters.
    pub lost: u32,
    pub broken: u32,
    pub random: SmallRng,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x5708_1234_ABCD_0001);
        let nodes = [1, 3, 3, 3, 5][random.random_range(0..5)];
        let mut weights = Vec::new();
        for (kind, _) in Kind::ALL {
            // Each storm has its own character: some faults often, some never.
            let usual = match kind {
                Kind::Start | Kind::Mend => 12,
                Kind::StartAll => 4,
                Kind::PowerCutForAll | Kind::Wipe | Kind::Stop => 2,
                _ => 4,
            };
            let weight = [0, usual / 2, usual, usual, 3 * usual][random.random_range(0..5)];
            let needed = matches!(kind, Kind::Start | Kind::Mend);
            weights.push((kind, if needed { weight.max(usual / 2) } else { weight }));
        }
        let mut config = Config::default();
        config.heartbeat_interval = Duration::from_millis([50, 50, 100][random.random_range(0..3)]);
        config.request_timeout = Duration::from_millis([300, 600, 1000][random.random_range(0..3)]);
        config.snapshot_threshold = [10, 40, 150, 100_000][random.random_range(0..4)];
        config.snapshot_trailing = [0, 5, 30][random.random_range(0..3)];
        config.snapshot_chunk_bytes = [64, 512, 256 << 10][random.random_range(0..3)];
        config.max_batch_entries = [1, 4, 1024][random.random_range(0..3)];
        config.max_in_flight_batches = [1, 3, 16][random.random_range(0..3)];
        config.snapshot_timeout = Duration::from_secs(1);
        let thinking = [0..4, 0..15, 5..40, 20..100][random.random_range(0..4)].clone();
        let calm = [5..60, 20..200, 50..400][random.random_range(0..3)].clone();
        Plan {
            seed,
            nodes,
            events: EVENTS,
            config,
            clients: random.random_range(2..7),
            sessions: random.random_range(0..3),
            watchers: random.random_range(0..3),
            thinking,
            writes: random.random_range(20..70),
            swaps: random.random_range(0..30),
            calm,
            weights,
            strikes: [0, 300, 1000, 3000][random.random_range(0..4)],
            lost: [0, 0, 5, 30][random.random_range(0..4)],
            broken: [0, 0, 5, 20][random.random_range(0..4)],
            random,
        }
    }
}
