//! Everything at once, from seeds.

use std::{
    env,
    process::Command,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use ractor_raft::{Config, flow::Crash, raft::NodeId};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    cluster::{Cluster, Plan},
    half_open::SERVES_WITHIN,
    linearizability,
    record::host,
};

/// How many seeds without `SEEDS`.
const SEEDS: u64 = 200;

/// For so long things break.
const TROUBLE: Duration = Duration::from_secs(6);

/// A node that was away may have to be sent a snapshot, which may have to begin anew when a compaction overtakes it.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(10);

/// What a run in a process of its own says before its figures.
const MARK: &str = "figures:";

/// What runs came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    simulated: Duration,
    fingerprint: u64,
    calls: u64,
    answered: u64,
    breaks: u64,
    transfers: u64,
    resumed: u64,
    installed: u64,
    /// The longest until all nodes served again.
    healed_within: Duration,
}

impl Figures {
    fn numbers(&self) -> String {
        let (simulated, healed_within) = (self.simulated.as_millis() as u64, self.healed_within.as_millis() as u64);
        let Figures { fingerprint, calls, answered, breaks, transfers, resumed, installed, .. } = *self;
        let numbers = [simulated, fingerprint, calls, answered, breaks, transfers, resumed, installed, healed_within];
        numbers.map(|number| number.to_string()).join(" ")
    }

    fn read(numbers: &str) -> Self {
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("one more");
        Figures {
            simulated: Duration::from_millis(next()),
            fingerprint: next(),
            calls: next(),
            answered: next(),
            breaks: next(),
            transfers: next(),
            resumed: next(),
            installed: next(),
            healed_within: Duration::from_millis(next()),
        }
    }

    fn add(&mut self, one: Figures) {
        self.simulated += one.simulated;
        self.fingerprint = self.fingerprint.wrapping_add(one.fingerprint);
        self.calls += one.calls;
        self.answered += one.answered;
        self.breaks += one.breaks;
        self.transfers += one.transfers;
        self.resumed += one.resumed;
        self.installed += one.installed;
        self.healed_within = self.healed_within.max(one.healed_within);
    }
}

// Fails when: the keepalive is left out (seed 6: a node is not reached again in time); a forwarded command is sent a second
// time after it failed (seed 39: applied twice); the session client tells nobody while it waits for a node (seed 34: a caller
// hangs). Two bugs it cannot show, because others stand behind: a reply of an earlier connection that the replicator takes
// (the core drops it by its session), and a stream that takes requests after it broke (the replicator drops it with the
// report of the break).
#[test]
fn clusters_over_grpc_keep_their_promises_from_any_seed() {
    if let Some(seed) = number("SEED") {
        println!("{MARK} {}", run(seed).numbers());
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let total = Mutex::new(Figures::default());
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= first + count {
                return;
            }
            match run_apart(seed) {
                Ok(figures) => total.lock().expect("nobody panics with it").add(figures),
                Err(why) => {
                    // The others need not go on.
                    next.store(u64::MAX / 2, Relaxed);
                    panic!("{why}");
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(count as usize);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        if let Some(panic) = ends.into_iter().find_map(Result::err) {
            std::panic::resume_unwind(panic);
        }
    });
    let (total, took) = (total.into_inner().expect("nobody panics with it"), began.elapsed());
    println!(
        "{count} seeds in {took:.1?} ({:.0} a minute), {:.0} simulated seconds, {} of {} calls answered, {} connections \
         broken, {} snapshots sent, {} resumed, {} whole; all served again within {:?} at most",
        count as f64 * 60.0 / took.as_secs_f64(),
        total.simulated.as_secs_f64(),
        total.answered,
        total.calls,
        total.breaks,
        total.transfers,
        total.resumed,
        total.installed,
        total.healed_within,
    );
    assert!(total.answered > 0 && total.breaks > 0, "nothing was tested");
    assert!(count < 50 || total.resumed > count / 20, "too few transfers were resumed: {}", total.resumed);
}

// Fails when: anything in the library, or in what it stands on, asks the system for chance or time.
#[test]
fn one_seed_is_one_run() {
    for seed in [7, 8, 9, number("SEED").unwrap_or(10)] {
        let once = run_apart(seed).unwrap_or_else(|why| panic!("{why}"));
        let again = run_apart(seed).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(once, again, "seed {seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// In a process of its own: what is counted for a process (actors, runtimes) begins anew with it, and the seed alone decides.
fn run_apart(seed: u64) -> Result<Figures, String> {
    let mut run = Command::new(env::current_exe().expect("this program"));
    run.args(["--exact", "random::clusters_over_grpc_keep_their_promises_from_any_seed", "--nocapture"]);
    let ended = run.env("SEED", seed.to_string()).output().expect("a process");
    let (said, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let figures = said.lines().find_map(|line| line.split_once(MARK)).map(|(_, numbers)| Figures::read(numbers));
    figures.ok_or_else(|| format!("seed {seed}:\n{why}\nRerun: SEED={seed} cargo test --test grpc_simulation clusters"))
}

/// Actors that were told to die need not say so.
fn silence_crashes() {
    static SILENCED: Once = Once::new();
    SILENCED.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
            let told = text.is_some_and(|text| text.contains("was told to crash"));
            if !told {
                loud(panic);
            }
        }));
    });
}

