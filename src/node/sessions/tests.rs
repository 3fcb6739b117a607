use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { sessions: 3, replies: 4, reply_bytes: 400, all_reply_bytes: 700, expiry: 30 };

/// One entry of the log.
#[derive(Clone, Debug)]
enum Operation {
    Open,
    /// Of one of the last sessions opened, counted back.
    Command {
        session: usize,
        sequence: u64,
        first_unanswered: u64,
        output: usize,
    },
    /// So many entries about something else.
    Others(u64),
    /// The node starts again from a snapshot.
    Restore,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let command =
        (0..5usize, 1..14u64, 0..10u64, 0..150usize).prop_map(|(session, sequence, first_unanswered, output)| {
            Operation::Command { session, sequence, first_unanswered, output }
        });
    let operation = prop_oneof![
        2 => Just(Operation::Open),
        16 => command,
        1 => (1..40u64).prop_map(Operation::Others),
        1 => Just(Operation::Restore),
    ];
    proptest::collection::vec(operation, 0..120)
}

/// The rules, with no thought of cost.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, Plain>,
}

#[derive(Default)]
struct Plain {
    last_used: u64,
    first_unanswered: u64,
    replies: BTreeMap<u64, Applied>,
}

#[derive(Debug, PartialEq)]
enum Said {
    Applied,
    Repeated(Applied),
    AnsweredLongAgo,
    Expired,
    Full,
}

impl Plain {
    fn bytes(&self) -> usize {
        self.replies.values().map(|reply| size(&reply.output)).sum()
    }
}

impl Model {
    fn expire(&mut self, index: u64) {
        self.sessions.retain(|_, session| session.last_used + SMALL.expiry >= index);
        while self.sessions.values().map(Plain::bytes).sum::<usize>() > SMALL.all_reply_bytes {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used).map(|(id, _)| *id);
        self.sessions.remove(&oldest.expect("there is one"));
    }

    fn open(&mut self, index: u64) {
        self.expire(index);
        if self.sessions.len() == SMALL.sessions {
            self.evict();
        }
        self.sessions.insert(index, Plain { last_used: index, first_unanswered: 1, ..Plain::default() });
    }

    fn command(&mut self, index: u64, call: &SessionCommand, output: &Applied) -> Said {
        self.expire(index);
        let Some(session) = self.sessions.get_mut(&call.session) else { return Said::Expired };
        session.last_used = index;
        session.first_unanswered = session.first_unanswered.max(call.first_unanswered);
        let first_unanswered = session.first_unanswered;
        session.replies.retain(|sequence, _| *sequence >= first_unanswered);
        if let Some(reply) = session.replies.get(&call.sequence) {
            return Said::Repeated(reply.clone());
        }
        if call.sequence < session.first_unanswered {
            return Said::AnsweredLongAgo;
        }
        while session.replies.len() >= SMALL.replies || session.bytes() >= SMALL.reply_bytes {
            let lowest = *session.replies.keys().next().expect("it is full");
            if call.first_unanswered == call.sequence {
                break;
            }
            if call.first_unanswered > 0 || call.sequence < lowest {
                return Said::Full;
            }
            session.replies.remove(&lowest);
            session.first_unanswered = lowest + 1;
        }
        session.replies.insert(call.sequence, output.clone());
        Said::Applied
    }
}

fn restored(sessions: &Sessions) -> Sessions {
    let mut bytes = Vec::new();
    sessions.snapshot().write(&mut bytes).expect("memory takes all");
    bytes.extend_from_slice(b"the state machine's");
    let mut rest = &bytes[..];
    let read = Sessions::read_with(SMALL, &mut rest).expect("it was just written");
    assert_eq!(rest, b"the state machine's", "not a byte more is read");
    read
}

fn encoded(sessions: &Sessions) -> Vec<u8> {
    let mut bytes = Vec::new();
    sessions.snapshot().write(&mut bytes).expect("memory takes all");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Fails when: `order` is not set right by `settle_first`; a repeated command is applied; `first_unanswered` is not
    /// remembered; a restored table has another order of use, or other sizes.
    #[test]
    fn the_table_does_what_the_rules_say_also_where_it_begins_with_a_snapshot(operations in operations()) {
        let (mut sessions, mut model) = (Sessions::with_limits(SMALL), Model::default());
        let mut never_restored = Sessions::with_limits(SMALL);
        let (mut index, mut opened) = (0, Vec::new());
        for operation in operations {
            index += 1;
            match operation {
                Operation::Open => {
                    prop_assert_eq!(sessions.open(index), index);
                    never_restored.open(index);
                    model.open(index);
                    opened.push(index);
                }
                Operation::Command { session, sequence, first_unanswered, output } => {
                    let session = opened.iter().rev().nth(session).copied().unwrap_or(7777);
                    let call = SessionCommand { session, sequence, first_unanswered, command: Bytes::new() };
                    let output = Applied { output: vec![0; output].into(), index };
                    let said = |table: &mut Sessions| match table.command(index, &call) {
                        Verdict::Apply(slot) => {
                            slot.keep(output.clone());
                            Said::Applied
                        }
                        Verdict::Repeated(reply) => Said::Repeated(reply),
                        Verdict::AnsweredLongAgo => Said::AnsweredLongAgo,
                        Verdict::Expired => Said::Expired,
                        Verdict::Full => Said::Full,
                    };
                    let expected = model.command(index, &call, &output);
                    prop_assert_eq!(said(&mut sessions), expected, "{:?} at {}", &call, index);
                    said(&mut never_restored);
                }
                Operation::Others(entries) => index += entries,
                Operation::Restore => sessions = restored(&sessions),
            }
            prop_assert_eq!(encoded(&sessions), encoded(&never_restored), "at {}", index);
            prop_assert_eq!(sessions.order.len(), sessions.table.len());
            let bytes: usize = sessions.table.values().map(|session| session.reply_bytes).sum();
            prop_assert_eq!(sessions.reply_bytes, bytes);
        }
    }

    /// Fails when: `read` reserves what a damaged length says, or panics.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = Sessions::read(&mut &versioned[..]);
    }
}

/// Fails when: `snapshot` and the table share what a later command changes in place.
#[test]
fn a_snapshot_stays_as_it_was() {
    let mut sessions = Sessions::with_limits(SMALL);
    sessions.open(1);
    let call = |sequence| SessionCommand { session: 1, sequence, first_unanswered: 1, command: Bytes::new() };
    let before = encoded(&sessions);
    let snapshot = sessions.snapshot();
    let Verdict::Apply(slot) = sessions.command(2, &call(1)) else { panic!("it is new") };
    slot.keep(Applied { output: Bytes::from_static(b"first"), index: 2 });
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes).expect("memory takes all");
    assert_eq!(bytes, before);
}

/// Fails when: a later version is read as if it were this one.
#[test]
fn a_later_version_is_refused_in_words() {
    let refused = Sessions::read(&mut &[2, 0, 0, 0, 0][..]).expect_err("nobody knows version 2 yet");
    assert!(refused.to_string().contains("version 2"), "{refused}");
}
