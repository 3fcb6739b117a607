//! What a store that was made out of a backup says of its cluster.
//!
//! A cluster's id is otherwise a hash of its first members. A restored cluster has one of its own (two clusters out of
//! one backup must not take each other for one), but its nodes are started with their first members like any others: the
//! line says which id those stand for here. Other first members stand for nothing: that is R006, as ever.

/// The name of the file beside the store.
#[cfg(feature = "sqlite")]
pub(crate) const RESTORED: &str = "RESTORED";

/// A store's cluster, where its first members alone do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// What the first members (or the name) of the cluster hash to.
    pub first_members: u64,
    /// The cluster's id.
    pub cluster_id: u64,
}

#[cfg(feature = "sqlite")]
impl Restoration {
    /// One line, for people too, with a checksum.
    pub(crate) fn to_line(self) -> Vec<u8> {
        let text = format!("members {:016x} are cluster {:016x}", self.first_members, self.cluster_id);
        format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes()
    }

    /// `None` for what is not such a line, or not whole.
    pub(crate) fn of_line(line: &[u8]) -> Option<Self> {
        let (text, checksum) = std::str::from_utf8(line).ok()?.trim_end().rsplit_once(' ')?;
        if u32::from_str_radix(checksum, 16).ok()? != crc32fast::hash(text.as_bytes()) {
            return None;
        }
        let (members, cluster) = text.strip_prefix("members ")?.split_once(" are cluster ")?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Restoration { first_members: number(members)?, cluster_id: number(cluster)? })
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_or_refused() {
        let restoration = Restoration { first_members: 1, cluster_id: u64::MAX };
        let line = restoration.to_line();
        assert_eq!(Restoration::of_line(&line), Some(restoration));
        for place in 0..line.len() - 1 {
            let mut changed = line.clone();
            changed[place] ^= 1;
            assert_eq!(Restoration::of_line(&changed), None, "{}", String::from_utf8_lossy(&changed));
        }
        assert_eq!(Restoration::of_line(b""), None);
    }
}
