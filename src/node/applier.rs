//! Feeds committed entries to the user's state machine, each session's command once, and answers who waits for them.
//!
//! Parent: node. Restart: with the other keepers; the state machine is then built anew, and fed the log again.
//! Hears: ReportTo, Apply, TakeSnapshot; Query from the handles; Install from the snapshotter.
//! Says: Applied, Restored to consensus; Write, Discard to the snapshotter; results to the callers, directly.
//! Lost in a crash: the state (the log has it), the ports of the batch (their callers hear `Unknown`).
//!
//! Where the disk has a snapshot, there is no state machine before that one is restored, and nobody's question is answered.
//! Messages come in order: when a snapshot is to be taken, what has been applied is what is to be in it.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Release},
    },
};

use bytes::Bytes;
use ractor::ActorProcessingErr;

use crate::{
    error::ProposeError,
    flow::{self, Actor, Context},
    node::{
        Applied,
        messages::{ApplierMessage, ConsensusMessage, SnapshotterMessage},
        ports::ProposePort,
        sessions::{MAX_REPLIES, MAX_REPLY_BYTES, Sessions, Verdict},
        shared::Shared,
        snapshot_bytes::{Rebuilt, Taken},
    },
    raft::{Entry, LogIndex, LogPosition, Membership, Payload, SessionCommand},
    state_machine::Machine,
};

/// Others on the same runtime get their turn after so many entries.
const TURN: usize = 256;

/// Builds the state machine anew.
pub(crate) type Factory = Arc<dyn Fn() -> Box<dyn Machine> + Send + Sync>;

/// A question to the state machine, without its types.
pub trait Query: Send {
    /// It must be put to a state machine that has applied this.
    fn at_least(&self) -> LogIndex;
    /// Puts the question to the state machine as of `at`. A panic of the question is its asker's, not ours.
    fn run(self: Box<Self>, machine: &dyn Any, at: LogIndex);
    /// Whether nobody waits for the answer any more.
    fn abandoned(&self) -> bool;
}

pub(crate) struct ApplierArguments {
    pub shared: Arc<Shared>,
    pub factory: Factory,
    /// Whether it begins with a snapshot's state, which comes with Install; else with an empty one.
    pub from_snapshot: bool,
    /// Tells the root which entry is being applied; 0: none.
    pub applying: Arc<AtomicU64>,
}

pub(crate) struct Applier {
    shared: Arc<Shared>,
    /// `None` until the snapshot that the disk has is installed.
    machine: Option<Box<dyn Machine>>,
    sessions: Sessions,
    applied: LogIndex,
    applying: Arc<AtomicU64>,
    consensus: Option<flow::Address<ConsensusMessage>>,
    /// Questions that are ahead of the state machine, by index and order of arrival.
    waiting: BTreeMap<(LogIndex, u64), Box<dyn Query>>,
    arrivals: u64,
    /// When so many wait, those that nobody waits for are thrown out.
    sweep_at: usize,
}

impl Actor for Applier {
    type Message = ApplierMessage;
    type Arguments = ApplierArguments;

    async fn start(arguments: ApplierArguments, _: &mut Context<ApplierMessage>) -> Result<Self, ActorProcessingErr> {
        let ApplierArguments { shared, factory, from_snapshot, applying } = arguments;
        applying.store(0, Release);
        Ok(Applier {
            shared,
            machine: (!from_snapshot).then(|| factory()),
            sessions: Sessions::default(),
            applied: 0,
            applying,
            consensus: None,
            waiting: BTreeMap::new(),
            arrivals: 0,
            sweep_at: TURN,
        })
    }

    async fn handle(
        &mut self,
        message: ApplierMessage,
        context: &mut Context<ApplierMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ApplierMessage::ReportTo(consensus) => self.consensus = Some(consensus),
            ApplierMessage::Apply { entries, ports } => self.apply(entries, ports, context).await,
            ApplierMessage::Query(query) => self.query(query),
            ApplierMessage::TakeSnapshot { last_included, membership, snapshotter } => {
                self.take_snapshot(last_included, membership, &snapshotter, context);
            }
            ApplierMessage::Install { rebuilt, index, snapshotter } => {
                self.install(rebuilt, index, &snapshotter, context);
            }
            ApplierMessage::Crash => panic!("the applier was told to crash"),
        }
        Ok(())
    }
}

impl Applier {
    async fn apply(
        &mut self,
        entries: Vec<Entry>,
        ports: Vec<(LogIndex, ProposePort)>,
        context: &Context<ApplierMessage>,
    ) {
        let mut ports = ports.into_iter().peekable();
        for (turn, entry) in entries.into_iter().enumerate() {
            if turn % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let index = entry.index;
            assert_eq!(index, self.applied + 1, "committed entries come without gaps");
            let port = ports.next_if(|(waits_for, _)| *waits_for == index).map(|(_, port)| port);
            self.apply_one(entry, port);
        }
        self.shared.applied_waiters.tell();
        if let Some(consensus) = &self.consensus {
            let _ = consensus.send(context.origin(), ConsensusMessage::Applied { index: self.applied });
        }
        self.answer_waiting();
    }

