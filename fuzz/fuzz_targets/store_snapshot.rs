//! The bundled store's snapshot: refused in words, or a state that writes a snapshot which reads as the same state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ractor_raft::{
    kv::Kv,
    state_machine::{Snapshot, StateMachine},
};

fuzz_target!(|bytes: &[u8]| {
    let mut store = Kv::default();
    if store.restore(bytes).is_ok() {
        let mut written = Vec::new();
        store.snapshot().write(&mut written).expect("a Vec takes all");
        let mut again = Kv::default();
        again.restore(&written[..]).expect("what it wrote it reads");
        assert_eq!(again.hash(), store.hash());
    }
});
