//! The sessions as bytes: the section of a snapshot that stands in front of the state machine's.
//!
//! A version, the number of sessions, and each with its answers; numbers little-endian. The section says itself where it
//! ends. Its checksum is the snapshot's.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;

use super::{LIMITS, Limits, Session, Sessions, SessionsSnapshot, size};
use crate::{node::Applied, raft::LARGEST};

/// The first byte. Readers know all versions up to their own.
const VERSION: u8 = 1;

impl SessionsSnapshot {
    /// Writes the section.
    ///
    /// # Errors
    /// Those of `to`.
    pub(crate) fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&[VERSION])?;
        number(to, self.0.len())?;
        for (id, session) in &self.0 {
            for field in [*id, session.last_used, session.first_unanswered] {
                to.write_all(&field.to_le_bytes())?;
            }
            number(to, session.replies.len())?;
            for (sequence, Applied { output, index }) in &session.replies {
                to.write_all(&sequence.to_le_bytes())?;
                to.write_all(&index.to_le_bytes())?;
                number(to, output.len())?;
                to.write_all(output)?;
            }
        }
        Ok(())
    }
}

impl Sessions {
    /// Reads the section, and no byte more.
    ///
    /// # Errors
    /// Those of `from`; `InvalidData` where it is of a later version, or not a section at all.
    pub(crate) fn read(from: &mut dyn Read) -> io::Result<Self> {
        Sessions::read_with(LIMITS, from)
    }

    pub(super) fn read_with(limits: Limits, from: &mut dyn Read) -> io::Result<Self> {
        let [version] = bytes(from)?;
        if version != VERSION {
            return Err(invalid(format!("the sessions are of version {version}; version {VERSION} is known")));
        }
        let mut sessions = Sessions::with_limits(limits);
        for _ in 0..length(from)? {
            let id = numeral(from)?;
            let session = session(from)?;
            sessions.reply_bytes += session.reply_bytes;
            let twice = sessions.order.insert(session.last_used, id).is_some();
            if sessions.table.insert(id, Arc::new(session)).is_some() || twice {
                return Err(invalid(format!("session {id} is there twice, or another was used at the same index")));
            }
        }
        Ok(sessions)
    }
}

fn session(from: &mut dyn Read) -> io::Result<Session> {
    let last_used = numeral(from)?;
    let first_unanswered = numeral(from)?;
    let mut session = Session { last_used, first_unanswered, replies: BTreeMap::new(), reply_bytes: 0 };
    for _ in 0..length(from)? {
        let sequence = numeral(from)?;
        let index = numeral(from)?;
        let wanted = u64::from(length(from)?);
        let mut output = Vec::new();
        // Read by what is there, not reserved by what is said.
        from.take(wanted).read_to_end(&mut output)?;
        if output.len() as u64 != wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let output = Bytes::from(output);
        session.reply_bytes += size(&output);
        if session.replies.insert(sequence, Applied { output, index }).is_some() {
            return Err(invalid(format!("an answer to command {sequence} is there twice")));
        }
    }
    Ok(session)
}

fn number(to: &mut dyn Write, number: usize) -> io::Result<()> {
    let number = u32::try_from(number).map_err(|_| invalid(format!("{number} is too much for a snapshot")))?;
    to.write_all(&number.to_le_bytes())
}

/// An index or sequence. The rules of the table add to it.
fn numeral(from: &mut dyn Read) -> io::Result<u64> {
    let number = u64::from_le_bytes(bytes(from)?);
    if number > LARGEST { Err(invalid(format!("{number} is no index and no sequence"))) } else { Ok(number) }
}

fn length(from: &mut dyn Read) -> io::Result<u32> {
    Ok(u32::from_le_bytes(bytes(from)?))
}

fn bytes<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
