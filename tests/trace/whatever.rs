//! Whatever nodes claim to have recorded is shown, and harms nobody.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use ractor_raft::{
    flow::{Event, Mark, Outcome},
    trace::{Clock, Recording, Sequence, of_call},
};

/// What a terminal obeys, a reader does not see, or a format takes for its own.
const WICKED: [&str; 6] =
    ["\u{1b}[2J\u{1b}[31m", "two\nlines\t", "\u{202E}back\u{200B}", "</script>", "a;b#c%%d:\"'\\", "end"];

fn other() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), prop::sample::select(&WICKED[..]).prop_map(str::to_owned)]
}

/// The words and places that mean something, and others.
fn name() -> impl Strategy<Value = String> {
    let known = [
        "client",
        "consensus",
        "log store",
        "applier",
        "transport",
        "server",
        "node",
        "node 1",
        "node 2",
        "node 9",
        "consensus/replicator 1",
        "consensus/replicator 2",
        "consensus/election timer",
        "application",
    ];
    prop_oneof![6 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => other()]
}

fn word() -> impl Strategy<Value = String> {
    let known = [
        "Propose",
        "ProposeInSession",
        "Read",
        "Query",
        "Deliver",
        "DeliverSnapshot",
        "ReadChunk",
        "AppendEntries",
        "AppendEntriesReply",
        "RequestVote",
        "RequestVoteReply granted",
        "RequestVoteReply refused",
        "PreVote",
        "ReadIndex",
        "ReadIndexReply",
        "InstallSnapshot",
        "Answered",
        "Delivered",
        "Persist",
        "Persisted",
        "Apply",
        "Applied",
        "Restored",
        "SnapshotWritten",
        "ChangeMembership",
        "MembershipChanged",
        "Start",
        "SetTimer",
        "Timeout",
        "Woke",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => other()]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..4u64, 1 => any::<u64>()]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        6 => (0..5_000_000u64).prop_map(Duration::from_nanos),
        1 => (any::<u64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Duration::new(seconds, nanoseconds)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let outcomes =
        [Outcome::Handled, Outcome::Noted, Outcome::Panicked, Outcome::Failed, Outcome::Stale, Outcome::Killed];
    let numbers = (0..30u64, 0..30u64, number(), number(), number(), 0..4u32, 0..4u32);
    (numbers, (name(), name(), word()), (time(), time(), time()), prop::sample::select(outcomes.to_vec())).prop_map(
        |((id, cause, trace, term, index, sender_incarnation, receiver_incarnation), names, times, outcome)| {
            let (sender, receiver, message) = names;
            let (sent, waited, handling) = times;
            Event {
                id,
                cause,
                trace,
                sender: sender.into(),
                sender_incarnation,
                receiver: receiver.into(),
                receiver_incarnation,
                message: message.into(),
                mark: Mark { term, index },
                sent,
                waited,
                handling,
                outcome,
            }
        },
    )
}

fn recording() -> impl Strategy<Value = Recording> {
    let epoch = prop_oneof![6 => -5_000_000..5_000_000i64, 1 => any::<i64>()];
    (number(), vec(event(), 0..25), number(), epoch, time()).prop_map(|(node, events, missed, epoch, error)| {
        Recording { node, events, missed, clock: Clock { epoch, error } }
    })
}

proptest! {
    /// Fails when: any recording makes a picture panic or loop, loses a message, lets a control character through, or makes
    /// parts that do not add up.
    #[test]
    fn any_recordings_make_a_picture(recordings in vec(recording(), 0..4), width in 0..220usize) {
        let call = Sequence::of(&of_call(&recordings, 1));
        prop_assert!(call.steps().iter().all(|step| step.event.trace == 1));
        let sequence = Sequence::of(&recordings);
        let recorded: usize = recordings.iter().map(|recording| recording.events.len()).sum();
        prop_assert_eq!(sequence.steps().len(), recorded);
        for text in [sequence.text(width), sequence.json(), sequence.mermaid(), sequence.chrome()] {
            prop_assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{:?}", text);
            let hides = text.contains(['\u{202E}', '\u{200B}']);
            prop_assert!(!hides, "{:?}", text);
        }
        for account in sequence.accounts() {
            let parts: i64 = account.parts.iter().map(|part| part.nanoseconds).sum();
            prop_assert!(account.parts.is_empty() || parts == account.ended - account.began, "{:?}", account);
        }
        super::formats::check_mermaid(&sequence.mermaid());
        #[cfg(feature = "server")]
        {
            super::formats::check_json(&sequence.json());
            super::formats::check_chrome(&sequence.chrome());
        }
    }
}
