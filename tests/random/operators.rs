//! What clients and operators want.

use bytes::Bytes;
use ractor_raft::raft::*;

use crate::{
    Disk, Server, Walk,
    support::checks::{Kind, is_quorum},
};

/// A cluster does not grow beyond so many servers that ever belonged to it.
const SERVERS: usize = 9;

impl Walk {
    pub fn propose(&mut self, id: NodeId) {
        let call = self.world.new_call();
        let command = Bytes::from(format!("c{call}").repeat(1 + self.chance.below(8) as usize));
        let payload = Payload::Command(command);
        self.checks.proposed(call, id, payload.clone());
        self.act(id, Input::Propose { call, payload });
    }

    pub fn read(&mut self, id: NodeId) {
        let call = self.world.new_call();
        self.checks.asked_to_read(call, id);
        let lease = self.chance.percent(60);
        self.act(id, Input::Read { call, lease });
    }

    pub fn take_snapshot(&mut self, id: NodeId) {
        let call = self.world.new_call();
        self.checks.asked(call, id, Kind::Snapshot);
        self.act(id, Input::TakeSnapshot { call });
    }

    /// Somebody asks this server, or the leader, to hand over.
    pub fn hand_over(&mut self, id: NodeId) {
        let id = if self.chance.percent(80) { self.leader().unwrap_or(id) } else { id };
        let ids = self.world.ids();
        let to = self.chance.of(&ids).filter(|_| self.chance.percent(60));
        let call = self.world.new_call();
        self.checks.asked(call, id, Kind::Transfer);
        self.act(id, Input::TransferLeadership { call, to });
    }

    /// Somebody asks this server, or the leader, for another membership.
    pub fn change(&mut self, id: NodeId) {
        let id = if self.chance.percent(90) { self.leader().unwrap_or(id) } else { id };
        let ids = self.world.ids();
        let Some(other) = self.chance.of(&ids) else { return };
        let membership = self.world.server(id).raft().membership().clone();
        let replaceable = ids.iter().copied().find(|id| self.is_refused(*id, &membership));
        let change = match self.chance.below(10) {
            // Nobody takes a second server away while the disk of one is lost: the leader may not know it yet.
            4..=6 if replaceable.is_some() => Change::Remove { id: replaceable.unwrap_or(other) },
            7..=9 if replaceable.is_some() => {
                let id = replaceable.unwrap_or(other);
                Change::Replace { id, address: format!("n{id} {}", self.steps) }
            }
            0..=2 if ids.len() < SERVERS => self.new_server(),
            3 => Change::Promote { id: other },
            4..=6 => Change::Remove { id: other },
            _ => Change::Replace { id: other, address: format!("n{other} {}", self.steps) },
        };
        let call = self.world.new_call();
        self.checks.asked(call, id, Kind::Change);
        self.act(id, Input::ChangeMembership { call, change });
    }

    /// Whether it is another disk than the one that belongs to the cluster.
    pub fn is_refused(&self, id: NodeId, membership: &Membership) -> bool {
        let disk = self.world.server(id).disk.incarnation;
        membership.incarnations.get(&id).is_some_and(|known| *known != disk)
    }

    fn new_server(&mut self) -> Change {
        let id = self.world.ids().last().copied().unwrap_or(0) + 1;
        let disk = Disk { incarnation: self.new_disk(), ..Disk::default() };
        self.world.servers.insert(id, Server::new(id, disk));
        self.equip(id);
        if self.chance.percent(80) {
            self.start(id);
        }
        Change::Add { id, address: format!("n{id}"), promote: self.chance.percent(80) }
    }

    fn new_disk(&mut self) -> Incarnation {
        self.next_disk += 1;
        self.next_disk
    }

    /// A server comes back with an empty disk, to join or, a first member, as it was started first. Wherever it is known that is
    /// counted on, the others go on without it; some may not know it yet, nor ever have counted on it.
    pub fn wipe(&mut self) {
        let ids = self.world.ids();
        let Some(id) = self.chance.of(&ids) else { return };
        if !self.goes_on_without(id) || self.checks.wiped.contains(&id) {
            return;
        }
        if self.world.server(id).is_up() {
            self.crash(id);
        }
        self.note(|| format!("n{id} loses its disk"));
        // A majority of empty disks would begin another cluster.
        let has_log = |other: NodeId| other != id && self.world.server(other).disk.last_index() > 0;
        let as_before = self.begun.contains(id) && is_quorum(&self.begun, has_log) && self.chance.percent(50);
        let empty = if as_before { Disk::of(&self.begun) } else { Disk::default() };
        self.begin_anew(id, empty);
        self.checks.wiped.insert(id);
    }

    /// Another disk under this id, and nothing that was sent before.
    pub fn begin_anew(&mut self, id: NodeId, empty: Disk) {
        let disk = Disk { incarnation: self.new_disk(), ..empty };
        let life = self.world.server(id).life;
        let mut server = Server::new(id, disk);
        server.life = life;
        self.world.servers.insert(id, server);
        self.equip(id);
        self.world.network.retain(|packet| packet.to != id && packet.from != id);
        // Whoever sends it a snapshot is still to find out.
        self.world.conversations.retain(|(from, _), _| *from != id);
    }

    /// Whether in each configuration that is in force anywhere a majority is left of which each disk counts: also if `id` is a
    /// learner that is about to be promoted.
    fn goes_on_without(&self, id: NodeId) -> bool {
        let memberships = self.world.servers.values().map(|server| server.disk.current_membership());
        let in_memory = self.world.servers.values().filter_map(|server| server.raft.as_ref());
        let mut memberships = memberships.chain(in_memory.map(|raft| raft.membership().clone()));
        memberships.all(|mut membership| {
            if let Some(address) = membership.learners.remove(&id) {
                membership.voters.insert(id, address);
            }
            let counts = |id| membership.incarnations.contains_key(&id) && !membership.unsettled.contains(&id);
            let works = |other| other != id && counts(other) && !self.is_refused(other, &membership);
            membership.voters.is_empty() || is_quorum(&membership, works)
        })
    }
}
