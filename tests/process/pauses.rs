//! Processes that stand still for a while and then go on as if nothing had been (SAFETY: R02, R04, C05).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    history::{Clients, Operation, PREFIX},
    kept_watch::KeptWatch,
    linearizability::assert_linearizable,
    server::PATIENCE,
    session_load::{SessionLoad, assert_once},
    witness::Witness,
};

/// So many times each node is stopped.
const ROUNDS: usize = 3;

/// The clients of a test, which read by leases and by rounds, and write.
pub struct Watched {
    pub clients: Clients,
    sessions: SessionLoad,
    watch: KeptWatch,
    witness: Witness,
}

impl Watched {
    pub fn start(cluster: &Cluster) -> Watched {
        Watched {
            clients: Clients::start(&cluster.addresses, 6, 4, 1),
            sessions: SessionLoad::start(&cluster.addresses, 2),
            watch: KeptWatch::start(&cluster.addresses, PREFIX),
            witness: Witness::of(&cluster.addresses),
        }
    }

    /// All of them.
    pub async fn go_on(&self) {
        self.clients.go_on(60).await;
        self.sessions.goes_on(3).await;
    }

    /// Nothing was stale, lost or done twice. What the clients did.
    pub async fn finds_nothing_wrong(self, cluster: &Cluster) -> Vec<Operation> {
        self.go_on().await;
        let (operations, told) = (self.clients.stop().await, self.sessions.stop().await);
        let state = cluster.agree().await;
        assert_once(&told, &state);
        let newest = state.values().map(|(_, revision)| *revision).max().expect("something was written");
        let checked = assert_linearizable(&operations, &self.watch.up_to(newest).await);
        let terms = self.witness.finds_nothing_wrong();
        println!("{} operations, {checked} answered, leaders in {terms} terms", operations.len());
        operations
    }
}

/// Waits until one of the others leads.
pub async fn another_leads(cluster: &Cluster, old: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (_, address) in cluster.addresses.iter().filter(|(id, _)| **id != old) {
            if client::status(address).await.is_ok_and(|status| status.role == "leader") {
                return;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads instead of {old}");
        sleep(LOOK_AGAIN).await;
    }
}

/// R02, R04. The questions that the stopped leader finds when it goes on were asked when others led already, and had written.
///
/// Fails when: a lease is believed without a look at the clock (both in `Raft::read` and `lease_holds`), or a linearizable read
/// is answered without a round (`confirm_reads`).
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_longer_than_an_election_takes_answers_nothing_stale() {
    let cluster = Cluster::start(&["--election-timeout-ms", "200-2000"]).await;
    let watched = Watched::start(&cluster);
    for _ in 0..ROUNDS {
        let old = cluster.leader().await.id;
        watched.clients.go_on(30).await;
        cluster.servers[&old].signal("STOP").await;
        another_leads(&cluster, old).await;
        watched.go_on().await;
        cluster.servers[&old].signal("CONT").await;
        watched.go_on().await;
    }
    watched.finds_nothing_wrong(&cluster).await;
}

/// Fails when: a pre-vote counts without a majority (`count_pre_votes`).
#[tokio::test(flavor = "multi_thread")]
async fn followers_that_stand_still_are_not_waited_for_and_disturb_nobody() {
    let cluster = Cluster::start(&["--election-timeout-ms", "600-1200"]).await;
    let watched = Watched::start(&cluster);
    let leader = cluster.leader().await;
    for round in 0..4 {
        // Its clients and watchers wait with it: those of the others go on.
        let follower = (leader.id + round % 2) % 3 + 1;
        cluster.servers[&follower].signal("STOP").await;
        let stopped = Instant::now();
        watched.clients.go_on(60).await;
        // Its own election timeout has passed, whatever it was.
        while stopped.elapsed() < Duration::from_millis(1300) {
            watched.clients.go_on(5).await;
        }
        cluster.servers[&follower].signal("CONT").await;
        watched.go_on().await;
        let now = cluster.leader().await;
        assert_eq!((now.id, now.term), (leader.id, leader.term), "pre-votes change no term");
    }
    watched.finds_nothing_wrong(&cluster).await;
}

/// Fails when: a leader steps down that was not answered for 75 ms (`heartbeat`).
#[tokio::test(flavor = "multi_thread")]
async fn pauses_shorter_than_the_election_timeout_change_no_leader() {
    let cluster = Cluster::start(&["--election-timeout-ms", "3000-6000"]).await;
    let watched = Watched::start(&cluster);
    let leader = cluster.leader().await;
    for round in 0..6 {
        let id = (leader.id + round) % 3 + 1;
        cluster.servers[&id].signal("STOP").await;
        let stopped = Instant::now();
        // Nothing happens without a leader: a status that is not answered is what can be waited for.
        while stopped.elapsed() < Duration::from_millis(400) {
            sleep(LOOK_AGAIN).await;
        }
        cluster.servers[&id].signal("CONT").await;
        watched.go_on().await;
        let now = cluster.leader().await;
        assert_eq!((now.id, now.term), (leader.id, leader.term), "a short pause of node {id} is nothing");
    }
    watched.finds_nothing_wrong(&cluster).await;
}
