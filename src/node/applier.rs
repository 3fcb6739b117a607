//! Feeds committed entries to the user's state machine, and answers who waits for them.
//!
//! Parent: node. Restart: with the other keepers; the state machine is then built anew and fed the log again.
//! Hears: ReportTo, Apply; Query from the handles.
//! Says: Applied to consensus; results to the callers, directly.
//! Lost in a crash: the state (the log has it), the ports of the batch (their callers hear `Unknown`).

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Release},
    },
};

use ractor::ActorProcessingErr;

use crate::{
    error::ProposeError,
    flow::{self, Actor, Context},
    node::{
        Applied,
        messages::{ApplierMessage, ConsensusMessage},
        ports::ProposePort,
        shared::Shared,
    },
    raft::{Entry, LogIndex, Payload},
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
    /// The log begins behind this.
    pub base: LogIndex,
    /// Tells the root which entry is being applied; 0: none.
    pub applying: Arc<AtomicU64>,
}

pub(crate) struct Applier {
    shared: Arc<Shared>,
    machine: Box<dyn Machine>,
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
        let ApplierArguments { shared, factory, base, applying } = arguments;
        applying.store(0, Release);
        Ok(Applier {
            shared,
            machine: factory(),
            applied: base,
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
        let result = match entry.payload {
            Payload::Command(command) => {
                self.applying.store(index, Release);
                let result = self.machine.apply(index, command);
                self.applying.store(0, Release);
                result
            }
            Payload::Noop | Payload::Membership(_) | Payload::OpenSession | Payload::SessionCommand(_) => {
                Ok(bytes::Bytes::new())
            }
        };
        self.applied = index;
        self.shared.progress.applied_index.store(index, Release);
        if let Some(port) = port {
            // What does not decode here decodes on no node: all skip it alike.
            let rejected = |error: prost::DecodeError| ProposeError::Rejected { reason: error.to_string() };
            port.answer(result.map(|output| Applied { output, index }).map_err(rejected));
        }
    }

    fn query(&mut self, query: Box<dyn Query>) {
        if query.at_least() <= self.applied {
            return query.run((*self.machine).as_any(), self.applied);
        }
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|_, query| !query.abandoned());
            self.sweep_at = TURN.max(2 * self.waiting.len());
        }
        self.arrivals += 1;
        self.waiting.insert((query.at_least(), self.arrivals), query);
    }

    fn answer_waiting(&mut self) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > self.applied {
                break;
            }
            first.remove().run((*self.machine).as_any(), self.applied);
        }
    }
}
