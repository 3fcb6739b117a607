//! What an application lets be broken from the page: the demo does, a server does not.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

/// One button.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What it is called in the path: `/demo/<name>`.
    pub name: &'static str,
    /// What stands on it.
    pub label: &'static str,
    /// What it does, in a sentence.
    pub hint: &'static str,
}

/// What is to be broken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which fault.
    #[serde(skip)]
    pub name: String,
    /// Which node. `None`: whichever leads.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Which actor of it. `None`: whichever is next.
    #[serde(default)]
    pub actor: Option<String>,
}

/// Breaks things, and says what came of it.
pub trait Faults: Send + Sync + 'static {
    /// The buttons.
    fn offered(&self) -> Vec<Fault>;

    /// Does one of them. Either answer is shown to whoever pressed.
    fn inject(&self, order: Order) -> BoxFuture<'static, Result<String, String>>;
}
