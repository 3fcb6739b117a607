//! Bytes become moves of peers that lie, against one server of the real core: the walk of `tests/fuzz/lies.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/lies.rs"]
mod lies;

/// A kind and sixteen numbers.
const MOVE: usize = 33;

fn next(bytes: &[u8]) -> lies::Move {
    let mut picks = [0; 16];
    for (pick, pair) in picks.iter_mut().zip(bytes[1..].chunks_exact(2)) {
        *pick = u16::from_le_bytes([pair[0], pair[1]]);
    }
    lies::Move { kind: bytes[0], picks }
}

fuzz_target!(|bytes: &[u8]| {
    let mut moves = bytes.chunks_exact(MOVE).map(next);
    if let Some(begin) = moves.next() {
        lies::walk(begin, moves);
    }
});
