//! The message flow of all nodes of a cluster, gathered in one place.
//!
//! Each node records the messages between its own actors, by its own clock; nothing has to be installed or turned on before.
//! [`find`] tells where the nodes are; then
//! - [`collect`] asks all of them at once for what they recorded, and lines their clocks up;
//! - [`follow`] goes on with what comes;
//! - [`actors`] and [`incidents`] ask for their supervision trees, and for what they kept when something fell.
//!
//! Whoever cannot be reached is named with the cause, and the others are there all the same. Nothing here waits for longer
//! than it was told to.

mod clock;
mod collect;
mod find;
mod follow;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, transport::Channel};

use super::{
    channel,
    convert::{self, KeptIncident, Malformed, Tree},
    pb,
};
use crate::{raft::Address, trace::Recording};

pub use self::{
    clock::{Alignment, CommonClock, Look},
    collect::{Collected, LIMIT, Wanted, collect},
    find::{Found, find},
    follow::{Told, follow},
};

type Client = pb::cluster_client::ClusterClient<Channel>;

/// A node that did not answer, or not as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Where it was asked.
    pub address: Address,
    /// Why it did not.
    pub cause: String,
}

/// The supervision trees of the nodes at these addresses, by node, and who could not be reached within `patience`.
pub async fn actors(addresses: &[Address], patience: Duration) -> (Vec<Tree>, Vec<Unreachable>) {
    let deadline = Instant::now() + patience;
    let (mut trees, unreachable) = ask_all(addresses, |address| async move {
        let mut client = client(&address)?;
        let reply = answered(deadline, client.actors(pb::ActorsRequest {})).await?;
        convert::tree_from_pb(reply.into_inner()).map_err(malformed)
    })
    .await;
    trees.sort_by_key(|(_, tree)| tree.node);
    (trees.into_iter().map(|(_, tree)| tree).collect(), unreachable)
}

/// What one node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIncidents {
    /// Which node.
    pub node: u64,
    /// Where it was asked, and can be asked for the messages.
    pub address: Address,
    /// The oldest first.
    pub incidents: Vec<KeptIncident>,
}

/// What the nodes at these addresses kept when something fell, by node, and who could not be reached within `patience`.
pub async fn incidents(addresses: &[Address], patience: Duration) -> (Vec<NodeIncidents>, Vec<Unreachable>) {
    let deadline = Instant::now() + patience;
    let (answers, unreachable) = ask_all(addresses, |address| async move {
        let mut client = client(&address)?;
        let reply = answered(deadline, client.incidents(pb::IncidentsRequest {})).await?;
        convert::incidents_from_pb(reply.into_inner()).map_err(malformed)
    })
    .await;
    let of_node = |(address, (node, incidents))| NodeIncidents { node, address, incidents };
    let mut all: Vec<_> = answers.into_iter().map(of_node).collect();
    all.sort_by_key(|node| node.node);
    (all, unreachable)
}

/// The messages that the node at `address` kept with an incident. They are of one node and perhaps of an earlier process of it,
/// so its epoch is that of the common clock.
///
/// # Errors
/// Why it could not be had, in words.
pub async fn incident(address: &str, id: u64, patience: Duration) -> Result<Recording, String> {
    let deadline = Instant::now() + patience;
    let mut client = client(address)?;
    let request = pb::FlowRequest { incident: id, ..Default::default() };
    let mut reader = collect::Reading::begin(&mut client, request, deadline).await?;
    reader.all(deadline).await?;
    Ok(reader.into_recording(Default::default()))
}

/// Asks all at once.
// An `AsyncFn` would read better, but nobody can say of one that its future is `Send`.
async fn ask_all<T, Answer>(
    addresses: &[Address],
    ask: impl Fn(Address) -> Answer,
) -> (Vec<(Address, T)>, Vec<Unreachable>)
where
    Answer: Future<Output = Result<T, String>>,
{
    let asked = join_all(addresses.iter().cloned().map(ask));
    let mut answers = Vec::new();
    let mut unreachable = Vec::new();
    for (address, answer) in addresses.iter().cloned().zip(asked.await) {
        match answer {
            Ok(answer) => answers.push((address, answer)),
            Err(cause) => unreachable.push(Unreachable { address, cause }),
        }
    }
    (answers, unreachable)
}

fn client(address: &str) -> Result<Client, String> {
    channel::lazy(address).map(Client::new).map_err(|error| error.to_string())
}

/// The answer, unless it comes too late, in words.
async fn answered<T>(deadline: Instant, call: impl Future<Output = Result<T, Status>>) -> Result<T, String> {
    match timeout_at(deadline, call).await {
        Ok(answer) => answer.map_err(|status| in_words(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// The cause of a broken connection is its innermost source, that of an answer its message.
fn in_words(status: &Status) -> String {
    let Some(mut cause) = std::error::Error::source(status) else {
        return match status.code() {
            tonic::Code::Unimplemented => "it is of a version that does not tell this".to_owned(),
            _ => status.message().to_owned(),
        };
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn malformed(malformed: Malformed) -> String {
    format!("its answer cannot be read: {malformed}")
}
