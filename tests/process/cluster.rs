//! Processes that are one cluster, three where nothing else is said, each with a directory of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ractor_raft::rpc::pb::StatusReply;
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    client,
    server::{PATIENCE, Server, free_address, raftkv},
    shim::Shim,
};

/// Between two looks at something that cannot be waited for.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Long enough that a busy machine elects nobody by accident, short enough for many elections in a test; where others take
/// most of the machine, `ELECTION_TIMEOUT_MS` asks for more.
fn election_timeout_ms() -> String {
    std::env::var("ELECTION_TIMEOUT_MS").unwrap_or_else(|_| "300-600".to_owned())
}

/// The servers 1, 2 and 3. They end when this is dropped, and their directory goes with them.
pub struct Cluster {
    pub servers: BTreeMap<u64, Server>,
    pub addresses: BTreeMap<u64, String>,
    /// Between them and their disks.
    shim: Option<Shim>,
    flags: Vec<String>,
    directory: TempDir,
}

impl Cluster {
    /// Three fresh servers with these flags besides the usual ones; returns when their ports are open.
    pub async fn start(flags: &[&str]) -> Cluster {
        Cluster::start_fresh(flags, false).await
    }

    /// The same without flags, but with disks that can be made to fail.
    pub async fn start_with_shim() -> Cluster {
        Cluster::start_fresh(&[], true).await
    }

    /// The same with flags.
    pub async fn start_with_shim_and(flags: &[&str]) -> Cluster {
        Cluster::start_fresh(flags, true).await
    }

    async fn start_fresh(flags: &[&str], with_shim: bool) -> Cluster {
        // A port that was free a moment ago may be taken now.
        for _ in 0..5 {
            let mut cluster = if with_shim { Cluster::new_with_shim(flags) } else { Cluster::new(flags) };
            (1..=3).for_each(|id| cluster.spawn(id, cluster.serve(id)));
            let mut all_ready = true;
            for server in cluster.servers.values() {
                all_ready &= server.is_ready().await || !server.stderr().contains("in use");
            }
            if all_ready {
                cluster.are_ready().await;
                return cluster;
            }
        }
        panic!("the ports are always taken");
    }

    /// None of the servers is running yet.
    pub fn new(flags: &[&str]) -> Cluster {
        Cluster {
            servers: BTreeMap::new(),
            addresses: (1..=3).map(|id| (id, free_address())).collect(),
            shim: None,
            flags: flags.iter().map(|flag| flag.to_string()).collect(),
            directory: TempDir::new().expect("there is room for temporary files"),
        }
    }

    /// One server, not running yet, with a disk that can be made to fail.
    pub fn alone(flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(flags);
        cluster.addresses.retain(|id, _| *id == 1);
        cluster.shim = Some(Shim::compile(cluster.directory()));
        cluster
    }

    /// Three servers, not running yet, with disks that can be made to fail.
    pub fn new_with_shim(flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(flags);
        cluster.shim = Some(Shim::compile(cluster.directory()));
        cluster
    }

    /// The disks that can be made to fail.
    pub fn disks(&self) -> &Shim {
        self.shim.as_ref().expect("it was started with a shim")
    }

    /// Where everything of this cluster is kept.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of one server.
    pub fn data(&self, id: u64) -> PathBuf {
        self.directory.path().join(id.to_string())
    }

    /// What `--cluster` is given.
    pub fn members(&self) -> String {
        self.addresses.iter().map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(",")
    }

    /// What `--endpoints` is given.
    pub fn endpoints(&self) -> String {
        self.addresses.values().cloned().collect::<Vec<_>>().join(",")
    }

    /// The command that starts a server.
    pub fn serve(&self, id: u64) -> Command {
        self.serve_with(id, &self.members())
    }

    /// The same with another `--cluster`.
    pub fn serve_with(&self, id: u64, members: &str) -> Command {
        self.serve_as(id, &["--cluster", members])
    }

