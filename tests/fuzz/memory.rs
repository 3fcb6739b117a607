//! Counts what is allocated: a length that is only claimed must not be believed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// No test of this binary handles anything near it; a message whose header claims 2 GiB would.
const MOST: usize = 64 << 20;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counted;

// SAFETY: all calls are the system's, with the arguments they came with.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as this call.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Relaxed);
        // SAFETY: as this call.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as this call.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

/// Nothing was allocated so far that only a lie can have asked for.
pub fn nothing_was_believed() {
    let largest = LARGEST.load(Relaxed);
    assert!(largest <= MOST, "{largest} bytes were allocated at once");
}
