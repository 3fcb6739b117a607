//! The root of the tree: starts the others, and decides what becomes of the node when one of them dies.
//!
//! Parent: the application's supervisor. Restart: that is for the application to decide.
//! Hears: RoleChanged, MembershipChanged, CourierRestarted, SnapshotTaken, SnapshotInstalled from consensus; DiskFailed
//! from the log store and the snapshotter, RestoreFailed from the latter; Subscribe and Shutdown from the handles; the
//! death of its children.
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

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor::{ActorCell, ActorProcessingErr, RpcReplyPort, SpawnErr};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    error::NodeError,
    flow::{self, Actor, Context, Origin, Placement},
    node::{
        NodeRef, RestartPolicy,
        applier::{Applier, ApplierArguments, Factory},
        child::{Child, await_namesake},
        consensus::{Consensus, ConsensusArguments},
        events::{NodeEvent, Subscribers},
        log_store::{LogStore, LogStoreArguments},
        messages::{ApplierMessage, ConsensusMessage, LogStoreMessage, NodeMessage, ServerMessage},
        ports::ChangePort,
        server::Server,
        shared::{Shared, Standing},
    },
    raft::{LogIndex, Membership, Role},
    storage::{Bootstrap, Storage, StorageError},
};

/// How long those who wait are given for their answers when the node is shut down.
const DRAIN: Duration = Duration::from_secs(1);

/// How long the store is waited for when this process itself has it.
const RELEASE: Duration = Duration::from_secs(1);

/// How long a snapshotter whose consensus fell is waited for: as long as any actor that is to stop.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The places of the root's children in the tree.
pub(crate) const LOG_STORE: &str = "log store";
pub(crate) const APPLIER: &str = "applier";
pub(crate) const CONSENSUS: &str = "consensus";
pub(crate) const SERVER: &str = "server";
/// And of one that stands under consensus.
const SNAPSHOTTER: &str = "consensus/snapshotter";

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
                if let Some(consensus) = consensus {
                    hand_over(&shared, &consensus, context.origin()).await;
                }
                shared.applied_waiters.end();
                let _ = tokio::time::timeout(DRAIN, shared.admission.close()).await;
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
                    return Err(self.give_up(error, context).await);
                }
                self.restarted(path, cause);
            }
            NodeMessage::StartKeepers { deaths } => {
                if let Err(error) = self.start_again(deaths, context).await {
                    return Err(self.give_up(error, context).await);
                }
            }
            NodeMessage::RestoreFailed(error) => return Err(self.give_up(error, context).await),
            NodeMessage::Happened(event) => self.subscribers.publish(event),
            NodeMessage::DiskFailed(error) => return Err(self.give_up(error.into(), context).await),
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
            Err(error) => Err(self.give_up(error, context).await),
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
            let RestartPolicy { budget, window } = self.blueprint.policy;
            if causes.len() > budget {
                let (failures, cause) = (causes.len(), causes.pop().expect("there are several"));
                return Err(NodeError::BudgetSpent { actor: SERVER.to_owned(), failures, budget, window, cause });
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
        let (actor, failures, cause) = (path.to_owned(), deaths.len(), cause.to_owned());
        Err(NodeError::BudgetSpent { actor, failures, budget, window, cause })
    }

    fn restarted(&mut self, path: String, cause: String) {
        self.shared().restarts.fetch_add(1, Relaxed);
        self.subscribers.publish(NodeEvent::ActorRestarted { path, cause });
    }
}

/// Starting and stopping, each in its order.
impl Root {
    /// A tree of this process that was killed may hold the store for a moment longer; that is waited for.
    async fn first_start(&mut self, context: &mut Context<NodeMessage>) -> Result<(), StartFailure> {
        let last_try = Instant::now() + RELEASE;
        loop {
            let started = self.start_keepers(context).await;
            let Err(StartFailure(_, NodeError::Storage(StorageError::InUse { owner, .. }))) = &started else {
                return started;
            };
            if *owner != Some(std::process::id()) || Instant::now() >= last_try {
                return started;
            }
            sleep(RELEASE / 100).await;
        }
    }

