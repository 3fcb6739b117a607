//! Keeps this node reachable for the others and for clients.
//!
//! Parent: node. Restart: alone (courier); the address is then bound again.
//! Hears: nothing. The transport passes each request straight to consensus, by [`NodeRef`].
//! Lost in a crash: the connections to this node; the others connect again.

use ractor::ActorProcessingErr;

use crate::{
    flow::{Actor, Context},
    node::{NodeRef, messages::ServerMessage},
    transport::Listening,
};

pub(crate) struct Server {
    /// Dropped with the actor: closes the port. `None` once it was asked to stop.
    listening: Option<Listening>,
}

impl Actor for Server {
    type Message = ServerMessage;
    type Arguments = NodeRef;

    async fn start(node: NodeRef, _: &mut Context<ServerMessage>) -> Result<Self, ActorProcessingErr> {
        let listening = node.shared().transport.listen(node.clone()).await?;
        node.shared().listening_on(&listening.address);
        Ok(Server { listening: Some(listening) })
    }

    async fn handle(
        &mut self,
        message: ServerMessage,
        _: &mut Context<ServerMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ServerMessage::Crash => panic!("the server was told to crash"),
        }
    }

    /// What follows may end the process: until then every answer must be on its way.
    async fn stop(&mut self, _: &mut Context<ServerMessage>) {
        if let Some(listening) = self.listening.take() {
            listening.close().await;
        }
    }
}
