//! How a walk ends: without faults, everything arrives in order and at once, and everything must come right.

use ractor_raft::raft::*;

use crate::{Walk, support::Server};

/// How many alarms may ring until the cluster is well again.
const ALARMS_TO_RECOVER: usize = 200;

impl Walk {
    pub fn recover(&mut self) {
        self.cut.clear();
        while self.world.servers.values().any(|server| !server.is_up()) {
            self.restart();
        }
        // Alarms that are overdue since the faults may still depose someone; then they are in step.
        for _ in 0..ALARMS_TO_RECOVER / 2 {
            self.settle();
            self.ring_first();
        }
        self.ring_until("a leader that everyone follows emerges", |walk| walk.agreed_leader().is_some());
        let leader = self.agreed_leader().expect("just waited for");
        let acknowledged = self.checks.acknowledged;
        (0..5).for_each(|_| self.propose(leader));
        self.world.ids().into_iter().for_each(|id| self.read(id));
        self.ring_until("what is proposed afterwards is committed", |walk| {
            walk.checks.acknowledged >= acknowledged + 5
        });
        self.ring_until("every server has everything", Walk::is_settled);
        // A question to the leader that got lost is asked again with the next alarm.
        self.ring_until("every call has its answer", |walk| {
            walk.checks.open_calls().is_empty() && walk.world.servers.values().all(|server| server.asked.is_empty())
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
        let open = self.checks.open_calls();
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
        for _ in 0..10_000 {
            self.faults.reorder = 0;
            let ids = self.world.ids();
            let moved =
                !self.world.network.is_empty() || ids.iter().any(|id| self.world.server(*id).in_flight.is_some());
            self.arrive(true);
            for id in ids {
                self.sync(id);
                if self.world.server(id).raft().last_applied() < self.world.server(id).applied.len() as LogIndex {
                    self.applied(id);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("Liveness: the servers send each other messages for ever, without an alarm");
    }

    fn agreed_leader(&self) -> Option<NodeId> {
        let leader = self.world.servers.values().find_map(|server| server.raft().leader())?;
        let all = self.world.servers.values().all(|server| server.raft().leader() == Some(leader));
        (all && self.world.server(leader).raft().role() == Role::Leader).then_some(leader)
    }

    fn is_settled(&self) -> bool {
        let indexes = |server: &Server| {
            let raft = server.raft();
            [raft.last_index(), raft.durable_index(), raft.commit_index(), raft.last_applied()]
        };
        let last = self.world.servers.values().map(|server| server.raft().last_index()).max();
        self.world.servers.values().flat_map(indexes).all(|index| Some(index) == last)
    }
}
