//! Trace ids as other tracing systems write them: W3C `traceparent`.
//!
//! A [`TraceId`] is the low half of the W3C trace id, so that an id that came from outside is recognised in ours.

use super::TraceId;

/// The trace of a W3C `traceparent` (`00-<32 hex: trace id>-<16 hex: parent id>-<2 hex: flags>`), the value of the HTTP header
/// of that name. `None`: it is none, or its low half is 0.
///
/// ```
/// # use ractor_raft::flow::trace_of;
/// let trace = trace_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert_eq!(trace, Some(0xa3ce929d0e0e4736));
/// ```
pub fn trace_of(traceparent: &str) -> Option<TraceId> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(parent, 16) {
        return None;
    }
    let low = u64::from_str_radix(&trace[16..], 16).ok()?;
    (low != 0).then_some(low)
}

/// The `traceparent` of a trace, for a call to another system that is to belong to it.
pub fn traceparent(trace: TraceId) -> String {
    // The parent id must not be 0; the trace's own number is as good as any.
    format!("00-{trace:032x}-{trace:016x}-01")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clients_traceparent_is_read() {
        let parsed = trace_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(parsed, Some(0xa3ce_929d_0e0e_4736));
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        for value in ["", "00", "00-1-2-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-é"] {
            assert_eq!(trace_of(value), None, "{value}");
        }
        assert_eq!(trace_of(&format!("00-{:032x}-{:016x}-01", 0, 1)), None);
    }

    proptest! {
        #[test]
        fn written_is_read(trace in 1..=u64::MAX) {
            prop_assert_eq!(trace_of(&traceparent(trace)), Some(trace));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            trace_of(&text);
        }
    }
}
