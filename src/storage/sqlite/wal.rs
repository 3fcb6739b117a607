//! Looks at SQLite's write-ahead log before SQLite does.
//!
//! SQLite reads its log up to the first frame whose checksum does not fit, and takes all that follows for the torn end
//! of a write that nobody waited for. Usually it is. But one bit that flipped in the middle of the log looks the same,
//! and then transactions that were acknowledged are gone in silence. The two can be told apart: a store that syncs every
//! commit begins a transaction only when the one before is on disk. So where a *later* transaction was committed behind
//! a frame that does not fit, that frame was once on disk and whole, and has been damaged since.
//!
//! The format (sqlite.org/fileformat2.html, §4): a header of 32 bytes (magic, version, page size, checkpoint number,
//! two salts, two words of checksum), then frames: page number, size of the database after a commit or 0, the two salts,
//! two words of checksum, the page. All numbers are big-endian. A frame belongs to the log only if its salts are the
//! header's; frames of an earlier generation stay behind the end. The checksum runs on from the header through all
//! frames, over the first 8 bytes of a frame's header and its page; the magic's last bit says in which byte order.
//!
//! *Architecture invariant: nothing here touches a file; the scan is a function of the log's bytes.*

/// What the scan found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A log of this many frames that fit; what stands behind them was never acknowledged.
    Sound {
        /// 0 if there is no log.
        frames: usize,
    },
    /// Something that was once on disk is damaged.
    Damaged {
        /// "WAL header", "WAL frame 3".
        place: String,
        /// What shows it.
        cause: String,
    },
}

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

type Checksum = [u32; 2];

/// Scans a log of a database with pages of `page_size` bytes.
pub(super) fn scan(log: &[u8], page_size: usize) -> Scan {
    if log.len() < HEADER {
        return Scan::Sound { frames: 0 };
    }
    let order = if word(log, 0) & 1 == 1 { Order::Big } else { Order::Little };
    let frames = Frames { bytes: &log[HEADER..], page_size, order };
    if !header_fits(log, page_size, order) {
        return scan_behind_bad_header(log, page_size);
    }
    let salts = words(log, 16);
    let mut running = words(log, 24);
    for index in 0..frames.len() {
        let computed = frames.checksum(index, running);
        if frames.salts(index) == salts && frames.stored(index) == computed {
            running = computed;
            continue;
        }
        return scan_behind_bad_frame(&frames, index, salts, computed);
    }
    Scan::Sound { frames: frames.len() }
}

fn header_fits(log: &[u8], page_size: usize, order: Order) -> bool {
    word(log, 0) & !1 == MAGIC
        && word(log, 4) == VERSION
        && word(log, 8) as usize == page_size
        && add(order, [0, 0], &log[..24]) == words(log, 24)
}

/// The header is synced before any frame is written, so frames behind a bad header mean that it was good once.
fn scan_behind_bad_header(log: &[u8], page_size: usize) -> Scan {
    let shows_damage = [Order::Little, Order::Big].into_iter().any(|order| {
        let frames = Frames { bytes: &log[HEADER..], page_size, order };
        let first_fits = frames.len() > 0
            && [words(log, 24), add(order, [0, 0], &log[..24])]
                .into_iter()
                .any(|seed| frames.is_written(0) && frames.checksum(0, seed) == frames.stored(0));
        first_fits || (1..frames.len()).any(|index| frames.continues(index))
    });
    if !shows_damage {
        return Scan::Sound { frames: 0 };
    }
    Scan::Damaged {
        place: "WAL header".to_owned(),
        cause: "it does not fit its checksum, but frames follow it".to_owned(),
    }
}

/// `bad` does not fit; it should have had the checksum `computed` if its header and page are what was written.
fn scan_behind_bad_frame(frames: &Frames<'_>, bad: usize, salts: [u32; 2], computed: Checksum) -> Scan {
    // Frames of the transaction that `bad` is part of prove nothing: they may have reached the disk in any order.
    let mut in_doubt = !(frames.salts(bad) == salts && frames.commits(bad));
    for index in bad + 1..frames.len() {
        if frames.salts(index) != salts || !frames.commits(index) {
            continue;
        }
        let after_bad = index == bad + 1 && frames.checksum(index, computed) == frames.stored(index);
        let fits = frames.continues(index) || after_bad;
        if fits && !in_doubt {
            return Scan::Damaged {
                place: format!("WAL frame {}", bad + 1),
                cause: format!("it does not fit its checksum, but frame {} commits a later transaction", index + 1),
            };
        }
        in_doubt = false;
    }
    Scan::Sound { frames: bad }
}

/// In which byte order the checksum reads its words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// The frames behind the header; an incomplete one at the end does not count.
struct Frames<'a> {
    bytes: &'a [u8],
    page_size: usize,
    order: Order,
}

impl Frames<'_> {
    fn len(&self) -> usize {
        self.bytes.len() / (FRAME_HEADER + self.page_size)
    }

    fn frame(&self, index: usize) -> &[u8] {
        let size = FRAME_HEADER + self.page_size;
        &self.bytes[index * size..(index + 1) * size]
    }

    fn commits(&self, index: usize) -> bool {
        word(self.frame(index), 4) != 0
    }

    fn salts(&self, index: usize) -> [u32; 2] {
        words(self.frame(index), 8)
    }

    /// Whether there is anything: a hole of zeros would fit the checksum of a hole of zeros.
    fn is_written(&self, index: usize) -> bool {
        self.stored(index) != [0, 0]
    }

    fn stored(&self, index: usize) -> Checksum {
        words(self.frame(index), 16)
    }

    fn checksum(&self, index: usize, seed: Checksum) -> Checksum {
        let frame = self.frame(index);
        add(self.order, add(self.order, seed, &frame[..8]), &frame[FRAME_HEADER..])
    }

    /// Whether a frame goes on from the one before it, whatever stands before that.
    fn continues(&self, index: usize) -> bool {
        self.is_written(index)
            && self.salts(index) == self.salts(index - 1)
            && self.checksum(index, self.stored(index - 1)) == self.stored(index)
    }
}

