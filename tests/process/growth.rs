//! A cluster that grows and shrinks under load while its leaders are killed (SAFETY: M04, M08, M10, D02, C01).
//!
//! What is killed and removed, and after how many writes, is drawn from a seed: `GROWTH=20` does it so often with other seeds,
//! `GROWTH_SEED=7` once more with that one. When the processes get to run is not drawn: the same seed is the same plan, and
//! not the same run.

use std::{collections::BTreeMap, future::Future};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, LOOK_AGAIN},
    command_line::run,
    load::{Load, assert_kept},
    server::{PATIENCE, free_address},
    session_load::{SessionLoad, assert_once},
    witness::Witness,
};

/// So many nodes there are at the most.
const MOST: u64 = 5;

/// How often one round is done.
fn rounds() -> u64 {
    std::env::var("GROWTH").map_or(1, |rounds| rounds.parse().expect("GROWTH is a number"))
}

fn first_seed() -> u64 {
    let seed = std::env::var("GROWTH_SEED").map(|seed| seed.parse().expect("GROWTH_SEED is a number"));
    seed.unwrap_or_else(|_| u64::from(std::process::id()))
}

/// Fails when: a session's repeated command is applied again (`Sessions::command` never says `Verdict::Repeated`).
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_to_five_and_shrinks_to_three_while_its_leaders_are_killed() {
    for seed in (first_seed()..).take(rounds() as usize) {
        println!("again with: GROWTH_SEED={seed} cargo test --test process growth");
        Growth::start(seed).await.grow_and_shrink().await;
    }
}

struct Growth {
    cluster: Cluster,
    load: Load,
    sessions: SessionLoad,
    witness: Witness,
    /// Of all that there will be.
    addresses: BTreeMap<u64, String>,
    random: SmallRng,
    began: Instant,
}

impl Growth {
    /// One node, and clients that know already where the others will be.
    async fn start(seed: u64) -> Growth {
        let mut random = SmallRng::seed_from_u64(seed);
        let threshold = [20, 200, 1_000_000][random.random_range(0..3)].to_string();
        let trailing = random.random_range(0..20).to_string();
        let mut cluster = Cluster::new(&["--snapshot-threshold", &threshold, "--snapshot-trailing", &trailing]);
        cluster.addresses.retain(|id, _| *id == 1);
        let mut addresses = cluster.addresses.clone();
        addresses.extend((2..=MOST).map(|id| (id, free_address())));
        cluster.spawn(1, cluster.serve(1));
        cluster.are_ready().await;
        let (load, sessions) = (Load::start(&addresses, 3), SessionLoad::start(&addresses, 3));
        let witness = Witness::of(&addresses);
        Growth { cluster, load, sessions, witness, addresses, random, began: Instant::now() }
    }

    async fn grow_and_shrink(mut self) {
        for id in 2..=MOST {
            self.add(id).await;
        }
        for _ in 0..2 {
            let members: Vec<_> = self.cluster.addresses.keys().copied().collect();
            let id = members[self.random.random_range(0..members.len())];
            self.remove(id).await;
        }
        self.load.goes_on(20).await;
        self.sessions.goes_on(5).await;
        let writes = self.load.stop().await;
        let told = self.sessions.stop().await;
        let state = self.cluster.agree().await;
        assert_kept(&writes, &state);
        assert_once(&told, &state);
        let terms = self.witness.finds_nothing_wrong();
        println!("{} keys, leaders in {terms} terms, {:?}", state.len(), self.began.elapsed());
    }

    /// Starts it with `--join`, as often as it takes, and waits until it votes.
    async fn add(&mut self, id: u64) {
        self.say(&format!("{id} joins"));
        self.cluster.addresses.insert(id, self.addresses[&id].clone());
        self.spawn(id);
        self.kill_leaders().await;
        let (endpoints, address) = (self.cluster.endpoints(), self.addresses[&id].clone());
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            // It may have given up while nobody led.
            if !self.cluster.servers[&id].is_ready().await {
                self.cluster.servers.remove(&id).expect("just seen").ends_with(1, &["cannot join"]).await;
                self.spawn(id);
            }
            let added = run(&endpoints, &["member", "add", &id.to_string(), &address, "-o", "json"]).await;
            if added.exit == 0 && added.json()[0]["kind"] == "voter" {
                return;
            }
            assert!(Instant::now() < deadline, "node {id} is not added: {}", added.stderr);
        }
    }

    async fn remove(&mut self, id: u64) {
        self.say(&format!("{id} is removed"));
        let removed = remove(self.cluster.endpoints(), id);
        self.kill_leaders_during(removed).await;
        let mut server = self.cluster.servers.remove(&id).expect("whatever was killed was started again");
        assert!(server.says("R008").await, "node {id} is told that it was removed");
        server.kill().await;
        self.cluster.addresses.remove(&id);
    }

    async fn kill_leaders(&mut self) {
        self.kill_leaders_during(async {}).await;
    }

    /// Kills and restarts the leader, once or twice, after as many writes as are drawn; returns when `change` is over as well.
    async fn kill_leaders_during(&mut self, change: impl Future<Output = ()>) {
        let kills = async {
            for _ in 0..self.random.random_range(1..=2) {
                let (before, between) = (self.random.random_range(0..60), self.random.random_range(0..30));
                self.load.goes_on(before).await;
                let leader = self.cluster.leader().await;
                self.say(&format!("leader {} is killed in term {}", leader.id, leader.term));
                self.cluster.kill(leader.id).await;
                // Sometimes the others go on without it, sometimes they cannot, or have no time to notice.
                if leader.voters.len() > 2 && self.random.random_bool(0.5) {
                    self.load.goes_on(between).await;
                }
                self.spawn(leader.id);
                // One that was removed meanwhile starts, and is told.
                let server = &self.cluster.servers[&leader.id];
                assert!(server.is_ready().await, "node {} does not start", leader.id);
            }
        };
        tokio::join!(kills, change);
    }

    fn spawn(&mut self, id: u64) {
        let own = format!("1={}", self.addresses[&1]);
        let command = if id == 1 { self.cluster.serve_with(1, &own) } else { self.cluster.serve_joining(id) };
        self.cluster.spawn(id, command);
    }

    fn say(&self, what: &str) {
        println!("{:?}: {what}", self.began.elapsed());
    }
}

/// As an operator would, until it is done.
async fn remove(endpoints: String, id: u64) {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let removed = run(&endpoints, &["member", "remove", &id.to_string()]).await;
        match removed.exit {
            0 => return,
            _ => assert!(Instant::now() < deadline, "node {id} is not removed: {}", removed.stderr),
        }
        sleep(LOOK_AGAIN).await;
    }
}
