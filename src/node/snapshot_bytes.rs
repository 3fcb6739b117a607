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

#[cfg(test)]
mod tests;
