//! Nodes that are caught up by snapshots over real gRPC (SAFETY: N05, N08).

use std::{
    fs,
    time::{Duration, Instant},
};

use ractor_raft::rpc::pb::{SnapshotMetadata, StatusReply, TakeSnapshotRequest, cluster_client::ClusterClient};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    load::{Load, assert_kept},
    meter::Meter,
    server::PATIENCE,
};

/// What one value of the state weighs.
const VALUE: usize = 64 << 10;

/// So many fill the state at a time.
const FILLERS: u64 = 8;

/// The least of `cluster.rs`.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// How large the states are; `STATE_MB` asks for more.
fn state_bytes() -> u64 {
    std::env::var("STATE_MB").map_or(20, |size| size.parse::<u64>().expect("STATE_MB is a number")) << 20
}

/// Longer for a larger state.
fn patience() -> Duration {
    PATIENCE + Duration::from_millis(state_bytes() >> 14)
}

/// A cluster of three of which 1 and 2 run, with so many bytes of state; 3 has never been started.
async fn two_of_three(flags: &[&str], bytes: u64) -> Cluster {
    let mut cluster = Cluster::new(flags);
    for id in [1, 2] {
        cluster.spawn(id, cluster.serve(id));
    }
    cluster.are_ready().await;
    fill(&cluster.leader().await.address, bytes).await;
    cluster
}

/// Writes values until there are so many bytes of them.
async fn fill(address: &str, bytes: u64) {
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let address = address.to_owned();
        fillers.spawn(async move {
            let values = bytes / VALUE as u64 / FILLERS;
            for number in 0..values {
                let value = char::from(b'a' + (number % 26) as u8).to_string().repeat(VALUE);
                client::put(&address, format!("state {filler} {number}"), value).await.expect("nothing is in its way");
            }
        });
    }
    while let Some(filler) = fillers.join_next().await {
        filler.expect("it does not panic");
    }
}

async fn status(address: &str) -> StatusReply {
    client::status(address).await.expect("it is up")
}

/// Waits until `node` stands on a snapshot and has applied what is committed by now.
async fn is_caught_up(node: &str, leader: &str) {
    let (deadline, committed) = (Instant::now() + patience(), status(leader).await.commit);
    loop {
        if let Ok(status) = client::status(node).await
            && status.snapshot > 0
            && status.applied >= committed
        {
            return;
        }
        assert!(Instant::now() < deadline, "{node} is not caught up: {:?}", client::status(node).await);
        sleep(LOOK_AGAIN).await;
    }
}

/// Watches how far `address` has applied.
struct Pauses {
    longest: watch::Receiver<Duration>,
    _task: JoinSet<()>,
}

