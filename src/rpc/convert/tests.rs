use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::*;
use crate::{
    node::{PeerStatus, Status, Trouble},
    raft::{Entry, Membership, Payload, Role},
};

const HEADER: pb::Header =
    pb::Header { cluster_id: 7, from: 2, to: 1, session: 9, from_incarnation: 22, to_incarnation: 11 };

fn membership() -> Membership {
    Membership::of_voters([(1, "a:1"), (2, "b:2"), (3, "c:3")])
}

/// Everything that a membership can say: node 3 was a voter of another disk, and is being replaced.
fn joint_membership() -> Membership {
    let mut membership = membership();
    let address = membership.voters.remove(&3).expect("it was there");
    membership.outgoing = membership.voters.clone();
    membership.outgoing.insert(3, address);
    membership.learners.extend([(3, "c:4".to_owned()), (5, "e:5".to_owned())]);
    membership.staged.insert(3);
    membership.removed.extend([4, 6]);
    membership.incarnations.extend([(1, u64::MAX), (2, 1)]);
    membership.unsettled.insert(2);
    membership
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        vec(any::<u8>(), 0..64).prop_map(|command| Payload::Command(Bytes::from(command))),
        Just(Payload::Membership(membership().into())),
        Just(Payload::Membership(joint_membership().into())),
    ]
}

prop_compose! {
    fn append_entries()(
        prev in prop_oneof![Just(LogPosition::default()), (1..50u64, 1..u64::from(u32::MAX)).prop_map(|(term, index)| LogPosition { term, index })],
        payloads in vec(payload(), 0..6),
        leader_commit in 0..LARGEST,
        read_round: u64,
    ) -> AppendEntriesRequest {
        let entry = |(offset, payload)| Entry { index: prev.index + 1 + offset, term: prev.term.max(1), payload };
        AppendEntriesRequest {
            term: prev.term + 3,
            leader_id: HEADER.from,
            prev_log_index: prev.index,
            prev_log_term: prev.term,
            entries: (0..).zip(payloads).map(entry).collect(),
            leader_commit,
            read_round,
            acknowledged: prev.index / 2,
        }
    }
}

fn outcome() -> impl Strategy<Value = AppendOutcome> {
    prop_oneof![
        (0..=LARGEST).prop_map(|match_index| AppendOutcome::Matched { match_index }),
        (0..=LARGEST, 1..=LARGEST)
            .prop_map(|(conflict_term, conflict_index)| AppendOutcome::Conflict { conflict_term, conflict_index }),
        Just(AppendOutcome::Stale),
    ]
}

/// Over the wire: encoded and decoded.
fn carried<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was encoded is decoded")
}

