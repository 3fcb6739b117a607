//! A library between the processes and the system, by which a test makes a node's fsync fail or take its time.
//!
//! The build needs a C compiler anyway, for SQLite. Where there is no `LD_PRELOAD` as on Linux, disks are never slow.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What a file's existence does to the syncs of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They fail.
    SyncFails,
    /// They take 50 ms more.
    SyncIsSlow,
    /// Nothing finds room any more.
    NoRoom,
}

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int is_there(const char *variable) {
    const char *file = getenv(variable);
    return file != NULL && access(file, F_OK) == 0;
}

static int sync_file(long call, int file) {
    if (is_there("SYNC_FAILS_WITH")) {
        errno = EIO;
        return -1;
    }
    if (is_there("SYNC_IS_SLOW_WITH")) {
        struct timespec delay = {0, 50 * 1000 * 1000};
        nanosleep(&delay, NULL);
    }
    return syscall(call, file);
}

static long without_room(void) {
    errno = ENOSPC;
    return -1;
}

/* Sockets, pipes and the like always have room. */
static int is_full(int file) {
    struct stat found;
    return is_there("NO_ROOM_WITH") && fstat(file, &found) == 0 && S_ISREG(found.st_mode);
}

ssize_t write(int file, const void *bytes, size_t length) {
    return is_full(file) ? without_room() : syscall(SYS_write, file, bytes, length);
}

int fallocate(int file, int mode, off_t at, off_t length) {
    return is_full(file) ? without_room() : syscall(SYS_fallocate, file, mode, at, length);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) {
    return is_there("NO_ROOM_WITH") ? without_room() : syscall(SYS_pwrite64, file, bytes, length, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off_t at) {
    return is_there("NO_ROOM_WITH") ? without_room() : syscall(SYS_pwrite64, file, bytes, length, at);
}

int fsync(int file) { return sync_file(SYS_fsync, file); }
int fdatasync(int file) { return sync_file(SYS_fdatasync, file); }
"#;

/// The compiled library of one test.
pub struct Shim {
    directory: PathBuf,
}

impl Shim {
    /// Keeps its files in `directory`.
    pub fn compile(directory: &Path) -> Shim {
        let shim = Shim { directory: directory.to_owned() };
        if cfg!(target_os = "linux") {
            let source = directory.join("shim.c");
            fs::write(&source, SOURCE).expect("the directory is ours");
            let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
            let mut command = Command::new(compiler);
            let compiled = command.args(["-shared", "-fPIC", "-o"]).args([&shim.library(), &source]).status();
            assert!(compiled.expect("there is a C compiler").success());
        }
        shim
    }

    /// What the process of this node must find in its environment.
    pub fn environment(&self, id: u64) -> [(&'static str, PathBuf); 4] {
        [
            ("LD_PRELOAD", self.library()),
            ("SYNC_FAILS_WITH", self.trigger(Fault::SyncFails, id)),
            ("SYNC_IS_SLOW_WITH", self.trigger(Fault::SyncIsSlow, id)),
            ("NO_ROOM_WITH", self.trigger(Fault::NoRoom, id)),
        ]
    }

    /// From now on.
    pub fn set(&self, fault: Fault, id: u64) {
        fs::write(self.trigger(fault, id), "").expect("the directory is ours");
    }

    /// From now on it works again.
    pub fn repair(&self, fault: Fault, id: u64) {
        fs::remove_file(self.trigger(fault, id)).expect("it was set");
    }

    fn library(&self) -> PathBuf {
        self.directory.join("shim.so")
    }

    fn trigger(&self, fault: Fault, id: u64) -> PathBuf {
        let what = match fault {
            Fault::SyncFails => "the sync fails",
            Fault::SyncIsSlow => "the sync is slow",
            Fault::NoRoom => "there is no room",
        };
        self.directory.join(format!("node {id}: {what}"))
    }
}
