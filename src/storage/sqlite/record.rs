//! How entries and rows are written down, and the checksums that guard them.
//!
//! Payloads are protobuf messages of this module's own, apart from those of the wire: a log outlives the version of the
//! program that wrote it, so new fields may be added here and none may change its meaning or its number.
//!
//! Each entry's checksum covers that of the entry before it: an entry that is lost, moved, or left over from a log that
//! was truncated breaks the chain. The chain starts at the base's checksum and ends at the one in the state row.

use bytes::Bytes;
use prost::Message;

use crate::raft::{LogPosition, Membership, NodeId, Payload, SessionCommand};

#[derive(Clone, PartialEq, Message)]
struct StoredPayload {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Noop(StoredNoop),
    #[prost(bytes = "bytes", tag = "2")]
    Command(Bytes),
    #[prost(message, tag = "3")]
    Membership(StoredMembership),
    #[prost(message, tag = "4")]
    OpenSession(StoredOpenSession),
    #[prost(message, tag = "5")]
    SessionCommand(StoredSessionCommand),
}

#[derive(Clone, PartialEq, Message)]
struct StoredOpenSession {}

#[derive(Clone, PartialEq, Message)]
struct StoredNoop {}

/// A membership as it is written down, here and in snapshots.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredMembership {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<StoredServer>,
    #[prost(message, repeated, tag = "2")]
    learners: Vec<StoredServer>,
    #[prost(message, repeated, tag = "3")]
    outgoing: Vec<StoredServer>,
    #[prost(uint64, repeated, tag = "4")]
    staged: Vec<NodeId>,
    #[prost(uint64, repeated, tag = "5")]
    removed: Vec<NodeId>,
    #[prost(message, repeated, tag = "6")]
    incarnations: Vec<StoredIncarnation>,
    #[prost(uint64, repeated, tag = "7")]
    unsettled: Vec<NodeId>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredIncarnation {
    #[prost(uint64, tag = "1")]
    id: NodeId,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSessionCommand {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    first_unanswered: u64,
    #[prost(bytes = "bytes", tag = "4")]
    command: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StoredServer {
    #[prost(uint64, tag = "1")]
    id: NodeId,
    #[prost(string, tag = "2")]
    address: String,
}

/// Writes `payload` down in `out`, replacing what is there.
pub(super) fn encode_payload(payload: &Payload, out: &mut Vec<u8>) {
    let kind = match payload {
        Payload::Noop => Kind::Noop(StoredNoop {}),
        Payload::Command(command) => Kind::Command(command.clone()),
        Payload::OpenSession => Kind::OpenSession(StoredOpenSession {}),
        Payload::SessionCommand(call) => Kind::SessionCommand(StoredSessionCommand {
            session: call.session,
            sequence: call.sequence,
            first_unanswered: call.first_unanswered,
            command: call.command.clone(),
        }),
        Payload::Membership(membership) => Kind::Membership((&**membership).into()),
    };
    out.clear();
    StoredPayload { kind: Some(kind) }.encode(out).expect("a Vec grows as needed");
}

/// Reads what [`encode_payload`] wrote. `stored` is copied once; a command shares that copy.
pub(super) fn decode_payload(stored: &[u8]) -> Result<Payload, String> {
    let payload = StoredPayload::decode(Bytes::copy_from_slice(stored)).map_err(|error| error.to_string())?;
    match payload.kind {
        Some(Kind::Noop(StoredNoop {})) => Ok(Payload::Noop),
        Some(Kind::Command(command)) => Ok(Payload::Command(command)),
        Some(Kind::Membership(membership)) => Ok(Payload::Membership(Membership::from(membership).into())),
        Some(Kind::OpenSession(StoredOpenSession {})) => Ok(Payload::OpenSession),
        Some(Kind::SessionCommand(call)) => Ok(Payload::SessionCommand(SessionCommand {
            session: call.session,
            sequence: call.sequence,
            first_unanswered: call.first_unanswered,
            command: call.command,
        })),
        None => Err("its payload is of no kind that is known here".to_owned()),
    }
}

/// Writes the membership of the base down.
pub(super) fn encode_membership(membership: &Membership) -> Vec<u8> {
    StoredMembership::from(membership).encode_to_vec()
}

/// Reads what [`encode_membership`] wrote.
pub(super) fn decode_membership(stored: &[u8]) -> Result<Membership, String> {
    StoredMembership::decode(stored).map(Membership::from).map_err(|error| error.to_string())
}

impl From<&Membership> for StoredMembership {
    fn from(membership: &Membership) -> Self {
        let servers = |servers: &std::collections::BTreeMap<NodeId, String>| {
            servers.iter().map(|(id, address)| StoredServer { id: *id, address: address.clone() }).collect()
        };
        let known = |(id, incarnation): (&NodeId, &u64)| StoredIncarnation { id: *id, incarnation: *incarnation };
        StoredMembership {
            voters: servers(&membership.voters),
            learners: servers(&membership.learners),
            outgoing: servers(&membership.outgoing),
            staged: membership.staged.iter().copied().collect(),
            removed: membership.removed.iter().copied().collect(),
            incarnations: membership.incarnations.iter().map(known).collect(),
            unsettled: membership.unsettled.iter().copied().collect(),
        }
    }
}

impl From<StoredMembership> for Membership {
    fn from(stored: StoredMembership) -> Self {
        let members = |servers: Vec<StoredServer>| {
            servers.into_iter().map(|server| (server.id, server.address)).collect::<std::collections::BTreeMap<_, _>>()
        };
        Membership {
            incarnations: stored.incarnations.into_iter().map(|known| (known.id, known.incarnation)).collect(),
            voters: members(stored.voters),
            outgoing: members(stored.outgoing),
            learners: members(stored.learners),
            staged: stored.staged.into_iter().collect(),
            removed: stored.removed.into_iter().collect(),
            unsettled: stored.unsettled.into_iter().collect(),
        }
    }
}

/// The checksum of the entry at `position`, whose predecessor has the checksum `previous`.
pub(super) fn chain(previous: u32, position: LogPosition, payload: &[u8]) -> u32 {
    // Not as the initial value: a CRC that goes on from `previous` over the bytes of `previous` comes out the same for any.
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(&position.index.to_le_bytes());
    hasher.update(&position.term.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The checksum of a row with these numbers and these bytes. `None` and 0 differ.
pub(super) fn row_checksum(table: &str, numbers: &[Option<u64>], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(table.as_bytes());
    for number in numbers {
        hasher.update(&[u8::from(number.is_some())]);
        hasher.update(&number.unwrap_or(0).to_le_bytes());
    }
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    prop_compose! {
        fn memberships()(
            servers in vec((any::<u64>(), "[a-z]{0,3}:[0-9]{1,2}", 0..3), 0..6),
            staged in vec(any::<u64>(), 0..3),
            removed in vec(any::<u64>(), 0..3),
            incarnations in vec(any::<(u64, u64)>(), 0..3),
            unsettled in vec(any::<u64>(), 0..3),
        ) -> Membership {
            let of = |wanted| servers.iter().filter(move |(_, _, part)| *part == wanted);
            let part = |wanted| of(wanted).map(|(id, address, _)| (*id, address.clone())).collect();
            Membership {
                voters: part(0),
                outgoing: part(1),
                learners: part(2),
                staged: staged.into_iter().collect(),
                removed: removed.into_iter().collect(),
                incarnations: incarnations.into_iter().collect(),
                unsettled: unsettled.into_iter().collect(),
            }
        }
    }

    fn payloads() -> impl Strategy<Value = Payload> {
        let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let call = (any::<[u64; 3]>(), bytes()).prop_map(|([session, sequence, first_unanswered], command)| {
            Payload::SessionCommand(SessionCommand { session, sequence, first_unanswered, command })
        });
        prop_oneof![
            Just(Payload::Noop),
            Just(Payload::OpenSession),
            bytes().prop_map(Payload::Command),
            memberships().prop_map(|membership| Payload::Membership(membership.into())),
            call,
        ]
    }

    fn stored(payload: &Payload) -> Vec<u8> {
        let mut stored = Vec::new();
        encode_payload(payload, &mut stored);
        stored
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Fails when: a field is written that is not read, or as another one.
        #[test]
        fn any_payload_comes_back_as_it_was(payload in payloads(), membership in memberships()) {
            prop_assert_eq!(decode_payload(&stored(&payload)), Ok(payload));
            prop_assert_eq!(decode_membership(&encode_membership(&membership)), Ok(membership));
        }

        /// Fails when: the checksum leaves out the position, the payload, or the entry before.
        #[test]
        fn a_bit_that_flips_breaks_the_chain(
            payload in payloads(), previous in any::<u32>(), [index, term] in any::<[u64; 2]>(), bit in any::<prop::sample::Index>(),
        ) {
            let (payload, position) = (stored(&payload), LogPosition { index, term });
            let sum = chain(previous, position, &payload);
            let mut flipped = payload.clone();
            let bit = bit.index(8 * payload.len());
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(chain(previous, position, &flipped), sum);
            let other = 1 << (bit % 64);
            prop_assert_ne!(chain(previous, LogPosition { index: index ^ other, term }, &payload), sum);
            prop_assert_ne!(chain(previous, LogPosition { index, term: term ^ other }, &payload), sum);
            prop_assert_ne!(chain(previous ^ (1 << (bit % 32)), position, &payload), sum);
        }

        /// Whatever is read is a value that comes back, or an error.
        ///
        /// Fails when: what cannot be decoded is a panic.
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..60), payload in payloads(), at in any::<prop::sample::Index>()) {
            let mut damaged = stored(&payload);
            let at = at.index(damaged.len());
            damaged[at] = bytes.first().copied().unwrap_or(0);
            for bytes in [bytes, damaged] {
                if let Ok(payload) = decode_payload(&bytes) {
                    prop_assert_eq!(decode_payload(&stored(&payload)), Ok(payload));
                }
                if let Ok(membership) = decode_membership(&bytes) {
                    prop_assert_eq!(decode_membership(&encode_membership(&membership)), Ok(membership));
                }
            }
        }
    }

    #[test]
    fn payloads_come_back_as_they_were() {
        let mut membership = Membership::of_voters([(1, "a:1"), (2, "b:2")]);
        membership.learners.insert(3, "c:3".to_owned());
        let payloads = [
            Payload::Noop,
            Payload::Command(Bytes::new()),
            Payload::Command(Bytes::from_static(b"put")),
            Payload::Membership(membership.into()),
            Payload::Membership(Membership::default().into()),
        ];
        let mut stored = Vec::new();
        for payload in payloads {
            encode_payload(&payload, &mut stored);
            assert_eq!(decode_payload(&stored), Ok(payload));
        }
    }

    /// Fails when: the encoding changes, so that the log of an older version of this program cannot be read any more.
    #[test]
    fn the_encoding_is_stable() {
        let mut stored = Vec::new();
        encode_payload(&Payload::Command(Bytes::from_static(b"put")), &mut stored);
        assert_eq!(stored, b"\x12\x03put");
        encode_payload(&Payload::Noop, &mut stored);
        assert_eq!(stored, b"\x0a\x00");
        encode_payload(&Payload::Membership(Membership::of_voters([(1, "a:1")]).into()), &mut stored);
        assert_eq!(stored, b"\x1a\x09\x0a\x07\x08\x01\x12\x03a:1");
        assert_eq!(chain(7, LogPosition { term: 2, index: 3 }, b"put"), 2_935_149_380);
        assert_eq!(row_checksum("state", &[Some(7), None], b"put"), 1_836_451_584);
    }

    #[test]
    fn a_payload_of_an_unknown_kind_is_refused() {
        assert!(decode_payload(b"\x32\x03put").is_err());
        assert!(decode_payload(b"\x12\x04put").is_err());
    }
}
