//! Processes that end without a word, under load (SAFETY: E01, E03, D02, C04 at the layer of processes).

use std::{fs, time::Instant};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinHandle;

use crate::{
    client,
    cluster::Cluster,
    history::{Clients, PREFIX},
    kept_watch::KeptWatch,
    linearizability::assert_linearizable,
    load::{Load, assert_kept},
    session_load::{SessionLoad, assert_once},
    shim::Fault,
    witness::Witness,
};

/// So many clients write while nodes are killed.
const CLIENTS: usize = 8;

/// So many cycles one cluster lives through.
const CYCLES_OF_A_CLUSTER: usize = 25;

/// How often nodes are killed, where `KILLS` does not ask for more or less.
fn kills(usually: usize) -> usize {
    std::env::var("KILLS").map_or(usually, |kills| kills.parse().expect("KILLS is a number"))
}

fn seed() -> u64 {
    std::env::var("SEED").map_or(std::process::id().into(), |seed| seed.parse().expect("SEED is a number"))
}

/// The leader, a follower, both, or all are killed, while clients put, delete, swap and read the same keys, others write in
/// sessions, and a watch looks on. `KILLS=1000` does it so often; `SEED` is the same plan again, though not the same run.
///
/// Fails when: an entry that any one server has is committed (`reached_value`), a session's repeated command is applied again
/// (`Sessions::command`), or a watch that is taken up leaves changes out (`watch`). Reads without a round are seen in `links.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn histories_stay_linearizable_whoever_is_killed_however_often() {
    let (cycles, seed) = (kills(50), seed());
    let began = Instant::now();
    let (mut done, mut checked) = (0, 0);
    while done < cycles {
        let seed = seed + (done / CYCLES_OF_A_CLUSTER) as u64;
        let now = CYCLES_OF_A_CLUSTER.min(cycles - done);
        println!("again with: SEED={seed} KILLS={now} cargo test --test process histories");
        checked += live_through(now, seed).await;
        done += now;
        println!("{done} of {cycles} cycles, {checked} operations checked, {:?}", began.elapsed());
    }
}

/// One cluster; how many operations of its clients were checked.
async fn live_through(cycles: usize, seed: u64) -> usize {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(&[]).await;
    let witness = Witness::of(&cluster.addresses);
    let (clients, sessions) =
        (Clients::start(&cluster.addresses, 6, 1, seed), SessionLoad::start(&cluster.addresses, 2));
    let watch = KeptWatch::start(&cluster.addresses, PREFIX);
    for _ in 0..cycles {
        let leader = cluster.leader().await.id;
        clients.go_on(random.random_range(1..60)).await;
        let follower = (leader + random.random_range(0..2)) % 3 + 1;
        let fall = match random.random_range(0..5) {
            0 | 1 => vec![leader],
            2 => vec![follower],
            3 => vec![leader, follower],
            _ => vec![1, 2, 3],
        };
        cluster.kill_all(&fall).await;
        // Sometimes they are back before the others have noticed, sometimes those go on without.
        if fall.len() == 1 && random.random_bool(0.5) {
            clients.go_on(random.random_range(1..60)).await;
        }
        fall.iter().for_each(|id| cluster.spawn(*id, cluster.serve(*id)));
        cluster.are_ready().await;
    }
    clients.go_on(60).await;
    sessions.goes_on(5).await;
    let (operations, told) = (clients.stop().await, sessions.stop().await);
    let state = cluster.agree().await;
    assert_once(&told, &state);
    let newest = state.values().map(|(_, revision)| *revision).max().expect("something was written");
    let changes = watch.up_to(newest).await;
    for (key, (value, revision)) in state.iter().filter(|(key, _)| key.starts_with(PREFIX.as_bytes())) {
        let change = changes.iter().rfind(|change| change.key == *key).expect("a watch tells of every key");
        assert!(change.value == *value && change.revision == *revision && !change.deleted, "{change:?}");
    }
    let terms = witness.finds_nothing_wrong();
    let checked = assert_linearizable(&operations, &changes);
    println!("{cycles} cycles: {} operations, {checked} answered, leaders in {terms} terms", operations.len());
    checked
}

