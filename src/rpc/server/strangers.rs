//! Tells this node's operator of requests that were not meant for it (R004, R005). Who sent them is told as well, but may
//! have another operator.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{error::Code, rpc::identity::WrongPeer};

/// They come as fast as heartbeats do, for as long as nobody does anything about them; one line in so long is enough.
const PAUSE: Duration = Duration::from_secs(60);

/// Those who take this node for another.
#[derive(Default)]
pub(super) struct Strangers {
    /// When each kind of mistake was last told.
    last_told: Mutex<BTreeMap<Code, Instant>>,
}

impl Strangers {
    /// Notes that a request from `address` was refused.
    pub fn refused(&self, wrong: &WrongPeer, address: Option<SocketAddr>) {
        if self.is_time(wrong.code()) {
            let address = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
            tracing::warn!(code = %wrong.code(), from = %address, fix = %wrong.fix(), "a request was refused: {wrong}");
        }
    }

    fn is_time(&self, code: Code) -> bool {
        let mut last_told = self.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last_told.get(&code).is_none_or(|last| last.elapsed() >= PAUSE);
        if is_time {
            last_told.insert(code, Instant::now());
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: `last_told` is not set, or not looked at.
    #[tokio::test(start_paused = true)]
    async fn each_mistake_is_told_at_once_and_then_once_a_minute() {
        let strangers = Strangers::default();
        let mut told = 0;
        for _ in 0..30 {
            told += usize::from(strangers.is_time(Code(7)));
            tokio::time::advance(PAUSE / 10).await;
        }
        assert_eq!(told, 3);
        assert!(strangers.is_time(Code(4)), "another mistake does not wait");
    }
}
