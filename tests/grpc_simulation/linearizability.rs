//! What clients were told, against the log.

use std::collections::BTreeMap;

use ractor_raft::raft::LogIndex;

use super::record::Operation;

/// The log is the order. So it is enough that it agrees with real time: whatever was answered before an operation began
/// stands before it. And a read must have seen exactly the lines up to where it says it was.
pub fn check(operations: &[Operation], lines: &[(LogIndex, String)]) -> Result<(), String> {
    let at: BTreeMap<LogIndex, &str> = lines.iter().map(|(index, text)| (*index, &text[..])).collect();
    let mut moments: Vec<_> = operations.iter().flat_map(|one| [(one.invoked, one), (one.answered, one)]).collect();
    moments.sort_by_key(|(moment, _)| *moment);
    let mut latest: Option<&Operation> = None;
    let mut before = BTreeMap::new();
    for (moment, operation) in moments {
        if moment == operation.invoked {
            before.insert(moment, latest);
            continue;
        }
        if let Some(earlier) = before.remove(&operation.invoked).flatten() {
            let in_order = match operation.wrote {
                Some(_) => operation.position > earlier.position,
                None => operation.position >= earlier.position,
            };
            if !in_order {
                return Err(format!("not linearizable: {operation:?} was invoked after {earlier:?} was answered"));
            }
        }
        match &operation.wrote {
            Some(text) if at.get(&operation.position) != Some(&&text[..]) => {
                return Err(format!(
                    "an acknowledged write was lost: {operation:?}, {:?} stands there",
                    at.get(&operation.position)
                ));
            }
            Some(_) => {}
            None => {
                let there = at.range(..=operation.position).count();
                if operation.saw != there {
                    return Err(format!(
                        "a read saw another state than that of its index, which has {there} lines: {operation:?}"
                    ));
                }
            }
        }
        if latest.is_none_or(|earlier| earlier.position < operation.position) {
            latest = Some(operation);
        }
    }
    Ok(())
}

/// No client sent a command twice under another name, so none may be applied twice.
pub fn check_once(lines: &[(LogIndex, String)]) -> Result<(), String> {
    let mut first = BTreeMap::new();
    for (index, text) in lines {
        if let Some(earlier) = first.insert(text, index) {
            return Err(format!("applied twice, at {earlier} and at {index}: {text:?}"));
        }
    }
    Ok(())
}
