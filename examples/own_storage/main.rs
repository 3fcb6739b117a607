//! A replicated state machine with its own storage: three nodes that keep term, vote, log and snapshots in a journal of ours
//! instead of SQLite. They are stopped, one of the journals is torn as by a power cut, and started again.
//!
//! `cargo run --example own_storage`: it takes a moment, ends by itself, and leaves nothing behind.
//!
//! What it shows: a `Storage` is three small traits, without actors (`journal.rs`; what stands in the file, and how, is in
//! `records.rs` and `frames.rs`). All that was acknowledged is there after the restart, a write that was torn is not taken for
//! one that was acknowledged, and damage among acknowledged writes is found: that node does not start on it.

mod frames;
mod journal;
mod records;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use journal::JournalStorage;
use prost::Message;
use ractor_raft::{
    Config, Consistency, Node, NodeError, StateMachine,
    node::Builder,
    raft::{LogIndex, NodeId},
    state_machine::{RestoreError, Snapshot},
    transport::InProcess,
};

type Error = Box<dyn std::error::Error>;

const MEMBERS: [(NodeId, &str); 3] = [(1, "one"), (2, "two"), (3, "three")];

/// So many votes are cast.
const VOTES: u64 = 300;

/// A vote for a name.
#[derive(Clone, PartialEq, Message)]
struct Vote {
    #[prost(string, tag = "1")]
    name: String,
}

/// How many a name has.
#[derive(Clone, PartialEq, Message)]
struct Count {
    #[prost(uint64, tag = "1")]
    votes: u64,
}

/// All votes.
#[derive(Clone, PartialEq, Message)]
struct Poll {
    #[prost(btree_map = "string, uint64", tag = "1")]
    votes: BTreeMap<String, u64>,
}

impl StateMachine for Poll {
    type Command = Vote;
    type Output = Count;

    fn apply(&mut self, _at: LogIndex, Vote { name }: Vote) -> Count {
        let votes = self.votes.entry(name).or_default();
        *votes += 1;
        Count { votes: *votes }
    }

    fn snapshot(&self) -> impl Snapshot {
        self.clone()
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut buffer = Vec::new();
        bytes.read_to_end(&mut buffer)?;
        *self = Poll::decode(&buffer[..])?;
        Ok(())
    }
}

impl Snapshot for Poll {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.encode_to_vec())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tokio::time::timeout(Duration::from_secs(60), run()).await?
}

async fn run() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let nodes = start(directory.path()).await?;
    let client = nodes[0].client(); // tries until somebody leads, and each vote counts once
    for number in 0..VOTES {
        let name = ["ada", "grace", "edsger"][number as usize % 3];
        client.propose(Vote { name: name.to_owned() }).await?;
    }
    let before = poll(&nodes).await?;
    assert_eq!(before.votes.values().sum::<u64>(), VOTES);
    println!("{VOTES} votes were cast: {:?}", before.votes);
    for (id, _) in MEMBERS {
        let snapshot = nodes[id as usize - 1].status().snapshot_index;
        let size = fs::metadata(journal(directory.path(), id))?.len();
        println!("node {id}: a journal of {size} bytes; snapshot up to entry {snapshot}");
        assert!(snapshot > 0, "one is taken after 50 entries");
    }
    stop(nodes).await?;

    // The beginning of a record, and no end: what a power cut leaves of a write that was not acknowledged.
    OpenOptions::new().append(true).open(journal(directory.path(), 1))?.write_all(&[7; 9])?;
    let nodes = start(directory.path()).await?;
    nodes[0].client().propose(Vote { name: "barbara".to_owned() }).await?;
    let after = poll(&nodes).await?;
    println!("after a restart, one vote later: {:?}", after.votes);
    assert_eq!(after.votes.values().sum::<u64>(), VOTES + 1);
    assert!(before.votes.iter().all(|(name, votes)| after.votes.get(name) == Some(votes)));
    stop(nodes).await?;

    // One bit among what was acknowledged.
    let path = journal(directory.path(), 2);
    let mut bytes = fs::read(&path)?;
    bytes[20] ^= 1;
    fs::write(&path, bytes)?;
    let refused = builder(&InProcess::new(), directory.path(), 2).spawn().await;
    let Err(error @ NodeError::Storage(_)) = refused else { panic!("node 2 started on a damaged journal") };
    println!("node 2, with one bit flipped: {error}");
    assert!(error.to_string().contains("damaged"));
    Ok(())
}

fn builder(network: &InProcess, directory: &Path, id: NodeId) -> Builder<Poll> {
    let mut config = Config::default();
    config.snapshot_threshold = 50;
    config.snapshot_trailing = 10;
    Node::builder(id, Poll::default)
        .cluster(MEMBERS)
        .storage(JournalStorage::new(directory.join(id.to_string())))
        .transport(network.clone())
        .config(config)
}

async fn start(directory: &Path) -> Result<Vec<Node<Poll>>, Error> {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for (id, _) in MEMBERS {
        nodes.push(builder(&network, directory, id).spawn().await?);
    }
    Ok(nodes)
}

async fn stop(nodes: Vec<Node<Poll>>) -> Result<(), NodeError> {
    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

/// What all nodes say, linearizably: they must not differ.
async fn poll(nodes: &[Node<Poll>]) -> Result<Poll, Error> {
    let mut polls = Vec::new();
    for node in nodes {
        polls.push(node.read(Consistency::Linearizable, Poll::clone).await?);
    }
    assert!(polls.windows(2).all(|two| two[0] == two[1]), "{polls:?}");
    Ok(polls.swap_remove(0))
}

fn journal(directory: &Path, id: NodeId) -> std::path::PathBuf {
    directory.join(id.to_string()).join("journal")
}
