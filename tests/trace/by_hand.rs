//! Recordings made by hand, of which the critical path, the quorum and the clocks are known.

use std::time::Duration;

use ractor_raft::{
    flow::{Event, Mark, Outcome},
    trace::{Acknowledgement, Clock, Part, Place, Recording, Sequence, What},
};

const TRACE: u64 = 0xABCD;

/// One node that is told what it recorded, in microseconds.
struct Told {
    node: u64,
    events: Vec<Event>,
}

impl Told {
    fn new(node: u64) -> Self {
        Told { node, events: Vec::new() }
    }

    /// A handled message: from whom to whom, what, when it was sent, how long it waited and how long it took. Returns its id.
    fn hears(&mut self, way: [&str; 2], word: &str, mark: (u64, u64), times: [u64; 3], cause: u64) -> u64 {
        let id = self.events.len() as u64 + 1;
        let [sent, waited, handling] = times.map(Duration::from_micros);
        let [sender, receiver] = way.map(Into::into);
        self.events.push(Event {
            id,
            cause,
            trace: TRACE,
            sender,
            sender_incarnation: 1,
            receiver,
            receiver_incarnation: 1,
            message: word.to_owned().into(),
            mark: Mark { term: mark.0, index: mark.1 },
            sent,
            waited,
            handling,
            outcome: Outcome::Handled,
        });
        id
    }

    /// What no actor handles.
    fn notes(&mut self, way: [&str; 2], word: &str, mark: (u64, u64), at: u64, cause: u64) -> u64 {
        let id = self.hears(way, word, mark, [at, 0, 0], cause);
        self.events.last_mut().expect("it was added").outcome = Outcome::Noted;
        id
    }

    fn by(self, epoch: i64, error: u64) -> Recording {
        let clock = Clock { epoch: epoch * 1000, error: Duration::from_micros(error) };
        Recording { node: self.node, events: self.events, missed: 0, clock }
    }
}

/// A write at node 2: on the way to node 1 100 µs, back 150 µs; to node 3 far longer. `own` is when the leader's own disk is done.
fn write(own: u64, epoch: i64, error: u64) -> [Recording; 3] {
    let (mut leader, mut near, mut far) = (Told::new(2), Told::new(1), Told::new(3));
    let proposed = leader.hears(["client", "consensus"], "Propose", (0, 0), [0, 10, 40], 0);
    for peer in [1, 3] {
        let replicator = format!("consensus/replicator {peer}");
        leader.hears(["consensus", &replicator], "Deliver", (3, 5), [40, 5, 5], proposed);
    }
    let persist = leader.hears(["consensus", "log store"], "Persist", (3, 5), [45, 5, own - 50], proposed);
    leader.hears(["log store", "consensus"], "Persisted", (0, 5), [own, 10, 10], persist);

    let heard = near.hears(["node 2", "consensus"], "AppendEntries", (3, 5), [150, 20, 30], 0);
    let persist = near.hears(["consensus", "log store"], "Persist", (3, 5), [190, 10, 2000], heard);
    let done = near.hears(["log store", "consensus"], "Persisted", (0, 5), [2200, 15, 20], persist);
    near.notes(["consensus", "node 2"], "AppendEntriesReply", (3, 5), 2225, done);

    let answered = leader.hears(["transport", "consensus/replicator 1"], "Answered", (3, 5), [2375, 5, 10], 0);
    let told = leader.hears(["consensus/replicator 1", "consensus"], "Delivered", (3, 5), [2388, 2, 30], answered);
    // Whichever comes last moves the commit index.
    let decisive = if own > 2390 { leader.events[4].id } else { told };
    let committed = if own > 2390 { own + 15 } else { 2410 };
    leader.hears(["consensus", "applier"], "Apply", (3, 5), [committed, 10, 80], decisive);

    let heard = far.hears(["node 2", "consensus"], "AppendEntries", (3, 5), [3050, 0, 10], 0);
    let persist = far.hears(["consensus", "log store"], "Persist", (3, 5), [3060, 0, 100], heard);
    let done = far.hears(["log store", "consensus"], "Persisted", (0, 5), [3160, 0, 10], persist);
    far.notes(["consensus", "node 2"], "AppendEntriesReply", (3, 5), 3165, done);
    let answered = leader.hears(["transport", "consensus/replicator 3"], "Answered", (3, 5), [4265, 0, 5], 0);
    leader.hears(["consensus/replicator 3", "consensus"], "Delivered", (3, 5), [4270, 20, 10], answered);
    [near.by(epoch, error), leader.by(0, 0), far.by(0, 0)]
}

fn part(place: Place, microseconds: i64) -> Part {
    Part { place, nanoseconds: microseconds * 1000 }
}

/// Fails when: a stretch of the way is counted for another place, twice or not at all.
#[test]
fn the_critical_path_of_a_write_is_what_it_was_made_of() {
    let sequence = Sequence::of(&write(1500, 0, 0));
    let [account] = sequence.accounts() else { panic!("{:?}", sequence.accounts()) };
    assert_eq!((account.what, account.node, account.term, account.index), (What::Write, 2, 3, 5));
    let parts = [
        part(Place::Disk { node: 1 }, 2000),
        // There: from the end of Deliver at 50 until 150. Back: from 2225 until 2375.
        part(Place::Network, 250),
        // 10 of Propose, 5 of Deliver, 20 + 10 + 15 at node 1, 5 + 2 back at the leader, 10 of Apply.
        part(Place::Queue, 77),
        part(Place::Apply, 80),
        part(Place::Other, 93),
    ];
    assert_eq!(account.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), 2_500_000, "the whole");
    assert_eq!(account.parts, [parts[0], parts[1], parts[3], parts[2], parts[4]]);
    assert_eq!(
        account.lines,
        [
            "write of index 5 in term 3 at node 2: 2.50 ms",
            "critical path 2.50 ms: node-1 fsync 2.00 · network 0.25 · apply 0.08 · queues 0.08 · other 0.09",
            "committed by nodes 1 and 2 (node 3 came 1.90 ms later)",
        ]
    );
    let at = |microseconds: i64| Some(microseconds * 1000);
    assert_eq!(
        account.acknowledged,
        [
            Acknowledgement { node: 2, at: at(1510), counted: true },
            Acknowledgement { node: 1, at: at(2390), counted: true },
            Acknowledgement { node: 3, at: at(4290), counted: false },
        ]
    );
}

