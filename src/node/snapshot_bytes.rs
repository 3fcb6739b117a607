//! What is in the bytes of a snapshot: a header, the clients' sessions, then the state machine's own bytes.
//!
//! ```text
//! format: u32 │ length: u64 │ sessions: so many bytes │ the state machine's, to the end      (little-endian)
//! ```
//! What guards them against damage is the storage's: here they are what was written. So what does not fit here was written
//! by another version of this program, or by another state machine.

use std::io::{self, Read, Write};

use crate::{
    raft::LogIndex,
    state_machine::{Machine, WriteState},
};

/// The version of the layout.
pub(crate) const FORMAT: u32 = 1;

/// Writes what a state was when it was taken. Cheap to have: the bytes are made when it is written.
pub struct Taken {
    /// Encodes the sessions.
    pub(crate) sessions: Box<dyn FnOnce() -> Vec<u8> + Send>,
    /// Writes the state machine's state.
    pub(crate) state: WriteState,
}

/// What was restored from a snapshot, on its way to the applier; or what it replaced, on its way back.
pub struct Rebuilt {
    /// At the state as of the snapshot's last entry.
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
    pub(crate) fn of(machine: &dyn Machine) -> Self {
        Taken { sessions: Box::new(Vec::new), state: machine.snapshot() }
    }

    /// Writes all of it.
    pub(crate) fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let sessions = (self.sessions)();
        to.write_all(&FORMAT.to_le_bytes())?;
        to.write_all(&(sessions.len() as u64).to_le_bytes())?;
        to.write_all(&sessions)?;
        (self.state)(to)
    }
}

impl Rebuilt {
    /// Reads into `machine`, which is a new one, what [`Taken::write`] wrote; all of it.
    pub(crate) fn read(mut machine: Box<dyn Machine>, from: &mut dyn Read) -> Result<Self, Refused> {
        let format = u32::from_le_bytes(header(from)?);
        if format != FORMAT {
            return Err(Refused::Format(format));
        }
        let length = u64::from_le_bytes(header(from)?);
        // Grown as bytes arrive: a length that is none must not be believed to the extent of its memory.
        let mut sessions = Vec::new();
        from.take(length).read_to_end(&mut sessions).map_err(misfit)?;
        if sessions.len() as u64 != length {
            return Err(Refused::Misfit(format!("it ends {} bytes into {length} of sessions", sessions.len())));
        }
        if !sessions.is_empty() {
            return Err(Refused::Misfit("it has sessions, which this program does not know".to_owned()));
        }
        machine.restore(from).map_err(|error| Refused::Misfit(error.0))?;
        match from.read(&mut [0]) {
            Ok(0) => Ok(Rebuilt { machine }),
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

fn header<const N: usize>(from: &mut dyn Read) -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(misfit)?;
    Ok(bytes)
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
        Taken::of(&*ledger()).write(&mut bytes).expect("memory takes all");
        bytes
    }

    fn read(mut bytes: &[u8]) -> Result<Vec<(LogIndex, String)>, Refused> {
        let rebuilt = Rebuilt::read(Box::new(Ledger::default()), &mut bytes)?;
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
        assert_eq!(bytes()[..12], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    // Fails when: `read` does not compare the format, or the length of the sessions with what is there.
    #[test]
    fn another_format_and_a_truncated_section_are_refused() {
        let mut later = bytes();
        later[0] = 2;
        assert_eq!(read(&later), Err(Refused::Format(2)));
        for length in 0..12 {
            assert!(read(&bytes()[..length]).is_err(), "{length} bytes");
        }
        let mut long = bytes();
        long[4] = 200;
        assert!(matches!(read(&long), Err(Refused::Misfit(cause)) if cause.contains("bytes into 200")));
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
        Taken::of(&Lazy).write(&mut bytes).expect("memory takes all");
        let refused = Rebuilt::read(Box::new(Lazy), &mut &bytes[..]).err();
        assert!(matches!(refused, Some(Refused::Misfit(cause)) if cause.contains("unread")));
    }
}
