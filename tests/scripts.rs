//! Golden scripts: stories told to the real core, line by line. A script holds commands and, behind `---`, what they led
//! to: `n1 < input` and `n1 > effect`, as their `Display` writes them, which is also how a log shows them.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test scripts` writes the output anew; read the difference before you believe it.
//! The commands are those of [`Command`]. A command in parentheses is carried out without a word.

use std::{collections::BTreeSet, error::Error, fmt::Display, path::Path, time::Duration};

use bytes::Bytes;
use goldenscript::{Context, Runner};
use ractor_raft::raft::*;

use crate::support::{Body, Disk, ELECTION_TIMEOUT_MAX, HEARTBEAT, Packet, World, voters};

mod support;

#[test]
fn election_scripts() {
    run_folder("election", 12);
}

#[test]
fn replication_scripts() {
    run_folder("replication", 12);
}

#[test]
fn durability_scripts() {
    run_folder("durability", 8);
}

fn run_folder(name: &str, at_least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    let files = std::fs::read_dir(&folder).expect("the folder is there").map(|file| file.expect("readable").path());
    let files: BTreeSet<_> = files.collect();
    assert!(files.len() >= at_least, "{} scripts in {}", files.len(), folder.display());
    for file in files {
        // The harness shows this only where a script differs.
        println!("{}", file.display());
        goldenscript::run(&mut Stage::default(), &file).expect("the script runs");
    }
}

/// What a script can say.
#[derive(goldenscript::Command)]
enum Command {
    /// n1, n2, … nN, all voters, with empty disks. With `stopped=true` none is started yet.
    Cluster {
        #[arg(key)]
        nodes: u64,
        #[arg(key, optional)]
        stopped: bool,
    },
    /// A stopped server's disk: its term, and the terms along its log.
    Disk {
        id: NodeId,
        #[arg(key)]
        term: Term,
        #[arg(optional)]
        log: Vec<Term>,
    },
    /// This server's writes stay in flight until `persist`.
    SlowDisk {
        id: NodeId,
    },
    /// The write in flight reaches the disk.
    Persist {
        id: NodeId,
    },
    /// Rings the alarm that is set, when it is due at the latest: an election, or a heartbeat.
    Timeout {
        id: NodeId,
    },
    /// An alarm of this epoch rings, late.
    LateTimeout {
        id: NodeId,
        #[arg(key)]
        epoch: u64,
    },
    /// Time passes.
    Wait {
        milliseconds: u64,
    },
    /// Delivers what is on its way now, not what that leads to.
    Deliver {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
        #[arg(key)]
        only: Option<usize>,
    },
    /// Delivers until nothing is on its way.
    Stabilize,
    /// Loses what is on its way, and tells nobody.
    Drop {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
    },
    /// What is on its way will come twice.
    Repeat {
        #[arg(key)]
        from: Option<NodeId>,
        #[arg(key)]
        to: Option<NodeId>,
    },
    /// What is on its way comes in reverse order.
    Reverse,
    /// What is on its way, in order.
    Network,
    /// The connection breaks: what is on it gets lost, and the caller is told.
    Break {
        from: NodeId,
        to: NodeId,
    },
    /// Nothing passes between these and the others, until `heal`.
    Partition {
        ids: Vec<NodeId>,
    },
    /// Ends the partition.
    Heal,
    Propose {
        id: NodeId,
        command: String,
    },
    Read {
        id: NodeId,
    },
    /// The leader asks another server to take over.
    Transfer {
        from: NodeId,
        to: NodeId,
    },
    /// With `write_survives=true` the write in flight reached the disk just before.
    Crash {
        id: NodeId,
        #[arg(key, optional)]
        write_survives: bool,
    },
    Restart {
        ids: Vec<NodeId>,
    },
    /// A replicator dies and is started again; without a peer, the election timer does.
    Lose {
        id: NodeId,
        peer: Option<NodeId>,
    },
    /// Shows the orders to the timer too.
    ShowTimers,
    Status,
    /// The log of each of these; of all where none is named.
    Log {
        #[arg(optional)]
        ids: Vec<NodeId>,
    },
}

/// Where a script plays.
struct Stage {
    world: World,
    slow_disks: BTreeSet<NodeId>,
    partition: Vec<NodeId>,
    show_timers: bool,
    output: String,
}

impl Default for Stage {
    fn default() -> Self {
        let (world, output) = (World::new(Default::default(), voters(0)), String::new());
        Stage { world, slow_disks: BTreeSet::new(), partition: Vec::new(), show_timers: false, output }
    }
}

impl Runner for Stage {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        self.play(command);
        Ok(std::mem::take(&mut self.output))
    }
}

