//! What happens to the directory of a stopped node: flipped bits, files that are cut off, deleted, or put back from a copy,
//! directories in the wrong place (SAFETY: D04, L08, M11, R006, R016, R017).
//!
//! A node alone acknowledges alone. Whatever was done to its directory, it refuses to start on it, and says which file is
//! damaged, or it has everything that it acknowledged. Where bits are flipped and files cut off is drawn from a seed (`SEED`);
//! `FLIPS=500` tries more of them.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use ractor_raft::rpc::pb::{TakeSnapshotRequest, cluster_client::ClusterClient};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{sleep, timeout};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    directory::copy_directory,
    each_call::Tally,
    server::{PATIENCE, Server},
    shim::Fault,
};

const FLAGS: [&str; 4] = ["--election-timeout-ms", "60-120", "--snapshot-trailing", "4"];

/// Bytes of a frame in SQLite's log, and of the header before them.
const FRAME: u64 = 24 + 4096;
const HEADER: u64 = 32;

/// So many places are tried in each file.
fn flips() -> usize {
    std::env::var("FLIPS").map_or(16, |flips| flips.parse().expect("FLIPS is a number"))
}

fn random() -> SmallRng {
    let seed = std::env::var("SEED").map_or(std::process::id().into(), |seed| seed.parse().expect("SEED is a number"));
    println!("again with: SEED={seed} FLIPS={} cargo test --test process damage", flips());
    SmallRng::seed_from_u64(seed)
}

/// Fails when: the checksums of the entries are not compared (`read_entries`). The scan of SQLite's log alone may be left out:
/// here the count of the acknowledged writes sees the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_is_refused_or_harmless() {
    let (mut random, mut node) = (random(), Node::prepare().await);
    for file in node.files() {
        let used = used_bytes(&node.copy.join(&file));
        let (mut tally, began) = (Tally::default(), Instant::now());
        for _ in 0..flips() {
            let (at, bit) = (random.random_range(0..used), random.random_range(0..8));
            node.put_back();
            let path = node.data().join(&file);
            let mut bytes = fs::read(&path).expect("it was just copied");
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).expect("it is ours");
            tally.note(node.outcome(&format!("bit {bit} of byte {at} of {file} is flipped")).await);
        }
        tally.print(&format!("flipped bits in the first {used} bytes of {file}, {:?}", began.elapsed()));
        assert!(file == "LOCK" || tally.of(REFUSED) > 0, "no flipped bit of {file} was noticed");
    }
}

/// Fails when: the acknowledged writes are not counted beside SQLite's log (`writes_are_missing`).
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_off_is_refused_unless_nothing_is_missing() {
    let (mut random, mut node) = (random(), Node::prepare().await);
    for file in node.files() {
        let used = used_bytes(&node.copy.join(&file)) as u64;
        let (mut tally, mut sizes) = (Tally::default(), Vec::new());
        if file == "raft.db-wal" {
            let frames = used.div_ceil(FRAME);
            sizes.extend((0..=frames).flat_map(|frame| [HEADER + frame * FRAME, HEADER + frame * FRAME + 2_000]));
        } else {
            sizes.extend((0..used).step_by(4096));
        }
        sizes.extend([0, 1, used - 1]);
        while sizes.len() > flips().max(24) {
            sizes.swap_remove(random.random_range(0..sizes.len()));
        }
        for size in sizes {
            node.put_back();
            let opened = fs::OpenOptions::new().write(true).open(node.data().join(&file)).expect("it is there");
            opened.set_len(size).expect("it is ours");
            tally.note(node.outcome(&format!("{file} is cut off at {size}")).await);
        }
        tally.print(&format!("{file} with {used} bytes is cut off"));
    }
}