    async fn start_keepers(&mut self, context: &mut Context<NodeMessage>) -> Result<(), StartFailure> {
        let shared = self.shared().clone();
        let (flow, me) = (shared.flow.clone(), context.cell());
        // One that was killed with its consensus may still be at a block of its own; nobody opens the disk before that.
        await_namesake(&flow, SNAPSHOTTER, GIVE_UP).await;
        self.check_disk().map_err(|error| StartFailure(LOG_STORE, error))?;
        let storage = self.blueprint.storage.clone();
        let placement = if storage.blocks() { Placement::OwnThread } else { Placement::Runtime };
        let (opened, opening) = oneshot::channel();
        let bootstrap = Bootstrap {
            identity: shared.identity.clone(),
            incarnation: self.random.random(),
            membership: self.blueprint.members.clone(),
        };
        let arguments =
            LogStoreArguments { shared: shared.clone(), storage, bootstrap, root: context.myself().clone(), opened };
        let spawned = Child::spawn::<LogStore>(&flow, LOG_STORE, placement, arguments, me.clone()).await;
        // What the opening said is worth more than that the actor did not start.
        let recovered = match opening.await {
            Ok(Ok(recovered)) => recovered,
            Ok(Err(error)) => return Err(StartFailure(LOG_STORE, error.into())),
            Err(_) => Default::default(),
        };
        let log_store = spawned.map_err(|error| not_started(LOG_STORE, error))?;
        let log_store_address = log_store.address.clone();
        self.log_store = Some(log_store);

        shared.set_snapshot(recovered.snapshot.clone());
        // The server may be asked for a status before consensus has said anything: it never shows a term of long ago.
        let term = recovered.hard_state.current_term;
        shared.standing.send_modify(|standing| standing.term = standing.term.max(term));
        let (factory, applying) = (self.blueprint.factory.clone(), self.applying.clone());
        let from_snapshot = recovered.snapshot.is_some();
        let arguments = ApplierArguments { shared: shared.clone(), factory, from_snapshot, applying };
        let spawned = Child::spawn::<Applier>(&flow, APPLIER, Placement::Runtime, arguments, me.clone()).await;
        let applier = spawned.map_err(|error| not_started(APPLIER, error))?;
        let applier_address = applier.address.clone();
        self.applier = Some(applier);

        let arguments = ConsensusArguments {
            shared: shared.clone(),
            recovered,
            seed: self.random.random(),
            root: context.myself().clone(),
            log_store: log_store_address.clone(),
            applier: applier_address.clone(),
            storage: self.blueprint.storage.clone(),
            factory: self.blueprint.factory.clone(),
        };
        let spawned = Child::spawn::<Consensus>(&flow, CONSENSUS, Placement::Runtime, arguments, me).await;
        let consensus = spawned.map_err(|error| not_started(CONSENSUS, error))?;
        let consensus_address = consensus.address.clone();
        self.consensus = Some(consensus);

        shared.log_store.set(Some(log_store_address));
        shared.applier.set(Some(applier_address));
        shared.consensus.set(Some(consensus_address));
        // Calls may have come while nobody could be told.
        shared.announce(context.origin());
        Ok(())
    }

    async fn start_server(&mut self, context: &mut Context<NodeMessage>) -> Result<(), NodeError> {
        let shared = self.shared().clone();
        let node = NodeRef::new(shared.clone());
        let spawned = Child::spawn::<Server>(&shared.flow, SERVER, Placement::Runtime, node, context.cell()).await;
        self.server = Some(spawned.map_err(|error| not_started(SERVER, error).1)?);
        Ok(())
    }

    /// Each is waited for. One whose thread is blocked (a disk that does not answer, an `apply` that does not return)
    /// cannot be ended, and nobody may take its place: that is an error, and final.
    async fn stop_keepers(&mut self, context: &mut Context<NodeMessage>) -> Result<(), NodeError> {
        let (me, shared) = (context.cell(), self.shared().clone());
        shared.consensus.set(None);
        shared.applier.set(None);
        shared.log_store.set(None);
        let mut blocked = None;
        if let Some(mut consensus) = self.consensus.take()
            && !consensus.stop(&me).await
        {
            blocked = Some(CONSENSUS);
        }
        if let Some(mut applier) = self.applier.take()
            && !applier.stop(&me).await
        {
            blocked = Some(APPLIER);
        }
        if let Some(mut log_store) = self.log_store.take()
            && !log_store.stop(&me).await
        {
            blocked = Some(LOG_STORE);
        }
        shared.progress.reset();
        shared.standing.send_modify(|standing| *standing = Standing::starting(standing.membership.clone()));
        match blocked {
            None => Ok(()),
            Some(path) => Err(NodeError::Start {
                what: path.to_owned(),
                cause: "the one before does not stop: its thread is blocked".to_owned(),
            }),
        }
    }

    /// The server and the keepers at the same time: a call that can never be answered hears so when consensus drops it, and
    /// the server waits for that.
    async fn stop_all(&mut self, verdict: Result<(), NodeError>, context: &mut Context<NodeMessage>) {
        self.shared().applied_waiters.end();
        let (server, me) = (self.server.take(), context.cell());
        let stop_server = async {
            if let Some(mut server) = server {
                server.stop(&me).await;
            }
        };
        let ((), stopped) = tokio::join!(stop_server, self.stop_keepers(context));
        let verdict = verdict.and(stopped);
        self.shared().intake.end();
        let cause = verdict.as_ref().err().cloned();
        let _ = self.shared().verdict.set(verdict);
        self.subscribers.publish(NodeEvent::Stopped { cause });
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

/// What an actor said when it did not start.
fn not_started(path: &'static str, error: SpawnErr) -> StartFailure {
    let error = match error {
        SpawnErr::StartupFailed(cause) => match cause.downcast::<NodeError>() {
            Ok(error) => *error,
            Err(cause) => NodeError::Start { what: path.to_owned(), cause: cause.to_string() },
        },
        other => NodeError::Start { what: path.to_owned(), cause: other.to_string() },
    };
    StartFailure(path, error)
}
