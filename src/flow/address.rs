//! Where an actor is reached.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
};

use ractor::{ActorRef, MessagingErr};
use tokio::time::Instant;

use super::{Envelope, Flow, Message, Origin, Sender, meter::Life};

/// Where one life of an actor is reached. Cloning is cheap.
pub struct Address<M: Message> {
    actor: ActorRef<Envelope<M>>,
    flow: Flow,
    life: Arc<Life>,
}

impl<M: Message> Address<M> {
    pub(super) fn new(actor: ActorRef<Envelope<M>>, flow: Flow, life: Arc<Life>) -> Self {
        Address { actor, flow, life }
    }

    /// Never waits.
    ///
    /// # Errors
    /// Gives the message back if the actor has stopped.
    pub fn send(&self, origin: Origin, message: M) -> Result<(), M> {
        let sent = self.flow.is_recording().then(Instant::now);
        match self.actor.send_message(Envelope { message, origin, sent, counted: true }) {
            Ok(()) => {
                self.life.count_sent();
                Ok(())
            }
            Err(MessagingErr::SendErr(envelope)) => Err(envelope.message),
            Err(error) => unreachable!("ractor gives back what a local actor of this type cannot take: {error}"),
        }
    }

    /// The ractor actor behind it, for supervision, `cast!` and `call!`.
    pub fn actor(&self) -> &ActorRef<Envelope<M>> {
        &self.actor
    }

    /// Whom one reaches here: which actor, and which life of it.
    pub fn identity(&self) -> Sender {
        self.life.sender
    }

    /// Messages that wait in the mailbox.
    pub fn depth(&self) -> u64 {
        self.life.depth()
    }
}

impl<M: Message> Clone for Address<M> {
    fn clone(&self) -> Self {
        Address { actor: self.actor.clone(), flow: self.flow.clone(), life: self.life.clone() }
    }
}

impl<M: Message> Debug for Address<M> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.actor.fmt(f)
    }
}