/// Fails when: the acknowledged writes are not counted beside SQLite's log (`writes_are_missing`).
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_deleted_or_older_than_the_others_are_refused() {
    let mut node = Node::prepare().await;
    for file in node.files() {
        node.put_back();
        fs::remove_file(node.data().join(&file)).expect("it is there");
        let outcome = node.outcome(&format!("{file} is deleted")).await;
        assert_eq!(outcome, if file == "LOCK" { NOTHING_LOST } else { REFUSED }, "{file} is deleted");
    }
    node.put_back();
    for file in node.files().iter().filter(|file| *file != "LOCK") {
        fs::remove_file(node.data().join(file)).expect("it is there");
    }
    assert_eq!(node.outcome("all but LOCK is deleted").await, REFUSED);

    // One file after the other, and all of them but LOCK, as a backup that was made earlier has them.
    let older = node.older.clone();
    let mut files = node.files();
    files.retain(|file| older.join(file).exists() && file != "LOCK");
    assert!(files.len() >= 2, "{files:?}");
    let mut cases: Vec<Vec<_>> = files.iter().map(|file| vec![file.clone()]).collect();
    cases.push(files);
    let mut tally = Tally::default();
    for files in cases {
        node.put_back();
        for file in &files {
            fs::copy(older.join(file), node.data().join(file)).expect("there is room");
        }
        tally.note(node.outcome(&format!("{files:?} are older")).await);
    }
    tally.print("files put back from an older copy");
    assert!(tally.of(REFUSED) >= 2);
}

/// An error of the lock's file is not taken for a store in use. (No bug was put in by hand to see it fail.)
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_said_to_be_one() {
    let mut node = Node::prepare().await;
    node.cluster.disks().set(Fault::ReadOnly, 1);
    let mut server = Server::spawn("a node that may only read", node.cluster.serve(1));
    server.ends_with(11, &["error[R016]", "LOCK", "Read-only file system"]).await;
    node.cluster.disks().repair(Fault::ReadOnly, 1);
    assert_eq!(node.outcome("it can be written again").await, NOTHING_LOST);

    let data = node.data();
    fs::remove_dir_all(&data).expect("it is ours");
    fs::write(&data, "not a directory").expect("it is ours");
    Server::spawn("a node without a directory", node.cluster.serve(1)).ends_with(11, &["error[R016]"]).await;
}

/// L08. A copy of the whole directory fits in itself: only the leader knows what the node has acknowledged since.
///
/// Fails when: the node takes what it has acknowledged for a log that is merely behind (`request.acknowledged`).
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_directory_is_noticed_and_never_believed_again() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let follower = leader.id % 3 + 1;
    let (data, copy) = (cluster.data(follower), cluster.directory().join("copy"));
    let revision = client::put(&leader.address, "before", "the copy").await.expect("nothing is in its way");
    client::has_applied(&cluster.addresses[&follower], revision).await;
    cluster.kill(follower).await;
    copy_directory(&data, &copy);
    cluster.restart(follower).await;
    let revision = client::put(&leader.address, "after", "the copy").await.expect("nothing is in its way");
    client::has_applied(&cluster.addresses[&follower], revision).await;
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "it knows what the follower has acknowledged");
    cluster.kill(follower).await;
    copy_directory(&copy, &data);
    for _ in 0..2 {
        let mut server = Server::spawn("the node of long ago", cluster.serve(follower));
        server.ends_with(10, &["error[R007]"]).await;
    }
    client::put(&leader.address, "later", "without it").await.expect("two are a majority");
}

/// Fails when: the identity in the database is not compared with that of the process.
#[tokio::test(flavor = "multi_thread")]
async fn directories_in_each_others_place_or_of_another_cluster_are_refused() {
    let mut cluster = Cluster::start(&[]).await;
    client::put_somewhere(cluster.addresses.values(), "key", "value").await;
    cluster.kill_all(&[1, 2, 3]).await;
    let place = |name: &str| cluster.directory().join(name);
    let swap = || {
        fs::rename(place("1"), place("aside")).expect("it is ours");
        fs::rename(place("2"), place("1")).expect("it is ours");
        fs::rename(place("aside"), place("2")).expect("it is ours");
    };
    swap();
    for (id, other) in [(1, 2), (2, 1)] {
        let mut server = Server::spawn("a node in another's directory", cluster.serve(id));
        server.ends_with(14, &["error[R006]", &format!("belongs to node {other}")]).await;
    }
    swap();
    let elsewhere = Cluster::new(&[]);
    copy_directory(&cluster.data(1), &elsewhere.data(1));
    Server::spawn("a node of another cluster", elsewhere.serve(1)).ends_with(14, &["error[R006]"]).await;
    for id in 1..=3 {
        cluster.spawn(id, cluster.serve(id));
    }
    cluster.are_ready().await;
    assert!(cluster.agree().await.contains_key(&b"key"[..]));
}

