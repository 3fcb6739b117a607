//! Clusters under load while everything breaks, from seeds.
//!
//! Checked in each run: Election Safety and State Machine Safety over all lives of all nodes; every acknowledged write is
//! on every node at the end, at its index; the history of reads and writes is linearizable; every caller is answered; and
//! the cluster serves within ten election timeouts after all is mended.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor_raft::{
    config::Config,
    node::{Consistency, Crash, NodeEvent, RestartPolicy},
    raft::{LogIndex, NodeId},
    testing::{Cluster, Ledger, Line, Told, Witness},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::support::{ELECTION_TIMEOUT, Watched, ledgers};

const CLIENTS: u64 = 8;
const STEPS: u64 = 40;

/// Fails when: a rule is broken that luck can show within these seeds. Seen red with: reads that skip their round (R02), two
/// votes in a term (E01), proposals that survive a truncation (L10), a `commit_index` beyond the last new entry (L04), an
/// applier that applies twice or leaves out after a restart (D07), and `synchronous=NORMAL` (D02).
#[test]
fn what_was_acknowledged_survives_whatever_happens() {
    for seed in seeds(24) {
        run_seed(seed);
    }
}

/// Fails when: anything in the tree takes its chance or its order from elsewhere than the seed. Seen red with calls that
/// waited for a leader by a tokio `watch`, which wakes in a random order.
#[test]
fn one_seed_gives_one_run() {
    for seed in [4, 5] {
        assert_eq!(run_seed(seed), run_seed(seed), "two runs of seed {seed} differ");
    }
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    }
}

/// Returns how many letters there were, and their fingerprint.
fn run_seed(seed: u64) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing that could be missing");
    let run = catch_unwind(AssertUnwindSafe(|| runtime.block_on(storm(seed))));
    run.unwrap_or_else(|panic: Box<dyn Any + Send>| {
        eprintln!("Rerun: SEED={seed} cargo test --test simulation whatever_happens");
        resume_unwind(panic)
    })
}

async fn storm(seed: u64) -> (u64, u64) {
    let size = if seed.is_multiple_of(3) { 5 } else { 3 };
    let witness = Witness::default();
    // The budget is not what is looked at here.
    let policy = RestartPolicy { budget: 1000, window: Duration::from_secs(10) };
    // A client whose answer got lost should not stand idle for long.
    let mut config = Config::default();
    config.request_timeout = Duration::from_millis(500);
    let builder = Cluster::builder(ledgers(&witness)).nodes(size).seed(seed).config(config).restart_policy(policy);
    #[cfg(feature = "sqlite")]
    let builder = if seed.is_multiple_of(2) { builder.simulated_disks() } else { builder };
    let cluster = Watched { cluster: builder.start().await, witness };

    let history = Arc::new(History::default());
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|client| tokio::spawn(work(cluster.cluster.clone(), history.clone(), client, seed)))
        .collect();
    for _ in 0..STEPS {
        break_something(&cluster).await;
        cluster.run_for(Duration::from_millis(50 + cluster.draw(450))).await;
        cluster.check();
    }

    cluster.network().heal();
    for id in cluster.ids() {
        if cluster.node(id).is_none() {
            cluster.restart(id).await;
        }
    }
    // With a new call: those under way may wait for an answer that got lost.
    let mended = cluster.write("after all is mended");
    let mended = tokio::time::timeout(10 * ELECTION_TIMEOUT, mended).await;
    mended.unwrap_or_else(|_| panic!("it does not serve again after all is mended\n{}", cluster.describe()));
    history.over.store(true, Relaxed);
    for client in clients {
        client.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
    }

    nobody_died_of_itself(&cluster);
    let operations = history.operations.lock().expect("no client panicked").clone();
    let writes = operations.iter().filter_map(|operation| Some((operation.position, operation.wrote.clone()?)));
    cluster.agree_on(&writes.collect::<Vec<_>>()).await;
    check_linearizability(&operations, &cluster.lines(1).await);
    (cluster.network().letters(), cluster.network().fingerprint())
}

async fn break_something(cluster: &Watched) {
    let ids = cluster.ids();
    let size = ids.len() as u64;
    let one = 1 + cluster.draw(size);
    match cluster.draw(16) {
        0 | 1 => cluster.crash(one).await,
        2 => cluster.kill(one).await,
        3 => {
            for id in ids {
                cluster.crash(id).await;
            }
        }
        4 => drop(cluster.stop(one).await),
        5..=6 => {
            for id in ids {
                if cluster.node(id).is_none() {
                    cluster.restart(id).await;
                }
            }
        }
        7 => {
            // The leader alone, or with one other.
            let leader = cluster.known_leader().unwrap_or(one);
            let (these, those): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| [leader, one].contains(id));
            cluster.network().heal();
            cluster.network().partition(&these, &those);
        }
        8 => {
            let (these, those): (Vec<_>, Vec<_>) = ids.into_iter().partition(|_| cluster.draw(2) == 0);
            cluster.network().partition(&these, &those);
        }
        9 => {
            let other = 1 + cluster.draw(size);
            cluster.network().cut(one, other);
        }
        10 => cluster.network().set_faults(cluster.draw(30) as u32, cluster.draw(20) as u32),
        11 | 12 => cluster.network().heal(),
        _ => crash_actor(cluster, one),
    }
}

