//! An actor as its parent holds it.

use std::time::Duration;

use ractor::{ActorCell, ActorId, SpawnErr};
use tokio::{task::JoinHandle, time::timeout};

use crate::flow::{self, Actor, Flow, Message, Origin, Placement, Sender};

/// How long an actor may take to stop before it is killed, and then before it is given up.
const GRACE: Duration = Duration::from_secs(10);

/// A running child: stopping it ends when its task is gone and what it held is free.
pub(crate) struct Child<M: Message> {
    pub path: String,
    pub address: flow::Address<M>,
    handle: JoinHandle<()>,
}

impl<M: Message> Child<M> {
    /// Starts an actor at `path` under `parent`. An actor there that was killed and is on its way out is waited for.
    pub(crate) async fn spawn<A: Actor<Message = M>>(
        flow: &Flow,
        path: impl Into<String>,
        placement: Placement,
        arguments: A::Arguments,
        parent: ActorCell,
    ) -> Result<Self, SpawnErr> {
        let path = path.into();
        await_namesake(flow, &path, GRACE).await;
        let (address, handle) = flow::spawn::<A>(flow, &path, placement, arguments, Some(parent)).await?;
        Ok(Child { path, address, handle })
    }

    pub(crate) fn is(&self, actor: ActorId) -> bool {
        self.address.actor().get_id() == actor
    }

    /// Who stands as the sender in what it says in this life.
    pub(crate) fn sender(&self) -> Sender {
        self.address.identity()
    }

    /// A message to it. One to a dead child is dropped: its parent is about to hear of it.
    pub(crate) fn send(&self, origin: Origin, message: M) {
        let _ = self.address.send(origin, message);
    }

    /// Stops it and waits until its task is gone. Returns whether it is: one whose thread is blocked stays. No event tells
    /// of it. To be called once.
    pub(crate) async fn stop(&mut self, parent: &ActorCell) -> bool {
        let cell = self.address.actor().get_cell();
        cell.unlink(parent.clone());
        cell.stop(None);
        if timeout(GRACE, &mut self.handle).await.is_ok() {
            return true;
        }
        cell.kill();
        timeout(GRACE, &mut self.handle).await.is_ok()
    }

    /// Waits until the task of a child that died is gone, and its name free: its parent hears of its death before that. To be
    /// called once.
    pub(crate) async fn gone(&mut self) {
        let _ = timeout(GRACE, &mut self.handle).await;
    }
}

/// Waits for an actor at this path that may be on its way out, because it was killed together with its parent. One that
/// has a parent stays, and is not waited for.
pub(crate) async fn await_namesake(flow: &Flow, path: &str, patience: Duration) {
    if let Some(namesake) = ractor::registry::where_is(format!("{}/{path}", flow.name()))
        && namesake.try_get_supervisor().is_none()
    {
        let _ = namesake.wait(Some(patience)).await;
    }
}
