//! Whatever decodes as a message between nodes is refused with a field's name, or means something that is said again in
//! the same words.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/messages.rs"]
mod messages;

fuzz_target!(|bytes: &[u8]| {
    if let [kind, from, rest @ ..] = bytes {
        messages::convert(*kind, u64::from(*from), rest);
    }
});
