//! What is not answered: numbered, and kept to be sent again.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Command, WINDOW, WINDOW_BYTES};
use crate::{error::ProposeError, node::Applied, rpc::pb};

/// A message takes commands up to so many bytes (and the first in any case), unless a node takes less.
const MESSAGE_BYTES: usize = 64 << 10;

/// The commands of one session that are not answered.
pub(super) struct Pending {
    /// By sequence.
    commands: BTreeMap<u64, Unanswered>,
    last_sequence: u64,
    bytes: usize,
    /// Without a session: none was open yet, or the last one is gone and they are certainly not applied.
    homeless: Vec<Command>,
    /// So many bytes of commands go into one message.
    message_bytes: usize,
}

impl Default for Pending {
    fn default() -> Self {
        let (commands, homeless) = (BTreeMap::new(), Vec::new());
        Pending { commands, last_sequence: 0, bytes: 0, homeless, message_bytes: MESSAGE_BYTES }
    }
}

struct Unanswered {
    command: Command,
    /// It is on its way over the present stream, and not answered.
    sent: bool,
    /// An earlier try may have been applied.
    in_doubt: bool,
    /// Why the last try failed, if it was one that says "not applied".
    refused: Option<ProposeError>,
}

/// What an answer means for the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// All is well.
    Answered,
    /// The command is to be sent again, a little later.
    Again,
    /// The node does not lead: whoever does, if it says so, may do it.
    Elsewhere(Option<String>),
    /// The session is gone.
    Expired,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.homeless.is_empty()
    }

    /// Whether nothing waits for an answer under this session.
    pub(super) fn is_settled(&self) -> bool {
        self.commands.is_empty()
    }

    /// How many more commands may be in flight.
    pub(super) fn room(&self) -> usize {
        let homeless: usize = self.homeless.iter().map(|command| command.command.len()).sum();
        if self.bytes + homeless >= WINDOW_BYTES {
            0
        } else {
            WINDOW.saturating_sub(self.commands.len() + self.homeless.len())
        }
    }

    /// Numbers a command.
    pub(super) fn add(&mut self, command: Command) {
        self.last_sequence += 1;
        self.bytes += command.command.len();
        self.commands.insert(self.last_sequence, Unanswered { command, sent: false, in_doubt: false, refused: None });
    }

    /// Keeps a command for the session that is to be opened.
    pub(super) fn put_off(&mut self, command: Command) {
        self.homeless.push(command);
    }

    /// A new session: numbers begin at 1 again, and those that wait for it, or that the last one refused, come first.
    pub(super) fn begin(&mut self) {
        assert!(self.commands.is_empty(), "{} commands belong to the last session", self.commands.len());
        self.last_sequence = 0;
        for command in std::mem::take(&mut self.homeless) {
            self.add(command);
        }
    }

    /// The commands from `sequence` on that are not on their way, as messages. From now on they are.
    pub(super) fn messages(&mut self, session: u64, sequence: u64) -> Vec<pb::ClientStreamRequest> {
        let first_unanswered = self.commands.first_key_value().map_or(0, |(first, _)| *first);
        let mut messages: Vec<pb::ClientStreamRequest> = Vec::new();
        let most = self.message_bytes;
        let mut bytes = most;
        for (&sequence, unanswered) in self.commands.range_mut(sequence..).filter(|(_, unanswered)| !unanswered.sent) {
            unanswered.sent = true;
            let command = unanswered.command.command.clone();
            if bytes.saturating_add(command.len()) > most {
                messages.push(pb::ClientStreamRequest { session, first_unanswered, commands: Vec::new() });
                bytes = 0;
            }
            bytes += command.len();
            let message = messages.last_mut().expect("one was just begun");
            message.commands.push(pb::StreamCommand { sequence, command });
        }
        messages
    }

    /// The number that the next command gets.
    pub(super) fn next_sequence(&self) -> u64 {
        self.last_sequence + 1
    }

    /// The stream broke: what was on its way may have been applied.
    pub(super) fn broke(&mut self) {
        for unanswered in self.commands.values_mut().filter(|unanswered| unanswered.sent) {
            (unanswered.sent, unanswered.in_doubt) = (false, true);
        }
    }

    /// Takes the answer to a command that was sent.
    pub(super) fn answered(&mut self, sequence: u64, answer: Result<Applied, ProposeError>) -> Heard {
        let error = match answer {
            Ok(applied) => {
                self.finish(sequence, Ok(applied));
                return Heard::Answered;
            }
            Err(error) => error,
        };
        // Its caller may have been told already that the time is over.
        let Some(unanswered) = self.commands.get_mut(&sequence) else { return Heard::Answered };
        unanswered.sent = false;
        let heard = match &error {
            ProposeError::NotLeader { address, .. } => Heard::Elsewhere(Some(address.clone())),
            ProposeError::NoLeader { .. }
            | ProposeError::Unavailable { .. }
            | ProposeError::NodeWiped { .. }
            | ProposeError::NodeRemoved { .. } => Heard::Elsewhere(None),
            // A full disk gets room again, or its node hands over.
            ProposeError::Busy { .. } | ProposeError::DiskFull { .. } | ProposeError::Unknown { .. } => Heard::Again,
            ProposeError::SessionExpired { session } => {
                self.expired(sequence, *session);
                return Heard::Expired;
            }
            _ => {
                let error = conclude(error, unanswered.in_doubt);
                self.finish(sequence, Err(error));
                return Heard::Answered;
            }
        };
        unanswered.in_doubt |= error.may_have_been_applied();
        unanswered.refused = Some(error);
        heard
    }

    /// A command was refused because the session is gone. Nothing is in doubt about it unless an earlier try is.
    fn expired(&mut self, sequence: u64, session: u64) {
        let Some(unanswered) = self.commands.remove(&sequence) else { return };
        self.bytes -= unanswered.command.command.len();
        if unanswered.in_doubt {
            let reason = format!("session {session} expired after a try whose outcome is not known");
            let _ = unanswered.command.answer.send(Err(ProposeError::Unknown { reason }));
        } else {
            self.homeless.push(unanswered.command);
        }
    }

    /// All of them, unheard: the session is gone.
    pub(super) fn all_expired(&mut self, session: u64) {
        let sequences: Vec<_> = self.commands.keys().copied().collect();
        sequences.into_iter().for_each(|sequence| self.expired(sequence, session));
    }

    /// A message was too large for the node to read, which takes commands up to `limit`. Where none is larger, there were too
    /// many in it.
    pub(super) fn too_large(&mut self, error: ProposeError, limit: usize) {
        let largest = self.commands.iter().max_by_key(|(_, unanswered)| unanswered.command.command.len());
        if let Some((&sequence, unanswered)) = largest {
            if unanswered.command.command.len() <= limit && self.message_bytes > 1 {
                self.message_bytes = (self.message_bytes / 2).min(limit / 2);
                return;
            }
            let error = conclude(error, unanswered.in_doubt);
            self.finish(sequence, Err(error));
        }
    }

    /// When the first of them runs out of time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // All have the same patience, so the oldest is first; one that is not waits for it, and is told late.
        let first = self.commands.first_key_value().map(|(_, unanswered)| unanswered.command.deadline);
        first.into_iter().chain(self.homeless.first().map(|command| command.deadline)).min()
    }

    /// Tells those whose time is over. `nothing` is what they hear who were never sent.
    pub(super) fn expire(&mut self, now: Instant, nothing: &ProposeError) {
        let over = |(sequence, unanswered): (&u64, &Unanswered)| {
            (unanswered.command.deadline <= now).then_some((*sequence, unanswered.in_doubt || unanswered.sent))
        };
        let over: Vec<_> = self.commands.iter().filter_map(over).collect();
        for (sequence, in_doubt) in over {
            let refused = self.commands.get(&sequence).and_then(|unanswered| unanswered.refused.clone());
            let error = conclude(refused.unwrap_or_else(|| nothing.clone()), in_doubt);
            self.finish(sequence, Err(error));
        }
        let (over, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.homeless).into_iter().partition(|command| command.deadline <= now);
        self.homeless = left;
        over.into_iter().for_each(|command| drop(command.answer.send(Err(nothing.clone()))));
    }

    fn finish(&mut self, sequence: u64, answer: Result<Applied, ProposeError>) {
        if let Some(unanswered) = self.commands.remove(&sequence) {
            self.bytes -= unanswered.command.command.len();
            // Whoever has stopped waiting needs no answer.
            let _ = unanswered.command.answer.send(answer);
        }
    }
}

/// What the last refusal means where an earlier try may have been applied.
fn conclude(error: ProposeError, in_doubt: bool) -> ProposeError {
    if in_doubt && !error.may_have_been_applied() {
        return ProposeError::Unknown { reason: format!("no answer came in time; the last refusal: {error}") };
    }
    error
}
