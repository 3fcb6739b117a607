//! The application above each node of a cluster: supervises it, subscribes to it, and writes down what it is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Notify;

use crate::{
    error::NodeError,
    node::{NodeEvent, NodeRef},
    raft::NodeId,
};

/// What a node's supervisor was told of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It failed, with this error.
    Failed(NodeError),
    /// It failed with something else: a panic of the root.
    Panicked(String),
    /// It stopped, or was killed.
    Stopped,
}

/// All that the applications of one cluster were told, in order. Clones are the same diary.
#[derive(Clone)]
pub(super) struct Diary(Arc<Pages>);

struct Pages {
    events: Mutex<Vec<(NodeId, NodeEvent)>>,
    ends: Mutex<Vec<(NodeId, Told)>>,
    written: Notify,
}

impl Diary {
    pub(super) fn new() -> Self {
        Diary(Arc::new(Pages { events: Mutex::default(), ends: Mutex::default(), written: Notify::new() }))
    }

    pub(super) fn events(&self) -> Vec<(NodeId, NodeEvent)> {
        lock(&self.0.events).clone()
    }

    pub(super) fn ends(&self) -> Vec<(NodeId, Told)> {
        lock(&self.0.ends).clone()
    }

    /// Told of each line. Wakes in the order of asking, as a `watch` does not.
    pub(super) fn written(&self) -> &Notify {
        &self.0.written
    }
}

/// Nothing can be half done in there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The supervisor of one life of one node.
pub(super) struct Application {
    node: NodeId,
    diary: Diary,
}

/// What it hears.
pub(super) struct Heard(NodeEvent);

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

impl Application {
    pub(super) async fn start(node: NodeId, diary: Diary) -> ActorRef<Heard> {
        let application = Application { node, diary };
        let (actor, _) = Actor::spawn(None, application, ()).await.expect("it has no name and its start cannot fail");
        actor
    }

    pub(super) fn subscribe(application: &ActorRef<Heard>, node: &NodeRef) {
        node.subscribe(application, Heard);
    }
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = Heard;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Heard>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Heard>, Heard(event): Heard, (): &mut ()) -> Result<(), ActorProcessingErr> {
        lock(&self.diary.0.events).push((self.node, event));
        self.diary.written().notify_waiters();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Heard>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let told = match event {
            SupervisionEvent::ActorFailed(_, error) => match error.downcast::<NodeError>() {
                Ok(error) => Told::Failed(*error),
                Err(error) => Told::Panicked(error.to_string()),
            },
            SupervisionEvent::ActorTerminated(..) => Told::Stopped,
            _ => return Ok(()),
        };
        lock(&self.diary.0.ends).push((self.node, told));
        self.diary.written().notify_waiters();
        Ok(())
    }
}

/// Ends a node as a power cut does: every actor of it is killed, at once, and gone when this returns. To be awaited on the
/// runtime that the node lives on, for simulations that drop such a runtime: an actor whose task is dropped with its runtime
/// keeps its name, and nobody can take its place.
pub async fn kill_tree(node: &NodeRef) {
    let prefix = format!("{}/", node.flow().name());
    loop {
        let mut living = actors_below(&prefix);
        if living.is_empty() {
            return;
        }
        // The root first, lest it start anew what falls. All get their signals before any of them runs again.
        living.sort_by_key(|(name, _)| (!name.ends_with("/node"), name.clone()));
        living.iter().for_each(|(_, actor)| actor.kill());
        for (_, actor) in living {
            let _ = actor.wait(None).await;
        }
    }
}

fn actors_below(prefix: &str) -> Vec<(String, ActorCell)> {
    let names = ractor::registry::registered().into_iter().filter(|name| name.starts_with(prefix));
    names.filter_map(|name| ractor::registry::where_is(name.clone()).map(|actor| (name, actor))).collect()
}
