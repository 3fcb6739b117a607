//! What inputs look like.

use proptest::{collection::vec, prelude::*};

/// Numbers from the ends of the world, and such as are usual.
pub fn number() -> impl Strategy<Value = u64> {
    let ends = [0, 1, 1 << 31, 1 << 32, 1 << 62, (1 << 62) + 1, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
    prop_oneof![3 => prop::sample::select(ends.to_vec()), 6 => 0..12_u64, 1 => any::<u64>()]
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn field(tag: u64, wire_type: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3 | wire_type, &mut bytes);
    if wire_type == 2 {
        varint(value.len() as u64, &mut bytes);
    }
    bytes.extend_from_slice(value);
    bytes
}

/// Bytes that decode as some message more often than not: fields of small numbers, known or not, some of them messages.
pub fn looks_like_protobuf() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        6 => (1..16_u64, number()).prop_map(|(tag, number)| {
            let mut value = Vec::new();
            varint(number, &mut value);
            field(tag, 0, &value)
        }),
        1 => (1..12_u64, any::<[u8; 8]>()).prop_map(|(tag, value)| field(tag, 1, &value)),
        1 => (1..12_u64, any::<[u8; 4]>()).prop_map(|(tag, value)| field(tag, 5, &value)),
        4 => (1..12_u64, "[a-z0-9:.]{0,8}").prop_map(|(tag, value)| field(tag, 2, value.as_bytes())),
    ];
    let message = scalar.prop_recursive(3, 48, 8, |inner| {
        (1..12_u64, vec(inner, 0..6)).prop_map(|(tag, fields)| field(tag, 2, &fields.concat()))
    });
    vec(message, 0..10).prop_map(|fields| fields.concat())
}

/// What may happen to bytes on their way.
#[derive(Clone, Debug)]
pub enum Damage {
    /// A bit flips.
    Flip(prop::sample::Index),
    /// The rest is missing.
    Cut(prop::sample::Index),
    /// Something is added.
    Grow(Vec<u8>),
    /// Other bytes stand there.
    Overwrite(prop::sample::Index, Vec<u8>),
}

pub fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Damage::Flip),
        2 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => vec(any::<u8>(), 1..40).prop_map(Damage::Grow),
        2 => (any::<prop::sample::Index>(), vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..9))
            .prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
    ]
}

impl Damage {
    /// Does it to `bytes`. Of none, nothing can be damaged.
    pub fn to(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Damage::Flip(at) => {
                let bit = at.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Grow(more) => bytes.extend_from_slice(more),
            Damage::Overwrite(at, with) => {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + with.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
        }
    }
}
