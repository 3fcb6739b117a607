//! Whose data directory it is, and whether what is in it can be believed (SAFETY: D04, D08).

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    client,
    cluster::Cluster,
    directory::copy_directory,
    server::{Server, free_address, raftkv},
};

/// Fails when: the lock is not taken before the files are touched, or the pid in it is another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused_and_told_who_has_it() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let listen = free_address();
    let mut second = raftkv();
    second.args(["serve", "--id", "1", "--listen", &listen, "--cluster", &cluster.members()]);
    second.arg("--data").arg(cluster.data(1));
    let mut second = Server::spawn("the second process", second);
    let owner = format!("process {}", cluster.servers[&1].pid());
    second.ends_with(14, &["error[R013]", &owner]).await;
    assert_eq!(cluster.leader().await.term, leader.term, "the first one goes on");
    client::put(&cluster.addresses[&1], "key", "value").await.expect("the first one goes on");
}

/// Fails when: the identity in the database is not compared with that of the process.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.leader().await;
    cluster.kill(1).await;
    cluster.kill(2).await;

    let mut other_id = raftkv();
    other_id.args(["serve", "--id", "2", "--listen", &cluster.addresses[&2], "--cluster", &cluster.members()]);
    other_id.arg("--data").arg(cluster.data(1));
    Server::spawn("node 2 in the directory of 1", other_id).ends_with(14, &["error[R006]", "belongs to node 1"]).await;

    let members = format!("1={},2={}", cluster.addresses[&1], cluster.addresses[&2]);
    let other_cluster = cluster.serve_with(1, &members);
    Server::spawn("node 1 of another cluster", other_cluster).ends_with(14, &["error[R006]"]).await;

    cluster.restart(1).await;
    cluster.restart(2).await;
    cluster.agree().await;
}

/// Fails when: recovery does not follow the chain of checksums, or does not compare that of the state row.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_database_is_found_at_the_start() {
    let mut damage = Damage::prepare().await;
    damage.move_the_log_into_the_database().await;
    let entry = find(&damage.read("raft.db"), NEEDLES[0].as_bytes()).expect("the start has moved it there");
    damage.is_refused_after_flipping("raft.db", entry + 3, &["entry "]).await;

    let state = state_row(&damage.data);
    for at in [state.start, (state.start + state.end) / 2, state.end - 1] {
        damage.is_refused_after_flipping("raft.db", at, &["term and vote"]).await;
    }
    damage.starts_undamaged().await;
}

/// Fails when: SQLite is let at a damaged log, whose end it drops in silence, or the acknowledged writes are not counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_write_ahead_log_is_found_at_the_start() {
    let mut damage = Damage::prepare().await;
    let log = damage.read("raft.db-wal");
    let first = find(&log, NEEDLES[1].as_bytes()).expect("it is not in the database yet");
    damage.is_refused_after_flipping("raft.db-wal", first + 3, &["WAL frame "]).await;
    damage.is_refused_after_flipping("raft.db-wal", 9, &["WAL header"]).await;

    // Nothing follows the last frame; only the count shows that it was whole once.
    let last = rfind(&log, NEEDLES[2].as_bytes()).expect("it was written last");
    damage.is_refused_after_flipping("raft.db-wal", last + 3, &["writes were acknowledged"]).await;
    fs::remove_file(damage.data.join("raft.db-wal")).expect("it is there");
    damage.is_refused(&["writes were acknowledged"]).await;
    damage.starts_undamaged().await;
}

/// Values that stand nowhere else: the first is in the database, the others in its log, the third in the last write.
const NEEDLES: [&str; 3] = ["needle-in-the-database", "needle-early-in-the-log", "needle-late-in-the-log"];

/// A cluster whose node 1 was killed, and a copy of the directory that it left.
struct Damage {
    cluster: Cluster,
    data: PathBuf,
    copy: PathBuf,
}

impl Damage {
    async fn prepare() -> Damage {
        let mut cluster = Cluster::start(&[]).await;
        cluster.leader().await;
        write(&cluster, NEEDLES[0]).await;
        cluster.kill(1).await;
        // The start moves all of the log into the database.
        cluster.restart(1).await;
        for number in 0..5 {
            write(&cluster, NEEDLES[1]).await;
            write(&cluster, &format!("between {number}")).await;
        }
        write(&cluster, NEEDLES[2]).await;
        cluster.kill(1).await;
        let (data, copy) = (cluster.data(1), cluster.directory().join("copy"));
        copy_directory(&data, &copy);
        Damage { cluster, data, copy }
    }

    /// A start does so. Without the others it writes nothing new: it asks for votes, and gets none.
    async fn move_the_log_into_the_database(&mut self) {
        for id in [2, 3] {
            self.cluster.kill(id).await;
        }
        self.cluster.restart(1).await;
        self.cluster.kill(1).await;
        copy_directory(&self.data, &self.copy);
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.data.join(file)).expect("the node had such a file")
    }

    async fn is_refused_after_flipping(&mut self, file: &str, at: usize, places: &[&str]) {
        let mut bytes = self.read(file);
        bytes[at] ^= 0x10;
        fs::write(self.data.join(file), bytes).expect("it is ours");
        println!("byte {at} of {file} is flipped");
        self.is_refused(places).await;
    }

    /// Asserts that the node does not start, and puts the directory back.
    async fn is_refused(&mut self, places: &[&str]) {
        let mut server = Server::spawn("the damaged node", self.cluster.serve(1));
        server.ends_with(10, &[&["error[R017]"], places].concat()).await;
        copy_directory(&self.copy, &self.data);
    }

    /// The copy was good: it was the damage that was refused.
    async fn starts_undamaged(mut self) {
        for id in 1..=3 {
            if !self.cluster.servers.contains_key(&id) {
                self.cluster.restart(id).await;
            }
        }
        let state = self.cluster.agree().await;
        assert!(NEEDLES.iter().all(|needle| state.contains_key(needle.as_bytes())));
    }
}

/// Writes it, and waits until node 1 has it on its disk.
async fn write(cluster: &Cluster, needle: &str) {
    let revision = client::put_somewhere(cluster.addresses.values(), needle, needle).await;
    client::has_applied(&cluster.addresses[&1], revision).await;
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn rfind(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).rposition(|window| window == needle)
}

/// Where the values of the state row (term, vote, end of the log, …) stand in the database's file.
fn state_row(data: &Path) -> Range<usize> {
    let scratch = data.with_file_name("scratch");
    copy_directory(data, &scratch);
    let _ = fs::remove_file(scratch.join("raft.db-wal"));
    let database = rusqlite::Connection::open(scratch.join("raft.db")).expect("the database is sound");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'state'";
    let page: u32 = database.query_row(root, [], |row| row.get(0)).expect("there is such a table");
    drop(database);
    let bytes = fs::read(data.join("raft.db")).expect("it is there");
    let page = (page as usize - 1) * 4096;
    // A leaf with one cell: its header, and where the cell is. The cell: its length, the row's id, the types, the values.
    assert_eq!((bytes[page], bytes[page + 4]), (13, 1), "the table has one row");
    let cell = page + usize::from(u16::from_be_bytes([bytes[page + 8], bytes[page + 9]]));
    let (length, types) = (usize::from(bytes[cell]), usize::from(bytes[cell + 2]));
    cell + 2 + types..cell + 2 + length
}
