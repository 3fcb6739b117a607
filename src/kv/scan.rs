//! Ranges of keys, read in pages.

use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;

use super::state::Value;

/// Which keys a scan is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// Those that begin with these bytes. Empty: all.
    Prefix(Bytes),
    /// Those from `start` on, up to but without `end`.
    Between {
        /// The first. Empty: from the first key there is.
        start: Bytes,
        /// The first that no longer belongs to it. Empty: to the last key there is.
        end: Bytes,
    },
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// By rising key.
    pub pairs: Vec<(Bytes, Value)>,
    /// The key that the next page begins with, to be passed as `from`. Empty: this was the last page.
    pub next: Bytes,
}

impl KeyRange {
    /// Whether `key` belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start() && self.reaches(key)
    }

    fn start(&self) -> &[u8] {
        match self {
            KeyRange::Prefix(prefix) => prefix,
            KeyRange::Between { start, .. } => start,
        }
    }

    /// Whether `key`, which is not before the start, still belongs to it.
    fn reaches(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Prefix(prefix) => key.starts_with(prefix),
            KeyRange::Between { end, .. } => end.is_empty() || key < &end[..],
        }
    }
}

pub(super) fn page(
    pairs: &OrdMap<Bytes, Value>,
    range: &KeyRange,
    from: &[u8],
    limit: usize,
    max_bytes: usize,
) -> Page {
    let start = range.start().max(from);
    let mut page = Page::default();
    let mut bytes = 0;
    for (key, value) in pairs.range::<_, [u8]>((Bound::Included(start), Bound::Unbounded)) {
        if !range.reaches(key) {
            break;
        }
        bytes += key.len() + value.bytes.len();
        let full = page.pairs.len() >= limit.max(1) || bytes > max_bytes;
        if full && !page.pairs.is_empty() {
            page.next = key.clone();
            break;
        }
        page.pairs.push((key.clone(), value.clone()));
    }
    page
}
