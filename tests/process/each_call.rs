//! Every call by which a node changes its directory fails once: each write, sync, truncation, renaming, removal and creation
//! of a file, at a start, under load, while snapshots are taken and the log is compacted, and as the node stops
//! (SAFETY: D01).
//!
//! A node alone acknowledges alone: what it has acknowledged must be there when it starts again, from whatever it left. It
//! ends with R016, or heals, and says so; it does not hang. CI tries a sample, drawn from a seed (`SEED`), and
//! `FAULTS=all cargo test --test process each_call -- --nocapture` all. At a start, SQLite's log is filled with thousands of
//! equal writes: of such a run only a few are tried.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use ractor_raft::rpc::pb::{TakeSnapshotRequest, cluster_client::ClusterClient};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use tokio::time::{sleep, timeout};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    directory::copy_directory,
    server::{PATIENCE, Server},
    shim::{Call, Strike},
};

/// So many points are tried of each life in CI.
const SAMPLE: usize = 26;

/// A single voter elects itself at once.
const FLAGS: [&str; 4] = ["--election-timeout-ms", "60-120", "--snapshot-trailing", "2"];

/// What is to fail, how.
#[derive(Clone, Debug)]
pub struct Point {
    pub call: Call,
    pub strike: Strike,
}

impl Point {
    /// A node goes on after it. The count of writes in LOCK is a guard, not a promise; whoever wrote half of it writes the rest;
    /// a disk without room may have some later; SQLite's own sync of the directory is followed by one of the store's.
    fn may_heal(&self) -> bool {
        let Point { call, strike } = self;
        (call.what == "write" && call.file == "LOCK")
            || matches!(strike, Strike::Short | Strike::NoSpace)
            || (call.what == "sync" && call.file.is_empty())
    }
}

/// A call and the ways in which it can fail.
pub fn points_of(calls: &[Call]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut run = 0;
    for (at, call) in calls.iter().enumerate() {
        let same = |other: Option<&Call>| other.is_some_and(|it| (&it.what, &it.file) == (&call.what, &call.file));
        let before = at.checked_sub(1).and_then(|before| calls.get(before));
        run = if same(before) { run + 1 } else { 0 };
        // The first ones, the last one, and some between.
        if run >= 8 && run % 1000 != 0 && same(calls.get(at + 1)) {
            continue;
        }
        let strikes: &[Strike] = match call.what.as_str() {
            "write" => &[Strike::Fails, Strike::NoSpace, Strike::Torn, Strike::Short],
            "create" | "mkdir" | "allocate" => &[Strike::Fails, Strike::NoSpace],
            _ => &[Strike::Fails],
        };
        points.extend(strikes.iter().map(|strike| Point { call: call.clone(), strike: *strike }));
    }
    points
}

/// All of them, or a sample in their order.
pub fn chosen(mut points: Vec<Point>, sample: usize) -> Vec<Point> {
    if std::env::var("FAULTS").is_ok_and(|faults| faults == "all") {
        return points;
    }
    let seed = std::env::var("SEED").map_or(std::process::id().into(), |seed| seed.parse().expect("SEED is a number"));
    println!("again with: SEED={seed} cargo test --test process each_call");
    points.shuffle(&mut SmallRng::seed_from_u64(seed));
    points.truncate(sample);
    points.sort_by_key(|point| point.call.number);
    points
}

/// Its name, whatever its snapshot's place.
fn kind_of(file: &str) -> &str {
    if file.starts_with("snapshot-") { "snapshot-…" } else { file }
}

/// How often what became of it.
#[derive(Default)]
pub struct Tally(BTreeMap<String, usize>);

impl Tally {
    pub fn note(&mut self, outcome: impl Into<String>) {
        *self.0.entry(outcome.into()).or_default() += 1;
    }

    pub fn print(&self, what: &str) {
        println!("{what}: {:?}", self.0);
    }

    pub fn of(&self, outcome: &str) -> usize {
        self.0.get(outcome).copied().unwrap_or(0)
    }
}

/// Fails when: a commit that failed is taken for done (`persist` of the SQLite store).
#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_first_life_fails_once_and_nothing_acknowledged_is_lost() {
    let mut node = Alone::new();
    node.try_all("a first life").await;
}

/// As above, for a node that has a log and a snapshot already.
#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_later_life_fails_once_and_nothing_acknowledged_is_lost() {
    let mut node = Alone::new();
    let acknowledged = node.live(0, Strike::Fails).await.acknowledged;
    // So that there is a log to recover.
    node.cluster.restart(1).await;
    let more = node.cluster.addresses[&1].clone();
    client::put(&more, "before", "the kill").await.expect("nothing fails");
    node.cluster.kill(1).await;
    let template = node.cluster.directory().join("template");
    copy_directory(&node.cluster.data(1), &template);
    (node.template, node.before) = (Some(template), acknowledged);
    node.try_all("a later life").await;
}

/// A node that is a cluster.
struct Alone {
    cluster: Cluster,
    /// What its directory is at first; `None`: it has none.
    template: Option<PathBuf>,
    /// What was acknowledged before.
    before: BTreeMap<String, u64>,
    lives: u64,
}

/// What a life came to.
struct Life {
    acknowledged: BTreeMap<String, u64>,
    exit: i32,
    stderr: String,
    calls: Vec<Call>,
    /// An answer said that the disk failed.
    told: bool,
}

