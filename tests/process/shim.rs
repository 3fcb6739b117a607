//! A library between the processes and the system, by which a test makes a node's disk fail, fill up or take its time.
//!
//! The build needs a C compiler anyway, for SQLite. Where there is no `LD_PRELOAD` as on Linux, disks are never slow.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a file's existence does to a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its syncs fail.
    SyncFails,
    /// They take 50 ms more.
    SyncIsSlow,
    /// Nothing finds room any more.
    NoRoom,
    /// Nothing in its directory can be opened to be written.
    ReadOnly,
}

/// How a single call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// EIO.
    Fails,
    /// ENOSPC, where there is something to write or to create.
    NoSpace,
    /// Half is written, and then EIO.
    Torn,
    /// Half is written, and that is said.
    Short,
}

/// A call that a node made on one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub number: u64,
    pub struck: bool,
    /// write, sync, truncate, rename, unlink, create, mkdir, allocate.
    pub what: String,
    /// Its name.
    pub file: String,
}

/// The compiled library of one test.
pub struct Shim {
    directory: PathBuf,
}

impl Shim {
    /// Keeps its files in `directory`, which is the parent of the nodes' directories.
    pub fn compile(directory: &Path) -> Shim {
        let shim = Shim { directory: directory.to_owned() };
        if cfg!(target_os = "linux") {
            let source = directory.join("shim.c");
            fs::write(&source, include_str!("shim.c")).expect("the directory is ours");
            let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
            let mut command = Command::new(compiler);
            let compiled =
                command.args(["-shared", "-fPIC", "-pthread", "-o"]).args([&shim.library(), &source]).status();
            assert!(compiled.expect("there is a C compiler").success());
        }
        shim
    }

    /// What the process of this node must find in its environment.
    pub fn environment(&self, id: u64) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.library()),
            ("SYNC_FAILS_WITH", self.trigger(Fault::SyncFails, id)),
            ("SYNC_IS_SLOW_WITH", self.trigger(Fault::SyncIsSlow, id)),
            ("NO_ROOM_WITH", self.trigger(Fault::NoRoom, id)),
            ("READ_ONLY_WITH", self.trigger(Fault::ReadOnly, id)),
            ("FAULTS_UNDER", self.directory.join(id.to_string())),
            ("PLAN", self.plan(id)),
            ("CALLS", self.log(id)),
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

    /// Writes down each call of this node from now on, and lets the `nth` of them fail; 0: none.
    pub fn strike(&self, id: u64, nth: u64, strike: Strike) {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATION.fetch_add(1, Relaxed);
        let kind = match strike {
            Strike::Fails => "fails",
            Strike::NoSpace => "no-space",
            Strike::Torn => "torn",
            Strike::Short => "short",
        };
        let _ = fs::remove_file(self.log(id));
        // At once, since the node may look at any time.
        let new = self.plan(id).with_extension("new");
        fs::write(&new, format!("{generation} {nth} {kind}\n")).expect("the directory is ours");
        fs::rename(new, self.plan(id)).expect("the directory is ours");
    }

    /// From now on none fails, nor is written down.
    pub fn spare(&self, id: u64) {
        let _ = fs::remove_file(self.plan(id));
    }

    /// The calls of this node that were written down.
    pub fn calls(&self, id: u64) -> Vec<Call> {
        let log = fs::read_to_string(self.log(id)).unwrap_or_default();
        let call = |line: &str| {
            let mut words = line.splitn(5, ' ').skip(1);
            let number = words.next()?.parse().ok()?;
            let (struck, what, file) = (words.next()? == "struck", words.next()?, words.next()?);
            let file = file.trim_start_matches('/');
            Some(Call { number, struck, what: what.to_owned(), file: file.to_owned() })
        };
        log.lines().filter_map(call).collect()
    }

    fn library(&self) -> PathBuf {
        self.directory.join("shim.so")
    }

    fn plan(&self, id: u64) -> PathBuf {
        self.directory.join(format!("node {id}: the plan"))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.join(format!("node {id}: its calls"))
    }

    fn trigger(&self, fault: Fault, id: u64) -> PathBuf {
        let what = match fault {
            Fault::SyncFails => "the sync fails",
            Fault::SyncIsSlow => "the sync is slow",
            Fault::NoRoom => "there is no room",
            Fault::ReadOnly => "it is read-only",
        };
        self.directory.join(format!("node {id}: {what}"))
    }
}