impl Stage {
    fn play(&mut self, command: &Command) {
        match command {
            Command::Cluster { nodes, stopped } => self.cluster(*nodes, *stopped),
            Command::Disk { id, term, log } => self.disk(*id, *term, log),
            Command::SlowDisk { id } => drop(self.slow_disks.insert(*id)),
            Command::Persist { id } => self.sync(*id),
            Command::Timeout { id } => self.timeout(*id),
            Command::LateTimeout { id, epoch } => self.step(*id, Input::Timeout { epoch: *epoch }),
            Command::Wait { milliseconds } => self.world.now += Duration::from_millis(*milliseconds),
            Command::Deliver { from, to, only } => {
                let mut packets = self.take(*from, *to);
                let rest = packets.split_off(only.unwrap_or(packets.len()).min(packets.len()));
                self.world.network.splice(0..0, rest);
                packets.iter().for_each(|packet| self.deliver(packet));
            }
            Command::Stabilize => self.stabilize(),
            Command::Drop { from, to } => self.take(*from, *to).iter().for_each(|packet| self.lose(packet)),
            Command::Repeat { from, to } => {
                let packets = self.world.network.iter().filter(|packet| matches(packet, *from, *to)).cloned();
                let packets: Vec<_> = packets.collect();
                self.world.network.extend(packets);
            }
            Command::Reverse => self.world.network.reverse(),
            Command::Network => self.network(),
            Command::Break { from, to } => self.break_connection(*from, *to),
            Command::Partition { ids } => self.partition.clone_from(ids),
            Command::Heal => self.partition.clear(),
            Command::Propose { id, command } => {
                let call = self.world.new_call();
                self.step(*id, Input::Propose { call, payload: Payload::Command(Bytes::from(command.clone())) });
            }
            Command::Read { id } => {
                let call = self.world.new_call();
                self.step(*id, Input::Read { call, lease: false });
            }
            Command::Transfer { from, to } => self.transfer(*from, *to),
            Command::Crash { id, write_survives } => {
                self.world.crash(*id, *write_survives);
                self.line(format_args!("n{id} crashes"));
            }
            Command::Restart { ids } => ids.iter().for_each(|id| self.start(*id)),
            Command::Lose { id, peer } => {
                self.step(*id, Input::Lost(peer.map_or(Courier::ElectionTimer, Courier::Replicator)));
            }
            Command::ShowTimers => self.show_timers = true,
            Command::Status => self.status(),
            Command::Log { ids } => self.log(ids),
        }
    }

    fn line(&mut self, line: impl Display) {
        self.output.push_str(&format!("{line}\n"));
    }

    fn cluster(&mut self, nodes: u64, stopped: bool) {
        self.world = World::new((1..=nodes).map(|id| (id, Disk::default())).collect(), voters(nodes));
        if !stopped {
            (1..=nodes).for_each(|id| self.start(id));
        }
    }

    fn disk(&mut self, id: NodeId, current_term: Term, log: &[Term]) {
        let entry = |(index, term): (LogIndex, &Term)| {
            let command = Bytes::from(format!("{index}@{term}"));
            Entry { index, term: *term, payload: Payload::Command(command) }
        };
        let hard_state = HardState { current_term, voted_for: None };
        self.world.server_mut(id).disk = Disk { hard_state, entries: (1..).zip(log).map(entry).collect() };
    }

    fn start(&mut self, id: NodeId) {
        let effects = self.world.start(id);
        self.line(format_args!("n{id} starts"));
        self.show(id, &effects);
        self.sync_if_fast(id);
    }

    fn step(&mut self, id: NodeId, input: Input) {
        self.line(format_args!("n{id} < {input}"));
        let effects = self.world.step(id, input);
        self.show(id, &effects);
        self.sync_if_fast(id);
    }