impl Alone {
    fn new() -> Alone {
        Alone { cluster: Cluster::alone(&FLAGS), template: None, before: BTreeMap::new(), lives: 0 }
    }

    async fn try_all(&mut self, what: &str) {
        let began = Instant::now();
        self.put_back();
        let calls = self.live(0, Strike::Fails).await.calls;
        let points = points_of(&calls);
        let (count, points) = (points.len(), chosen(points, SAMPLE));
        println!("{what}: {} calls, {count} points, {} of them are tried", calls.len(), points.len());
        let (mut tally, mut healed) = (Tally::default(), Tally::default());
        for (number, point) in points.iter().enumerate() {
            self.put_back();
            let outcome = self.try_one(point).await;
            tally.note(outcome);
            if outcome.ends_with("healed") {
                healed.note(format!("{:?} {} {}", point.strike, point.call.what, kind_of(&point.call.file)));
            }
            if number % 50 == 49 {
                tally.print(&format!("{what}: {} of {}, {:?}", number + 1, points.len(), began.elapsed()));
            }
        }
        tally.print(&format!("{what}: {} points, {:?}", points.len(), began.elapsed()));
        healed.print("healed");
        assert!(tally.of("ended with R016") > points.len() / 10, "few faults were noticed");
        assert!(tally.of("was not reached") <= points.len() / 5, "few faults were met");
    }

    fn put_back(&mut self) {
        let data = self.cluster.data(1);
        let _ = std::fs::remove_dir_all(&data);
        if let Some(template) = &self.template {
            copy_directory(template, &data);
        }
    }

    /// One life with this fault, and one without it that shows what is left.
    async fn try_one(&mut self, point: &Point) -> &'static str {
        let Point { call, strike } = point;
        let life = self.live(call.number, *strike).await;
        let Some(struck) = life.calls.iter().find(|call| call.struck) else { return "was not reached" };
        let place = format!("{strike:?} at call {}: {} {}", struck.number, struck.what, struck.file);
        let directory = self.cluster.data(1).display().to_string();
        let outcome = match life.exit {
            0 if !point.may_heal() => panic!("{place}: nothing is said of it"),
            0 if life.told => "was told, and healed",
            0 => "was healed",
            11 if life.stderr.contains("error[R016]") && life.stderr.contains(&directory) => "ended with R016",
            exit => panic!("{place}: exit code {exit} with {}", life.stderr),
        };
        let mut server = Server::spawn(format!("the node after {place}"), self.cluster.serve(1));
        assert!(server.is_ready().await, "after {place} it does not start: {}", server.stderr());
        let newest = life.acknowledged.values().max().copied().unwrap_or(0);
        let address = &self.cluster.addresses[&1];
        client::has_applied(address, newest).await;
        let state = client::everything(address).await;
        for (key, revision) in &life.acknowledged {
            let found = state.get(key.as_bytes()).map(|(_, revision)| revision);
            assert_eq!(found, Some(revision), "after {place}, {key} is not as it was acknowledged");
        }
        server.kill().await;
        outcome
    }

    /// A start, writes, two snapshots, writes, and the end; or the end by itself.
    async fn live(&mut self, nth: u64, strike: Strike) -> Life {
        self.lives += 1;
        self.cluster.disks().strike(1, nth, strike);
        let mut server = Server::spawn("the node", self.cluster.serve(1));
        let mut work = Work { number: self.lives, acknowledged: self.before.clone(), told: false };
        if server.is_ready().await {
            let address = &self.cluster.addresses[&1];
            tokio::select! {
                () = work.run(address) => server.signal("TERM").await,
                _ = server.ended() => {}
            }
        }
        let exit = server.ended().await.code().unwrap_or(-1);
        let calls = self.cluster.disks().calls(1);
        self.cluster.disks().spare(1);
        let (acknowledged, told) = (work.acknowledged, work.told);
        Life { acknowledged, exit, stderr: server.stderr(), calls, told }
    }
}

/// What a node is asked for in its life.
struct Work {
    number: u64,
    acknowledged: BTreeMap<String, u64>,
    told: bool,
}

impl Work {
    async fn run(&mut self, address: &str) {
        for part in 0..3 {
            if part > 0 {
                let mut client = ClusterClient::new(client::channel(address));
                let taken = timeout(PATIENCE, client.take_snapshot(TakeSnapshotRequest {})).await;
                // Without room it is not taken, and the node goes on.
                self.told |= taken.expect("an answer in time").is_err();
            }
            for number in 0..5 {
                self.write(address, format!("{}/{part}/{number}", self.number)).await;
            }
        }
    }

    /// Until it is acknowledged.
    async fn write(&mut self, address: &str, key: String) {
        let deadline = Instant::now() + PATIENCE;
        for attempt in 0.. {
            let key = format!("{key}/{attempt}");
            let put = client::put(address, key.clone(), key.repeat(20));
            match timeout(Duration::from_secs(10), put).await.expect("an answer in time") {
                Ok(revision) => {
                    self.acknowledged.insert(key, revision);
                    return;
                }
                Err(status) => {
                    self.told |= status.message().contains("disk");
                    assert!(Instant::now() < deadline, "{key} is refused for ever: {status:?}");
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