proptest! {
    #[test]
    fn append_entries_survive_the_wire(request in append_entries(), traces in vec((0..8u64, 1..=u64::MAX), 0..3)) {
        // Traces of other entries than those beside them are dropped.
        let last = request.prev_log_index + request.entries.len() as u64;
        let mut traces: Vec<_> = traces.into_iter().map(|(place, id)| (request.prev_log_index + 1 + place, id)).collect();
        traces.retain(|(index, _)| *index <= last);
        let message = carried(&append_entries_to_pb(HEADER, request.clone(), traces.clone()));
        prop_assert_eq!(message.header, Some(HEADER));
        prop_assert_eq!(append_entries_from_pb(HEADER.from, message), Ok((request, traces)));
    }

    #[test]
    fn append_replies_survive_the_wire(term in 1..=LARGEST, outcome in outcome(), read_round: u64) {
        let reply = AppendEntriesReply { term, outcome, read_round };
        prop_assert_eq!(append_reply_from_pb(&carried(&append_reply_to_pb(HEADER, &reply))), Ok(reply));
    }

    #[test]
    fn votes_survive_the_wire(term in 1..=LARGEST, (last_term, index) in (1..=LARGEST, 1..=LARGEST), flag: bool) {
        let last_log = LogPosition { term: last_term, index };
        let vote = RequestVoteRequest { term, candidate_id: HEADER.from, last_log, leadership_transfer: flag };
        prop_assert_eq!(request_vote_from_pb(HEADER.from, carried(&request_vote_to_pb(HEADER, &vote))), Ok(vote));
        let pre = PreVoteRequest { term, candidate_id: HEADER.from, last_log };
        prop_assert_eq!(pre_vote_from_pb(HEADER.from, carried(&pre_vote_to_pb(HEADER, &pre))), Ok(pre));
        let reply = RequestVoteReply { term, vote_granted: flag };
        prop_assert_eq!(request_vote_reply_from_pb(&carried(&request_vote_reply_to_pb(HEADER, &reply))), Ok(reply));
        let reply = PreVoteReply { term, vote_granted: flag };
        prop_assert_eq!(pre_vote_reply_from_pb(&carried(&pre_vote_reply_to_pb(HEADER, &reply))), Ok(reply));
    }

    #[test]
    fn transfers_and_read_indexes_survive_the_wire(term in 1..=LARGEST, read_index in proptest::option::of(0..=LARGEST)) {
        let request = TimeoutNowRequest { term, leader_id: HEADER.from };
        prop_assert_eq!(timeout_now_from_pb(HEADER.from, carried(&timeout_now_to_pb(HEADER, &request))), Ok(request));
        let reply = TimeoutNowReply { term };
        prop_assert_eq!(timeout_now_reply_from_pb(&carried(&timeout_now_reply_to_pb(HEADER, &reply))), Ok(reply));
        let request = ReadIndexRequest { term };
        prop_assert_eq!(read_index_from_pb(carried(&read_index_to_pb(HEADER, &request))), Ok(request));
        let reply = ReadIndexReply { term, read_index };
        prop_assert_eq!(read_index_reply_from_pb(&carried(&read_index_reply_to_pb(HEADER, &reply))), Ok(reply));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), from: u64) {
        convert_anything(&bytes, from);
    }

    // Random bytes seldom parse; what parses and means nothing is the more interesting half.
    #[test]
    fn no_numbers_panic(numbers in vec(prop_oneof![0..3u64, Just(u64::MAX), Just(LARGEST), any::<u64>()], 12), payload in 0..4, from in 0..3u64) {
        let payload = match payload {
            0 => None,
            1 => Some(pb::entry::Payload::Noop(from == 1)),
            2 => Some(pb::entry::Payload::Command(Bytes::from_static(b"x"))),
            _ => Some(pb::entry::Payload::Membership(pb::Membership {
                voters: numbers[..2].iter().map(|id| pb::Member { id: *id, address: String::new() }).collect(),
                learners: numbers[2..4].iter().map(|id| pb::Member { id: *id, address: String::new() }).collect(),
                outgoing: numbers[4..5].iter().map(|id| pb::Member { id: *id, address: String::new() }).collect(),
                staged: numbers[5..6].to_vec(),
                removed: numbers[6..7].to_vec(),
                incarnations: vec![pb::Incarnation { id: numbers[7], incarnation: numbers[8] }],
                unsettled: numbers[9..10].to_vec(),
            })),
        };
        let entry = |index: usize| pb::Entry { index: numbers[index], term: numbers[index + 1], payload: payload.clone() };
        let message = pb::AppendEntriesRequest {
            header: Some(HEADER), term: numbers[0], leader_id: from, prev_log_index: numbers[1], prev_log_term: numbers[2],
            entries: vec![entry(3), entry(5)], leader_commit: numbers[7], read_round: numbers[8], traces: vec![], acknowledged: numbers[8],
        };
        convert_anything(&message.encode_to_vec(), from);
    }
}

fn convert_anything(bytes: &[u8], from: NodeId) {
    let _ = pb::AppendEntriesRequest::decode(bytes).map(|message| append_entries_from_pb(from, message));
    let _ = pb::AppendEntriesReply::decode(bytes).map(|message| append_reply_from_pb(&message));
    let _ = pb::RequestVoteRequest::decode(bytes).map(|message| request_vote_from_pb(from, message));
    let _ = pb::RequestVoteReply::decode(bytes).map(|message| request_vote_reply_from_pb(&message));
    let _ = pb::PreVoteRequest::decode(bytes).map(|message| pre_vote_from_pb(from, message));
    let _ = pb::PreVoteReply::decode(bytes).map(|message| pre_vote_reply_from_pb(&message));
    let _ = pb::TimeoutNowRequest::decode(bytes).map(|message| timeout_now_from_pb(from, message));
    let _ = pb::TimeoutNowReply::decode(bytes).map(|message| timeout_now_reply_from_pb(&message));
    let _ = pb::ReadIndexRequest::decode(bytes).map(read_index_from_pb);
    let _ = pb::ReadIndexReply::decode(bytes).map(|message| read_index_reply_from_pb(&message));
    let _ = pb::StatusReply::decode(bytes).map(status_from_pb);
}

/// A message that is in order: two entries behind 4@2.
fn in_order() -> pb::AppendEntriesRequest {
    let entry = |index| pb::Entry { index, term: 3, payload: Some(pb::entry::Payload::Noop(true)) };
    pb::AppendEntriesRequest {
        header: Some(HEADER),
        term: 3,
        leader_id: 2,
        prev_log_index: 4,
        prev_log_term: 2,
        entries: vec![entry(5), entry(6)],
        ..Default::default()
    }
}

/// The field that is named once `change` was made to a message in order.
fn named(change: impl FnOnce(&mut pb::AppendEntriesRequest)) -> String {
    let mut message = in_order();
    change(&mut message);
    append_entries_from_pb(2, message).expect_err("malformed").field
}

