//! What happens to servers, disks and the network.

use ractor_raft::raft::*;

use crate::{
    Server, Walk,
    faults::Move,
    support::{Body, Packet},
};

impl Walk {
    pub fn make(&mut self, next: Move) {
        let up = self.up();
        let someone = self.chance.of(&up);
        match (next, someone) {
            (Move::Arrive, _) => self.arrive(true),
            (Move::Repeat, _) => self.arrive(false),
            (Move::Drop, _) => drop(self.take_packet()),
            (Move::Restart, _) => self.restart(),
            (Move::Part, _) => self.part(),
            (Move::Mend, _) => self.cut.clear(),
            (Move::Stall, _) => self.stall(),
            (Move::Wipe, _) => self.wipe(),
            (Move::Sync, Some(id)) => self.sync(id),
            (Move::Ring, Some(_)) => self.ring(),
            (Move::RingLate, Some(id)) => {
                let epoch = self.due.get(&id).map_or(0, |(epoch, _)| epoch - 1);
                self.act(id, Input::Timeout { epoch });
            }
            (Move::Work, Some(id)) => self.work(id),
            (Move::Snapshot, Some(id)) => self.snapshot_goes_on(id),
            (Move::FailSnapshot, Some(id)) => {
                if self.world.server_mut(id).writing.pop_front().is_some() {
                    self.act(id, Input::SnapshotFailed);
                }
            }
            (Move::Propose, Some(id)) => self.propose(id),
            (Move::Read, Some(id)) => self.read(id),
            (Move::HandOver, Some(id)) => self.hand_over(id),
            (Move::TakeSnapshot, Some(id)) => self.take_snapshot(id),
            (Move::Change, Some(id)) => self.change(id),
            (Move::Break, Some(id)) => self.break_connection(id),
            (Move::Crash, Some(id)) => self.crash(id),
            (Move::LoseCourier, Some(id)) => self.lose_courier(id),
            (Move::Fill, Some(id)) => self.fill(id),
            (Move::Free, _) => self.free(),
            (_, None) => {}
        }
    }

    pub fn start(&mut self, id: NodeId) {
        let sent = self.world.network.len();
        self.due.remove(&id);
        let effects = self.world.start(id);
        self.note(|| format!("n{id} starts"));
        self.look(id, &effects, sent);
    }

    pub fn restart(&mut self) {
        let down = self.down();
        if let Some(id) = self.chance.of(&down) {
            self.start(id);
        }
    }

    /// Those that are down, and may come back.
    pub fn down(&self) -> Vec<NodeId> {
        let is_down = |id: &NodeId| !self.world.server(*id).is_up() && !self.checks.condemned.contains(id);
        self.world.ids().into_iter().filter(is_down).collect()
    }

    pub fn crash(&mut self, id: NodeId) {
        let write_survives = self.chance.percent(30) && !self.full.contains(&id);
        self.note(|| format!("n{id} crashes, its write in flight survives: {write_survives}"));
        self.world.crash(id, write_survives);
        self.full.remove(&id);
        self.due.remove(&id);
        self.checks.crashed(&self.world, id);
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let waiting = self.world.network.len() as u64;
        let any = self.chance.percent(self.faults.reorder);
        (waiting > 0).then(|| self.world.network.remove(if any { self.chance.below(waiting) as usize } else { 0 }))
    }

    /// A message reaches its addressee; with `once` it is then gone, else it may come again.
    pub fn arrive(&mut self, once: bool) {
        let Some(packet) = self.take_packet() else { return };
        if self.cut.contains(&(packet.from, packet.to)) {
            return;
        }
        if self.world.refuses(&packet) {
            return self.refused(&packet);
        }
        if self.is_told_removed(&packet) {
            return self.act(packet.from, Input::ToldRemoved);
        }
        if !once {
            self.world.network.push(packet.clone());
        }
        let waits = |server: &Server| server.is_up() && server.life == packet.life;
        if matches!(packet.body, Body::Reply(_)) && self.world.servers.get(&packet.to).is_some_and(waits) {
            let Packet { from: peer, session, own_disk: incarnation, .. } = packet;
            self.act(packet.to, Input::Met { peer, session, incarnation });
        }
        let sent = self.world.network.len();
        if let Some(input) = self.world.arrive(&packet) {
            self.act(packet.to, input);
        } else if self.world.servers.get(&packet.to).is_some_and(|server| server.is_up()) {
            // The next chunk of a snapshot.
            self.look(packet.to, &[], sent);
        }
    }

