//! Every call by which one node of three changes its directory fails once: while it starts, is caught up by a snapshot,
//! follows, takes snapshots, leads and stops (SAFETY: D01).
//!
//! Whatever it comes to, the others go on, nothing acknowledged is lost, and the node says R016 or heals; started again, it
//! catches up. `FAULTS=all` tries each call, one way each; CI a sample.
#![cfg(target_os = "linux")]

use std::{collections::BTreeMap, time::Instant};

use ractor_raft::rpc::pb::{TakeSnapshotRequest, TransferLeadershipRequest, cluster_client::ClusterClient};
use tokio::time::{sleep, timeout};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    each_call::{Point, Tally, chosen, points_of},
    server::{PATIENCE, Server},
    shim::{Call, Strike},
    witness::Witness,
};

/// So many points are tried in CI.
const SAMPLE: usize = 12;

/// The one whose calls fail.
const VICTIM: u64 = 3;

/// Fails when: a commit that failed is taken for done (`persist` of the SQLite store).
#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_node_of_three_fails_once_and_the_cluster_heals() {
    let mut three = Three::start().await;
    let witness = Witness::of(&three.cluster.addresses);
    let began = Instant::now();
    let calls = three.live(0, Strike::Fails).await.calls;
    // One way each, every way in turn.
    let all = points_of(&calls).into_iter();
    let mut points: BTreeMap<u64, Vec<Point>> = BTreeMap::new();
    all.for_each(|point| points.entry(point.call.number).or_default().push(point));
    let points = points.into_iter().map(|(number, mut ways)| ways.swap_remove(number as usize % ways.len())).collect();
    let points = chosen(points, SAMPLE);
    println!("{} calls, {} points are tried", calls.len(), points.len());
    let mut tally = Tally::default();
    for (number, point) in points.iter().enumerate() {
        tally.note(three.try_one(point).await);
        if number % 20 == 19 {
            tally.print(&format!("{} of {}, {:?}", number + 1, points.len(), began.elapsed()));
        }
    }
    tally.print(&format!("{} points, {:?}", points.len(), began.elapsed()));
    three.cluster.restart(VICTIM).await;
    let state = three.cluster.agree().await;
    assert!(three.acknowledged.iter().all(|(key, revision)| state[key.as_bytes()].1 == *revision));
    witness.finds_nothing_wrong();
    assert!(tally.of("was not reached") <= points.len() / 3, "few faults were met");
}

struct Three {
    cluster: Cluster,
    acknowledged: BTreeMap<String, u64>,
}

/// What a life of the victim came to.
struct Life {
    exit: i32,
    stage: &'static str,
    stderr: String,
    calls: Vec<Call>,
}

impl Three {
    /// The victim has been there, and is not any more.
    async fn start() -> Three {
        let mut cluster = Cluster::new_with_shim(&["--snapshot-trailing", "1", "--snapshot-chunk-bytes", "2000"]);
        (1..=3).for_each(|id| cluster.spawn(id, cluster.serve(id)));
        cluster.are_ready().await;
        cluster.agree().await;
        cluster.kill(VICTIM).await;
        Three { cluster, acknowledged: BTreeMap::new() }
    }

    async fn try_one(&mut self, point: &Point) -> String {
        let life = self.live(point.call.number, point.strike).await;
        let struck = life.calls.iter().find(|call| call.struck);
        let place = struck.map(|call| format!("{:?} at {}: {} {}", point.strike, call.number, call.what, call.file));
        let outcome = match (&place, life.exit) {
            (None, 0) => "was not reached".to_owned(),
            (Some(_), 0) => "healed".to_owned(),
            (Some(_), 11) if life.stderr.contains("error[R016]") => format!("{}: ended with R016", life.stage),
            (_, exit) => panic!("{place:?}: exit code {exit} with {}", life.stderr),
        };
        let server = Server::spawn(format!("the node after {place:?}"), self.cluster.serve(VICTIM));
        self.cluster.servers.insert(VICTIM, server);
        let server = &self.cluster.servers[&VICTIM];
        assert!(server.is_ready().await, "after {place:?} it does not start: {}", server.stderr());
        let newest = self.acknowledged.values().max().copied().expect("there are some");
        let address = &self.cluster.addresses[&VICTIM];
        client::has_applied(address, newest).await;
        let state = client::everything(address).await;
        for (key, revision) in &self.acknowledged {
            let found = state.get(key.as_bytes()).map(|(_, revision)| revision);
            assert_eq!(found, Some(revision), "after {place:?}, {key} is not as it was acknowledged");
        }
        self.cluster.kill(VICTIM).await;
        outcome
    }

    /// The others go on and forget their logs; the victim comes back to that.
    async fn live(&mut self, nth: u64, strike: Strike) -> Life {
        self.write(4).await;
        for id in [1, 2] {
            let committed = self.acknowledged.values().max().copied().expect("just written");
            client::has_applied(&self.cluster.addresses[&id], committed).await;
            assert!(take_snapshot(&self.cluster.addresses[&id]).await, "nothing fails there");
        }
        self.cluster.disks().strike(VICTIM, nth, strike);
        let mut server = Server::spawn("the victim", self.cluster.serve(VICTIM));
        let mut stage = "starting";
        if server.is_ready().await {
            tokio::select! {
                () = self.work(&mut stage) => server.signal("TERM").await,
                _ = server.ended() => {}
            }
        }
        let exit = server.ended().await.code().unwrap_or(-1);
        let calls = self.cluster.disks().calls(VICTIM);
        self.cluster.disks().spare(VICTIM);
        Life { exit, stage, stderr: server.stderr(), calls }
    }

    async fn work(&mut self, stage: &mut &'static str) {
        let victim = self.cluster.addresses[&VICTIM].clone();
        *stage = "being caught up";
        let newest = self.acknowledged.values().max().copied().expect("there are some");
        client::has_applied(&victim, newest).await;
        *stage = "following";
        self.write(4).await;
        take_snapshot(&victim).await;
        self.write(2).await;
        *stage = "leading";
        self.let_the_victim_lead(&victim).await;
        self.write(4).await;
        take_snapshot(&victim).await;
        self.write(2).await;
    }

    async fn write(&mut self, count: usize) {
        for _ in 0..count {
            let key = format!("key {}", self.acknowledged.len());
            let revision = client::put_somewhere(self.cluster.addresses.values(), &key, &key.repeat(30)).await;
            self.acknowledged.insert(key, revision);
        }
    }

    async fn let_the_victim_lead(&self, victim: &str) {
        let deadline = Instant::now() + PATIENCE;
        while client::status(victim).await.is_ok_and(|status| status.role != "leader") {
            let cluster_id = client::status(victim).await.map_or(0, |status| status.cluster_id);
            let request = TransferLeadershipRequest { cluster_id, to: VICTIM };
            let _ = timeout(PATIENCE, ClusterClient::new(client::channel(victim)).transfer_leadership(request)).await;
            assert!(Instant::now() < deadline, "it never leads");
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Whether it was taken: without room it is not.
async fn take_snapshot(address: &str) -> bool {
    let mut client = ClusterClient::new(client::channel(address));
    timeout(PATIENCE, client.take_snapshot(TakeSnapshotRequest {})).await.expect("an answer in time").is_ok()
}
