//! The core against peers that lie ([`lies`](crate::lies)).

use proptest::{collection::vec, prelude::*};

use crate::lies::{End, Move, walk};

fn moves() -> impl Strategy<Value = Move> {
    (any::<u8>(), any::<[u16; 16]>()).prop_map(|(kind, picks)| Move { kind, picks })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 8, ..ProptestConfig::default() })]

    // Fails when: an acknowledgement beyond the log is believed, in either reply, or an entry at the snapshot's boundary is not
    // compared with it.
    #[test]
    fn no_lie_of_a_peer_makes_the_core_panic(begin in moves(), moves in vec(moves(), 0..120)) {
        prop_assert!(matches!(walk(begin, moves), End::Done | End::Condemned | End::Proof(_)));
    }
}