const REFUSED: &str = "refused";
const NOTHING_LOST: &str = "nothing is lost";

/// A node that is a cluster, and was killed.
struct Node {
    cluster: Cluster,
    acknowledged: BTreeMap<String, u64>,
    /// Its directory as it was then.
    copy: PathBuf,
    /// The same from before its last writes.
    older: PathBuf,
}

impl Node {
    /// Some of it is in a snapshot, some in the database, some in SQLite's log.
    async fn prepare() -> Node {
        let cluster = Cluster::alone(&FLAGS);
        let (copy, older) = (cluster.directory().join("copy"), cluster.directory().join("older"));
        let mut node = Node { cluster, acknowledged: BTreeMap::new(), copy, older };
        for part in ["in the snapshot", "in the database", "in the log"] {
            node.cluster.restart(1).await;
            node.write(part).await;
            if part == "in the snapshot" {
                let mut client = ClusterClient::new(client::channel(&node.cluster.addresses[&1]));
                client.take_snapshot(TakeSnapshotRequest {}).await.expect("there is room");
            }
            node.cluster.kill(1).await;
            if part == "in the database" {
                copy_directory(&node.data(), &node.older);
            }
        }
        copy_directory(&node.data(), &node.copy);
        node
    }

    async fn write(&mut self, part: &str) {
        // So many that some pages of the database are in no later log.
        for number in 0..if part == "in the database" { 60 } else { 8 } {
            let key = format!("{part} {number}");
            let put = client::put(&self.cluster.addresses[&1], key.clone(), key.repeat(20)).await;
            self.acknowledged.insert(key, put.expect("nothing is in its way"));
        }
    }

    fn data(&self) -> PathBuf {
        self.cluster.data(1)
    }

    fn put_back(&self) {
        copy_directory(&self.copy, &self.data());
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(&self.copy).expect("it is there").flatten().filter(|file| file.path().is_file());
        let mut files: Vec<_> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        files.sort();
        files
    }

    /// Starts it, and looks for what it acknowledged. Anything but a refusal and the whole is a failure.
    async fn outcome(&mut self, damage: &str) -> &'static str {
        let mut server = Server::spawn(format!("the node of which {damage}"), self.cluster.serve(1));
        let outcome = match server.is_ready().await {
            true => tokio::select! {
                () = self.has_everything(damage) => NOTHING_LOST,
                _ = server.ended() => REFUSED,
            },
            false => REFUSED,
        };
        if outcome == NOTHING_LOST {
            server.kill().await;
            return outcome;
        }
        server.ends_with(10, &["error[R017]"]).await;
        let directory = self.data().display().to_string();
        assert!(server.stderr().contains(&directory), "{damage}: it does not say where: {}", server.stderr());
        outcome
    }

    async fn has_everything(&self, damage: &str) {
        let address = &self.cluster.addresses[&1];
        let newest = *self.acknowledged.values().max().expect("there are some");
        let deadline = Instant::now() + PATIENCE;
        while client::status(address).await.map_or(0, |status| status.applied) < newest {
            assert!(Instant::now() < deadline, "{damage}: it starts, and does not apply what it had");
            sleep(LOOK_AGAIN).await;
        }
        let state = timeout(PATIENCE, client::everything(address)).await.expect("an answer in time");
        for (key, revision) in &self.acknowledged {
            let expected = Some((key.repeat(20).into_bytes(), *revision));
            assert_eq!(state.get(key.as_bytes()), expected.as_ref(), "{damage}: {key} is not as it was acknowledged");
        }
    }
}

/// Up to its last byte that is not 0.
fn used_bytes(path: &Path) -> usize {
    let bytes = fs::read(path).expect("it is there");
    bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1)
}
