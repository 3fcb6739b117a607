//! Golden scripts: stories told to the real core, line by line. A script holds commands and, behind `---`, what they led
//! to: `n1 < input` and `n1 > effect`, as their `Display` writes them, which is also how a log shows them.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test scripts` writes the output anew; read the difference before you believe it.
//! The commands are those of [`Command`]. A command in parentheses is carried out without a word.

use std::{collections::BTreeSet, error::Error, fmt::Display, path::Path, time::Duration};

use bytes::Bytes;
use goldenscript::{Context, Runner};
use ractor_raft::raft::*;

use crate::{
    command::Command,
    support::{Body, Disk, ELECTION_TIMEOUT_MAX, HEARTBEAT, Packet, Server, World, voters},
};

#[path = "scripts/command.rs"]
mod command;
#[path = "scripts/operators.rs"]
mod operators;
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

#[test]
fn membership_scripts() {
    run_folder("membership", 12);
}

#[test]
fn snapshot_scripts() {
    run_folder("snapshot", 12);
}

#[test]
fn read_scripts() {
    run_folder("read", 6);
}

#[test]
fn session_scripts() {
    run_folder("session", 4);
}

#[test]
fn transfer_scripts() {
    run_folder("transfer", 8);
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

/// Where a script plays.
struct Stage {
    world: World,
    slow_disks: BTreeSet<NodeId>,
    /// Servers whose snapshots wait for `snapshot_step`.
    slow_snapshots: BTreeSet<NodeId>,
    partition: Vec<NodeId>,
    show_timers: bool,
    show_memberships: bool,
    output: String,
}

impl Default for Stage {
    fn default() -> Self {
        let (world, output) = (World::new(Default::default(), voters(0)), String::new());
        let (slow_disks, slow_snapshots) = (BTreeSet::new(), BTreeSet::new());
        let (show_timers, show_memberships) = (false, false);
        Stage { world, slow_disks, slow_snapshots, partition: Vec::new(), show_timers, show_memberships, output }
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
            Command::Cluster { nodes, stopped, numbered, threshold, trailing, disk_timeout } => {
                self.cluster(*nodes);
                for (id, server) in &mut self.world.servers {
                    server.disk.incarnation = if *numbered { 11 * id } else { 0 };
                    server.settings.incarnation = server.disk.incarnation;
                    server.settings.snapshot_threshold = threshold.unwrap_or(server.settings.snapshot_threshold);
                    server.settings.snapshot_trailing = trailing.unwrap_or(0);
                    let disk_timeout = disk_timeout.map(Duration::from_millis);
                    server.settings.disk_timeout = disk_timeout.unwrap_or(server.settings.disk_timeout);
                }
                let ids = if *stopped { Vec::new() } else { self.world.ids() };
                ids.into_iter().for_each(|id| self.start(id));
            }
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
            Command::Lose { id, peer, snapshotter } => {
                let courier = peer.map_or(Courier::ElectionTimer, Courier::Replicator);
                self.step(*id, Input::Lost(if *snapshotter { Courier::Snapshotter } else { courier }));
            }
            Command::ShowTimers => self.show_timers = true,
            Command::ShowMemberships => self.show_memberships = true,
            Command::Status => self.status(),
            Command::Log { ids } => self.log(ids),
            command => self.operate(command),
        }
    }

    fn line(&mut self, line: impl Display) {
        self.output.push_str(&format!("{line}\n"));
    }

    fn cluster(&mut self, nodes: u64) {
        let membership = voters(nodes);
        self.world = World::new((1..=nodes).map(|id| (id, Disk::of(&membership))).collect(), membership);
    }

    fn disk(&mut self, id: NodeId, current_term: Term, log: &[Term]) {
        let entry = |(index, term): (LogIndex, &Term)| {
            let command = Bytes::from(format!("{index}@{term}"));
            Entry { index, term: *term, payload: Payload::Command(command) }
        };
        let hard_state = HardState { current_term, voted_for: None };
        let membership = self.world.membership.clone();
        let entries = (1..).zip(log).map(entry).collect();
        self.world.server_mut(id).disk = Disk { hard_state, entries, ..Disk::of(&membership) };
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
                Effect::MembershipChanged(_) if !self.show_memberships => {}
                Effect::SetTimer { .. } if !self.show_timers => {}
                effect => self.line(format_args!("n{id} > {effect}")),
            }
        }
        // The state machine is prompt, and of what it applies it says nothing.
        while let Some(report) = self.world.work(id) {
            match report {
                Input::Applied { .. } => {
                    let effects = self.world.step(id, report);
                    self.show(id, &effects);
                }
                report => self.step(id, report),
            }
        }
    }

    /// Writes a snapshot, loads one, or stores a chunk.
    fn snapshot_step(&mut self, id: NodeId) {
        if self.world.load_snapshot(id) {
            self.show(id, &[]);
        } else if let Some(report) = self.world.write_snapshot(id).or_else(|| self.world.store_chunk(id)) {
            self.step(id, report);
        }
    }

    fn sync_if_fast(&mut self, id: NodeId) {
        if !self.slow_disks.contains(&id) {
            self.sync(id);
        }
        if !self.slow_snapshots.contains(&id) {
            self.snapshot_step(id);
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
        let waiting = self.world.network.len();
        let input = if parted || self.world.refuses(packet) { None } else { self.world.arrive(packet) };
        match input {
            Some(input) => self.step(packet.to, input),
            // The transport goes on by itself, with the next chunk.
            None if self.world.network.len() > waiting => self.line(described(packet)),
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
        self.world.send(from, to, 0, Request::TimeoutNow(request));
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