    /// In some walks, whoever knows that the sender of a request was removed says so, instead of hearing it.
    fn is_told_removed(&self, packet: &Packet) -> bool {
        let is_up = |id| self.world.servers.get(id).is_some_and(|server: &Server| server.is_up());
        let is_request = matches!(packet.body, Body::Request(_)) && self.faults.tells_removed;
        // By what is committed: a leader that removes itself must be heard until then (M04).
        let commit_index = |id| self.world.server(id).raft().commit_index();
        let known = || self.checks.membership_at(&self.world, commit_index(packet.to)).removed.contains(&packet.from);
        is_request && is_up(&packet.to) && is_up(&packet.from) && known()
    }

    /// The other end is another disk than it should be: the sender of a request is told so.
    fn refused(&mut self, packet: &Packet) {
        let is_request = matches!(packet.body, Body::Request(_));
        let sender = self.world.servers.get(&packet.from);
        if is_request && sender.is_some_and(|sender| sender.is_up() && sender.life == packet.life) {
            self.world.conversations.remove(&(packet.from, packet.to));
            self.act(packet.from, Input::Undelivered { peer: packet.to });
        }
    }

    pub fn sync(&mut self, id: NodeId) {
        if self.full.contains(&id) {
            return;
        }
        let Some((persisted, then)) = self.world.sync(id) else { return };
        self.act(id, persisted);
        let sent = self.world.network.len();
        self.world.carry_out_all(id, &then);
        self.look(id, &then, sent);
    }

    pub fn work(&mut self, id: NodeId) {
        if let Some(report) = self.world.work(id) {
            self.act(id, report);
        }
    }

    /// A chunk or an own snapshot reaches the disk, or a snapshot the state machine.
    pub fn snapshot_goes_on(&mut self, id: NodeId) {
        let report = match self.chance.below(3) {
            0 => self.world.store_chunk(id),
            1 => self.world.write_snapshot(id),
            _ => {
                self.world.load_snapshot(id);
                None
            }
        };
        if let Some(report) = report {
            self.act(id, report);
        }
    }

    /// Mostly the alarm that is due first; sometimes another, which makes the others late.
    fn ring(&mut self) {
        let ids: Vec<NodeId> = self.due.keys().copied().collect();
        let first = ids.iter().copied().min_by_key(|id| self.due[id].1);
        let id = if self.chance.percent(70) { first } else { self.chance.of(&ids) };
        let Some(id) = id else { return };
        let (epoch, due) = self.due[&id];
        self.world.now = self.world.now.max(due);
        self.act(id, Input::Timeout { epoch });
    }

    /// The connection from `id` to a peer breaks: what was on it is lost, and `id` is told.
    fn break_connection(&mut self, id: NodeId) {
        let peers = self.world.ids();
        let Some(peer) = self.chance.of(&peers).filter(|peer| *peer != id) else { return };
        self.world.conversations.remove(&(id, peer));
        self.world.network.retain(|packet| match packet.body {
            Body::Request(_) => (packet.from, packet.to) != (id, peer),
            Body::Reply(_) => (packet.from, packet.to) != (peer, id),
        });
        self.act(id, Input::Undelivered { peer });
    }

    /// A snapshot on its way is given up.
    pub fn stall(&mut self) {
        let under_way: Vec<_> = self.world.conversations.keys().copied().collect();
        let Some((from, to)) = self.chance.of(&under_way) else { return };
        self.world.conversations.remove(&(from, to));
        self.act(from, Input::Undelivered { peer: to });
    }

    /// Cuts the cluster in two, or one direction between two servers.
    fn part(&mut self) {
        let ids = self.world.ids();
        let side = self.chance.next();
        let one_way = self.chance.percent(30);
        for from in &ids {
            for to in &ids {
                let (here, there) = (side >> from & 1 == 1, side >> to & 1 == 1);
                if here && !there || (!one_way && there && !here) {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    fn lose_courier(&mut self, id: NodeId) {
        let peers: Vec<NodeId> = self.world.ids().into_iter().filter(|peer| *peer != id).collect();
        let courier = match (self.chance.of(&peers), self.chance.below(4)) {
            (_, 0) => Courier::ElectionTimer,
            (_, 1) | (None, _) => Courier::Snapshotter,
            (Some(peer), _) => Courier::Replicator(peer),
        };
        match courier {
            Courier::ElectionTimer => drop(self.due.remove(&id)),
            Courier::Replicator(peer) => drop(self.world.conversations.remove(&(id, peer))),
            Courier::Snapshotter => {}
        }
        self.act(id, Input::Lost(courier));
    }

    /// There is no room for what is being written.
    fn fill(&mut self, id: NodeId) {
        if self.world.server(id).in_flight.is_some() && self.full.insert(id) {
            self.act(id, Input::DiskFull);
        }
    }

    /// There is room again, and what was being written is written.
    pub fn free(&mut self) {
        let full: Vec<_> = self.full.iter().copied().collect();
        if let Some(id) = self.chance.of(&full) {
            self.full.remove(&id);
            self.act(id, Input::DiskFreed);
            self.sync(id);
        }
    }
}
