//! What a server orders, and what it tells those who wait.

use ractor_raft::raft::*;

use super::{Call, Checks, Kind};
use crate::support::World;

impl Checks {
    pub(super) fn check_effect(&mut self, world: &World, id: NodeId, effect: &Effect) {
        match effect {
            Effect::Apply { entries, calls } => self.check_apply(world, id, entries, calls),
            Effect::AnswerRead { call, read_index, lease_until } => {
                let Kind::Read(must_see) = self.answered(*call, id) else {
                    panic!("n{id}: call {call} is not a read");
                };
                assert!(*read_index >= must_see, "read {call} at n{id} sees {read_index}, clients know of {must_see}");
                assert!(*read_index <= self.committed_index(), "read {call} at n{id} sees what is not committed");
                if let Some(until) = lease_until {
                    assert!(world.clock(id) < *until, "read {call} at n{id} rests on a lease that is over");
                    self.lease_reads += 1;
                }
                self.told_index = self.told_index.max(*read_index);
                self.reads_answered += 1;
            }
            Effect::AnswerChange { call, index } => {
                assert_eq!(self.answered(*call, id), Kind::Change);
                assert!(*index <= self.committed_index(), "n{id}: change {call} is answered before it is committed");
                self.changes += 1;
            }
            Effect::AnswerTransfer { call } => {
                assert_eq!(self.answered(*call, id), Kind::Transfer);
                self.transfers += 1;
            }
            Effect::AnswerSnapshot { call, .. } => assert_eq!(self.answered(*call, id), Kind::Snapshot),
            Effect::TakeSnapshot { last_included, membership } => {
                self.check_snapshot(world, id, *last_included, membership);
                self.snapshots += 1;
            }
            Effect::Restore { snapshot } => {
                self.check_snapshot(world, id, snapshot.last_included, &snapshot.membership);
                let finished = &world.server(id).disk.finished;
                let behind = finished.as_ref().map_or(0, |it| it.last_included.index) >= snapshot.last_included.index;
                assert!(behind, "n{id} restores {snapshot}, which is not on its disk");
                self.installed += 1;
            }
            Effect::SendSnapshot { request, .. } => {
                let snapshot = &request.snapshot;
                self.check_snapshot(world, id, snapshot.last_included, &snapshot.membership);
            }
            Effect::Refuse { call, refusal } => {
                let kind = self.answered(*call, id);
                let not_applied = matches!(refusal, Refusal::NotLeader { .. } | Refusal::DiskFull | Refusal::NotReady);
                if not_applied && kind == Kind::Propose {
                    self.refused.insert(*call);
                }
            }
            // Its disk was lost, and it was removed before it was replaced.
            Effect::Condemn { .. } if self.wiped.contains(&id) => drop(self.condemned.insert(id)),
            Effect::PeerLostData { peer } if self.wiped.contains(peer) => {}
            Effect::Condemn { acknowledged, last } => {
                panic!("L08: n{id} is condemned, with a disk that lost nothing: {acknowledged} and {last}")
            }
            Effect::PeerLostData { peer } => panic!("L08: n{id} takes n{peer} for one that lost its disk"),
            _ => {}
        }
    }

    fn check_apply(&mut self, world: &World, id: NodeId, entries: &[Entry], calls: &[(LogIndex, CallId)]) {
        let server = world.server(id);
        for entry in entries {
            let committed = self.committed.get(entry.index as usize - 1).map(|committed| &committed.entry);
            assert_eq!(committed, Some(entry), "State Machine Safety: n{id} applies another entry");
            assert!(server.disk.holds(entry.position()), "n{id} applies {entry}, which is not on its disk");
        }
        for (index, call) in calls {
            let entry = entries.iter().find(|entry| entry.index == *index).expect("the call's entry is applied");
            assert_eq!(entry.payload, self.proposals[call], "n{id}: call {call} is told of another's success");
            assert_eq!(self.answered(*call, id), Kind::Propose);
            self.told_index = self.told_index.max(*index);
            self.acknowledged += 1;
        }
    }

    /// It ends with a committed entry, and its membership is the one as of that (N04).
    fn check_snapshot(&self, world: &World, id: NodeId, last_included: LogPosition, membership: &Membership) {
        let committed = self.committed.get((last_included.index as usize).wrapping_sub(1));
        let committed = committed.map(|committed| committed.entry.position());
        assert_eq!(committed, Some(last_included), "n{id}: a snapshot ends with an entry that is not committed");
        let as_of = self.membership_at(world, last_included.index);
        assert_eq!(*membership, as_of, "N04: n{id}: the membership of the snapshot at {last_included}");
    }

    fn answered(&mut self, call: CallId, id: NodeId) -> Kind {
        let Some(Call { at, kind }) = self.calls.remove(&call) else { panic!("n{id} answers call {call} twice") };
        assert_eq!(at, id, "call {call} is answered by another server");
        kind
    }
}