    fn apply_one(&mut self, entry: Entry, port: Option<ProposePort>) {
        let index = entry.index;
        self.applying.store(index, Release);
        let result = match entry.payload {
            Payload::Command(command) => apply_command(&mut self.machine, index, command),
            Payload::SessionCommand(call) => self.apply_in_session(index, call),
            Payload::OpenSession => {
                self.sessions.open(index);
                Ok(Applied { output: Bytes::new(), index })
            }
            Payload::Noop | Payload::Membership(_) => Ok(Applied { output: Bytes::new(), index }),
        };
        self.applying.store(0, Release);
        self.applied = index;
        self.shared.progress.applied_index.store(index, Release);
        if let Some(port) = port {
            port.answer(result);
        }
    }

    /// Applied if it was not before; else it gets the first answer (thesis §6.3).
    fn apply_in_session(&mut self, index: LogIndex, call: SessionCommand) -> Result<Applied, ProposeError> {
        let SessionCommand { session, sequence, .. } = call;
        match self.sessions.command(index, &call) {
            Verdict::Apply(slot) => {
                let applied = apply_command(&mut self.machine, index, call.command)?;
                slot.keep(applied.clone());
                Ok(applied)
            }
            Verdict::Repeated(applied) => Ok(applied),
            Verdict::AnsweredLongAgo => Err(ProposeError::AnsweredLongAgo { session, sequence }),
            Verdict::Expired => Err(ProposeError::SessionExpired { session }),
            Verdict::Full => Err(self.shared.busy(format!(
                "session {session} keeps as many answers as it may ({MAX_REPLIES}, or {MAX_REPLY_BYTES} bytes); its client \
                 must say which it has (first_unanswered)"
            ))),
        }
    }

    fn query(&mut self, query: Box<dyn Query>) {
        if let Some(machine) = &self.machine
            && query.at_least() <= self.applied
        {
            return query.run((**machine).as_any(), self.applied);
        }
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|_, query| !query.abandoned());
            self.sweep_at = TURN.max(2 * self.waiting.len());
        }
        self.arrivals += 1;
        self.waiting.insert((query.at_least(), self.arrivals), query);
    }

    /// The handle is cheap; the snapshotter makes bytes of it while this goes on applying.
    fn take_snapshot(
        &self,
        last_included: LogPosition,
        membership: Arc<Membership>,
        snapshotter: &flow::Address<SnapshotterMessage>,
        context: &Context<ApplierMessage>,
    ) {
        assert_eq!(self.applied, last_included.index, "what is in a snapshot is what was ordered before it");
        let machine = self.machine.as_ref().expect("no snapshot is ordered before the one on disk is restored");
        let write =
            SnapshotterMessage::Write { taken: Taken::of(&self.sessions, &**machine), last_included, membership };
        // One that has died is not waited for: its successor gets an order of its own.
        let _ = context.send(snapshotter, write);
    }

    /// The state never goes back: what comes late is not taken.
    fn install(
        &mut self,
        rebuilt: Rebuilt,
        index: LogIndex,
        snapshotter: &flow::Address<SnapshotterMessage>,
        context: &Context<ApplierMessage>,
    ) {
        let unneeded = if self.machine.is_none() || index > self.applied {
            self.applied = index;
            self.shared.progress.applied_index.store(index, Release);
            let sessions = std::mem::replace(&mut self.sessions, rebuilt.sessions);
            self.machine.replace(rebuilt.machine).map(|machine| Rebuilt { sessions, machine })
        } else {
            Some(rebuilt)
        };
        if let Some(unneeded) = unneeded {
            let _ = context.send(snapshotter, SnapshotterMessage::Discard(unneeded));
        }
        if let Some(consensus) = &self.consensus {
            let _ = context.send(consensus, ConsensusMessage::Restored { index });
        }
        self.shared.applied_waiters.tell();
        self.answer_waiting();
    }

    fn answer_waiting(&mut self) {
        let Some(machine) = &self.machine else { return };
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > self.applied {
                break;
            }
            first.remove().run((**machine).as_any(), self.applied);
        }
    }
}

/// What does not decode here decodes on no node: all skip it alike, in a session as well.
fn apply_command(
    machine: &mut Option<Box<dyn Machine>>,
    index: LogIndex,
    command: Bytes,
) -> Result<Applied, ProposeError> {
    let machine = machine.as_mut().expect("nothing is applied before the snapshot is restored");
    let rejected = |error: prost::DecodeError| ProposeError::Rejected { reason: error.to_string() };
    machine.apply(index, command).map(|output| Applied { output, index }).map_err(rejected)
}
