//! Trace ids on the wire: W3C `traceparent` beside unary calls.
//!
//! A [`TraceId`] is the low half of the W3C trace id, so that a client's own id is recognised in ours.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::flow::TraceId;

/// The metadata key.
pub const TRACEPARENT: &str = "traceparent";

/// The trace that a call belongs to; `None` if it says none, or nothing that can be read.
pub fn read(metadata: &MetadataMap) -> Option<TraceId> {
    parse(metadata.get(TRACEPARENT)?.to_str().ok()?)
}

/// Makes a call belong to `trace`. 0 is no trace and writes nothing.
pub fn write(trace: TraceId, metadata: &mut MetadataMap) {
    if trace != 0 {
        let value = MetadataValue::try_from(format(trace)).expect("hexadecimal digits and dashes are ASCII");
        metadata.insert(TRACEPARENT, value);
    }
}

/// The trace of a session's command, which is the same at whatever node and however often it is sent: so what a stream that
/// broke sends again elsewhere is seen as the one call that it is. Never 0.
pub fn of_command(cluster_id: u64, session: u64, sequence: u64) -> TraceId {
    // Odd factors and shifts lose nothing: two commands of one session never have the same.
    let mixed = (cluster_id ^ session.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(sequence);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ mixed >> 27).max(1)
}

/// `00-<32 hex: trace id>-<16 hex: parent id>-<2 hex: flags>`.
fn parse(value: &str) -> Option<TraceId> {
    let mut parts = value.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(parent, 16) {
        return None;
    }
    let low = u64::from_str_radix(&trace[16..], 16).ok()?;
    (low != 0).then_some(low)
}

fn format(trace: TraceId) -> String {
    // The parent id must not be 0; the trace's own number is as good as any.
    format!("00-{trace:032x}-{trace:016x}-01")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clients_traceparent_is_read() {
        let parsed = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(parsed, Some(0xa3ce_929d_0e0e_4736));
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        for value in ["", "00", "00-1-2-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-é"] {
            assert_eq!(parse(value), None, "{value}");
        }
        assert_eq!(parse(&format!("00-{:032x}-{:016x}-01", 0, 1)), None);
    }

    proptest! {
        #[test]
        fn each_command_has_a_trace_of_its_own(session in 1..=u64::MAX, sequence in 1..u64::MAX) {
            let trace = of_command(7, session, sequence);
            prop_assert_ne!(trace, 0);
            prop_assert_eq!(trace, of_command(7, session, sequence));
            prop_assert_ne!(trace, of_command(7, session, sequence + 1));
        }

        #[test]
        fn written_is_read(trace in 1..=u64::MAX) {
            let mut metadata = MetadataMap::new();
            write(trace, &mut metadata);
            prop_assert_eq!(read(&metadata), Some(trace));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            parse(&text);
        }
    }
}
