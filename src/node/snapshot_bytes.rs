//! What is in the bytes of a snapshot: a header, the clients' sessions, then the state machine's own bytes.
//!
//! ```text
//! format: u32, little-endian │ the sessions, which say themselves where they end │ the state machine's, to the end
//! ```
//! What guards them against damage is the storage's: here they are what was written. So what does not fit here was written
//! by another version of this program, or by another state machine.

use std::io::{self, Read, Write};

use crate::{
    node::sessions::{Sessions, SessionsSnapshot},
    raft::LogIndex,
    state_machine::{Machine, WriteState},
};

/// The version of the layout.
pub(crate) const FORMAT: u32 = 1;

/// Writes what a state was when it was taken. Cheap to have: the bytes are made when it is written.
pub struct Taken {
    pub(crate) sessions: SessionsSnapshot,
    /// Writes the state machine's state.
    pub(crate) state: WriteState,
}

/// What was restored from a snapshot, on its way to the applier; or what it replaced, on its way back.
pub struct Rebuilt {
    pub(crate) sessions: Sessions,
    pub(crate) machine: Box<dyn Machine>,
}

/// Why a snapshot's bytes do not become a state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// They have a layout of a later version.
    Format(u32),
    /// They do not fit, in words; also where reading them failed.
    Misfit(String),
}

impl Taken {
    pub(crate) fn of(sessions: &Sessions, machine: &dyn Machine) -> Self {
        Taken { sessions: sessions.snapshot(), state: machine.snapshot() }
    }

    /// Writes all of it.
    pub(crate) fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&FORMAT.to_le_bytes())?;
        self.sessions.write(to)?;
        (self.state)(to)
    }
}

impl Rebuilt {
    /// Reads into `machine`, which is a new one, what [`Taken::write`] wrote; all of it.
    pub(crate) fn read(mut machine: Box<dyn Machine>, from: &mut dyn Read) -> Result<Self, Refused> {
        let mut format = [0; 4];
        from.read_exact(&mut format).map_err(misfit)?;
        let format = u32::from_le_bytes(format);
        if format != FORMAT {
            return Err(Refused::Format(format));
        }
        let sessions = Sessions::read(from).map_err(misfit)?;
        machine.restore(from).map_err(|error| Refused::Misfit(error.0))?;
        match from.read(&mut [0]) {
            Ok(0) => Ok(Rebuilt { sessions, machine }),
            Ok(_) => Err(Refused::Misfit("the state machine's restore left bytes of it unread".to_owned())),
            Err(error) => Err(misfit(error)),
        }
    }
}

impl Refused {
    pub(crate) fn describe(self, index: LogIndex) -> crate::error::NodeError {
        let cause = match self {
            Refused::Format(found) => format!("it has format {found}, this program knows {FORMAT}"),
            Refused::Misfit(cause) => cause,
        };
        crate::error::NodeError::Restore { index, cause }
    }
}

fn misfit(error: io::Error) -> Refused {
    Refused::Misfit(error.to_string())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{Ledger, Line};

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
        assert_eq!(rebuilt.sessions.len(), 1);
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
}
