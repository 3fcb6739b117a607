//! What may happen in a state, and what it leads to.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use ractor_raft::raft::*;

use super::{
    explore::{Search, State},
    history::{History, check_log_matching, command},
    scope::{TICK, next_number},
    server::{Body, CLIENTS, Contents, Move, ORPHAN, OVER, Packet, Server, Turn, renumbered},
};
use crate::support::disk::Disk;

/// Reads are numbered from here on.
const READS: CallId = CLIENTS + 10;
/// Operators' calls are numbered from here on.
const OPERATORS: CallId = CLIENTS + 20;

impl Search {
    fn size(&self) -> usize {
        self.scope.disks.len()
    }

    /// All that may happen next.
    pub fn moves(&self, state: &State) -> Vec<(NodeId, Move)> {
        let mut moves = Vec::new();
        let history = self.histories.get(state[0]);
        // What n3 begins is the mirror image of what n2 begins.
        let mirrored = self.first.as_ref().is_some_and(|first| first.len() >= 4 && first[2..4] == state[2..4]);
        for (id, number) in (1..).zip(&state[1..=self.size()]) {
            self.moves_of(self.servers.get(*number), history, |what| moves.push((id, what)));
            if history.used.wipes < self.scope.wipes && self.may_be_wiped(id, state) {
                moves.push((id, Move::Wipe));
            }
        }
        for packet in &state[self.size() + 1..] {
            let (number, packet) = (*packet, self.packets.get(*packet));
            let server = self.servers.get(state[packet.to as usize]);
            let campaigns = matches!(packet.body, Body::Request(Request::TimeoutNow(_)));
            if (!campaigns || server.raft.current_term() < self.scope.max_term) && !server.owes(packet) {
                moves.push((packet.to, Move::Deliver(number)));
            }
        }
        if mirrored && self.scope.mirrored {
            moves.retain(|(id, what)| *id != 3 || matches!(what, Move::Tick));
        }
        if history.used.ticks < self.scope.ticks {
            moves.push((0, Move::Tick));
        }
        moves
    }

    /// A majority of empty disks is a new cluster: nobody can tell.
    fn may_be_wiped(&self, id: NodeId, state: &State) -> bool {
        let voters = &self.scope.disks[0].membership.voters;
        let is_empty = |other: NodeId| self.servers.get(state[other as usize]).disk.last_index() == 0;
        let empty = voters.keys().filter(|other| **other == id || is_empty(**other)).count();
        self.scope.wiped.contains(&id) && empty <= voters.len() / 2
    }

    fn moves_of(&self, server: &Server, history: &History, mut may: impl FnMut(Move)) {
        let (used, scope) = (&history.used, &self.scope);
        let leads = server.leads().is_some();
        // Where nothing has happened yet, all servers are alike.
        let first = !scope.mirrored || server.id == 1 || !history.is_blank();
        let stands = scope.stands.is_empty() || scope.stands.contains(&(server.id, server.raft.current_term() + 1));
        let may_campaign =
            stands && scope.campaigners.contains(&server.id) && server.raft.current_term() < scope.max_term;
        if server.is_due() && (leads && scope.heartbeats || !leads && may_campaign && first) {
            may(Move::Ring);
        }
        if server.pending.is_some() {
            may(Move::Sync);
            scope.late_reports.then(|| may(Move::LateReport));
        }
        if used.crashes < scope.crashes {
            may(Move::Crash { survives: false });
            server.is_writing().then(|| may(Move::Crash { survives: true }));
        }
        server.chunk.is_some().then(|| may(Move::StoreChunk));
        server.writing.is_some().then(|| may(Move::WriteSnapshot));
        server.loading.is_some().then(|| may(Move::Restore));
        if used.reads < scope.reads && (leads || server.raft.leader().is_some()) {
            may(Move::Read(used.reads, scope.leases));
        }
        if used.snapshots < scope.snapshots && server.applied.len() as LogIndex > server.raft.snapshot().index {
            may(Move::TakeSnapshot);
        }
        if !leads {
            return;
        }
        (used.alone < scope.alone).then(|| may(Move::RingAlone));
        (used.proposals < scope.proposals).then(|| may(Move::Propose(used.proposals)));
        (usize::from(used.changes) < scope.changes.len()).then(|| may(Move::Change(used.changes)));
        for (peer, ..) in server.raft.peers() {
            (used.breaks < scope.breaks).then(|| may(Move::Undelivered(peer)));
            (used.transfers < scope.transfers).then(|| may(Move::Transfer(peer)));
        }
    }