/// Fails when: the leader's own disk cannot be what a write waited for.
#[test]
fn a_slow_disk_of_the_leader_is_the_critical_path() {
    let sequence = Sequence::of(&write(3000, 0, 0));
    let account = &sequence.accounts()[0];
    assert_eq!(account.parts[0], part(Place::Disk { node: 2 }, 2950));
    assert!(!account.parts.iter().any(|part| part.place == Place::Network), "{:?}", account.parts);
    assert_eq!(account.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), account.ended - account.began);
    assert_eq!(account.lines[2], "committed by nodes 1 and 2 (node 3 came 1.28 ms later)");
}

/// Fails when: clocks within their errors leave an arrow that arrives before it left, or one beyond them is not marked.
#[test]
fn clocks_are_put_right_within_their_errors_and_no_further() {
    // Node 1's clock is told as 700 µs behind: what left at 50 seems to arrive at -550.
    let right = Sequence::of(&write(1500, -700, 1000));
    assert!(right.steps().iter().all(|step| !step.clock));
    let lane = right.lanes().iter().find(|lane| lane.node == 1).expect("it is there");
    // It is moved as little as the arrow there asks for. What the arrow back allows besides is what remains of the error.
    assert_eq!((lane.shift, lane.error), (595_000, 127_500));
    assert!(right.text(120).contains("the clocks of the nodes agree within 0.13 ms"), "{}", right.text(120));

    let wrong = Sequence::of(&write(1500, -700, 100));
    let marked: Vec<_> = wrong.steps().iter().filter(|step| step.clock).map(|step| &*step.event.message).collect();
    assert_eq!(marked, ["AppendEntries"]);
    let text = wrong.text(120);
    assert!(text.contains("(clock)") && text.contains("seems to arrive before it left"), "{text}");
    // What it says of the times still adds up.
    let account = &wrong.accounts()[0];
    assert_eq!(account.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), account.ended - account.began);
}

/// Fails when: what is missing is not said, or the path jumps over it as if it were known.
#[test]
fn what_is_missing_is_said() {
    let [mut near, leader, far] = write(1500, 0, 0);
    near.events.retain(|event| event.message != "Persist");
    near.missed = 12;
    let sequence = Sequence::of(&[near, leader, far]);
    let text = sequence.text(120);
    assert!(text.contains("… 12 messages missing on node 1\n"), "{text}");
    let account = &sequence.accounts()[0];
    let other = account.parts.last().expect("there are parts");
    // All before node 1 took up the report of its disk, at 2200, is unknown.
    assert!(other.place == Place::Other && other.nanoseconds >= 2_200_000, "{:?}", account.parts);
    assert_eq!(account.parts.iter().map(|part| part.nanoseconds).sum::<i64>(), 2_500_000);
}

/// Fails when: an arrow of which one end is not recorded is drawn as if it had arrived, or a node that did not answer counts.
#[test]
fn a_node_that_says_nothing_has_not_agreed() {
    let [near, leader, mut far] = write(1500, 0, 0);
    far.events.clear();
    let mut leader = leader;
    leader.events.retain(|event| {
        let answers = event.receiver.ends_with("replicator 3") && event.message == "Answered";
        !answers && !event.sender.ends_with("replicator 3")
    });
    let sequence = Sequence::of(&[far, near, leader]);
    let account = &sequence.accounts()[0];
    assert_eq!(account.lines[2], "committed by nodes 1 and 2 (of node 3 no answer is recorded)");
    assert!(sequence.text(120).contains("not seen to arrive"), "{}", sequence.text(120));
}

/// Fails when: a write of which the leader recorded no commit is said to be committed.
#[test]
fn a_write_that_is_not_applied_is_not_committed() {
    let [near, mut leader, far] = write(1500, 0, 0);
    leader.events.retain(|event| event.message != "Apply");
    let sequence = Sequence::of(&[near, leader, far]);
    let account = &sequence.accounts()[0];
    assert_eq!(account.lines[0], "write of index 5 in term 3 at node 2: not committed in this recording");
    assert_eq!((account.parts.len(), account.path.len()), (0, 0));
}

/// Fails when: two letters with the same words are paired crosswise, or a lost one shifts all behind it.
#[test]
fn a_lost_letter_does_not_shift_the_others() {
    let (mut leader, mut follower) = (Told::new(1), Told::new(2));
    for at in [0, 100_000, 200_000, 300_000] {
        leader.hears(["consensus", "consensus/replicator 2"], "Deliver", (3, 5), [at, 0, 0], 0);
    }
    // The second is lost.
    for at in [400, 200_500, 300_300] {
        follower.hears(["node 1", "consensus"], "AppendEntries", (3, 5), [at, 0, 0], 0);
    }
    let sequence = Sequence::of(&[leader.by(0, 0), follower.by(0, 0)]);
    let took = sequence.steps().iter().filter_map(|step| Some(step.sent - sequence.steps()[step.left?].sent));
    assert_eq!(took.collect::<Vec<_>>(), [400_000, 500_000, 300_000]);
}