/// Any two nodes have everything between them. Two disks are slow and these two nodes start first, so that a promise made
/// before the write is broken.
///
/// Fails when: a follower answers before its write is on disk; or a term is not written.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_lose_nothing_acknowledged_and_forget_no_term() {
    let mut cluster = Cluster::start_with_shim().await;
    let witness = Witness::of(&cluster.addresses);
    let load = Load::start(&cluster.addresses, CLIENTS);
    for round in 0..4 {
        let leader = cluster.leader().await;
        let followers = [leader.id % 3 + 1, (leader.id + 1) % 3 + 1];
        let (slow, fast) =
            if round % 2 == 0 { (followers, leader.id) } else { ([leader.id, followers[0]], followers[1]) };
        slow.iter().for_each(|id| cluster.disks().set(Fault::SyncIsSlow, *id));
        load.goes_on(100).await;
        cluster.kill_all(&[1, 2, 3]).await;
        slow.iter().for_each(|id| cluster.disks().repair(Fault::SyncIsSlow, *id));
        let term = witness.newest_term();
        slow.iter().for_each(|id| cluster.spawn(*id, cluster.serve(*id)));
        cluster.are_ready().await;
        let leader = cluster.leader().await;
        assert!(leader.term > term, "term {term} had a leader, and term {} has one again", leader.term);
        cluster.restart(fast).await;
    }
    load.goes_on(100).await;
    let writes = load.stop().await;
    assert_kept(&writes, &cluster.agree().await);
    witness.finds_nothing_wrong();
}

/// Snapshots are taken, sent, installed and compacted behind all the time, while any of the nodes may fall: mostly one that
/// receives a snapshot, or the one that sends it. `KILLS` asks for more rounds, `SEED` for the same plan again.
///
/// Fails when: the sessions in a snapshot are not installed (`Applier::install`).
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_nodes_are_killed_while_snapshots_travel() {
    let (kills, seed) = (kills(8), seed());
    println!("again with: SEED={seed} KILLS={kills} cargo test --test process snapshots_travel");
    let mut random = SmallRng::seed_from_u64(seed);
    let (trailing, chunk) = (random.random_range(0..=10), random.random_range(500..10_000));
    let (trailing, chunk) = (u64::to_string(&trailing), i32::to_string(&chunk));
    let mut cluster = Cluster::start(&[
        "--snapshot-threshold",
        "20",
        "--snapshot-trailing",
        &trailing,
        "--snapshot-chunk-bytes",
        &chunk,
        "--snapshot-bytes-per-second",
        "1000000",
    ])
    .await;
    let witness = Witness::of(&cluster.addresses);
    let (load, sessions) = (Load::start(&cluster.addresses, 4), SessionLoad::start(&cluster.addresses, 2));
    let ballast = throw_ballast(&cluster);
    let (mut killed, mut interrupted) = (0, 0);
    while killed < kills {
        let (sender, receiver) = {
            let leader = cluster.leader().await.id;
            (leader, (leader + random.random_range(0..2)) % 3 + 1)
        };
        // The log goes on without it, and is compacted.
        cluster.kill(receiver).await;
        load.goes_on(random.random_range(20..150)).await;
        cluster.spawn(receiver, cluster.serve(receiver));
        let receives = || cluster.data(receiver).join("snapshot.receiving").exists();
        // Mostly when it has begun.
        for _ in 0..random.random_range(0..300) {
            if receives() {
                break;
            }
            load.goes_on(1).await;
        }
        load.goes_on(random.random_range(0..15)).await;
        let in_between = receives();
        let (sender_falls, receiver_falls) = [(true, false), (false, true), (true, true)][random.random_range(0..3)];
        let falls = |id| if id == sender { sender_falls } else { id == receiver && receiver_falls };
        let fallen: Vec<_> = (1..=3).filter(|id| falls(*id)).collect();
        cluster.kill_all(&fallen).await;
        if fallen.len() < 2 && random.random_bool(0.5) {
            load.goes_on(random.random_range(0..50)).await;
        }
        fallen.iter().for_each(|id| cluster.spawn(*id, cluster.serve(*id)));
        cluster.are_ready().await;
        (killed, interrupted) = (killed + 1 + fallen.len(), interrupted + usize::from(in_between));
    }
    load.goes_on(30).await;
    sessions.goes_on(5).await;
    ballast.abort();
    let (writes, told) = (load.stop().await, sessions.stop().await);
    let state = cluster.agree().await;
    assert_kept(&writes, &state);
    assert_once(&told, &state);
    let terms = witness.finds_nothing_wrong();
    let snapshots = fs::read_dir(cluster.data(1)).expect("it is there").flatten().map(|file| file.file_name());
    let snapshots: Vec<_> = snapshots.filter(|name| name.to_string_lossy().starts_with("snapshot")).collect();
    println!("{} keys, {killed} kills, {interrupted} of them during a transfer, {terms} terms", state.len());
    assert!(!snapshots.is_empty(), "there was no snapshot");
}

/// Large values, of few keys: so that a snapshot is always worth it, however many keys there are besides.
fn throw_ballast(cluster: &Cluster) -> JoinHandle<()> {
    let addresses = cluster.addresses.clone();
    tokio::spawn(async move {
        for count in 0.. {
            let value = char::from(b'a' + (count % 26) as u8).to_string().repeat(16 << 10);
            client::put_somewhere(addresses.values(), &format!("ballast {}", count % 8), &value).await;
        }
    })
}
