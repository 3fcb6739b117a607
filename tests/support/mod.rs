//! A cluster of cores and nothing else: no actor, no clock, no disk. Every message, write and alarm waits until the
//! test lets it happen, so that a test can put any order, loss or repetition between any two of them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::raft::*;

pub mod checks;

/// The limits that all tests run with; small, so that windows fill.
pub fn settings(id: NodeId) -> Settings {
    Settings {
        id,
        incarnation: 0,
        heartbeat_interval: HEARTBEAT,
        election_timeout_min: ELECTION_TIMEOUT_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MAX,
        max_batch_entries: 3,
        max_batch_bytes: 64,
        max_in_flight_batches: 2,
        max_in_flight_bytes: 128,
        snapshot_threshold: 1_000_000,
        snapshot_threshold_bytes: 1 << 30,
        snapshot_trailing: 0,
        disk_timeout: Duration::from_secs(3600),
    }
}

pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(150);
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);
pub const HEARTBEAT: Duration = Duration::from_millis(50);

/// The servers 1 to `size`, all voters.
pub fn voters(size: u64) -> Membership {
    Membership::of_voters((1..=size).map(|id| (id, format!("n{id}"))))
}

/// Cores, their disks, and what is on its way between them.
pub struct World {
    pub now: Duration,
    pub servers: BTreeMap<NodeId, Server>,
    pub network: Vec<Packet>,
    pub membership: Membership,
    last_call: CallId,
}

/// One server: its core while it is up, its disk always.
pub struct Server {
    pub raft: Option<Raft>,
    /// How often it was started; answers to an earlier life do not reach a later one.
    pub life: u64,
    pub disk: Disk,
    /// The write that is not on disk yet.
    pub in_flight: Option<PendingWrite>,
    pub alarm: Option<SetAlarm>,
    /// What was handed to the state machine in this life.
    pub applied: Vec<Entry>,
    /// Requests of other servers that wait for a reply.
    pub asked: BTreeMap<CallId, Asker>,
    pub settings: Settings,
    last_seq: u64,
}

/// What a server remembers over a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

pub struct PendingWrite {
    pub seq: u64,
    pub write: Write,
    pub then: Vec<Effect>,
}

#[derive(Clone, Copy)]
pub struct SetAlarm {
    pub epoch: u64,
    pub alarm: Alarm,
    pub since: Duration,
}

#[derive(Clone, Copy)]
pub struct Asker {
    pub from: NodeId,
    pub session: u64,
    pub life: u64,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    /// Of the request, also in its reply.
    pub session: u64,
    /// The asking server's life.
    pub life: u64,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Request(Request),
    Reply(Reply),
}

impl Disk {
    /// Carries out one transaction: hard state, truncation, entries.
    pub fn write(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(index) = write.truncate_from {
            self.entries.truncate(index as usize - 1);
        }
        for entry in &write.entries {
            assert_eq!(entry.index, self.entries.len() as LogIndex + 1, "the disk's log has no gaps");
            self.entries.push(entry.clone());
        }
    }

    /// The term of the entry at `index`; 0 for index 0.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index {
            0 => Some(0),
            _ => self.entries.get(index as usize - 1).map(|entry| entry.term),
        }
    }
}

impl Server {
    pub fn raft(&self) -> &Raft {
        self.raft.as_ref().expect("the test asks only servers that are up")
    }

    pub fn is_up(&self) -> bool {
        self.raft.is_some()
    }

    /// The log in memory.
    pub fn log(&self) -> Vec<Entry> {
        let raft = self.raft();
        (1..=raft.last_index()).map(|index| raft.entry(index).expect("nothing is compacted here").clone()).collect()
    }
}

impl World {
    /// Servers with these disks; none is up yet.
    pub fn new(disks: BTreeMap<NodeId, Disk>, membership: Membership) -> Self {
        let servers = disks.into_iter().map(|(id, disk)| {
            let server = Server {
                raft: None,
                life: 0,
                disk,
                in_flight: None,
                alarm: None,
                applied: Vec::new(),
                asked: BTreeMap::new(),
                settings: settings(id),
                last_seq: 0,
            };
            (id, server)
        });
        World { now: Duration::ZERO, servers: servers.collect(), network: Vec::new(), membership, last_call: 0 }
    }

    pub fn server(&self, id: NodeId) -> &Server {
        &self.servers[&id]
    }

    pub fn server_mut(&mut self, id: NodeId) -> &mut Server {
        self.servers.get_mut(&id).expect("the test names servers that exist")
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.servers.keys().copied().collect()
    }

