use proptest::prelude::*;

use super::*;
use crate::rpc::pb;

const CLOCK: Option<pb::FlowClock> = Some(pb::FlowClock { life: 7, now: 99 });

fn event(number: u64) -> Event {
    Event {
        id: number + 1,
        cause: number,
        trace: u64::MAX - number,
        sender: format!("actor {}", number % 3).into(),
        sender_incarnation: number as u32,
        receiver: format!("actor {}", number % 2).into(),
        receiver_incarnation: 1,
        message: Cow::Borrowed("Word"),
        mark: Mark { term: number, index: number * 2 },
        sent: Duration::from_nanos(number * 1000),
        waited: Duration::from_nanos(number),
        handling: Duration::from_nanos(number + 5),
        outcome: [
            Outcome::Handled,
            Outcome::Failed,
            Outcome::Panicked,
            Outcome::Stale,
            Outcome::Killed,
            Outcome::Noted,
        ][number as usize % 6],
    }
}

/// Fails when: a field is left out on one side, or a name is told twice, or too late.
#[test]
fn what_is_told_in_parts_is_read_as_it_was() {
    let (mut names, mut reader) = (FlowNames::default(), FlowReader::default());
    let mut told = Vec::new();
    for part in 0..4 {
        let events: Vec<_> = (part * 5..part * 5 + 5).map(event).collect();
        let messages = events.iter().map(|event| names.event_to_pb(event)).collect();
        let new = names.take_new();
        told.extend(new.clone());
        let reply = pb::FlowReply { clock: CLOCK, node: 3, names: new, events: messages, missed: part };
        let read = reader.read(reply).expect("it is in order");
        assert_eq!(read, FlowPart { node: 3, life: 7, now: Duration::from_nanos(99), events, missed: part });
    }
    assert_eq!(told, ["actor 0", "Word", "actor 1", "actor 2"]);
}

/// Fails when: one of these is taken for something that was recorded.
#[test]
fn what_means_nothing_is_refused_with_its_field() {
    let good = || {
        let mut names = FlowNames::default();
        let event = names.event_to_pb(&event(1));
        pb::FlowReply { clock: CLOCK, node: 3, names: names.take_new(), events: vec![event], missed: 0 }
    };
    let refused = |change: &dyn Fn(&mut pb::FlowReply)| {
        let mut reply = good();
        change(&mut reply);
        FlowReader::default().read(reply).map_err(|malformed| malformed.field)
    };
    assert!(refused(&|_| {}).is_ok());
    let of_event = |change: fn(&mut pb::FlowEvent)| refused(&move |reply| change(&mut reply.events[0]));
    let fields = [
        refused(&|reply| reply.clock = None),
        refused(&|reply| reply.node = 0),
        refused(&|reply| reply.names = vec!["x".repeat(MAX_NAME + 1)]),
        refused(&|reply| reply.names = vec![String::new(); MAX_NAMES + 1]),
        refused(&|reply| reply.missed = u64::MAX),
        of_event(|event| event.id = 0),
        of_event(|event| event.sender = 3),
        of_event(|event| event.receiver = u32::MAX),
        of_event(|event| event.message = 9),
        of_event(|event| event.outcome = 6),
        of_event(|event| event.outcome = -1),
        of_event(|event| event.sent = u64::MAX),
        of_event(|event| event.waited = u64::MAX),
        of_event(|event| event.handling = u64::MAX),
        of_event(|event| event.term = u64::MAX),
        of_event(|event| event.index = u64::MAX),
    ];
    let expected = [
        "clock",
        "node",
        "names[0]",
        "names",
        "missed",
        "events[0].id",
        "events[0].sender",
        "events[0].receiver",
        "events[0].message",
        "events[0].outcome",
        "events[0].outcome",
        "events[0].sent",
        "events[0].waited",
        "events[0].handling",
        "events[0].term",
        "events[0].index",
    ];
    let found: Vec<_> = fields.into_iter().map(|field| field.expect_err("it is refused")).collect();
    assert_eq!(found, expected);

    let mut reader = FlowReader::default();
    reader.read(good()).expect("it is in order");
    let other_life = pb::FlowReply { clock: Some(pb::FlowClock { life: 8, now: 1 }), ..good() };
    assert_eq!(reader.read(other_life).map_err(|malformed| malformed.field), Err("clock.life".to_owned()));
    let other_node = pb::FlowReply { node: 4, ..good() };
    assert_eq!(reader.read(other_node).map_err(|malformed| malformed.field), Err("node".to_owned()));
}

/// Fails when: a field of a report is lost on its way, or an unknown status passes for one.
#[test]
fn a_tree_is_read_as_it_was_told() {
    let actor = pb::Actor {
        path: "consensus/replicator 2".to_owned(),
        incarnation: 3,
        status: "failed".to_owned(),
        depth: 4,
        handled: 5,
        handling: 6,
        waited: 7,
        longest_wait: 8,
        wait_p99: 9,
        restarts: 2,
        last_failure: "it fell".to_owned(),
        current: "Deliver".to_owned(),
        current_since: 10,
    };
    let reply = pb::ActorsReply { clock: CLOCK, node: 3, above: vec!["bank".to_owned()], actors: vec![actor.clone()] };
    let tree = tree_from_pb(reply.clone()).expect("it is in order");
    assert_eq!((tree.node, tree.life, tree.above, tree.actors.len()), (3, 7, vec!["bank".to_owned()], 1));
    let time = Duration::from_nanos;
    let expected = RemoteActor {
        path: "consensus/replicator 2".to_owned(),
        incarnation: 3,
        status: crate::flow::Status::Failed,
        depth: 4,
        handled: 5,
        handling: time(6),
        waited: time(7),
        longest_wait: time(8),
        wait_p99: Some(time(9)),
        restarts: 2,
        last_failure: Some("it fell".to_owned()),
        current: Some(("Deliver".to_owned(), time(10))),
    };
    assert_eq!(tree.actors[0], expected);
    for (change, field) in [
        (pb::Actor { status: "asleep".to_owned(), ..actor.clone() }, "actors[0].status"),
        (pb::Actor { path: String::new(), ..actor.clone() }, "actors[0].path"),
        (pb::Actor { waited: u64::MAX, ..actor }, "actors[0].waited"),
    ] {
        let refused = tree_from_pb(pb::ActorsReply { actors: vec![change], ..reply.clone() });
        assert_eq!(refused.map_err(|malformed| malformed.field), Err(field.to_owned()));
    }
    let incident = pb::Incident { id: 0, ..Default::default() };
    let refused = incidents_from_pb(pb::IncidentsReply { clock: CLOCK, node: 1, incidents: vec![incident] });
    assert_eq!(refused.map_err(|malformed| malformed.field), Err("incidents[0].id".to_owned()));
}

proptest! {
    /// Fails when: any number makes the reader panic.
    #[test]
    fn nothing_that_can_be_decoded_panics(bytes: Vec<u8>, again: Vec<u8>) {
        let mut reader = FlowReader::default();
        for bytes in [bytes, again] {
            if let Ok(reply) = <pb::FlowReply as prost::Message>::decode(&bytes[..]) {
                let _ = reader.read(reply);
            }
            if let Ok(reply) = <pb::ActorsReply as prost::Message>::decode(&bytes[..]) {
                let _ = tree_from_pb(reply);
            }
        }
    }
}
