//! The root of the tree: starts the others, and decides what becomes of the node when one of them dies.
//!
//! Parent: the application's supervisor. Restart: that is for the application to decide.
//! Hears: RoleChanged, MembershipChanged, CourierRestarted from consensus; Happened from consensus and the log store;
//! DiskFailed from the log store and the snapshotter, RestoreFailed from the latter; StartKeepers from itself; Subscribe and
//! Shutdown from the handles; the death of its children.
//! Says: events to the subscribers.
//!
//! 1. *Keepers fall together.* When the log store, the applier or consensus dies, the others are stopped in reverse order,
//!    each waited for, and all start anew: log store, applier, consensus, from disk, the ordinary way.
//! 2. *A courier dies alone.* Consensus starts its own again and says so; the server is started again from here.
//! 3. *A disk error is final.* The node stops.
//! 4. *A poison entry is final.* Where the state machine panics at the entry it panicked at before, the node stops.
//! 5. *The budget.* So many deaths within a window, counted for each place in the tree; one more, and the node stops.
//! 6. *A blocked thread is final.* A keeper that does not stop cannot be replaced; after a bounded wait the node stops.
//!
//! "Stops" means: the server, and with it the keepers in reverse order; then the root fails with the [`NodeError`], so that
//! the application's supervisor gets an `ActorFailed` whose error can be downcast to it.

mod order;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor::{ActorCell, ActorProcessingErr, RpcReplyPort};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    error::NodeError,
    flow::{self, Actor, Context, Origin},
    node::{
        RestartPolicy,
        applier::Factory,
        child::Child,
        events::{NodeEvent, Subscribers},
        messages::{ApplierMessage, ConsensusMessage, LogStoreMessage, NodeMessage, ServerMessage},
        ports::ChangePort,
        shared::Shared,
    },
    raft::{LogIndex, Membership, Role},
    storage::Storage,
};

/// How long those who wait are given for their answers when the node is shut down.
const DRAIN: Duration = Duration::from_secs(1);

/// The places of the root's children in the tree.
pub(crate) const LOG_STORE: &str = "log store";
pub(crate) const APPLIER: &str = "applier";
pub(crate) const CONSENSUS: &str = "consensus";
pub(crate) const SERVER: &str = "server";

/// What it takes to start the actors, again and again.
pub(crate) struct Blueprint {
    pub shared: Arc<Shared>,
    pub storage: Arc<dyn Storage>,
    pub factory: Factory,
    /// The first members, for a store that is created.
    pub members: Membership,
    pub policy: RestartPolicy,
    pub seed: u64,
}

pub(crate) struct Root {
    blueprint: Blueprint,
    random: SmallRng,
    log_store: Option<Child<LogStoreMessage>>,
    applier: Option<Child<ApplierMessage>>,
    consensus: Option<Child<ConsensusMessage>>,
    server: Option<Child<ServerMessage>>,
    /// When the actor at a place died lately.
    deaths: BTreeMap<String, VecDeque<Instant>>,
    /// The entry that is being applied; 0: none. Written by the applier.
    applying: Arc<AtomicU64>,
    /// The entry at which the state machine panicked last.
    panicked_at: Option<LogIndex>,
    subscribers: Subscribers,
}

