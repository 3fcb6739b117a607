//! Makes SQLite read and write [`Contents`]: a VFS, in SQLite's words.
//!
//! Every function here is called by SQLite with pointers that it got from here; each does one thing to the contents and
//! translates the outcome. Shared memory is missing: a connection in exclusive locking mode needs none. So are locks:
//! the store has one of its own.

#![expect(unsafe_code, reason = "SQLite takes a VFS as a table of C functions")]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr,
    sync::{Arc, Mutex, MutexGuard},
};

use rusqlite::ffi;

use super::contents::{Contents, Fault};

type Shared = Mutex<Contents>;

/// A disk that SQLite knows by name, until this is dropped.
pub(super) struct Registration {
    vfs: *mut ffi::sqlite3_vfs,
    name: CString,
    /// What `pAppData` points to.
    _contents: Arc<Shared>,
}

// SAFETY: SQLite's registry has its own lock, the vfs is not changed between `new` and `drop`, and the contents are in a
// mutex.
unsafe impl Send for Registration {}
// SAFETY: as above; a shared reference gives the name alone.
unsafe impl Sync for Registration {}

impl Registration {
    pub(super) fn new(name: &str, contents: Arc<Shared>) -> Self {
        let name = CString::new(name).expect("a name without zeros");
        let vfs = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<OpenFile>() as c_int,
            mxPathname: 512,
            pNext: ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Arc::as_ptr(&contents).cast_mut().cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(last_error),
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: `vfs` and all that it points to live until `drop` takes it out of the registry.
        let outcome = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
        assert_eq!(outcome, ffi::SQLITE_OK, "SQLite takes any vfs with a name");
        Registration { vfs, name, _contents: contents }
    }

    pub(super) fn name(&self) -> &str {
        self.name.to_str().expect("it was made from a str")
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it came out of a box and was registered in `new`. Every store keeps its disk, and with it this
        // registration, until after its connection is closed; so SQLite has no file of it open.
        unsafe {
            ffi::sqlite3_vfs_unregister(self.vfs);
            drop(Box::from_raw(self.vfs));
        }
    }
}

/// What SQLite keeps for each open file, in memory of its own of `szOsFile` bytes.
#[repr(C)]
struct OpenFile {
    /// First, because SQLite knows only this part.
    base: ffi::sqlite3_file,
    contents: *const Shared,
    /// From a box.
    name: *mut String,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// The file behind SQLite's pointer: its name and the disk it is on.
///
/// # Safety
/// `file` was initialized by [`open`] and not closed since.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> (&'a str, MutexGuard<'a, Contents>) {
    // SAFETY: by the contract it is an `OpenFile`, whose name lives until `close` and whose contents live longer than
    // the registration. SQLite makes no two calls on one file at once.
    let (name, contents) = unsafe {
        let file = &*file.cast::<OpenFile>();
        (&*file.name, &*file.contents)
    };
    (name, super::lock(contents))
}

/// The disk behind a registered vfs.
///
/// # Safety
/// `vfs` was made by [`Registration::new`] and not dropped since.
unsafe fn disk<'a>(vfs: *mut ffi::sqlite3_vfs) -> MutexGuard<'a, Contents> {
    // SAFETY: by the contract `pAppData` points to the contents, which the registration keeps.
    super::lock(unsafe { &*(*vfs).pAppData.cast::<Shared>() })
}

