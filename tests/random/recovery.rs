//! How a walk ends: without faults, everything arrives in order and at once, and everything must come right.

use ractor_raft::raft::*;

use crate::{
    Walk,
    support::{Server, checks::Kind, disk::Disk},
};

/// How many alarms may ring until the cluster is well again.
const ALARMS_TO_RECOVER: usize = 300;

impl Walk {
    pub fn recover(&mut self) {
        self.cut.clear();
        self.faults.reorder = 0;
        while !self.down().is_empty() {
            self.restart();
        }
        // Alarms that are overdue since the faults may still depose someone; then they are in step.
        for _ in 0..ALARMS_TO_RECOVER / 2 {
            self.settle();
            self.ring_first();
        }
        self.ring_until("a leader that everyone follows emerges", |walk| walk.agreed_leader().is_some());
        self.replace_lost_disks();
        let leader = self.agreed_leader().expect("just waited for");
        let acknowledged = self.checks.acknowledged;
        (0..5).for_each(|_| self.propose(leader));
        self.members(leader).into_iter().for_each(|id| self.read(id));
        self.ring_until("what is proposed afterwards is committed", |walk| {
            walk.checks.acknowledged >= acknowledged + 5
        });
        self.ring_until("every change is finished, every staged learner votes", Walk::is_finished);
        self.ring_until("every server has everything", Walk::is_settled);
        // A question to the leader that got lost is asked again with the next alarm.
        self.ring_until("every call has its answer", |walk| {
            // A server that nobody tells that it was removed waits for ever to hear of its leader.
            let members = walk.agreed_leader().map_or_else(Vec::new, |leader| walk.members(leader));
            let waits = |id| walk.faults.tells_removed || members.contains(&id);
            walk.checks.open_calls(waits).is_empty()
                && walk.world.servers.values().all(|server| server.asked.is_empty())
        });
        self.checks.check_refused();
    }

    /// Lets the cluster run until `done`, an alarm at a time.
    fn ring_until(&mut self, what: &str, done: impl Fn(&Walk) -> bool) {
        for _ in 0..ALARMS_TO_RECOVER {
            self.settle();
            if done(self) {
                return;
            }
            self.ring_first();
        }
        for (id, server) in self.world.servers.iter().filter(|(_, server)| server.is_up()) {
            let raft = server.raft();
            eprintln!(
                "n{id} {} term={} leader={:?} base={} snapshot={} last={} durable={} commit={} applied={} {}",
                raft.role(),
                raft.current_term(),
                raft.leader(),
                raft.base(),
                raft.snapshot(),
                raft.last_index(),
                raft.durable_index(),
                raft.commit_index(),
                raft.last_applied(),
                raft.membership()
            );
            eprintln!("   {:?}", raft.peers().collect::<Vec<_>>());
        }
        let open = self.checks.open_calls(|_| true);
        panic!("Liveness: {ALARMS_TO_RECOVER} alarms after the last fault it is not so that {what}. Open: {open:?}");
    }

    /// The alarm that is due first rings.
    fn ring_first(&mut self) {
        let due = self.due.iter().map(|(id, due)| (*id, *due));
        let (id, (epoch, due)) = due.min_by_key(|(_, (_, due))| *due).expect("all servers are up");
        self.world.now = self.world.now.max(due);
        self.act(id, Input::Timeout { epoch });
        self.steps += 1;
    }

    /// Everything that is on its way arrives, until nothing is.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.free();
            let ids = self.up();
            let busy = |id: &NodeId| self.world.server(*id).in_flight.is_some() || self.world.server(*id).is_working();
            let moved = !self.world.network.is_empty() || ids.iter().any(busy);
            self.arrive(true);
            for id in ids {
                self.sync(id);
                self.work(id);
                self.world.load_snapshot(id);
                for report in [self.world.store_chunk(id), self.world.write_snapshot(id)].into_iter().flatten() {
                    self.act(id, report);
                }
            }
            if !moved && self.world.conversations.is_empty() {
                return;
            }
            if !moved {
                // What was lost of it before the faults stopped does not come any more.
                self.stall();
            }
        }
        panic!("Liveness: the servers send each other messages for ever, without an alarm");
    }

    /// An operator replaces every server whose disk was lost.
    fn replace_lost_disks(&mut self) {
        for id in self.world.ids() {
            for _ in 0..20 {
                let Some(leader) = self.agreed_leader() else {
                    self.ring_until("there is a leader while servers are replaced", |walk| {
                        walk.agreed_leader().is_some()
                    });
                    continue;
                };
                let membership = self.world.server(leader).raft().membership().clone();
                let condemned = self.checks.condemned.remove(&id);
                if !condemned && !self.is_refused(id, &membership) {
                    break;
                }
                if condemned {
                    self.begin_anew(id, Disk::default());
                    self.start(id);
                }
                let call = self.world.new_call();
                self.checks.asked(call, leader, Kind::Change);
                self.act(
                    leader,
                    Input::ChangeMembership { call, change: Change::Replace { id, address: format!("n{id} new") } },
                );
                for _ in 0..20 {
                    self.settle();
                    self.ring_first();
                }
            }
            let leader = self.agreed_leader().expect("the faults are over");
            let refused = self.is_refused(id, self.world.server(leader).raft().membership());
            assert!(!refused, "Liveness: n{id} lost its disk and cannot be replaced");
        }
    }

    fn members(&self, leader: NodeId) -> Vec<NodeId> {
        let membership = self.world.server(leader).raft().membership();
        membership.addresses().map(|(id, _)| id).collect()
    }

    /// The one that all the others that belong to the cluster follow.
    fn agreed_leader(&self) -> Option<NodeId> {
        let leader = self.leader()?;
        let membership = self.world.server(leader).raft().membership();
        let mut members = membership.addresses().map(|(id, _)| id).filter(|id| {
            // Whoever lost what it had acknowledged is down for good.
            !self.is_refused(*id, membership) && !self.checks.condemned.contains(id)
        });
        members.all(|id| self.world.server(id).raft().leader() == Some(leader)).then_some(leader)
    }

    fn is_finished(&self) -> bool {
        let Some(leader) = self.agreed_leader() else { return false };
        let membership = self.world.server(leader).raft().membership();
        let known = membership.addresses().all(|(id, _)| membership.incarnations.contains_key(&id))
            && membership.unsettled.is_empty();
        !membership.is_joint() && membership.staged.is_empty() && known
    }

    fn is_settled(&self) -> bool {
        let Some(leader) = self.agreed_leader() else { return false };
        let indexes = |server: &Server| {
            let raft = server.raft();
            [raft.last_index(), raft.durable_index(), raft.commit_index(), raft.last_applied()]
        };
        let last = self.world.server(leader).raft().last_index();
        let members = self.members(leader);
        let same = members.iter().flat_map(|id| indexes(self.world.server(*id))).all(|index| index == last);
        let state = |id: &NodeId| &self.world.server(*id).applied;
        let one_state = members.iter().all(|id| state(id) == state(&leader));
        assert!(!same || one_state, "State Machine Safety: the state machines differ");
        same
    }
}
