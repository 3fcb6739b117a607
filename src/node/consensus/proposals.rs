//! What clients want in the log: let in, given a number under which their ports wait, and handed to the core.

use super::{Call, Consensus};
use crate::{
    error::ProposeError,
    flow::{Context, Mark, TraceId},
    node::{messages::ConsensusMessage, ports::ProposePort, sessions},
    raft::{CallId, Payload, SessionCommand},
};

/// Commands of sessions, and the traces of those places among them that have one.
#[derive(Default)]
pub(super) struct Gathered {
    proposals: Vec<(CallId, Payload)>,
    traces: Vec<(u64, TraceId)>,
}

impl Consensus {
    pub(super) fn propose(&mut self, payload: Payload, port: ProposePort, context: &mut Context<ConsensusMessage>) {
        // A command alone, or the opening of a session; sessions' commands come by `gather`.
        let size = if let Payload::Command(command) = &payload { command.len() } else { 0 };
        if let Some(call) = self.accept(size, port) {
            self.propose_all([(call, payload)], [(0, context.trace())], context);
        }
    }

    /// Keeps them for [`propose_gathered`](Self::propose_gathered).
    pub(super) fn gather(
        &mut self,
        commands: Vec<(SessionCommand, ProposePort)>,
        context: &mut Context<ConsensusMessage>,
    ) {
        // Those that came together have one trace, and the first of them carries it.
        self.gathered.traces.push((self.gathered.proposals.len() as u64, context.trace()));
        for (command, port) in commands {
            if let Err(refused) = sessions::check(&command) {
                port.answer(Err(refused));
                continue;
            }
            if let Some(call) = self.accept(command.command.len(), port) {
                self.gathered.proposals.push((call, Payload::SessionCommand(command)));
            }
        }
    }

    /// Hands what was gathered from all streams to the core in one step, so that it goes to the disk and to the peers
    /// together.
    pub(super) fn propose_gathered(&mut self, context: &mut Context<ConsensusMessage>) {
        if self.gathered.proposals.is_empty() {
            return self.gathered.traces.clear();
        }
        let Gathered { mut proposals, mut traces } = std::mem::take(&mut self.gathered);
        self.propose_all(proposals.drain(..), traces.drain(..), context);
        self.gathered = Gathered { proposals, traces };
    }

    fn propose_all(
        &mut self,
        proposals: impl IntoIterator<Item = (CallId, Payload)>,
        traces: impl IntoIterator<Item = (u64, TraceId)>,
        context: &mut Context<ConsensusMessage>,
    ) {
        let last_index = self.raft.last_index();
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.propose_all(self.shared.clock.now(), proposals, &mut effects);
        self.shared.progress.set_lease(self.raft.lease_until());
        // A server that does not lead has taken none of them in, and one that leads all of them.
        for (place, trace) in traces {
            if last_index + place < self.raft.last_index() {
                self.traces.set(last_index + 1 + place, trace);
            }
        }
        // What came in another message of this one's is told by this one: the last of them.
        if let Some(last) = self.raft.entry(self.raft.last_index()).filter(|last| last.index > last_index) {
            context.is_about(Mark { term: last.term, index: last.index });
        }
        self.show_observer(&effects, None, false, context);
        self.carry_out(effects.drain(..), context);
        self.effects = effects;
    }

    /// Where the answer to a command of this size waits; `None`: it has its answer, or nobody waits for it.
    fn accept(&mut self, size: usize, port: ProposePort) -> Option<CallId> {
        let limit = self.shared.config.max_entry_bytes;
        if size > limit {
            port.answer(Err(ProposeError::TooLarge { size, limit }));
            return None;
        }
        let port = self.let_in(port, size, |shared, limit| Err(shared.busy(limit)))?;
        Some(self.wait(Call::Propose(port)))
    }
}