/// What SQLite is told: `failed` stands for the operation that did not take place.
fn code(outcome: Result<(), Fault>, failed: c_int) -> c_int {
    match outcome {
        Ok(()) => ffi::SQLITE_OK,
        Err(Fault::Failed) => failed,
        Err(Fault::Full) => ffi::SQLITE_FULL,
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: `file` is `szOsFile` bytes for us to fill; without methods, SQLite will not close what could not be opened.
    unsafe { (*file).pMethods = ptr::null() };
    if name.is_null() {
        // A temporary file; the store keeps those in memory.
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite passes a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    // SAFETY: SQLite passes the vfs that it was given.
    let contents = unsafe { (*vfs).pAppData.cast_const().cast::<Shared>() };
    // SAFETY: as above.
    if let Err(fault) = unsafe { disk(vfs) }.create(&name) {
        return code(Err(fault), ffi::SQLITE_CANTOPEN);
    }
    let opened =
        OpenFile { base: ffi::sqlite3_file { pMethods: &METHODS }, contents, name: Box::into_raw(Box::new(name)) };
    // SAFETY: `file` has room for an `OpenFile`, as `szOsFile` says; `flags_out` may be null.
    unsafe {
        ptr::write(file.cast::<OpenFile>(), opened);
        if !flags_out.is_null() {
            *flags_out = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `open` made the file and boxed its name; SQLite closes it once.
    unsafe {
        drop(Box::from_raw((*file.cast::<OpenFile>()).name));
        (*file).pMethods = ptr::null();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite reads from files it has open, into a buffer of `amount` bytes.
    let ((name, contents), buffer) =
        unsafe { (opened(file), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize)) };
    if contents.crashed {
        return ffi::SQLITE_IOERR_READ;
    }
    let bytes = contents.read(name).and_then(|bytes| bytes.get(offset as usize..)).unwrap_or_default();
    let there = bytes.len().min(buffer.len());
    buffer[..there].copy_from_slice(&bytes[..there]);
    buffer[there..].fill(0);
    if there == buffer.len() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, buffer: *const c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite writes to files it has open, from a buffer of `amount` bytes.
    let ((name, mut contents), bytes) =
        unsafe { (opened(file), std::slice::from_raw_parts(buffer.cast::<u8>(), amount as usize)) };
    code(contents.write(name, offset as usize, bytes), ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: SQLite truncates files it has open.
    let (name, mut contents) = unsafe { opened(file) };
    code(contents.truncate(name, length as usize), ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite syncs files it has open.
    let (name, mut contents) = unsafe { opened(file) };
    code(contents.sync(name), ffi::SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: SQLite measures files it has open, and passes a place for the answer.
    let (name, contents) = unsafe { opened(file) };
    if contents.crashed {
        return ffi::SQLITE_IOERR_FSTAT;
    }
    // SAFETY: as above.
    unsafe { *size = contents.read(name).map_or(0, <[u8]>::len) as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(_file: *mut ffi::sqlite3_file, _level: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_file: *mut ffi::sqlite3_file, is_reserved: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *is_reserved = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _operation: c_int, _argument: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    512
}

/// What SQLite assumes of Unix too: a write does no harm beside itself.
unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: SQLite passes the vfs that it was given, and a string that ends with a zero.
    let (mut contents, name) = unsafe { (disk(vfs), CStr::from_ptr(name)) };
    let deleted = contents.delete(&name.to_string_lossy());
    let synced = if sync_directory != 0 { deleted.and_then(|()| contents.sync_directory()) } else { deleted };
    code(synced, ffi::SQLITE_IOERR_DELETE)
}

unsafe extern "C" fn access(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _kind: c_int, is: *mut c_int) -> c_int {
    // SAFETY: SQLite passes the vfs that it was given, a string that ends with a zero, and a place for the answer.
    unsafe {
        let exists = disk(vfs).read(&CStr::from_ptr(name).to_string_lossy()).is_some();
        *is = c_int::from(exists);
    }
    ffi::SQLITE_OK
}

/// Names are what they are: there are no directories.
unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if name.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has `room` bytes, and does not overlap `name`.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    ffi::SQLITE_OK
}

/// Always the same: SQLite draws from its default vfs anyway.
unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, amount: c_int, out: *mut c_char) -> c_int {
    // SAFETY: `out` has `amount` bytes.
    unsafe { ptr::write_bytes(out, 0x5a, amount as usize) };
    amount
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

/// It is always the first of January 1970, as a Julian day.
unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = 2_440_587.5 };
    ffi::SQLITE_OK
}

/// The same in milliseconds.
unsafe extern "C" fn current_time_int64(_vfs: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = 210_866_760_000_000 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_vfs: *mut ffi::sqlite3_vfs, _room: c_int, _out: *mut c_char) -> c_int {
    0
}