    /// The command that starts a server that joins the others.
    pub fn serve_joining(&mut self, id: u64) -> Command {
        self.addresses.entry(id).or_insert_with(free_address);
        let others: Vec<_> = self.addresses.iter().filter(|(other, _)| **other != id).collect();
        let others = others.into_iter().map(|(_, address)| address.clone()).collect::<Vec<_>>().join(",");
        self.serve_as(id, &["--join", &others])
    }

    fn serve_as(&self, id: u64, membership: &[&str]) -> Command {
        let mut command = raftkv();
        command.args(["serve", "--id", &id.to_string(), "--listen", &self.addresses[&id]]);
        command.arg("--data").arg(self.data(id)).args(membership);
        if !self.flags.iter().any(|flag| flag == "--election-timeout-ms") {
            command.args(["--election-timeout-ms", &election_timeout_ms()]);
        }
        command.args(["--heartbeat-ms", "50"]).args(&self.flags);
        command.envs(self.shim.iter().flat_map(|shim| shim.environment(id)));
        command
    }

    /// Starts a server that is not running.
    pub fn spawn(&mut self, id: u64, command: Command) {
        self.servers.insert(id, Server::spawn(format!("node {id}"), command));
    }

    /// Starts a server that is not running, from what is in its directory; returns when its port is open.
    pub async fn restart(&mut self, id: u64) {
        self.spawn(id, self.serve(id));
        assert!(self.servers[&id].is_ready().await, "node {id} does not start");
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self, id: u64) {
        let mut server = self.servers.remove(&id).expect("it is running");
        server.kill().await;
    }

    /// SIGKILL to all of these at once; returns when they are gone.
    pub async fn kill_all(&mut self, ids: &[u64]) {
        for id in ids {
            self.servers.get_mut(id).expect("it is running").start_kill();
        }
        for id in ids {
            self.servers.remove(id).expect("it was just killed").ended().await;
        }
    }

    /// Waits until the ports of all that run are open.
    pub async fn are_ready(&self) {
        for (id, server) in &self.servers {
            assert!(server.is_ready().await, "node {id} does not start");
        }
    }

    /// Waits until one of those that run leads, another follows it (if there is one), and it has committed something.
    pub async fn leader(&self) -> StatusReply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "nobody leads");
            let mut statuses = Vec::new();
            for id in self.servers.keys() {
                statuses.extend(client::status(&self.addresses[id]).await.ok());
            }
            let newest = statuses.iter().map(|status| status.term).max();
            let leads = |status: &&StatusReply| status.role == "leader" && Some(status.term) == newest;
            if let Some(leader) = statuses.iter().find(leads)
                && statuses.iter().filter(|status| status.leader == leader.id).count() >= leader.voters.len().min(2)
                && leader.commit > 0
            {
                return leader.clone();
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until all of them have applied the same, and asserts that it made the same of them. That state: every key
    /// with its value and its revision.
    pub async fn agree(&self) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        let revision = client::put_somewhere(self.addresses.values(), "the last write", "of this test").await;
        for address in self.addresses.values() {
            client::has_applied(address, revision).await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut hashes = Vec::new();
            for address in self.addresses.values() {
                hashes.push(client::hash(address).await);
            }
            // A new leader's no-op may be applied in one place and not yet in another.
            if hashes.iter().all(|hash| hash.applied_index == hashes[0].applied_index) {
                assert!(hashes.iter().all(|hash| hash == &hashes[0]), "State Machine Safety: {hashes:?}");
                break;
            }
            assert!(Instant::now() < deadline, "they do not catch up: {hashes:?}");
            sleep(LOOK_AGAIN).await;
        }
        let mut states = Vec::new();
        for address in self.addresses.values() {
            states.push(client::everything(address).await);
        }
        let state = states.pop().expect("there are nodes");
        for (other, address) in states.iter().zip(self.addresses.values()) {
            assert!(*other == state, "{address} has another state");
        }
        state
    }
}