impl Pauses {
    fn of(address: &str) -> Pauses {
        let (told, longest) = watch::channel(Duration::ZERO);
        let mut client = ClusterClient::new(client::channel(address));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut applied, mut since) = (0, Instant::now());
            loop {
                let now = client::status_over(&mut client).await.expect("it is up").applied;
                if now > applied {
                    // The first look has nothing before it.
                    if applied > 0 {
                        told.send_modify(|longest| *longest = (*longest).max(since.elapsed()));
                    }
                    (applied, since) = (now, Instant::now());
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
        Pauses { longest, _task: task }
    }

    fn longest(&self) -> Duration {
        *self.longest.borrow()
    }
}

/// Resident bytes of a process at its highest.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Fails when: chunks travel on the connection of the heartbeats, or are read by whoever applies; or all of the snapshot is
/// read into memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_node_is_caught_up_by_a_snapshot_while_writers_go_on() {
    let flags = ["--snapshot-threshold", "100", "--snapshot-trailing", "10"];
    let mut cluster = two_of_three(&flags, state_bytes()).await;
    // The log begins behind a snapshot, once the one that is due is written.
    let compacted = async {
        loop {
            let leader = cluster.leader().await;
            if leader.snapshot > 10 {
                break leader;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    let leader = timeout(PATIENCE, compacted).await.expect("a snapshot is taken");

    let writers = cluster.addresses.iter().filter(|(id, _)| **id != 3).map(|(id, at)| (*id, at.clone())).collect();
    let load = Load::start(&writers, 4);
    let undisturbed = Pauses::of(&leader.address);
    load.goes_on(300).await;
    let (undisturbed, pauses) = (undisturbed.longest(), Pauses::of(&leader.address));
    let (begun, written) = (Instant::now(), load.acknowledged());
    let before = peak_memory(cluster.servers[&leader.id].pid());
    cluster.restart(3).await;
    is_caught_up(&cluster.addresses[&3], &leader.address).await;
    let (took, written) = (begun.elapsed(), load.acknowledged() - written);
    let (longest, grown) = (pauses.longest(), peak_memory(cluster.servers[&leader.id].pid()) - before);
    let megabytes = state_bytes() >> 20;
    println!(
        "{megabytes} MiB in {took:?}: {written} writes meanwhile, applies paused for {longest:?} at most ({undisturbed:?} \
         before it; the heartbeat is 50ms), the leader's memory grew by {} MiB",
        grown >> 20
    );
    load.goes_on(50).await;
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "nobody is elected meanwhile");
    // All nodes share one disk here, and whatever else this machine does: what is printed is for a machine of its own.
    assert!(longest < ELECTION_TIMEOUT.max(2 * undisturbed), "applies paused for {longest:?}");
    let writes = load.stop().await;
    assert_kept(&writes, &cluster.agree().await);
}

/// A snapshot of this node's state now.
async fn take_snapshot(address: &str) -> SnapshotMetadata {
    let taken = ClusterClient::new(client::channel(address)).take_snapshot(TakeSnapshotRequest {}).await;
    taken.expect("there is room").into_inner().snapshot.expect("it says which")
}

/// How much of a snapshot is in the directory of a node that receives one.
fn received(cluster: &Cluster, id: u64) -> u64 {
    fs::metadata(cluster.data(id).join("snapshot.receiving")).map_or(0, |file| file.len())
}

async fn has_received(cluster: &Cluster, id: u64, bytes: u64) -> u64 {
    let deadline = Instant::now() + patience();
    loop {
        let there = received(cluster, id);
        if there >= bytes {
            return there;
        }
        assert!(Instant::now() < deadline, "{there} of {bytes} bytes were received");
        sleep(Duration::from_millis(2)).await;
    }
}

/// N05: what was stored is not sent again, whoever fell. Both senders have the same snapshot.
///
/// Fails when: the sender begins at 0, the receiver forgets at a start what it has, or a chunk is acknowledged before it is
/// on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_was_when_the_receiver_and_the_sender_were_killed() {
    let size = 20 << 20;
    let flags = [
        ["--snapshot-threshold", "1000000"],
        ["--snapshot-trailing", "1"],
        ["--snapshot-chunk-bytes", "65536"],
        ["--snapshot-bytes-per-second", "8000000"],
    ];
    let mut cluster = Cluster::new(&flags.concat());
    let meter = Meter::towards(&cluster.addresses[&3]).await;
    for id in [1, 2] {
        let mut command = cluster.serve(id);
        command.args(["--peer", &format!("3={}", meter.address)]);
        cluster.spawn(id, command);
    }
    cluster.are_ready().await;
    let leader = cluster.leader().await;
    fill(&leader.address, size).await;
    let follower = 3 - leader.id;
    client::has_applied(&cluster.addresses[&follower], status(&leader.address).await.commit).await;
    let snapshots = [take_snapshot(&leader.address).await, take_snapshot(&cluster.addresses[&follower]).await];
    assert_eq!(snapshots[0], snapshots[1], "whoever leads goes on with the same one");

    cluster.spawn(3, cluster.serve(3));
    has_received(&cluster, 3, size / 4).await;
    cluster.kill(3).await;
    let there = received(&cluster, 3);
    assert!(there < snapshots[0].size, "it was too quick to be killed in the middle");
    cluster.restart(3).await;
    let kept = received(&cluster, 3);
    assert!(kept + (1 << 20) >= there, "of {there} bytes {kept} are left after a restart");

    has_received(&cluster, 3, size / 2).await;
    cluster.kill(leader.id).await;
    is_caught_up(&cluster.addresses[&3], &cluster.addresses[&follower]).await;
    let sent = meter.bytes();
    println!("{} bytes were sent of a snapshot of {}", sent, snapshots[0].size);
    assert!(sent >= snapshots[0].size - (1 << 20), "it came on another way");
    assert!(sent < snapshots[0].size * 9 / 8, "{sent} bytes were sent of a snapshot of {}", snapshots[0].size);
    let mut back = cluster.serve(leader.id);
    back.args(["--peer", &format!("3={}", meter.address)]);
    cluster.spawn(leader.id, back);
    cluster.are_ready().await;
    cluster.agree().await;
}