/// Carries `sum` on over `bytes`, whose length is a multiple of 8.
fn add(order: Order, sum: Checksum, bytes: &[u8]) -> Checksum {
    let [mut first, mut second] = sum;
    for pair in bytes.chunks_exact(8) {
        let [a, b] = match order {
            Order::Big => words(pair, 0),
            Order::Little => words(pair, 0).map(u32::swap_bytes),
        };
        first = first.wrapping_add(a).wrapping_add(second);
        second = second.wrapping_add(b).wrapping_add(first);
    }
    [first, second]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn words(bytes: &[u8], at: usize) -> [u32; 2] {
    [word(bytes, at), word(bytes, at + 4)]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PAGE: usize = 512;
    const FRAME: usize = FRAME_HEADER + PAGE;

    /// A log with a transaction of each of these numbers of frames.
    fn log(order: Order, transactions: &[usize]) -> Vec<u8> {
        let magic = MAGIC | u32::from(order == Order::Big);
        let mut log: Vec<u8> =
            [magic, VERSION, PAGE as u32, 5, 0xfeed, 0xbeef].iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut sum = add(order, [0, 0], &log);
        log.extend(sum.iter().flat_map(|word| word.to_be_bytes()));
        for (number, frames) in transactions.iter().enumerate() {
            for frame in 1..=*frames {
                let commit = if frame == *frames { 10 } else { 0 };
                let head: Vec<u8> = [frame as u32, commit].iter().flat_map(|word| word.to_be_bytes()).collect();
                let page: Vec<u8> = (0..PAGE).map(|byte| (byte * 31 + frame * 7 + number * 3) as u8).collect();
                sum = add(order, add(order, sum, &head), &page);
                log.extend(head);
                log.extend([0xfeed, 0xbeef, sum[0], sum[1]].iter().flat_map(|word| word.to_be_bytes()));
                log.extend(page);
            }
        }
        log
    }

    fn is_damaged(log: &[u8]) -> bool {
        matches!(scan(log, PAGE), Scan::Damaged { .. })
    }

    #[test]
    fn a_whole_log_is_sound_in_both_byte_orders() {
        for order in [Order::Little, Order::Big] {
            assert_eq!(scan(&log(order, &[2, 3, 1]), PAGE), Scan::Sound { frames: 6 });
        }
        assert_eq!(scan(&[], PAGE), Scan::Sound { frames: 0 });
    }

    #[test]
    fn a_torn_end_is_sound() {
        let whole = log(Order::Little, &[2, 3]);
        for length in 0..whole.len() {
            assert!(!is_damaged(&whole[..length]), "cut to {length} bytes");
        }
        // Any sector of the last transaction may be missing, whatever comes after it.
        for at in (HEADER + 2 * FRAME..whole.len()).step_by(64) {
            let mut torn = whole.clone();
            let end = (at + 512).min(torn.len());
            torn[at..end].fill(0);
            assert!(!is_damaged(&torn), "torn at byte {at}");
        }
    }

    /// Fails when: the scan stops at the first bad frame, as SQLite does.
    #[test]
    fn any_flipped_bit_before_a_later_commit_is_damage() {
        for order in [Order::Little, Order::Big] {
            let whole = log(order, &[2, 3, 2, 1]);
            // The transaction of frames 1 and 2; a bit that makes its commit look like none needs one more to show it.
            for at in 0..HEADER + 2 * FRAME {
                for bit in 0..8 {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(is_damaged(&flipped), "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn frames_of_an_earlier_generation_prove_nothing() {
        let mut old = log(Order::Little, &[2, 2, 2]);
        let new = log(Order::Little, &[1]);
        for frame in 0..6 {
            old[HEADER + frame * FRAME + 8] ^= 1;
        }
        old[..new.len()].copy_from_slice(&new);
        assert_eq!(scan(&old, PAGE), Scan::Sound { frames: 1 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever lies there, the scan ends, and counts no more frames than there is room for.
        ///
        /// Fails when: a length is taken from the bytes, or a frame that is not whole is looked at.
        #[test]
        fn no_bytes_panic(
            bytes in vec(any::<u8>(), 0..100), transactions in vec(1..4_usize, 0..4), at in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(), big in any::<bool>(),
        ) {
            let mut log = log(if big { Order::Big } else { Order::Little }, &transactions);
            let at = at.index(log.len());
            let end = (at + bytes.len()).min(log.len());
            log[at..end].copy_from_slice(&bytes[..end - at]);
            log.truncate(cut.index(2 * log.len()));
            for bytes in [&log, &bytes] {
                for page_size in [PAGE, 2 * PAGE] {
                    if let Scan::Sound { frames } = scan(bytes, page_size) {
                        prop_assert!(frames * (FRAME_HEADER + page_size) <= bytes.len());
                    }
                }
            }
        }
    }
}
