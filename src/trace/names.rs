//! What actors and messages are called, and what their names mean.
//!
//! Names may come from another node, so nothing in them may reach a terminal, a diagram or a page as it is.

use std::sync::Arc;

use crate::flow::Mark;

/// The longest name that is shown.
const LONGEST: usize = 60;

/// A name without what a terminal obeys or a reader does not see, of bearable length.
pub(super) fn clean(name: &str) -> Arc<str> {
    if name.len() <= LONGEST && name.chars().all(is_plain) {
        return name.into();
    }
    let plain = name.chars().take(LONGEST).map(|letter| if is_plain(letter) { letter } else { '\u{FFFD}' });
    plain.collect::<String>().into()
}

/// Neither a control character nor one that turns, joins or hides others.
fn is_plain(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// The peer that a replicator delivers to.
pub(super) fn replicator(path: &str) -> Option<u64> {
    path.strip_prefix("consensus/replicator ")?.parse().ok()
}

/// The other server that stands at one end of a message.
pub(super) fn node(path: &str) -> Option<u64> {
    path.strip_prefix("node ")?.parse().ok()
}

/// One server's request to another, as it is called where it arrives.
pub(super) fn is_request(message: &str) -> bool {
    matches!(message, "AppendEntries" | "RequestVote" | "PreVote" | "TimeoutNow" | "ReadIndex" | "InstallSnapshot")
}

/// A client's wish to have something in the log.
pub(super) fn is_proposal(message: &str) -> bool {
    matches!(message, "Propose" | "ProposeInSession" | "OpenSession")
}

/// What says nothing of the course of things: alarms and errands.
pub(super) fn is_errand(message: &str) -> bool {
    matches!(message, "SetTimer" | "Woke" | "CallsWaiting" | "ReportTo" | "Tidy")
}

/// An actor by its own name: "replicator 2" for "consensus/replicator 2".
pub(super) fn short(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// `5@3` for index 5 of term 3.
pub(super) fn mark(mark: Mark) -> Option<String> {
    match mark {
        Mark { term: 0, index: 0 } => None,
        Mark { term, index: 0 } => Some(format!("term {term}")),
        Mark { term: 0, index } => Some(index.to_string()),
        Mark { term, index } => Some(format!("{index}@{term}")),
    }
}

/// `Persist 5@3`.
pub(super) fn word(message: &str, at: Mark) -> String {
    mark(at).map_or_else(|| message.to_owned(), |mark| format!("{message} {mark}"))
}

/// Nanoseconds as milliseconds with two places.
pub(super) fn milliseconds(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let hundredths = nanoseconds.unsigned_abs().saturating_add(5_000) / 10_000;
    format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)
}

/// "node 1", "nodes 1 and 2", "nodes 1, 2 and 3".
pub(super) fn nodes(numbers: &[u64]) -> String {
    match numbers {
        [] => "no node".to_owned(),
        [only] => format!("node {only}"),
        [first @ .., last] => {
            let first = first.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            format!("nodes {first} and {last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_read() {
        assert_eq!(&*clean("log store"), "log store");
        assert_eq!(&*clean("\u{1b}[31mred\n\u{202E}"), "\u{FFFD}[31mred\u{FFFD}\u{FFFD}");
        assert_eq!(clean(&"long".repeat(100)).chars().count(), LONGEST);
        assert_eq!((replicator("consensus/replicator 12"), replicator("consensus")), (Some(12), None));
        assert_eq!((node("node 3"), node("node"), node("node x")), (Some(3), None, None));
        assert_eq!(short("consensus/replicator 2"), "replicator 2");
    }

    #[test]
    fn times_and_lists_read_well() {
        assert_eq!([0, 4_999, 5_000, 1_234_567, -20_000].map(milliseconds), ["0.00", "0.00", "0.01", "1.23", "-0.02"]);
        assert_eq!(milliseconds(i64::MIN), "-9223372036854.78");
        assert_eq!(
            [&[][..], &[1], &[1, 2], &[1, 2, 3]].map(nodes),
            ["no node", "node 1", "nodes 1 and 2", "nodes 1, 2 and 3"]
        );
        assert_eq!(word("Persist", Mark { term: 3, index: 5 }), "Persist 5@3");
        assert_eq!(word("Applied", Mark { term: 0, index: 5 }), "Applied 5");
    }
}
