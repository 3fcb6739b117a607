//! What operators and clients want, and what befalls disks and snapshots.

use bytes::Bytes;
use ractor_raft::raft::*;

use crate::{Disk, Server, Stage, command::Command};

impl Stage {
    pub fn operate(&mut self, command: &Command) {
        match command {
            Command::NewDisk { id, incarnation } => self.new_disk(*id, *incarnation),
            Command::Add { id, server, promote } => {
                let change = Change::Add { id: *server, address: format!("n{server}"), promote: *promote };
                self.change(*id, change);
            }
            Command::Promote { id, server } => self.change(*id, Change::Promote { id: *server }),
            Command::Remove { id, server } => self.change(*id, Change::Remove { id: *server }),
            Command::Replace { id, server } => {
                self.change(*id, Change::Replace { id: *server, address: format!("n{server} new") });
            }
            Command::Met { id, peer, incarnation, session } => {
                self.step(*id, Input::Met { peer: *peer, session: *session, incarnation: *incarnation });
            }
            Command::ToldRemoved { id } => self.step(*id, Input::ToldRemoved),
            Command::HandOver { id, to } => {
                let call = self.world.new_call();
                self.step(*id, Input::TransferLeadership { call, to: *to });
            }
            Command::TakeSnapshot { id } => {
                let call = self.world.new_call();
                self.step(*id, Input::TakeSnapshot { call });
            }
            Command::Install { from, to } => {
                let server = self.world.server(*from);
                let snapshot = server.disk.finished.clone().expect("it has a snapshot");
                let (term, offset, data) = (server.raft().current_term(), 0, Bytes::new());
                let request = InstallSnapshotRequest { term, leader_id: *from, snapshot, offset, data };
                self.world.send(*from, *to, 0, Request::InstallSnapshot(request));
            }
            Command::SlowSnapshots { id } => drop(self.slow_snapshots.insert(*id)),
            Command::SnapshotStep { id } => self.snapshot_step(*id),
            Command::FailSnapshot { id } => {
                self.world.server_mut(*id).writing.pop_front().expect("there is one to fail");
                self.step(*id, Input::SnapshotFailed);
            }
            Command::DiskFull { id } => self.step(*id, Input::DiskFull),
            Command::DiskFreed { id } => self.step(*id, Input::DiskFreed),
            Command::LeaseRead { id } => {
                let call = self.world.new_call();
                self.step(*id, Input::Read { call, lease: true });
            }
            Command::OpenSession { id } => self.propose(*id, Payload::OpenSession),
            Command::Call { id, session, sequence, command } => {
                let (session, sequence, command) = (*session, *sequence, Bytes::from(command.clone()));
                let call = SessionCommand { session, sequence, first_unanswered: sequence, command };
                self.propose(*id, Payload::SessionCommand(call));
            }
            Command::Standing => self.standing(),
            _ => unreachable!("the others are the stage's own"),
        }
    }

    fn propose(&mut self, id: NodeId, payload: Payload) {
        let call = self.world.new_call();
        self.step(id, Input::Propose { call, payload });
    }

    fn change(&mut self, id: NodeId, change: Change) {
        let call = self.world.new_call();
        self.step(id, Input::ChangeMembership { call, change });
    }

    fn new_disk(&mut self, id: NodeId, incarnation: Incarnation) {
        let life = self.world.servers.get(&id).map_or(0, |server| server.life);
        let settings = self.world.servers.values().next().map(|server| server.settings.clone());
        let disk = Disk { incarnation, ..Disk::default() };
        let mut server = Server::new(id, disk);
        server.life = life;
        if let Some(settings) = settings {
            server.settings = Settings { id, incarnation, ..settings };
        }
        self.world.servers.insert(id, server);
        // What was on its way to the disk before does not reach this one.
        self.world.network.retain(|packet| packet.to != id && packet.from != id);
        self.start(id);
    }

    fn standing(&mut self) {
        for id in self.world.ids() {
            let server = self.world.server(id);
            let Some(raft) = &server.raft else {
                self.line(format_args!("n{id} down"));
                continue;
            };
            let line = format!(
                "n{id} {} base={} snapshot={} last={} commit={} applied={} {}",
                raft.role(),
                raft.base(),
                raft.snapshot(),
                raft.last_index(),
                raft.commit_index(),
                server.applied.len(),
                raft.membership(),
            );
            self.line(line);
        }
    }
}
