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

#[cfg(test)]
mod tests {
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
}