/// Why the keepers did not start: which one, and its error.
struct StartFailure(&'static str, NodeError);

impl Actor for Root {
    type Message = NodeMessage;
    type Arguments = Blueprint;

    async fn start(blueprint: Blueprint, context: &mut Context<NodeMessage>) -> Result<Self, ActorProcessingErr> {
        let random = SmallRng::seed_from_u64(blueprint.seed);
        let mut root = Root {
            blueprint,
            random,
            log_store: None,
            applier: None,
            consensus: None,
            server: None,
            deaths: BTreeMap::new(),
            applying: Arc::default(),
            panicked_at: None,
            subscribers: Subscribers::default(),
        };
        let _ = root.shared().root.set(context.myself().clone());
        let started = match root.first_start(context).await {
            Ok(()) => root.start_server(context).await,
            Err(StartFailure(_, error)) => Err(error),
        };
        match started {
            Ok(()) => Ok(root),
            Err(error) => Err(root.give_up(error, context).await),
        }
    }

    async fn handle(
        &mut self,
        message: NodeMessage,
        context: &mut Context<NodeMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeMessage::Shutdown => {
                // Then those who are in get their answers, while the server still carries them out.
                let shared = self.shared().clone();
                let consensus = self.consensus.as_ref().map(|consensus| consensus.address.clone());
                // Between a fall and the next start nobody would answer.
                let patience = if consensus.is_some() { DRAIN } else { Duration::ZERO };
                if let Some(consensus) = consensus {
                    hand_over(&shared, &consensus, context.origin()).await;
                }
                shared.applied_waiters.end();
                let _ = tokio::time::timeout(patience, shared.admission.close()).await;
                context.stop();
            }
            NodeMessage::Subscribe(subscriber) => self.subscribers.add(subscriber),
            NodeMessage::RoleChanged { role, term, leader } => {
                self.subscribers.publish(NodeEvent::RoleChanged { role, term, leader });
            }
            NodeMessage::MembershipChanged(membership) => {
                self.subscribers.publish(NodeEvent::MembershipChanged(membership));
            }
            NodeMessage::CourierRestarted { path, cause } => {
                if let Err(error) = self.count_death(&path, &cause) {
                    return Err(self.fell(error, context).await);
                }
                self.restarted(path, cause);
            }
            NodeMessage::StartKeepers { deaths } => {
                if let Err(error) = self.start_again(deaths, context).await {
                    return Err(self.fell(error, context).await);
                }
            }
            NodeMessage::RestoreFailed(error) => return Err(self.fell(error, context).await),
            NodeMessage::Happened(event) => self.subscribers.publish(event),
            NodeMessage::DiskFailed(error) => return Err(self.fell(error.into(), context).await),
            NodeMessage::Crash => panic!("the root was told to crash"),
        }
        Ok(())
    }

    async fn child_stopped(
        &mut self,
        child: ActorCell,
        cause: String,
        context: &mut Context<NodeMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let id = child.get_id();
        let healed = if self.server.as_ref().is_some_and(|server| server.is(id)) {
            self.server_died(cause, context).await
        } else if self.log_store.as_ref().is_some_and(|keeper| keeper.is(id)) {
            self.keeper_died(LOG_STORE, cause, context).await
        } else if self.applier.as_ref().is_some_and(|keeper| keeper.is(id)) {
            self.keeper_died(APPLIER, cause, context).await
        } else if self.consensus.as_ref().is_some_and(|keeper| keeper.is(id)) {
            self.keeper_died(CONSENSUS, cause, context).await
        } else {
            Ok(())
        };
        match healed {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fell(error, context).await),
        }
    }

    async fn stop(&mut self, context: &mut Context<NodeMessage>) {
        self.stop_all(Ok(()), context).await;
    }
}

/// Restarts.
impl Root {
    async fn keeper_died(
        &mut self,
        path: &'static str,
        cause: String,
        context: &mut Context<NodeMessage>,
    ) -> Result<(), NodeError> {
        tracing::warn!(path, %cause, "a keeper died; the keepers start anew");
        self.shared().flow.keep_incident(format!("keeper {path} fell: {cause}"));
        self.check_disk()?;
        self.check_poison(path, &cause)?;
        self.fall(Vec::new(), path, cause, context).await
    }

