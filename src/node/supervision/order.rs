//! Starts and stops the actors of a node, each in its order: log store, applier, consensus, server; and back.

use std::time::Duration;

use ractor::SpawnErr;
use rand::RngExt;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{APPLIER, CONSENSUS, LOG_STORE, Root, SERVER, StartFailure};
use crate::{
    error::NodeError,
    flow::{Address, Context, Placement},
    node::{
        NodeRef,
        applier::{Applier, ApplierArguments},
        child::{Child, await_namesake},
        consensus::{Consensus, ConsensusArguments},
        events::NodeEvent,
        log_store::{LogStore, LogStoreArguments},
        messages::{LogStoreMessage, NodeMessage},
        server::Server,
        shared::Standing,
    },
    raft::Recovered,
    storage::{Bootstrap, StorageError},
};

/// How long the store is waited for when this process itself has it.
const RELEASE: Duration = Duration::from_secs(1);

/// How long a snapshotter whose consensus fell is waited for, and an opening when the node is to stop: as long as any actor
/// that is to stop.
const GIVE_UP: Duration = Duration::from_secs(10);

/// It stands under consensus.
const SNAPSHOTTER: &str = "consensus/snapshotter";

impl Root {
    /// A tree of this process that was killed may hold the store for a moment longer; that is waited for.
    pub(super) async fn first_start(&mut self, context: &mut Context<NodeMessage>) -> Result<(), StartFailure> {
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

    pub(super) async fn start_keepers(&mut self, context: &mut Context<NodeMessage>) -> Result<(), StartFailure> {
        let shared = self.shared().clone();
        let (flow, me) = (shared.flow.clone(), context.cell());
        // One that was killed with its consensus may still be at a block of its own; nobody opens the disk before that.
        await_namesake(&flow, SNAPSHOTTER, GIVE_UP).await;
        self.check_disk().map_err(|error| StartFailure(LOG_STORE, error))?;
        let (log_store_address, recovered) = self.start_log_store(context).await?;

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

    /// It opens the disk, and a long log takes its time; but not for ever once the node is told to stop.
    async fn start_log_store(
        &mut self,
        context: &mut Context<NodeMessage>,
    ) -> Result<(Address<LogStoreMessage>, Recovered), StartFailure> {
        let (shared, storage) = (self.shared().clone(), self.blueprint.storage.clone());
        let placement = if storage.blocks() { Placement::OwnThread } else { Placement::Runtime };
        let (opened, mut opening) = oneshot::channel();
        let bootstrap = Bootstrap {
            identity: shared.identity.clone(),
            incarnation: self.random.random(),
            membership: self.blueprint.members.clone(),
        };
        let arguments =
            LogStoreArguments { shared: shared.clone(), storage, bootstrap, root: context.myself().clone(), opened };
        let starting = Child::spawn::<LogStore>(&shared.flow, LOG_STORE, placement, arguments, context.cell());
        tokio::pin!(starting);
        let too_late = async {
            shared.told_to_stop().await;
            sleep(GIVE_UP).await;
        };
        let spawned = tokio::select! {
            biased;
            spawned = &mut starting => spawned,
            () = too_late => {
                // From now on it lets go of whatever it opens. Where it can hear that, it ends at once.
                opening.close();
                let _ = timeout(RELEASE, starting).await;
                return Err(StartFailure(LOG_STORE, is_blocked(LOG_STORE, "it still opens the disk")));
            }
        };
        // What the opening said is worth more than that the actor did not start.
        let recovered = match opening.await {
            Ok(Ok(recovered)) => recovered,
            Ok(Err(error)) => return Err(StartFailure(LOG_STORE, error.into())),
            Err(_) => Default::default(),
        };
        let log_store = spawned.map_err(|error| not_started(LOG_STORE, error))?;
        let address = log_store.address.clone();
        self.log_store = Some(log_store);
        Ok((address, recovered))
    }

    pub(super) async fn start_server(&mut self, context: &mut Context<NodeMessage>) -> Result<(), NodeError> {
        let shared = self.shared().clone();
        let node = NodeRef::new(shared.clone());
        let spawned = Child::spawn::<Server>(&shared.flow, SERVER, Placement::Runtime, node, context.cell()).await;
        self.server = Some(spawned.map_err(|error| not_started(SERVER, error).1)?);
        Ok(())
    }

    /// Each is waited for. One whose thread is blocked (a disk that does not answer, an `apply` that does not return)
    /// cannot be ended, and nobody may take its place: that is an error, and final.
    pub(super) async fn stop_keepers(&mut self, context: &mut Context<NodeMessage>) -> Result<(), NodeError> {
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
        // But for the term: to whoever asks meanwhile, none has been forgotten.
        shared.standing.send_modify(|standing| {
            *standing = Standing { term: standing.term, ..Standing::starting(standing.membership.clone()) };
        });
        match blocked {
            None => Ok(()),
            Some(path) => Err(is_blocked(path, "the one before does not stop")),
        }
    }

    /// The server and the keepers at the same time: a call that can never be answered hears so when consensus drops it, and
    /// the server waits for that.
    pub(super) async fn stop_all(&mut self, verdict: Result<(), NodeError>, context: &mut Context<NodeMessage>) {
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
}

fn is_blocked(path: &str, what: &str) -> NodeError {
    NodeError::Start { what: path.to_owned(), cause: format!("{what}: its thread is blocked") }
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