    fn show(&mut self, id: NodeId, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::MembershipChanged(_) => {}
                Effect::SetTimer { .. } if !self.show_timers => {}
                effect => self.line(format_args!("n{id} > {effect}")),
            }
        }
        // The state machine is prompt, and says nothing.
        let server = self.world.server(id);
        let index = server.applied.len() as LogIndex;
        if server.raft().last_applied() < index {
            let effects = self.world.step(id, Input::Applied { index });
            self.show(id, &effects);
        }
    }

    fn sync_if_fast(&mut self, id: NodeId) {
        if !self.slow_disks.contains(&id) {
            self.sync(id);
        }
    }

    fn sync(&mut self, id: NodeId) {
        if let Some((persisted, then)) = self.world.sync(id) {
            self.step(id, persisted);
            self.world.carry_out_all(id, &then);
            self.show(id, &then);
        }
    }

    /// An alarm that rings too early, since a leader was heard meanwhile, is set again: that one then rings too.
    fn timeout(&mut self, id: NodeId) {
        for _ in 0..2 {
            let set = self.world.server(id).alarm.expect("a server always has an alarm");
            let after = if set.alarm == Alarm::Election { ELECTION_TIMEOUT_MAX } else { HEARTBEAT };
            self.world.now = self.world.now.max(set.since + after);
            self.step(id, Input::Timeout { epoch: set.epoch });
            if self.world.server(id).raft().role() != Role::Follower {
                return;
            }
        }
    }

    fn take(&mut self, from: Option<NodeId>, to: Option<NodeId>) -> Vec<Packet> {
        self.world.network.extract_if(.., |packet| matches(packet, from, to)).collect()
    }

    fn deliver(&mut self, packet: &Packet) {
        let parted = self.partition.contains(&packet.from) != self.partition.contains(&packet.to);
        let input = if parted { None } else { self.world.arrive(packet) };
        match input {
            Some(input) => self.step(packet.to, input),
            None => self.lose(packet),
        }
    }

    fn stabilize(&mut self) {
        for _ in 0..100 {
            let packets = std::mem::take(&mut self.world.network);
            if packets.is_empty() && !self.notice() {
                return;
            }
            packets.iter().for_each(|packet| self.deliver(packet));
        }
        panic!("the servers send each other messages for ever");
    }

    /// In the quiet a leader tells what is committed. Returns whether one had to.
    fn notice(&mut self) -> bool {
        let ids: Vec<NodeId> = self.world.servers.keys().copied().collect();
        ids.into_iter().filter(|id| self.rings_for_notice(*id)).count() > 0
    }

    fn rings_for_notice(&mut self, id: NodeId) -> bool {
        let server = self.world.server(id);
        let Some(set) = server.alarm.filter(|set| set.alarm == Alarm::Notice && server.raft.is_some()) else {
            return false;
        };
        self.world.now = self.world.now.max(set.since + HEARTBEAT / 10);
        self.step(id, Input::Timeout { epoch: set.epoch });
        true
    }

    fn lose(&mut self, packet: &Packet) {
        self.line(struck(&described(packet)));
    }

    fn network(&mut self) {
        let packets: Vec<_> = self.world.network.iter().map(described).collect();
        packets.iter().for_each(|packet| self.line(packet));
    }

    fn break_connection(&mut self, from: NodeId, to: NodeId) {
        let on_it = |packet: &mut Packet| match packet.body {
            Body::Request(_) => (packet.from, packet.to) == (from, to),
            Body::Reply(_) => (packet.from, packet.to) == (to, from),
        };
        let lost: Vec<_> = self.world.network.extract_if(.., on_it).collect();
        lost.iter().for_each(|packet| self.lose(packet));
        self.step(from, Input::Undelivered { peer: to });
    }

    fn transfer(&mut self, from: NodeId, to: NodeId) {
        let server = self.world.server(from);
        let request = TimeoutNowRequest { term: server.raft().current_term(), leader_id: from };
        let body = Body::Request(Request::TimeoutNow(request));
        let packet = Packet { from, to, session: 0, life: server.life, body };
        self.world.network.push(packet);
    }

    fn status(&mut self) {
        for id in self.world.ids() {
            let server = self.world.server(id);
            let line = match &server.raft {
                None => format!("n{id} down"),
                Some(raft) => format!(
                    "n{id} {} term={} voted_for={} leader={} last={} durable={} commit={} applied={}",
                    raft.role(),
                    raft.current_term(),
                    raft.voted_for().map_or("none".to_owned(), |id| format!("n{id}")),
                    raft.leader().map_or("none".to_owned(), |id| format!("n{id}")),
                    raft.last_index(),
                    raft.durable_index(),
                    raft.commit_index(),
                    raft.last_applied(),
                ),
            };
            self.line(line);
        }
    }

    fn log(&mut self, ids: &[NodeId]) {
        let ids = if ids.is_empty() { self.world.ids() } else { ids.to_vec() };
        for id in ids {
            let server = self.world.server(id);
            let log = if server.is_up() { server.log() } else { server.disk.entries.clone() };
            let entries: Vec<_> = log.iter().map(Entry::to_string).collect();
            self.line(format_args!("n{id}: {}", entries.join(", ")));
        }
    }
}

fn matches(packet: &Packet, from: Option<NodeId>, to: Option<NodeId>) -> bool {
    from.is_none_or(|id| packet.from == id) && to.is_none_or(|id| packet.to == id)
}

fn described(packet: &Packet) -> String {
    let body = match &packet.body {
        Body::Request(request) => request.to_string(),
        Body::Reply(reply) => reply.to_string(),
    };
    format!("n{} → n{} {body}", packet.from, packet.to)
}

/// Text with a line through it.
fn struck(text: &str) -> String {
    text.chars().flat_map(|char| [char, '\u{336}']).collect()
}