// Fails when: any one of the checks is left out; each line is one.
#[test]
fn a_malformed_append_entries_names_its_field() {
    assert!(append_entries_from_pb(2, in_order()).is_ok());
    assert_eq!(named(|message| message.term = 0), "term");
    assert_eq!(named(|message| message.term = u64::MAX), "term");
    assert_eq!(named(|message| message.leader_id = 3), "leader_id");
    assert_eq!(named(|message| message.prev_log_index = 0), "prev_log_term");
    assert_eq!(named(|message| message.prev_log_index = u64::MAX), "prev_log_index");
    assert_eq!(named(|message| message.prev_log_term = 0), "prev_log_term");
    assert_eq!(named(|message| message.prev_log_term = 4), "prev_log_term");
    assert_eq!(named(|message| message.leader_commit = u64::MAX), "leader_commit");
    assert_eq!(named(|message| message.acknowledged = u64::MAX), "acknowledged");
    assert_eq!(named(|message| message.acknowledged = 5), "acknowledged");
    assert_eq!(named(|message| message.entries[0].index = 0), "entries[0].index");
    assert_eq!(named(|message| message.entries[0].index = 6), "entries[0].index");
    assert_eq!(named(|message| message.entries[1].index = 7), "entries[1].index");
    assert_eq!(named(|message| message.entries[0].term = 0), "entries[0].term");
    assert_eq!(named(|message| message.entries[0].term = 1), "entries[0].term");
    assert_eq!(named(|message| message.entries[1].term = 4), "entries[1].term");
    assert_eq!(named(|message| message.entries[1].payload = None), "entries[1].payload");
}

// Fails when: a trace is taken over whatever it is about: the node's table of them then overflows, or goes to the lie.
#[test]
fn traces_of_other_entries_are_dropped() {
    let mut message = in_order();
    let trace = |index| pb::Trace { index, trace_id: 9 };
    message.traces = [0, 4, 5, 6, 7, u64::MAX].map(trace).to_vec();
    let (_, traces) = append_entries_from_pb(2, message).expect("in order");
    assert_eq!(traces, [(0, 9), (5, 9), (6, 9)]);
}

// Fails when: any of the checks of `any_membership_from_pb` is left out.
#[test]
fn a_malformed_membership_names_its_field() {
    let members = |ids: &[u64]| ids.iter().map(|id| pb::Member { id: *id, address: "a:1".to_owned() }).collect();
    let with = |change: &dyn Fn(&mut pb::Membership)| {
        let mut membership = pb::Membership { voters: members(&[1]), learners: members(&[2]), ..Default::default() };
        change(&mut membership);
        let name = named(|message| message.entries[0].payload = Some(pb::entry::Payload::Membership(membership)));
        name.strip_prefix("entries[0].membership.").expect("it is about the membership").to_owned()
    };
    assert_eq!(with(&|membership| membership.voters = vec![]), "voters");
    assert_eq!(with(&|membership| membership.voters = members(&[0])), "voters[0].id");
    assert_eq!(with(&|membership| membership.voters = members(&[1, 1])), "voters");
    assert_eq!(with(&|membership| membership.learners = members(&[1])), "learners");
    assert_eq!(with(&|membership| membership.outgoing = members(&[3, 3])), "outgoing");
    assert_eq!(with(&|membership| membership.staged = vec![1]), "staged");
    assert_eq!(with(&|membership| membership.staged = vec![2, 2]), "staged");
    assert_eq!(with(&|membership| membership.removed = vec![0]), "removed[0]");
    assert_eq!(with(&|membership| membership.removed = vec![2]), "removed");
    let disk = |id, incarnation| pb::Incarnation { id, incarnation };
    assert_eq!(with(&|membership| membership.incarnations = vec![disk(0, 5)]), "incarnations[0].id");
    assert_eq!(with(&|membership| membership.incarnations = vec![disk(1, 0)]), "incarnations[0].incarnation");
    assert_eq!(with(&|membership| membership.incarnations = vec![disk(1, 5), disk(1, 6)]), "incarnations");
    assert_eq!(with(&|membership| membership.unsettled = vec![1]), "unsettled");
}

// Fails when: `entry_from_pb` keeps the slice it was given.
#[test]
fn a_payload_does_not_pin_the_buffer_it_came_in() {
    let buffer = Bytes::from(vec![7u8; 1 << 16]);
    let mut message = in_order();
    message.entries[0].payload = Some(pb::entry::Payload::Command(buffer.slice(10..20)));
    let (request, _) = append_entries_from_pb(2, message).expect("in order");
    assert_eq!(request.entries[0].payload, Payload::Command(Bytes::from_static(&[7; 10])));
    assert!(buffer.is_unique(), "a received entry holds on to the receive buffer");
}

#[test]
fn a_status_survives_the_wire() {
    for trouble in [None, Some(Trouble::DiskFull), Some(Trouble::Removed), Some(Trouble::Wiped)] {
        let status = status(trouble);
        assert_eq!(status_from_pb(carried(&status_to_pb(&status))), Ok(status));
    }
}

fn status(trouble: Option<Trouble>) -> Status {
    Status {
        id: 1,
        address: "a:1".to_owned(),
        cluster_id: u64::MAX,
        role: Role::Leader,
        term: 7,
        leader: Some(1),
        commit_index: 9,
        applied_index: 8,
        last_index: 10,
        snapshot_index: 2,
        membership: joint_membership(),
        incarnation: u64::MAX,
        trouble,
        restarts: 3,
        log_writes: 3,
        peers: vec![PeerStatus { id: 2, match_index: 9, reachable: true }],
    }
}
