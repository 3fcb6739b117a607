//! Tells this node's operator of requests that were not meant for it (R004, R005). Who sent them is told as well, but may
//! have another operator.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::rpc::identity::WrongPeer;

/// They come as fast as heartbeats do; one line in so long is enough.
const PAUSE: Duration = Duration::from_secs(1);

/// Those who take this node for another.
#[derive(Default)]
pub(super) struct Strangers {
    last_told: Mutex<Option<Instant>>,
}

impl Strangers {
    /// Notes that a request from `address` was refused.
    pub fn refused(&self, wrong: &WrongPeer, address: Option<SocketAddr>) {
        if self.is_time() {
            let address = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
            tracing::warn!(code = %wrong.code(), from = %address, fix = %wrong.fix(), "a request was refused: {wrong}");
        }
    }

    fn is_time(&self) -> bool {
        let mut last_told = self.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last_told.is_none_or(|last| last.elapsed() >= PAUSE);
        if is_time {
            *last_told = Some(Instant::now());
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: `last_told` is not set, or not looked at.
    #[tokio::test(start_paused = true)]
    async fn it_is_told_once_a_second() {
        let strangers = Strangers::default();
        let mut told = 0;
        for _ in 0..30 {
            told += usize::from(strangers.is_time());
            tokio::time::advance(PAUSE / 10).await;
        }
        assert_eq!(told, 3);
    }
}
