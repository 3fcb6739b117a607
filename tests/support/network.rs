//! What is on its way between the servers of a [`World`], and how a snapshot is sent: as a conversation, chunk by chunk.

use bytes::Bytes;
use ractor_raft::raft::*;

use super::{
    World,
    disk::{self, CHUNK},
    trust,
};

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    /// Of the request, also in its reply.
    pub session: u64,
    /// The asking server's life.
    pub life: u64,
    /// The disk that the sender of a request meant. 0: whichever is there.
    pub disk: Incarnation,
    /// The sender's own disk, as it sent this.
    pub own_disk: Incarnation,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Request(Request),
    Reply(Reply),
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub struct Asker {
    pub from: NodeId,
    pub session: u64,
    pub life: u64,
}

/// A snapshot on its way, as a transport sends it: it asks what is there, then sends chunk after chunk.
#[derive(Clone)]
pub struct Conversation {
    pub session: u64,
    /// Without bytes.
    request: InstallSnapshotRequest,
    /// How far the other server will be when it has what was sent last. `None`: it was only asked.
    sent_to: Option<u64>,
}

impl World {
    /// Puts a request on its way.
    pub fn send(&mut self, from: NodeId, to: NodeId, session: u64, request: Request) {
        let server = self.server(from);
        let disk = server.raft.as_ref().map_or(0, |raft| trust::meant(raft.membership(), to));
        let (life, own_disk) = (server.life, server.disk.incarnation);
        self.network.push(Packet { from, to, session, life, disk, own_disk, body: Body::Request(request) });
    }

    /// Begins to send a snapshot. Another one to the same server ends.
    pub(super) fn converse(&mut self, from: NodeId, to: NodeId, session: u64, request: &InstallSnapshotRequest) {
        let conversation = Conversation { session, request: request.clone(), sent_to: None };
        self.conversations.insert((from, to), conversation);
        self.send(from, to, session, Request::InstallSnapshot(request.clone()));
    }

    pub(super) fn reply(&mut self, id: NodeId, call: CallId, reply: &Reply) {
        let asker = self.server_mut(id).asked.remove(&call).expect("a request is answered once");
        let Asker { from: to, session, life } = asker;
        let (own_disk, body) = (self.server(id).disk.incarnation, Body::Reply(reply.clone()));
        self.network.push(Packet { from: id, to, session, life, disk: 0, own_disk, body });
    }

    /// The input that a packet is at its addressee, or `None` if nobody is there to take it.
    pub fn arrive(&mut self, packet: &Packet) -> Option<Input> {
        if !self.servers.get(&packet.to)?.is_up() {
            return None;
        }
        match &packet.body {
            Body::Request(request) => {
                let call = self.new_call();
                let asker = Asker { from: packet.from, session: packet.session, life: packet.life };
                self.server_mut(packet.to).asked.insert(call, asker);
                Some(Input::Request { call, from: packet.from, request: request.clone() })
            }
            Body::Reply(_) if self.server(packet.to).life != packet.life => None,
            Body::Reply(Reply::InstallSnapshot(reply)) => self.hear_of_snapshot(packet, reply),
            Body::Reply(reply) => {
                Some(Input::Response { from: packet.from, session: packet.session, reply: reply.clone() })
            }
        }
    }

    /// Goes on with the snapshot, or ends with this answer.
    fn hear_of_snapshot(&mut self, packet: &Packet, reply: &InstallSnapshotReply) -> Option<Input> {
        let (from, to) = (packet.to, packet.from);
        let conversation = self.conversations.get(&(from, to)).filter(|it| it.session == packet.session)?.clone();
        let answer =
            Input::Response { from: to, session: packet.session, reply: Reply::InstallSnapshot(reply.clone()) };
        let InstallOutcome::Stored { offset } = reply.outcome else {
            self.conversations.remove(&(from, to));
            return Some(answer);
        };
        if conversation.sent_to.is_some_and(|end| end != offset) {
            self.conversations.remove(&(from, to));
            return Some(answer);
        }
        let data = self.chunk_at(from, &conversation.request.snapshot, offset);
        let Some(data) = data.filter(|data| !data.is_empty()) else {
            self.conversations.remove(&(from, to));
            return Some(Input::Undelivered { peer: to });
        };
        let sent_to = Some(offset + data.len() as u64);
        self.conversations.insert((from, to), Conversation { sent_to, ..conversation.clone() });
        let request = InstallSnapshotRequest { offset, data, ..conversation.request };
        self.send(from, to, packet.session, Request::InstallSnapshot(request));
        None
    }

    /// A piece of the finished snapshot. `None`: it is not there any more.
    pub fn chunk_at(&self, id: NodeId, snapshot: &SnapshotMetadata, offset: u64) -> Option<Bytes> {
        self.server(id).disk.finished.as_ref().filter(|finished| *finished == snapshot)?;
        let (_, prefix, maker) = self.contents.iter().find(|(known, _, _)| known == snapshot)?;
        let bytes = disk::bytes_of(prefix, snapshot.size, *maker);
        let from = (offset as usize).min(bytes.len());
        Some(bytes.slice(from..(from + CHUNK).min(bytes.len())))
    }

    /// Whether another disk answers than the one that was asked. Only who asks refuses: who is asked may be behind, and not know
    /// yet that the asker's disk was replaced.
    pub fn refuses(&self, packet: &Packet) -> bool {
        let Some(to) = self.servers.get(&packet.to).filter(|_| self.servers.contains_key(&packet.from)) else {
            return true;
        };
        let known = |raft: &Raft| trust::is_known_otherwise(raft.membership(), packet.from, packet.own_disk);
        match packet.body {
            Body::Request(_) => !trust::is_for(packet.disk, to.disk.incarnation),
            Body::Reply(_) => to.raft.as_ref().is_some_and(known),
        }
    }
}