/// The core's own assertions, and disks that fail without being told to, must not hide behind the supervision.
fn nobody_died_of_itself(cluster: &Watched) {
    for (id, event) in cluster.events() {
        if let NodeEvent::ActorRestarted { path, cause } = event {
            let told = cause.contains("killed") || cause.contains("was told to crash");
            assert!(told, "{path} of node {id} died of itself: {cause}");
        }
    }
    for (id, told) in cluster.ends() {
        assert_eq!(told, Told::Stopped, "node {id} gave up");
    }
}

fn crash_actor(cluster: &Watched, id: NodeId) {
    let Some(node) = cluster.node(id) else { return };
    let peer = id % cluster.ids().len() as u64 + 1;
    let replicator = format!("consensus/replicator {peer}");
    let paths = ["log store", "applier", "consensus", "consensus/election timer", &replicator, "server"];
    let how = if cluster.draw(2) == 0 { Crash::Kill } else { Crash::Panic };
    node.crash(paths[cluster.draw(paths.len() as u64) as usize], how);
}

/// What the clients did.
#[derive(Default)]
struct History {
    over: AtomicBool,
    /// Numbers invocations and answers in their order.
    clock: AtomicU64,
    /// The answered ones.
    operations: Mutex<Vec<Operation>>,
}

#[derive(Clone, Debug)]
struct Operation {
    invoked: u64,
    answered: u64,
    /// A write's index; a read's: how far the state was that it saw.
    position: LogIndex,
    /// `None`: it is a read.
    wrote: Option<String>,
    /// How many lines a read saw.
    saw: usize,
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }
}

/// One client: a call at a time, to any node.
async fn work(cluster: Cluster<Ledger>, history: Arc<History>, client: u64, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed.wrapping_mul(1000) + client);
    let nodes = cluster.ids().len() as u64;
    let mut count = 0;
    while !history.over.load(Relaxed) {
        count += 1;
        let node = 1 + random.random_range(0..nodes);
        let invoked = history.now();
        let operation = if random.random_range(0..10) < 7 {
            let text = format!("{count} of client {client}");
            let answer = cluster.propose_on(node, Line::new(text.as_str())).await;
            answer.ok().map(|committed| (committed.index, Some(text), 0))
        } else {
            let answer = cluster.read_on(node, Consistency::Linearizable, Ledger::len).await;
            answer.ok().map(|(saw, at)| (at, None, saw))
        };
        let answered = history.now();
        if let Some((position, wrote, saw)) = operation {
            let operation = Operation { invoked, answered, position, wrote, saw };
            history.operations.lock().expect("no client panicked").push(operation);
        }
        cluster.run_for(Duration::from_millis(random.random_range(0..10))).await;
    }
}

/// The log is the order. So it is enough that it agrees with real time: whatever was answered before an operation began
/// stands before it. And a read must have seen exactly the lines up to where it says it was.
fn check_linearizability(operations: &[Operation], lines: &[(LogIndex, String)]) {
    let mut moments: Vec<_> = operations.iter().flat_map(|one| [(one.invoked, one), (one.answered, one)]).collect();
    moments.sort_by_key(|(moment, _)| *moment);
    let mut answered: Option<&Operation> = None;
    let mut must_exceed = std::collections::BTreeMap::new();
    for (moment, operation) in moments {
        if moment == operation.invoked {
            must_exceed.insert(moment, answered);
            continue;
        }
        if let Some(earlier) = must_exceed.remove(&operation.invoked).flatten() {
            let in_order = match operation.wrote {
                Some(_) => operation.position > earlier.position,
                None => operation.position >= earlier.position,
            };
            assert!(in_order, "not linearizable: {operation:?} was invoked after {earlier:?} was answered");
        }
        if operation.wrote.is_none() {
            let there = lines.iter().filter(|(index, _)| *index <= operation.position).count();
            assert_eq!(operation.saw, there, "a read that saw another state than that of its index: {operation:?}");
        }
        // A read's state may be of any index at which no line stands; only lines can be seen.
        if answered.is_none_or(|earlier| earlier.position < operation.position) {
            answered = Some(operation);
        }
    }
}
