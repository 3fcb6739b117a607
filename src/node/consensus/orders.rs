//! What operators order: other servers, another leader.

use super::{Call, Consensus};
use crate::{
    error::ChangeError,
    flow::Context,
    node::{messages::ConsensusMessage, ports::ChangePort},
    raft::{CallId, Input, LogIndex, Refusal},
};

impl Consensus {
    /// Gives an order to the core, as `input` words it.
    pub(super) fn order(
        &mut self,
        port: ChangePort,
        context: &mut Context<ConsensusMessage>,
        input: impl FnOnce(CallId) -> Input,
    ) {
        let Some(port) = self.let_in(port, 0, |shared, limit| Err(shared.change_busy(limit))) else { return };
        let call = self.wait(Call::Change(port));
        self.step(input(call), context);
    }

    pub(super) fn answer_order(&mut self, call: CallId, index: LogIndex) {
        if let Some(Call::Change(port)) = self.calls.remove(&call) {
            port.answer(Ok(index));
        }
    }

    pub(super) fn refuse_order(&self, port: ChangePort, refusal: Refusal) {
        let node = self.shared.id();
        let address = |id| self.shared.address_of(id).unwrap_or_default();
        port.answer(Err(match refusal {
            Refusal::NotLeader { leader } => self.shared.change_not_leader(leader),
            Refusal::Unknown => {
                let reason = format!("node {node} stopped leading before the change was committed");
                ChangeError::Unknown { reason }
            }
            Refusal::NotReady => ChangeError::NotReady { node },
            Refusal::DiskFull => ChangeError::DiskFull { node },
            Refusal::ChangeUnderWay { index } => ChangeError::UnderWay { index },
            Refusal::NotCaughtUp { id, match_index } => ChangeError::NotCaughtUp { id, match_index },
            Refusal::WouldStop { in_touch, needed } => ChangeError::WouldStop { in_touch, needed },
            Refusal::IdRemoved { id } => ChangeError::Removed { id },
            // It is one, and the core refuses nothing else about it than to replace the leader, or to let a learner lead.
            Refusal::NoSuchServer { id } if id == node => ChangeError::Leads { id },
            Refusal::NoSuchServer { id } if self.raft.membership().learners.contains_key(&id) => {
                ChangeError::DoesNotVote { id }
            }
            Refusal::NoSuchServer { id } => ChangeError::NoSuchServer { id },
            Refusal::AlreadyThere { id } => ChangeError::AlreadyThere { id, address: address(id) },
            Refusal::TransferFailed { to } => ChangeError::TransferFailed { to },
            Refusal::SnapshotFailed => ChangeError::Unavailable { node },
        }));
    }
}
