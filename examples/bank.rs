//! A typed state machine, a bank, under an application's own supervisor: deposits, a read, a crash that heals, and an
//! orderly end.
//!
//! `cargo run --example bank`

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    time::Duration,
};

use imbl::OrdMap;
use prost::Message;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_raft::{
    node::{Consistency, Crash, Node, NodeEvent},
    raft::{LogIndex, Role},
    state_machine::{RestoreError, Snapshot, StateMachine},
    transport::InProcess,
};
use tokio::sync::mpsc;

/// Moves money into an account. A prost message, since the log outlives the program's version.
#[derive(Clone, PartialEq, Message)]
struct Deposit {
    #[prost(string, tag = "1")]
    to: String,
    #[prost(int64, tag = "2")]
    amount: i64,
}

/// What is in the account now.
#[derive(Clone, PartialEq, Message)]
struct Balance {
    #[prost(int64, tag = "1")]
    amount: i64,
}

/// A persistent map: a copy is one pointer, so a snapshot does not hold up the deposits.
#[derive(Clone, Default)]
struct Bank(OrdMap<String, i64>);

impl StateMachine for Bank {
    type Command = Deposit;
    type Output = Balance;

    fn apply(&mut self, _at: LogIndex, Deposit { to, amount }: Deposit) -> Balance {
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

/// The application's own actor. The node is its child, and tells it what happens.
struct Application;

enum ApplicationMessage {
    Raft(NodeEvent),
}

#[cfg(feature = "cluster")]
impl ractor::Message for ApplicationMessage {}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = ApplicationMessage;
    type State = mpsc::UnboundedSender<NodeEvent>;
    type Arguments = mpsc::UnboundedSender<NodeEvent>;

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
        ApplicationMessage::Raft(event): Self::Msg,
        seen: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        println!("the application hears: {event:?}");
        // Nobody listens any more once main has ended.
        let _ = seen.send(event);
        Ok(())
    }

    /// The node heals its own actors. What arrives here is its end, and the application decides what that means.
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let data = tempfile::tempdir()?;
    let (seen, mut events) = mpsc::unbounded_channel();
    let (application, application_ended) = Actor::spawn(Some("application".to_owned()), Application, seen).await?;

    let node = Node::builder(1, Bank::default)
        .cluster([(1, "bank")])
        .data_dir(data.path())
        .transport(InProcess::new())
        .spawn_linked(application.get_cell())
        .await?;
    node.subscribe(&application, ApplicationMessage::Raft);
    wait_for(&mut events, |event| matches!(event, NodeEvent::RoleChanged { role: Role::Leader, .. })).await;

    for amount in [100, -30] {
        let balance = node.propose(Deposit { to: "ada".to_owned(), amount }).await?;
        println!("ada's account after {amount}: {}", balance.amount);
    }
    assert_eq!(ada(&node).await?, Some(70));

    // The actor that holds the state machine dies. The node rebuilds it from the log; the application only hears of it.
    assert!(node.crash("applier", Crash::Kill));
    wait_for(&mut events, |event| matches!(event, NodeEvent::ActorRestarted { .. })).await;
    assert_eq!(ada(&node).await?, Some(70));
    assert!(node.status().restarts > 0);
    println!("after {} restarts ada still has 70", node.status().restarts);

    node.shutdown().await?;
    wait_for(&mut events, |event| matches!(event, NodeEvent::Stopped { cause: None })).await;
    application.stop(None);
    application_ended.await?;
    Ok(())
}

/// Reads until the node can answer: it may be electing itself again.
async fn ada(node: &Node<Bank>) -> Result<Option<i64>, Box<dyn std::error::Error>> {
    loop {
        match node.read(Consistency::Linearizable, |bank| bank.0.get("ada").copied()).await {
            Ok(balance) => return Ok(balance),
            Err(error) => println!("not yet: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for(events: &mut mpsc::UnboundedReceiver<NodeEvent>, wanted: impl Fn(&NodeEvent) -> bool) {
    while !wanted(&events.recv().await.expect("the application lives longer than this wait")) {}
}
