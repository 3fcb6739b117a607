//! Trace ids on the wire: W3C `traceparent` beside unary calls.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::flow::{TraceId, trace_of, traceparent};

/// The metadata key.
pub const TRACEPARENT: &str = "traceparent";

/// The trace that a call belongs to; `None` if it says none, or nothing that can be read.
pub fn read(metadata: &MetadataMap) -> Option<TraceId> {
    trace_of(metadata.get(TRACEPARENT)?.to_str().ok()?)
}

/// Makes a call belong to `trace`. 0 is no trace and writes nothing.
pub fn write(trace: TraceId, metadata: &mut MetadataMap) {
    if trace != 0 {
        let value = MetadataValue::try_from(traceparent(trace)).expect("hexadecimal digits and dashes are ASCII");
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Fails when: what one end writes the other does not read, or no trace is written as one.
    #[test]
    fn written_is_read() {
        let mut metadata = MetadataMap::new();
        write(0, &mut metadata);
        assert_eq!((metadata.len(), read(&metadata)), (0, None));
        write(7, &mut metadata);
        assert_eq!(read(&metadata), Some(7));
    }

    proptest! {
        /// Fails when: two commands of one session have the same trace, or one has two.
        #[test]
        fn each_command_has_a_trace_of_its_own(session in 1..=u64::MAX, sequence in 1..u64::MAX) {
            let trace = of_command(7, session, sequence);
            prop_assert_ne!(trace, 0);
            prop_assert_eq!(trace, of_command(7, session, sequence));
            prop_assert_ne!(trace, of_command(7, session, sequence + 1));
        }
    }
}