fn config() -> Config {
    let mut config = Config::default();
    config.request_timeout = Duration::from_secs(2);
    config.snapshot_timeout = Duration::from_secs(1);
    config.snapshot_threshold = 40;
    config.snapshot_trailing = 5;
    config.snapshot_chunk_bytes = 512;
    config.snapshot_bytes_per_second = 64 << 10;
    config
}

fn run(seed: u64) -> Figures {
    silence_crashes();
    let mut random = SmallRng::seed_from_u64(seed);
    let nodes = if random.random_range(0..4) == 0 { 5 } else { 3 };
    let breaks_one_transfer_of = random.random_range(0..4);
    let mut cluster = Cluster::start(Plan { nodes, seed, config: config(), clients: 1, breaks_one_transfer_of });
    cluster.leader();
    let pace = random.random_range(100..600);
    let end = cluster.elapsed() + TROUBLE;
    while cluster.elapsed() < end {
        cluster.run_for(Duration::from_millis(random.random_range(0..2 * pace)));
        break_something(&mut cluster, &mut random);
    }
    let healed_within = heal(&mut cluster);
    finish(&mut cluster);
    let notes = cluster.record.notes();
    let (transfers, fingerprint) = (&notes.transfers, 0);
    let figures = Figures {
        simulated: cluster.elapsed(),
        fingerprint,
        calls: notes.calls,
        answered: notes.operations.len() as u64,
        breaks: cluster.breaks.broken(),
        transfers: transfers.begun,
        resumed: transfers.resumed,
        installed: transfers.finished,
        healed_within,
    };
    drop(notes);
    if env::var_os("LINES").is_some() {
        println!("{}", cluster.record.latest());
    }
    Figures { fingerprint: cluster.record.fingerprint(), ..figures }
}

fn break_something(cluster: &mut Cluster, random: &mut SmallRng) {
    let hosts = cluster.hosts();
    let ids = cluster.ids();
    let one = *ids.choose(random).expect("there are nodes");
    let pair = |random: &mut SmallRng| {
        let (from, to) = (hosts.choose(random), hosts.choose(random));
        (from.expect("there are hosts").clone(), to.expect("there are hosts").clone())
    };
    match random.random_range(0..20) {
        0 | 1 => cluster.crash(one),
        2 => cluster.kill(one),
        3 => cluster.stop(one),
        4..7 => {
            if let Some(down) = ids.into_iter().find(|id| cluster.node(*id).is_none()) {
                cluster.bounce(down);
            }
        }
        7 => {
            let leader = cluster.known_leader().unwrap_or(one);
            hosts.iter().for_each(|other| cluster.cut(&host(leader), other));
        }
        8 => {
            let (from, to) = pair(random);
            cluster.cut(&from, &to);
        }
        9 => {
            let (from, to) = pair(random);
            cluster.cut_one_way(&from, &to);
        }
        10 => {
            let (from, to) = pair(random);
            cluster.hold(&from, &to);
        }
        11..14 => cluster.mend(),
        14..16 => {
            let (from, to) = pair(random);
            cluster.breaks.break_after(&from, &to, random.random_range(0..3000));
        }
        16 => {
            // Each byte of what it says to the others comes to an end somewhere.
            for other in &hosts {
                cluster.breaks.break_after(&host(one), other, random.random_range(0..3000));
            }
        }
        17 => {
            let (from, to) = pair(random);
            cluster.slow_down(&from, &to, Duration::from_millis(random.random_range(1..150)));
        }
        _ => crash_actor(cluster, one, random),
    }
}

/// Those that stand next to the network.
fn crash_actor(cluster: &Cluster, id: NodeId, random: &mut SmallRng) {
    let Some(node) = cluster.node(id) else { return };
    let peer = id % cluster.ids().len() as u64 + 1;
    let replicator = format!("consensus/replicator {peer}");
    let paths = [&replicator, "server", "consensus"];
    let how = if random.random_range(0..2) == 0 { Crash::Kill } else { Crash::Panic };
    node.crash(paths.choose(random).expect("there are three"), how);
}

/// Mends everything, and waits until every node serves. How long that took.
fn heal(cluster: &mut Cluster) -> Duration {
    cluster.mend();
    cluster.breaks.heal();
    for id in cluster.ids() {
        cluster.bounce(id);
    }
    let hosts = cluster.hosts();
    for (place, one) in hosts.iter().enumerate() {
        hosts[place + 1..].iter().for_each(|other| cluster.slow_down(one, other, Duration::from_millis(2)));
    }
    let begin = cluster.elapsed();
    for id in cluster.ids() {
        let left = (begin + SERVES_WITHIN).saturating_sub(cluster.elapsed());
        cluster.write(id, &format!("after all is mended, by n{id}"), left);
    }
    cluster.elapsed() - begin
}

/// Lets the clients end, and compares all that is left.
fn finish(cluster: &mut Cluster) {
    cluster.record.notes().over = true;
    cluster.until("all clients to end", Duration::from_secs(6), |cluster| {
        (cluster.record.notes().clients == 0).then_some(())
    });
    let leader = cluster.leader();
    let last = cluster.write(leader, "the last line", SERVES_WITHIN);
    cluster.until_applied(last, CATCHES_UP_WITHIN);
    let lines = cluster.lines(leader);
    for id in cluster.ids() {
        assert!(cluster.lines(id) == lines, "State Machine Safety: n{id} and n{leader} differ");
    }
    let checked = linearizability::check(&cluster.record.notes().operations, &lines);
    checked.and_then(|()| linearizability::check_once(&lines)).unwrap_or_else(|violation| panic!("{violation}"));
}
