//! What the application's supervisor is told when a node gives up: a poison entry, a spent budget, a failed disk.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

use super::*;

/// An application's supervisor that reports what it hears.
pub struct Application;

pub enum Heard {
    Event(NodeEvent),
    Failed(Option<NodeError>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = Heard;
    type State = mpsc::UnboundedSender<Heard>;
    type Arguments = mpsc::UnboundedSender<Heard>;

    async fn pre_start(&self, _: ActorRef<Heard>, heard: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _: ActorRef<Heard>,
        message: Heard,
        heard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(heard.send(message)?)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Heard>,
        event: SupervisionEvent,
        heard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            heard.send(Heard::Failed(error.downcast().ok().map(|error| *error)))?;
        }
        Ok(())
    }
}

pub async fn application() -> (ActorRef<Heard>, mpsc::UnboundedReceiver<Heard>) {
    let (sender, heard) = mpsc::unbounded_channel();
    (Actor::spawn(None, Application, sender).await.expect("it starts").0, heard)
}

pub async fn failure(heard: &mut mpsc::UnboundedReceiver<Heard>) -> NodeError {
    loop {
        if let Heard::Failed(error) = soon("the failure", heard.recv()).await.expect("the application lives") {
            return error.expect("the error is a NodeError");
        }
    }
}

// C03. Fails when: `check_poison` never fails: the budget then ends it under another name.
#[tokio::test(start_paused = true)]
async fn an_entry_that_panics_twice_stops_the_node_and_is_named() {
    let cluster = Cluster::new("poison", 1);
    let (application, mut heard) = application().await;
    let started = cluster.builder(1).spawn_linked(application.get_cell());
    let node = soon("the start", started).await.expect("it starts");
    add(&node, 1).await;
    acquainted(&node).await;
    let before = node.status().last_index;
    let answer = soon("the answer", node.propose(Add { amount: POISON })).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    let told = failure(&mut heard).await;
    assert!(matches!(&told, NodeError::PoisonEntry { index, .. } if *index == before + 1), "{told:?}");
    assert_eq!(soon("the end", node.stopped()).await, Err(told));
}

// C03. Fails when: the first panic is final.
#[tokio::test(start_paused = true)]
async fn an_entry_that_panics_once_is_applied_after_the_rebuild() {
    let cluster = Cluster::new("scare", 1);
    let node = cluster.start(1).await;
    add(&node, 1).await;
    let answer = soon("the answer", node.propose(Add { amount: SCARE })).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    assert_eq!(add(&node, 1).await, SCARE + 2);
    shut_down(vec![node]).await;
}

// C06. Fails when: `count_death` never fails.
#[tokio::test(start_paused = true)]
async fn past_the_budget_the_node_stops_and_its_supervisor_is_told() {
    for place in ["log store", "applier", "consensus", "consensus/election timer", "server"] {
        let mut cluster = Cluster::new("budget", 1);
        cluster.policy = RestartPolicy { budget: 2, window: Duration::from_secs(10) };
        let (application, mut heard) = application().await;
        let started = cluster.builder(1).spawn_linked(application.get_cell());
        let node = soon("the start", started).await.expect("it starts");
        node.subscribe(&application, Heard::Event);
        let first = soon("the first event", heard.recv()).await;
        assert!(matches!(first, Some(Heard::Event(NodeEvent::MembershipChanged(_)))));
        for deaths in 1..=3 {
            assert!(node.crash(place, Crash::Panic), "{place} lives");
            if deaths < 3 {
                until("the restart", || node.status().restarts == deaths).await;
            }
        }
        // ractor hands supervision events out first, so the failure may be heard before the events.
        let (mut restarts, mut failed, mut stopped) = (0, None, None);
        while failed.is_none() || stopped.is_none() {
            match soon("the end", heard.recv()).await.expect("the application lives") {
                Heard::Event(NodeEvent::ActorRestarted { path, .. }) => {
                    assert_eq!(path, place);
                    restarts += 1;
                }
                Heard::Event(NodeEvent::Stopped { cause }) => stopped = cause,
                Heard::Event(_) => {}
                Heard::Failed(error) => failed = error,
            }
        }
        assert_eq!(failed, stopped);
        let told = failed.expect("both were heard");
        assert_eq!(restarts, 2);
        let expected = matches!(&told, NodeError::BudgetSpent { actor, failures: 3, .. } if actor == place);
        assert!(expected, "{told:?}");
        assert_eq!(soon("the end", node.stopped()).await, Err(told));
    }
}

// D01. Fails when: the log store goes on after an error.
#[tokio::test(start_paused = true)]
async fn a_disk_error_stops_the_node_and_nothing_is_acknowledged() {
    let cluster = Cluster::new("disk", 1);
    let (application, mut heard) = application().await;
    let started = cluster.builder(1).spawn_linked(application.get_cell());
    let node = soon("the start", started).await.expect("it starts");
    add(&node, 1).await;
    cluster.disks[0].fail_writes(u32::MAX);
    let answer = soon("the answer", node.propose(Add { amount: 1 })).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    let told = failure(&mut heard).await;
    assert!(matches!(told, NodeError::Storage(_)), "{told:?}");
    assert_eq!(soon("the end", node.stopped()).await, Err(told));
}
