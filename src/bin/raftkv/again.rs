//! What changes, looked at every second until Ctrl-C: redrawn on a terminal, one block after another elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use crate::{
    error::{Failure, exit},
    output::talk,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears the screen and goes to its first line.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

/// Looks and shows until it is interrupted; returns the exit code. What fails is told, and looked at again.
pub async fn and_again<T>(
    mut look: impl AsyncFnMut() -> T,
    mut show: impl FnMut(T) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let seen = tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(exit::DONE),
            seen = look() => seen,
        };
        clear();
        if let Err(failure) = show(seen) {
            talk(&failure.to_string());
        }
        tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(exit::DONE),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

fn clear() {
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() {
        // A terminal that is gone is noticed by what is written next.
        let _ = stdout.write_all(CLEAR).and_then(|()| stdout.flush());
    }
}