    pub fn new_call(&mut self) -> CallId {
        self.last_call += 1;
        self.last_call
    }

    /// Starts a server from its disk. Returns what it ordered.
    pub fn start(&mut self, id: NodeId) -> Vec<Effect> {
        let (now, membership) = (self.now, self.membership.clone());
        let server = self.server_mut(id);
        assert!(!server.is_up(), "n{id} is up already");
        let recovered = Recovered {
            hard_state: server.disk.hard_state,
            base: LogPosition::default(),
            membership,
            entries: server.disk.entries.clone(),
            ..Recovered::default()
        };
        server.life += 1;
        server.last_seq = 0;
        let mut effects = Vec::new();
        server.raft = Some(Raft::new(server.settings.clone(), recovered, now, &mut effects));
        self.carry_out_all(id, &effects);
        effects
    }

    /// Stops a server at once. A write in flight is lost, or had just reached the disk when the power went.
    pub fn crash(&mut self, id: NodeId, write_survives: bool) {
        let server = self.server_mut(id);
        server.raft = None;
        if let Some(pending) = server.in_flight.take()
            && write_survives
        {
            server.disk.write(&pending.write);
        }
        server.alarm = None;
        server.applied.clear();
        server.asked.clear();
    }

    /// Lets the core take one input in and carries out what it orders. Returns that.
    pub fn step(&mut self, id: NodeId, input: Input) -> Vec<Effect> {
        let now = self.now;
        let raft = self.server_mut(id).raft.as_mut().expect("only a server that is up hears anything");
        let mut effects = Vec::new();
        raft.step(now, input, &mut effects);
        self.carry_out_all(id, &effects);
        effects
    }

    /// The input that a packet is at its addressee, or `None` if nobody is there to take it.
    pub fn arrive(&mut self, packet: &Packet) -> Option<Input> {
        if !self.server(packet.to).is_up() {
            return None;
        }
        match &packet.body {
            Body::Request(request) => {
                let call = self.new_call();
                let asker = Asker { from: packet.from, session: packet.session, life: packet.life };
                self.server_mut(packet.to).asked.insert(call, asker);
                Some(Input::Request { call, from: packet.from, request: request.clone() })
            }
            Body::Reply(reply) => {
                let same_life = self.server(packet.to).life == packet.life;
                let (from, session) = (packet.from, packet.session);
                same_life.then(|| Input::Response { from, session, reply: reply.clone() })
            }
        }
    }

    /// Puts the write in flight on the disk. Returns the report, and what it was that waited for it.
    pub fn sync(&mut self, id: NodeId) -> Option<(Input, Vec<Effect>)> {
        let server = self.server_mut(id);
        let pending = server.in_flight.take()?;
        server.disk.write(&pending.write);
        Some((Input::Persisted { seq: pending.seq }, pending.then))
    }

    pub fn carry_out_all(&mut self, id: NodeId, effects: &[Effect]) {
        effects.iter().for_each(|effect| self.carry_out(id, effect));
    }

    fn carry_out(&mut self, id: NodeId, effect: &Effect) {
        let server = self.server_mut(id);
        match effect {
            Effect::SetTimer { epoch, alarm, since } => {
                server.alarm = Some(SetAlarm { epoch: *epoch, alarm: *alarm, since: *since });
            }
            Effect::Send { to, session, request } => {
                let body = Body::Request(request.clone());
                let life = server.life;
                self.network.push(Packet { from: id, to: *to, session: *session, life, body });
            }
            Effect::Persist { seq, write, then } => {
                assert!(server.in_flight.is_none(), "n{id} has two writes in flight");
                assert_eq!(*seq, server.last_seq + 1, "n{id}: write sequences rise one by one");
                server.last_seq = *seq;
                server.in_flight = Some(PendingWrite { seq: *seq, write: write.clone(), then: then.clone() });
            }
            Effect::Apply { entries, .. } => {
                for entry in entries {
                    assert_eq!(entry.index, server.applied.len() as LogIndex + 1, "n{id} applies without gaps");
                    server.applied.push(entry.clone());
                }
            }
            Effect::Reply { call, reply } => {
                let asker = server.asked.remove(call).expect("a request is answered once");
                let body = Body::Reply(reply.clone());
                let Asker { from: to, session, life } = asker;
                self.network.push(Packet { from: id, to, session, life, body });
            }
            _ => {}
        }
    }
}
