//! A hash of the whole state that each write keeps up to date for the cost of its own pair.
//!
//! It is the sum, modulo 2^128, of a 128-bit hash of every pair: addition does not mind the order, and what was added can
//! be subtracted. So a hash of millions of keys is there at once, and nothing has to stop while it is taken. The price:
//! a sum is easier to forge than a hash over a stream, which does not matter between replicas that do not lie; that two
//! states which differ by a fault have the same sum has a chance of one in 2^128.
//!
//! A pair's hash is SipHash-2-4 with 128 bits of output, twice: over the key, under (revision, length of the key); and
//! over the value, under the result of that. Nothing can be moved between key, value and revision without a change.

use std::fmt;

use super::state::Value;

/// The sum over all pairs. Of no pairs: 0.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StateHash(u128);

impl StateHash {
    pub(super) fn add(&mut self, key: &[u8], value: &Value) {
        self.0 = self.0.wrapping_add(hash_of_pair(key, value));
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &Value) {
        self.0 = self.0.wrapping_sub(hash_of_pair(key, value));
    }

    /// A hash of the state and of what was applied to come to it, for a snapshot.
    pub(super) fn sealed(self, applied: u64) -> [u8; 16] {
        let state = self.to_bytes();
        sip_hash_128((applied, state.len() as u64), &state).to_be_bytes()
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

fn hash_of_pair(key: &[u8], value: &Value) -> u128 {
    let of_key = sip_hash_128((value.revision, key.len() as u64), key);
    sip_hash_128(((of_key >> 64) as u64, of_key as u64), &value.bytes)
}

/// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012; the reference implementation's wide variant).
/// Written out here, since the standard library's hasher has 64 bits and may change with any version.
fn sip_hash_128((key_0, key_1): (u64, u64), message: &[u8]) -> u128 {
    let mut state = Sip {
        v0: key_0 ^ 0x736f_6d65_7073_6575,
        v1: key_1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        v2: key_0 ^ 0x6c79_6765_6e65_7261,
        v3: key_1 ^ 0x7465_6462_7974_6573,
    };
    let (words, tail) = message.as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    last[7] = message.len() as u8;
    state.absorb(u64::from_le_bytes(last));
    state.v2 ^= 0xee;
    let low = state.squeeze();
    state.v1 ^= 0xdd;
    let high = state.squeeze();
    u128::from(high) << 64 | u128::from(low)
}

struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    fn squeeze(&mut self) -> u64 {
        for _ in 0..4 {
            self.round();
        }
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &'static [u8], revision: u64) -> Value {
        Value { bytes: bytes.into(), revision }
    }

    /// The reference implementation's own test vectors: key 00 01 … 0f, message 00 01 … (n-1).
    // Fails when: the second constant is written 0xed, or a rotation is off by one.
    #[test]
    fn the_pair_hash_is_siphash_2_4_128() {
        let key = (u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]), u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15]));
        let message = (0..64).collect::<Vec<u8>>();
        let hex = |length: usize| {
            let hash = sip_hash_128(key, &message[..length]).to_le_bytes();
            hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(hex(0), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(1), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(hex(2), "8177228da4a45dc7fca38bdef60affe4");
    }

    #[test]
    fn nothing_moves_between_key_value_and_revision_unseen() {
        let pairs: [(&[u8], Value); 6] = [
            (b"a", value(b"bc", 1)),
            (b"ab", value(b"c", 1)),
            (b"abc", value(b"", 1)),
            (b"", value(b"abc", 1)),
            (b"a", value(b"bc", 2)),
            (b"a", value(b"bc\0", 1)),
        ];
        let hashes =
            pairs.iter().map(|(key, value)| hash_of_pair(key, value)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(hashes.len(), pairs.len());
    }

    #[test]
    fn the_order_of_writes_does_not_show() {
        let (mut forth, mut back) = (StateHash::default(), StateHash::default());
        forth.add(b"a", &value(b"1", 1));
        forth.add(b"b", &value(b"2", 2));
        back.add(b"b", &value(b"2", 2));
        back.add(b"c", &value(b"3", 3));
        back.add(b"a", &value(b"1", 1));
        back.remove(b"c", &value(b"3", 3));
        assert_eq!(forth, back);
        assert_ne!(forth, StateHash::default());
    }
}
