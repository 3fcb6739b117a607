//! The system's chance, taken from this test: what the standard library and others draw for themselves (the keys of hash maps,
//! so the order in which they are walked) is the same in every run.

use std::{
    cell::Cell,
    ffi::{c_uint, c_void},
};

thread_local! {
    /// Each thread begins at the same place, whatever others have drawn.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// Takes the place of the C library's function of this name, in this program.
///
/// # Safety
/// `buffer` has room for `length` bytes, as the function's contract says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for byte in bytes {
        let count = DRAWN.get().wrapping_add(1);
        DRAWN.set(count);
        *byte = (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
    length as isize
}
