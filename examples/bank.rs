//! A bank on three nodes, under an application's own supervisor: transfers that are made exactly once, while the actors of
//! the leader are killed and a whole node goes down and comes back.
//!
//! `cargo run --example bank`
//!
//! What it shows: a transfer that is tried again after an unknown outcome is not made twice, because each goes under the
//! session of a [`Client`](ractor_raft::Client). So all money is still there, and the till lost one coin for each transfer
//! that was answered.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use imbl::OrdMap;
use prost::Message;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_raft::{
    node::{Consistency, Crash, Node, NodeEvent},
    raft::{LogIndex, NodeId, Role},
    state_machine::{RestoreError, Snapshot, StateMachine},
    transport::InProcess,
};
use tokio::sync::mpsc;

/// Moves money between accounts. A prost message, since the log outlives the program's version.
#[derive(Clone, PartialEq, Message)]
struct Transfer {
    #[prost(string, tag = "1")]
    from: String,
    #[prost(string, tag = "2")]
    to: String,
    #[prost(int64, tag = "3")]
    amount: i64,
}

/// What is in the account that was paid into.
#[derive(Clone, PartialEq, Message)]
struct Balance {
    #[prost(int64, tag = "1")]
    amount: i64,
}

/// A persistent map: a copy is one pointer, so a snapshot does not hold up the transfers.
#[derive(Clone, Default)]
struct Bank(OrdMap<String, i64>);

impl StateMachine for Bank {
    type Command = Transfer;
    type Output = Balance;

    fn apply(&mut self, _at: LogIndex, Transfer { from, to, amount }: Transfer) -> Balance {
        *self.0.entry(from).or_default() -= amount;
        let balance = self.0.entry(to).or_default();
        *balance += amount;
        Balance { amount: *balance }
    }

    fn snapshot(&self) -> impl Snapshot {
        BankSnapshot(self.0.clone())
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut buffer = Vec::new();
        bytes.read_to_end(&mut buffer)?;
        self.0 = Accounts::decode(&buffer[..])?.balances.into_iter().collect();
        Ok(())
    }
}

struct BankSnapshot(OrdMap<String, i64>);

impl Snapshot for BankSnapshot {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let accounts = Accounts { balances: self.0.into_iter().collect() };
        to.write_all(&accounts.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Accounts {
    #[prost(btree_map = "string, int64", tag = "1")]
    balances: BTreeMap<String, i64>,
}

/// The application's own actor. The nodes are its children, and tell it what happens.
struct Application;

enum ApplicationMessage {
    Raft(NodeId, NodeEvent),
}

#[cfg(feature = "cluster")]
impl ractor::Message for ApplicationMessage {}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = ApplicationMessage;
    type State = mpsc::UnboundedSender<(NodeId, NodeEvent)>;
    type Arguments = mpsc::UnboundedSender<(NodeId, NodeEvent)>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        seen: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(seen)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        ApplicationMessage::Raft(node, event): Self::Msg,
        seen: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(event, NodeEvent::RoleChanged { role: Role::Leader, .. } | NodeEvent::ActorRestarted { .. }) {
            println!("the application hears from node {node}: {event:?}");
        }
        // Nobody listens any more once main has ended.
        let _ = seen.send((node, event));
        Ok(())
    }

    /// A node heals its own actors. What arrives here is its end, and the application decides what that means.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        println!("the application supervises: {event}");
        Ok(())
    }
}

const CLERKS: usize = 8;
const TRANSFERS: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::time::timeout(Duration::from_secs(60), run()).await?
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let data = tempfile::tempdir()?;
    let network = InProcess::new();
    let (seen, mut events) = mpsc::unbounded_channel();
    let (application, application_ended) = Actor::spawn(Some("application".to_owned()), Application, seen).await?;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(id, data.path(), &network, &application).await?);
    }

    let client = nodes[0].client(); // a session of its own; its clones share it
    client.propose(Transfer { from: "mint".to_owned(), to: "till".to_owned(), amount: 1000 }).await?;
    let clerks: Vec<_> = (0..CLERKS)
        .map(|clerk| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..TRANSFERS {
                    let to = format!("customer {clerk}");
                    // However many leaders that takes. The answer says what this transfer made of the account.
                    client.propose(Transfer { from: "till".to_owned(), to, amount: 1 }).await?;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok::<_, ractor_raft::ProposeError>(())
            })
        })
        .collect();

    // In the middle of it the leader's core falls: the node builds its actors anew from disk, and nobody knows what became of
    // the transfers under way. Then a whole node goes down, and comes back.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let leader = nodes.iter().find(|node| node.status().role == Role::Leader);
        if leader.is_some_and(|leader| leader.crash("consensus", Crash::Kill)) {
            wait_for(&mut events, |event| matches!(event, NodeEvent::ActorRestarted { .. })).await;
        }
    }
    nodes.remove(2).shutdown().await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    nodes.push(start(3, data.path(), &network, &application).await?);

    for clerk in clerks {
        clerk.await??;
    }
    for node in &nodes {
        let accounts = node.read(Consistency::Linearizable, |bank| bank.0.clone()).await?;
        assert_eq!(accounts.values().sum::<i64>(), 0, "what the mint gave out is all there is");
        assert_eq!(accounts["till"], 1000 - (CLERKS * TRANSFERS) as i64, "no transfer twice, and none lost");
        assert!((0..CLERKS).all(|clerk| accounts[&format!("customer {clerk}")] == TRANSFERS as i64));
    }
    let restarts: u64 = nodes.iter().map(|node| node.status().restarts).sum();
    println!("{} transfers, {restarts} restarts of actors, each transfer made once", CLERKS * TRANSFERS);

    for node in nodes {
        node.shutdown().await?;
        wait_for(&mut events, |event| matches!(event, NodeEvent::Stopped { cause: None })).await;
    }
    application.stop(None);
    application_ended.await?;
    Ok(())
}

/// Starts a node from what its directory holds. It becomes the application's child.
async fn start(
    id: NodeId,
    data: &Path,
    network: &InProcess,
    application: &ActorRef<ApplicationMessage>,
) -> Result<Node<Bank>, Box<dyn std::error::Error>> {
    let supervisor: ActorCell = application.get_cell();
    let node = Node::builder(id, Bank::default)
        .cluster([(1, "bank 1"), (2, "bank 2"), (3, "bank 3")])
        .data_dir(data.join(id.to_string()))
        .transport(network.clone())
        .spawn_linked(supervisor)
        .await?;
    node.subscribe(application, move |event| ApplicationMessage::Raft(id, event));
    Ok(node)
}

async fn wait_for(events: &mut mpsc::UnboundedReceiver<(NodeId, NodeEvent)>, wanted: impl Fn(&NodeEvent) -> bool) {
    while !wanted(&events.recv().await.expect("the application lives longer than this wait").1) {}
}
