//! One process of `raftkv serve`, and what it says on stderr.

use std::{
    net::TcpListener,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// Longer than anything takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary with nothing of this process' environment, so that no setting comes from there.
pub fn raftkv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv"));
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// An address on loopback that nobody listens on. The port is below those that the system hands out by itself, so that no
/// connection takes it while a killed node is away, and no two tests of this process get the same; those of a process that was
/// started beside it begin far away.
pub fn free_address() -> String {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (u64::from(std::process::id()) * 997 % u64::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

/// A running process. It is killed when this is dropped, and if that happens in a panic its stderr is printed.
pub struct Server {
    name: String,
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

impl Server {
    /// Starts it; `name` stands before its lines when they are printed.
    pub fn spawn(name: impl Into<String>, mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary is built");
        let stderr = child.stderr.take().expect("it is piped");
        let (said, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                said.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        Server { name: name.into(), child, lines }
    }

    /// Of the process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Waits for a line with this in it; `false` if the process ended without.
    pub async fn says(&self, text: &str) -> bool {
        let mut lines = self.lines.clone();
        let said = lines.wait_for(|lines| lines.iter().any(|line| line.contains(text)));
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("{} does not say {text:?}", self.name)).is_ok()
    }

    /// Waits until its port is open; `false` if the process ended instead.
    pub async fn is_ready(&self) -> bool {
        self.says("ready node").await
    }

    /// Everything it has said so far.
    pub fn stderr(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        self.child.start_kill().expect("it is still there");
        self.ended().await;
    }

    /// SIGKILL without waiting.
    pub fn start_kill(&mut self) {
        self.child.start_kill().expect("it is still there");
    }

    /// Sends it a signal: "TERM", "STOP", "CONT".
    pub async fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().await.expect("there is a shell");
        assert!(sent.success());
    }

    /// Waits for the end of the process, and of what it says.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{} does not end", self.name)).expect("it is our child");
        let mut lines = self.lines.clone();
        let closed = async { while lines.changed().await.is_ok() {} };
        timeout(PATIENCE, closed).await.expect("stderr ends with the process");
        status
    }

    /// Waits for the end of the process, and asserts its exit code and what it said on stderr.
    pub async fn ends_with(&mut self, code: i32, texts: &[&str]) {
        let status = self.ended().await;
        assert_eq!(status.code(), Some(code), "{} ended otherwise", self.name);
        for text in texts {
            assert!(self.stderr().contains(text), "{} did not say {text:?}", self.name);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- stderr of {} ---\n{}", self.name, self.stderr());
        }
    }
}
