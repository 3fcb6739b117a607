//! Each effect of the core, turned into the message that carries it out.

use super::{Call, Consensus};
use crate::{
    error::{ProposeError, ReadError},
    flow::{Context, Origin, TraceId},
    node::{
        ReadPoint,
        messages::{
            ApplierMessage, ConsensusMessage, ElectionTimerMessage, LogStoreMessage, NodeMessage, ReplicatorMessage,
            of_reply, reply_word,
        },
    },
    raft::{CallId, Effect, Entry, LogIndex, Membership, NodeId, Refusal, Reply, Request, Role, Term},
};

impl Consensus {
    /// In order. Nothing here waits.
    pub(super) fn carry_out(&mut self, effects: impl IntoIterator<Item = Effect>, context: &Context<ConsensusMessage>) {
        for effect in effects {
            let origin = context.origin();
            match effect {
                Effect::SetTimer { epoch, alarm, since } => {
                    self.election_timer.send(origin, ElectionTimerMessage::SetTimer { epoch, alarm, since });
                }
                Effect::Send { to, session, request } => self.deliver(to, session, request, origin),
                Effect::Persist { seq, write, then } => {
                    assert!(self.after_write.is_none(), "there is one write in flight, not {seq} besides another");
                    self.after_write = Some((seq, then));
                    let origin = traced(origin, self.traces.first_of(&write.entries));
                    let _ = self.log_store.send(origin, LogStoreMessage::Persist { seq, write });
                }
                Effect::Apply { entries, calls } => self.apply(entries, calls, origin),
                Effect::AnswerRead { call, read_index: index, lease_until } => {
                    if let Some(Call::Read(port)) = self.calls.remove(&call) {
                        port.answer(Ok(ReadPoint { index, lease_until }));
                    }
                }
                Effect::Reply { call, reply } => {
                    if let Some(Call::Request(from, port)) = self.calls.remove(&call) {
                        self.note_reply(from, &reply, context);
                        // Whoever asked may have gone; Raft asks again.
                        let _ = port.send(reply);
                    }
                }
                Effect::TakeSnapshot { last_included, membership } => {
                    self.take_snapshot(last_included, membership, origin);
                }
                Effect::SendSnapshot { to, session, request } => self.deliver_snapshot(to, session, request, origin),
                Effect::StoreChunk { call, snapshot, offset, data } => {
                    self.store_chunk(call, snapshot, offset, data, origin);
                }
                Effect::Restore { snapshot } => self.restore(snapshot, origin),
                Effect::AnswerSnapshot { call, index } => self.answer_snapshot(call, index),
                Effect::Refuse { call, refusal } => self.refuse(call, refusal),
                Effect::AnswerChange { call, index } => self.answer_order(call, index),
                Effect::Forget { .. } => self.peers_changed = true,
                Effect::AnswerTransfer { call } => self.answer_order(call, 0),
                Effect::PeerLostData { peer } => self.peer_lost_data(peer, origin),
                Effect::Condemn { acknowledged, last } => {
                    let _ = self.log_store.send(origin, LogStoreMessage::Condemn { acknowledged, last });
                }
                Effect::RoleChanged { role, term, leader } => self.role_changed(role, term, leader, origin),
                Effect::MembershipChanged(membership) => {
                    self.membership_changed(Membership::clone(&membership), origin)
                }
            }
        }
    }

    fn deliver(&self, to: NodeId, session: u64, request: Request, origin: Origin) {
        // A peer that has only just been added has no replicator yet; the next heartbeat finds one.
        let Some(replicator) = self.replicators.get(&to) else { return };
        let (origin, traces) = match &request {
            Request::AppendEntries(append) => {
                let traces = self.traces.of(&append.entries);
                (traced(origin, traces.first().map_or(0, |(_, trace)| *trace)), traces)
            }
            _ => (origin, Vec::new()),
        };
        // What carries no entry of a trace, as the questions that a read asks, is itself of the trace: that is index 0.
        let traces = if traces.is_empty() && origin.trace != 0 { vec![(0, origin.trace)] } else { traces };
        replicator.send(origin, ReplicatorMessage::Deliver { session, request, traces });
    }

    /// The answer to another server's request leaves this node: no actor is told, so it is noted.
    fn note_reply(&self, to: NodeId, reply: &Reply, context: &Context<ConsensusMessage>) {
        if let Some(door) = self.doors.get(&to) {
            context.flow().note(*door, context.origin(), reply_word(reply), of_reply(reply));
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, calls: Vec<(LogIndex, CallId)>, origin: Origin) {
        let origin = traced(origin, self.traces.first_of(&entries));
        let mut port = |(index, call): (LogIndex, CallId)| match self.calls.remove(&call) {
            Some(Call::Propose(port)) => Some((index, port)),
            _ => None,
        };
        let ports = calls.into_iter().filter_map(&mut port).collect();
        let _ = self.applier.send(origin, ApplierMessage::Apply { entries, ports });
    }

    fn refuse(&mut self, call: CallId, refusal: Refusal) {
        let node = self.shared.id();
        match self.calls.remove(&call) {
            Some(Call::Propose(port)) => port.answer(Err(match refusal {
                Refusal::NotLeader { leader } => self.shared.not_leader(leader),
                Refusal::Unknown => {
                    let reason = format!("node {node} stopped leading before the command was committed");
                    ProposeError::Unknown { reason }
                }
                Refusal::DiskFull => ProposeError::DiskFull { node },
                _ => ProposeError::Unavailable { node },
            })),
            Some(Call::Change(port)) => self.refuse_order(port, refusal),
            Some(Call::Read(port)) => port.answer(Err(match refusal {
                Refusal::NotLeader { .. } => self.shared.read_no_leader(),
                _ => ReadError::TimedOut { node, waited: std::time::Duration::ZERO },
            })),
            Some(Call::TakeSnapshot(port)) => self.refuse_snapshot(port),
            Some(Call::Request(..)) | None => {}
        }
    }

    fn role_changed(&mut self, role: Role, term: Term, leader: Option<NodeId>, origin: Origin) {
        tracing::info!(node = self.shared.id(), %role, term, ?leader, "the role changed");
        let was = self.shared.standing.borrow().role;
        self.shared.standing.send_modify(|standing| {
            (standing.role, standing.term, standing.leader) = (role, term, leader);
        });
        if leader.is_some() {
            self.shared.progress.leads(term);
            self.shared.leader_known.notify_waiters();
        }
        if was == Role::Leader && role != Role::Leader {
            // Who was removed is told by a leader only.
            self.peers_changed = true;
            self.shared.flow.keep_incident(format!("node {} lost its leadership", self.shared.id()));
        }
        let _ = self.root.send(origin, NodeMessage::RoleChanged { role, term, leader });
    }

    fn membership_changed(&mut self, membership: Membership, origin: Origin) {
        self.peers_changed = true;
        self.shared.know_disks(&membership);
        self.recognised_by(&membership, origin);
        self.shared.standing.send_modify(|standing| standing.membership = membership.clone());
        self.shared.membership_known.notify_waiters();
        let _ = self.root.send(origin, NodeMessage::MembershipChanged(membership));
    }
}

/// Under the trace of the entries it is about, where they have one.
fn traced(origin: Origin, trace: TraceId) -> Origin {
    if trace == 0 { origin } else { Origin { trace, ..origin } }
}
