use super::*;
use crate::{
    node::sessions::Verdict,
    raft::SessionCommand,
    testing::{Ledger, Line},
};

fn ledger() -> Box<dyn Machine> {
    let mut ledger = Ledger::default();
    crate::StateMachine::apply(&mut ledger, 3, Line::new("a line"));
    Box::new(ledger)
}

fn bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sessions = Sessions::default();
    sessions.open(2);
    Taken::of(&sessions, &*ledger()).write(&mut bytes).expect("memory takes all");
    bytes
}

fn read(mut bytes: &[u8]) -> Result<Vec<(LogIndex, String)>, Refused> {
    let rebuilt = Rebuilt::read(Box::new(Ledger::default()), &mut bytes)?;
    let first = SessionCommand { session: 2, sequence: 1, first_unanswered: 1, command: Default::default() };
    let mut sessions = rebuilt.sessions;
    assert!(matches!(sessions.command(9, &first), Verdict::Apply(_)), "session 2 is open");
    let ledger = rebuilt.machine.as_any().downcast_ref::<Ledger>().expect("it was made above");
    Ok(ledger.lines().map(|(index, text)| (index, text.to_owned())).collect())
}

// Fails when: the header is written in another way than it is read.
#[test]
fn what_was_written_is_read() {
    assert_eq!(read(&bytes()), Ok(vec![(3, "a line".to_owned())]));
}

// Fails when: the layout changes in anything, but keeps its number. Snapshots on disk carry it.
#[test]
fn the_layout_never_changes() {
    assert_eq!(bytes()[..5], [1, 0, 0, 0, 1], "the format, and the sessions' version");
}

// Fails when: `read` does not compare the format.
#[test]
fn another_format_and_a_truncated_section_are_refused() {
    let mut later = bytes();
    later[0] = 2;
    assert_eq!(read(&later), Err(Refused::Format(2)));
    for length in 0..30 {
        assert!(matches!(read(&bytes()[..length]), Err(Refused::Misfit(_))), "{length} bytes");
    }
}

/// Reads one byte less than there is.
struct Lazy;

impl crate::StateMachine for Lazy {
    type Command = Line;
    type Output = Line;
    fn apply(&mut self, _: LogIndex, line: Line) -> Line {
        line
    }
    fn snapshot(&self) -> impl crate::state_machine::Snapshot {
        LazyBytes
    }
    fn restore(&mut self, mut bytes: impl Read) -> Result<(), crate::state_machine::RestoreError> {
        Ok(bytes.read_exact(&mut [0; 2])?)
    }
}

struct LazyBytes;

impl crate::state_machine::Snapshot for LazyBytes {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(b"abc")
    }
}

// Fails when: `read` does not look whether anything is left.
#[test]
fn bytes_that_are_left_unread_are_an_error() {
    let mut bytes = Vec::new();
    Taken::of(&Sessions::default(), &Lazy).write(&mut bytes).expect("memory takes all");
    let refused = Rebuilt::read(Box::new(Lazy), &mut &bytes[..]).err();
    assert!(matches!(refused, Some(Refused::Misfit(cause)) if cause.contains("unread")));
}