    /// The keepers stop. They start anew with the next message, and not at once: who was killed together with the one that is
    /// heard of now hands over what it held (the store, the queue of calls) with the news of its own death, and news comes
    /// before messages.
    async fn fall(
        &mut self,
        mut deaths: Vec<(&'static str, String)>,
        path: &'static str,
        cause: String,
        context: &mut Context<NodeMessage>,
    ) -> Result<(), NodeError> {
        self.count_death(path, &cause)?;
        deaths.push((path, cause));
        self.stop_keepers(context).await?;
        // What was being written may have failed just now.
        self.check_disk()?;
        let _ = context.send(context.myself(), NodeMessage::StartKeepers { deaths });
        Ok(())
    }

    async fn start_again(
        &mut self,
        deaths: Vec<(&'static str, String)>,
        context: &mut Context<NodeMessage>,
    ) -> Result<(), NodeError> {
        match self.start_keepers(context).await {
            Ok(()) => {
                deaths.into_iter().for_each(|(path, cause)| self.restarted(path.to_owned(), cause));
                Ok(())
            }
            Err(StartFailure(_, error @ NodeError::Storage(_))) => Err(error),
            Err(StartFailure(_, error)) if *self.shared().stopping.borrow() => Err(error),
            Err(StartFailure(next, error)) => self.fall(deaths, next, error.to_string(), context).await,
        }
    }

    /// Where it does not start it has died once more.
    async fn server_died(&mut self, cause: String, context: &mut Context<NodeMessage>) -> Result<(), NodeError> {
        tracing::warn!(%cause, "the server died and is started again");
        if let Some(mut server) = self.server.take() {
            server.gone().await;
        }
        let mut causes = vec![cause];
        loop {
            self.count_death(SERVER, causes.last().expect("there is one from the beginning"))?;
            match self.start_server(context).await {
                Ok(()) => break,
                Err(error) => causes.push(error.to_string()),
            }
            // A port that stays taken makes each try so long that the window would forget the first.
            if causes.len() > self.blueprint.policy.budget {
                return Err(self.budget_spent(SERVER, causes.len(), &causes[causes.len() - 1]));
            }
        }
        causes.into_iter().for_each(|cause| self.restarted(SERVER.to_owned(), cause));
        Ok(())
    }

    /// A death may be heard of before the disk error that came before it, which is final all the same.
    fn check_disk(&self) -> Result<(), NodeError> {
        self.shared().disk_failure.get().map_or(Ok(()), |error| Err(error.clone().into()))
    }

    /// A panic at the same entry as the last time will happen for ever; to skip the entry would let replicas diverge.
    fn check_poison(&mut self, path: &str, cause: &str) -> Result<(), NodeError> {
        let index = self.applying.load(Acquire);
        if path != APPLIER || index == 0 {
            return Ok(());
        }
        if self.panicked_at.replace(index) == Some(index) {
            return Err(NodeError::PoisonEntry { index, cause: cause.to_owned() });
        }
        Ok(())
    }

    fn count_death(&mut self, path: &str, cause: &str) -> Result<(), NodeError> {
        let RestartPolicy { budget, window } = self.blueprint.policy;
        let deaths = self.deaths.entry(path.to_owned()).or_default();
        deaths.push_back(Instant::now());
        while deaths.front().is_some_and(|death| death.elapsed() > window) {
            deaths.pop_front();
        }
        if deaths.len() <= budget {
            return Ok(());
        }
        let failures = deaths.len();
        Err(self.budget_spent(path, failures, cause))
    }

    fn budget_spent(&self, path: &str, failures: usize, cause: &str) -> NodeError {
        let RestartPolicy { budget, window } = self.blueprint.policy;
        NodeError::BudgetSpent { actor: path.to_owned(), failures, budget, window, cause: cause.to_owned() }
    }

    fn restarted(&mut self, path: String, cause: String) {
        self.shared().restarts.fetch_add(1, Relaxed);
        self.subscribers.publish(NodeEvent::ActorRestarted { path, cause });
    }

    /// Stops everything because of `error`, with the messages that led to it kept.
    async fn fell(&mut self, error: NodeError, context: &mut Context<NodeMessage>) -> ActorProcessingErr {
        self.shared().flow.keep_incident(format!("node {} gave up: {error}", self.shared().id()));
        self.give_up(error, context).await
    }

    /// Stops everything because of `error`, which the application's supervisor is then told.
    async fn give_up(&mut self, error: NodeError, context: &mut Context<NodeMessage>) -> ActorProcessingErr {
        tracing::error!(%error, "the node stops");
        self.stop_all(Err(error.clone()), context).await;
        Box::new(error)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.blueprint.shared
    }
}

/// Also where the root is killed or panics, which leaves no other verdict: whoever waits is answered.
impl Drop for Root {
    fn drop(&mut self) {
        let shared = self.shared();
        shared.consensus.set(None);
        shared.applier.set(None);
        shared.log_store.set(None);
        let _ = shared.verdict.set(Err(shared.fallen()));
        shared.applied_waiters.end();
        shared.intake.end();
    }
}

/// A leader that is told to stop lets another one lead first, so that nobody has to wait for an election.
async fn hand_over(shared: &Shared, consensus: &flow::Address<ConsensusMessage>, origin: Origin) {
    let leads_others = {
        let standing = shared.standing.borrow();
        let voters = &standing.membership.voters;
        standing.role == Role::Leader && voters.keys().any(|voter| *voter != shared.id())
    };
    if !leads_others {
        return;
    }
    let (answer, answered) = oneshot::channel();
    let port = ChangePort::from(RpcReplyPort::from(answer));
    let _ = consensus.send(origin, ConsensusMessage::TransferLeadership { to: None, port });
    match tokio::time::timeout(shared.config.election_timeout_max, answered).await {
        Ok(Ok(Ok(_))) => {}
        _ => tracing::info!(node = shared.id(), "nobody took the leadership over in time; the others will elect"),
    }
}
