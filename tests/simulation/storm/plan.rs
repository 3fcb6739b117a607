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
    BitFlips,
    LeaderIsolated,
    Halves,
    OneWay,
    Bridge,
    Ring,
    Flap,
    SlowLink,
    BadLetters,
    Delays,
    Mend,
    Pause,
    Resume,
    DiskHangs,
    DiskSlow,
    DiskFull,
    DiskFails,
    DiskMends,
    Join,
    Remove,
    Transfer,
    Snapshot,
}

impl Kind {
    /// Each with its name and how often it usually comes, in comparison.
    pub const ALL: [(Kind, &'static str, u32); 29] = [
        (Kind::PowerCut, "power cut", 4),
        (Kind::PowerCutForAll, "power cut for all", 2),
        (Kind::Kill, "kill", 4),
        (Kind::Stop, "stop", 2),
        (Kind::Start, "start", 12),
        (Kind::StartAll, "start all", 4),
        (Kind::Wipe, "wipe", 2),
        (Kind::BitFlips, "bits flipped", 2),
        (Kind::LeaderIsolated, "leader isolated", 4),
        (Kind::Halves, "halves", 4),
        (Kind::OneWay, "one way", 4),
        (Kind::Bridge, "bridge", 2),
        (Kind::Ring, "ring", 2),
        (Kind::Flap, "flapping link", 3),
        (Kind::SlowLink, "slow link", 3),
        (Kind::BadLetters, "bad letters", 4),
        (Kind::Delays, "delays", 3),
        (Kind::Mend, "mend", 14),
        (Kind::Pause, "pause", 4),
        (Kind::Resume, "resume", 10),
        (Kind::DiskHangs, "disk hangs", 3),
        (Kind::DiskSlow, "disk slow", 3),
        (Kind::DiskFull, "disk full", 3),
        (Kind::DiskFails, "disk fails", 2),
        (Kind::DiskMends, "disks mended", 10),
        (Kind::Join, "join", 4),
        (Kind::Remove, "remove", 4),
        (Kind::Transfer, "transfer", 4),
        (Kind::Snapshot, "snapshot", 4),
    ];

    pub fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, ..)| *kind == self).expect("all are there").1
    }

    /// What must not be missing, or nothing would go on.
    fn mends(self) -> bool {
        matches!(self, Kind::Start | Kind::Mend | Kind::Resume | Kind::DiskMends)
    }
}

/// What else must have happened in a run of many storms.
pub const OUTCOMES: &[&str] = &[
    "actor panics",
    "actor killed",
    "server replaced",
    "server added",
    "server removed",
    "leadership transferred",
    "snapshot taken",
    "snapshot installed",
    "damaged disk refused",
    "stopped by its disk",
    "watched changes",
    "session commands",
    "swaps",
    "lease reads",
    "stale reads",
    "reads of an index",
    "refused",
    "unknown",
];

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
    /// How much faster or slower than time the clocks go, in thousandths. Leases bear a tenth between any two.
    pub drift: u32,
    pub random: SmallRng,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x5708_1234_ABCD_0001);
        let nodes = [1, 3, 3, 3, 5][random.random_range(0..5)];
        let mut weights = Vec::new();
        for (kind, _, usual) in Kind::ALL {
            // Each storm has its own character: some faults often, some never.
            let weight = [0, 0, usual / 2, usual, 3 * usual][random.random_range(0..5)];
            weights.push((kind, if kind.mends() { weight.max(usual / 2) } else { weight }));
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
        config.disk_timeout = Duration::from_millis([200, 1000][random.random_range(0..2)]);
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
            drift: [0, 0, 10, 45][random.random_range(0..4)],
            random,
        }
    }
}