    /// One server's turn.
    pub fn take_turn<'a>(&self, number: u32, what: Move, contents: &'a mut Contents, lines: bool) -> Turn<'a> {
        let server = Server::clone(self.servers.get(number));
        if what.ends_life() {
            let survives = what == Move::Crash { survives: true };
            let now = if self.scope.ticks > 0 { server.now } else { Duration::ZERO };
            let writes = server.is_writing();
            let (mut settings, mut disk) = Turn::remains(server, survives);
            if what == Move::Wipe {
                let incarnation = next_number(disk.incarnation);
                let membership = &self.scope.disks[settings.id as usize - 1].membership;
                disk = Disk { incarnation, ..Disk::of(membership) };
                settings.incarnation = incarnation;
            }
            let mut turn = Turn::start(settings, disk, now, contents, lines);
            turn.lost_write = writes && !survives;
            if let Some(lines) = &mut turn.lines {
                let id = turn.server.id;
                let disk = if what == Move::Wipe {
                    "its disk is lost".to_owned()
                } else {
                    format!("what it was writing is on disk: {survives}")
                };
                lines.insert(0, format!("n{id} falls, {disk}"));
            }
            self.write_promptly(&mut turn);
            return turn;
        }
        let mut turn = Turn::new(server, contents, lines);
        match what {
            Move::Deliver(packet) => turn.deliver(self.packets.get(packet)),
            Move::Ring => turn.ring(self.scope.pre_votes),
            Move::RingAlone => turn.ring_alone(),
            Move::Sync => turn.sync(),
            Move::LateReport => turn.step(Input::Persisted { seq: 0 }),
            Move::Undelivered(peer) => turn.step(Input::Undelivered { peer }),
            Move::Propose(count) => {
                let call = CLIENTS + CallId::from(count);
                turn.step(Input::Propose { call, payload: command(count) });
            }
            Move::Read(count, lease) => turn.step(Input::Read { call: READS + CallId::from(count), lease }),
            Move::Change(count) => {
                let change = self.scope.changes[usize::from(count)].clone();
                turn.step(Input::ChangeMembership { call: OPERATORS, change });
            }
            Move::Transfer(to) => turn.step(Input::TransferLeadership { call: OPERATORS + 1, to: Some(to) }),
            Move::TakeSnapshot => turn.step(Input::TakeSnapshot { call: OPERATORS + 2 }),
            Move::StoreChunk => turn.store_chunk(),
            Move::WriteSnapshot => turn.write_snapshot(),
            Move::Restore => turn.restore(),
            Move::Crash { .. } | Move::Wipe | Move::Tick => unreachable!("not a turn of one server that is up"),
        }
        self.write_promptly(&mut turn);
        turn
    }

    fn write_promptly(&self, turn: &mut Turn<'_>) {
        while self.scope.prompt_disks && turn.server.pending.is_some() {
            // Sequences are counted anew only at the end of a turn.
            turn.sync();
        }
    }

    /// The state after a move; `None` where nothing changes.
    pub fn successor(&mut self, state: &State, id: NodeId, what: Move) -> Result<Option<State>, String> {
        if what == Move::Tick {
            return Ok(Some(self.tick(state)));
        }
        let at = id as usize;
        let outcome = self.outcome(state[at], what);
        if let Some(violation) = &outcome.violation {
            return Err(violation.clone());
        }
        let waits = self.servers.get(outcome.server).asked.len() > self.scope.waiting;
        if waits || outcome.read_round > self.scope.read_rounds {
            return Ok(None);
        }
        let counted = !matches!(what, Move::Deliver(_) | Move::Ring | Move::Sync | Move::LateReport);
        if !counted && outcome.server == state[at] && outcome.events.is_empty() && outcome.numbers.is_none() {
            let packets = &state[self.size() + 1..];
            if outcome.sent.iter().all(|packet| packets.binary_search(packet).is_ok()) {
                return Ok(None);
            }
        }
        let mut servers = state[1..=self.size()].to_vec();
        let mut packets = state[self.size() + 1..].to_vec();
        servers[at - 1] = outcome.server;
        if what.ends_life() {
            self.orphan(id, &mut servers, &mut packets);
        } else if let Some(numbers) = &outcome.numbers {
            self.give_numbers(id, &mut servers, &mut packets, |session| renumbered(numbers, session));
        }
        packets.extend(outcome.sent.iter().filter(|packet| !self.is_lost(**packet)));
        let wipes = self.histories.get(state[0]).used.wipes + u8::from(what == Move::Wipe);
        // Only what this server hears, and what goes by another number now, can have become of no use.
        let renumbered = outcome.numbers.is_some() || what.ends_life();
        packets.retain(|packet| {
            let touched =
                renumbered || NodeId::from(self.addressees[*packet as usize]) == id || outcome.sent.contains(packet);
            !touched || !self.is_spent(*packet, &servers, wipes)
        });
        packets.sort_unstable();
        packets.dedup();
        let history = if counted || !outcome.events.is_empty() {
            let mut history = History::clone(self.histories.get(state[0]));
            count(&mut history, id, what);
            if what == Move::Wipe {
                history.wiped(id, &self.servers.get(state[at]).disk);
            }
            let values: Vec<Rc<Server>> = servers.iter().map(|number| self.servers.get(*number).clone()).collect();
            let values: Vec<&Server> = values.iter().map(|server| &**server).collect();
            outcome.events.iter().try_for_each(|event| history.note(id, event, &values))?;
            if history.used.reads >= self.scope.reads {
                history.nobody_reads_any_more();
            }
            self.histories.number(history)
        } else {
            state[0]
        };
        if outcome.server != state[at] {
            self.compare_logs(id, &servers)?;
        }
        Ok(Some([history].into_iter().chain(servers).chain(packets).collect()))
    }

    fn is_lost(&self, packet: u32) -> bool {
        self.scope.only_elections && self.packets.get(packet).is_append_entries()
    }

    /// Whether a state with these servers lacks a message, and has a use for it.
    pub fn is_news(&self, packet: u32, state: &State) -> bool {
        let (places, packets) = state.split_at(self.size() + 1);
        packets.binary_search(&packet).is_err()
            && !self.is_lost(packet)
            && !self.is_spent(packet, &places[1..], self.histories.get(places[0]).used.wipes)
    }

    fn compare_logs(&mut self, id: NodeId, servers: &[u32]) -> Result<(), String> {
        let own = servers[id as usize - 1];
        for other in servers.iter().filter(|other| **other != own) {
            if self.compared.insert((own.min(*other), own.max(*other))) {
                check_log_matching(self.servers.get(own), self.servers.get(*other))?;
            }
        }
        Ok(())
    }

    /// `id` has crashed: no answer reaches it any more.
    fn orphan(&mut self, id: NodeId, servers: &mut [u32], packets: &mut Vec<u32>) {
        packets.retain(|packet| {
            let packet = self.packets.get(*packet);
            !(packet.is_reply() && packet.to == id)
        });
        self.give_numbers(id, servers, packets, |_| ORPHAN);
    }

    /// Whoever holds a session of `id` changes it.
    fn give_numbers(&mut self, id: NodeId, servers: &mut [u32], packets: &mut [u32], new: impl Fn(u64) -> u64) {
        for number in packets.iter_mut() {
            let packet = self.packets.get(*number);
            let session = new(packet.session);
            if packet.asker() == id && packet.session != session {
                let packet = Packet { session, ..Packet::clone(packet) };
                *number = self.number_packet(packet);
            }
        }
        for number in servers.iter_mut() {
            let server = self.servers.get(*number);
            let changed = |(from, session, _): &(NodeId, u64, Request)| *from == id && new(*session) != *session;
            if server.asked.values().any(changed) {
                let mut server = Server::clone(server);
                let own = server.asked.values_mut().filter(|(from, ..)| *from == id);
                own.for_each(|(_, session, _)| *session = new(*session));
                *number = self.servers.number(server);
            }
        }
    }

    /// Whether nothing will ever come of a message, whenever it arrives: nobody hears the answer, and the answerer has on its disk
    /// that it knows better; or it answers what is over, with a term that is known.
    fn is_spent(&self, packet: u32, servers: &[u32], wipes: u8) -> bool {
        let packet = self.packets.get(packet);
        let server = self.servers.get(servers[packet.to as usize - 1]);
        match &packet.body {
            // An answer to an earlier question must not pass for one to a later (R03): such answers stay.
            Body::Reply(Reply::ReadIndex(_)) => false,
            Body::Reply(reply) => packet.session == OVER && reply.term() <= server.raft.current_term(),
            Body::Request(Request::PreVote(_)) => packet.session == ORPHAN || packet.session == OVER,
            // An empty disk in the place of this one knows nothing better.
            Body::Request(_) if wipes < self.scope.wipes && self.scope.wiped.contains(&packet.to) => false,
            Body::Request(request) => packet.session == ORPHAN && request.term() < server.disk.hard_state.current_term,
        }
    }

    fn tick(&mut self, state: &State) -> State {
        let mut next = state.to_vec();
        for number in &mut next[1..=self.scope.disks.len()] {
            let mut server = Server::clone(self.servers.get(*number));
            server.now += TICK;
            *number = self.servers.number(server);
        }
        let mut history = History::clone(self.histories.get(state[0]));
        history.used.ticks += 1;
        next[0] = self.histories.number(history);
        next.into()
    }

    /// Everyone is up; in a settled scope n1 leads, and all that was said has arrived.
    pub fn first_state(&mut self) -> State {
        let mut servers = Vec::new();
        for (id, disk) in (1..).zip(self.scope.disks.clone()) {
            let settings = self.scope.settings(id);
            if let Some(snapshot) = &disk.finished {
                self.contents.insert(snapshot.clone(), self.scope.compacted.clone());
            }
            let up_for = if self.scope.settled { settings.election_timeout_min } else { Duration::ZERO };
            let mut turn = Turn::start(settings, disk, Duration::ZERO, &mut self.contents, false);
            // Whoever has just started gives no vote.
            turn.server.now += up_for;
            turn.renumber();
            if !self.scope.forgets_nothing {
                turn.server.raft.forget(&self.scope.never());
            }
            servers.push(turn.server);
        }
        let servers = servers.into_iter().map(|server| self.servers.number(server));
        let servers: Vec<u32> = servers.collect();
        let history = self.histories.number(History::after(&self.scope.compacted));
        let mut state: State = [history].into_iter().chain(servers).collect();
        if self.scope.settled {
            let mut way = Vec::new();
            let begin = state.clone();
            // A second and third heartbeat tell what is committed, and that everyone keeps up.
            for _ in 0..4 {
                state = self.lead_on(&begin, state, (1, Move::Ring), &mut way);
                state = self.settle(&begin, state, &mut way);
            }
            let lost = state[..=self.size()].to_vec();
            state = lost.into();
        }
        state
    }

    /// A step on the way to the first state.
    fn lead_on(&mut self, begin: &State, state: State, step: (NodeId, Move), way: &mut Vec<(NodeId, Move)>) -> State {
        way.push(step);
        match self.successor(&state, step.0, step.1) {
            Ok(next) => next.unwrap_or(state),
            Err(violation) => self.fail_along(begin.clone(), way, &violation),
        }
    }

    /// Lets everything arrive, once, until nothing is new.
    fn settle(&mut self, begin: &State, mut state: State, way: &mut Vec<(NodeId, Move)>) -> State {
        let mut arrived = BTreeSet::new();
        loop {
            let waits = |what: &Move| match what {
                Move::Sync => true,
                Move::Deliver(packet) => !arrived.contains(packet),
                _ => false,
            };
            let Some((id, what)) = self.moves(&state).into_iter().find(|(_, what)| waits(what)) else { return state };
            if let Move::Deliver(packet) = what {
                arrived.insert(packet);
            }
            state = self.lead_on(begin, state, (id, what), way);
        }
    }
}

fn count(history: &mut History, id: NodeId, what: Move) {
    let used = &mut history.used;
    match what {
        Move::Crash { .. } => {
            used.crashes += 1;
            history.crashed(id);
        }
        Move::Wipe => used.wipes += 1,
        Move::RingAlone => used.alone += 1,
        Move::Undelivered(_) => used.breaks += 1,
        Move::Propose(_) => used.proposals += 1,
        Move::Read(count, _) => {
            used.reads += 1;
            history.asked_to_read(READS + CallId::from(count), id);
        }
        Move::Change(_) => used.changes += 1,
        Move::Transfer(_) => used.transfers += 1,
        Move::TakeSnapshot => used.snapshots += 1,
        _ => {}
    }
}
