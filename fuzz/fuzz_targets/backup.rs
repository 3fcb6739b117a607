//! A backup's file: refused in words, or whole. The checksum of its head is set right, so that libFuzzer gets behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ractor_raft::backup::Backup;

/// Magic, format and length of the head.
const PREAMBLE: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut file = bytes.to_vec();
    if let Some(length) = bytes.get(12..PREAMBLE) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let end = PREAMBLE.saturating_add(length);
        if let Some(guarded) = bytes.get(..end) {
            let checksum = crc32fast::hash(guarded).to_le_bytes();
            if let Some(place) = file.get_mut(end..end + 4) {
                place.copy_from_slice(&checksum);
            }
        }
    }
    let path = std::env::temp_dir().join(format!("ractor-raft-fuzz-{}", std::process::id()));
    std::fs::write(&path, &file).expect("a file");
    let _ = Backup::open(&path).and_then(Backup::verify);
});
