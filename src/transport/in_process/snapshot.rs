//! A snapshot on its way inside one process: one letter for each chunk, and an answer to each before the next.
//!
//! So a wire can lose, delay and break every one of them. A letter that is lost is a stall; after the link's
//! `snapshot_timeout` without progress the connection counts as broken.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Fate, InProcess, pause};
use crate::{
    raft::{Incarnation, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Reply, Request},
    transport::{Breach, Chunks, Heard, Link},
};

const NAME: &str = "InstallSnapshot";

/// An addressee that does not get on (its disk may be full) is asked again after so long.
const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// Sends `request`, then chunk by chunk what the addressee has not got, and reports how it ended.
pub(super) async fn stream(
    network: InProcess,
    link: Link,
    session: u64,
    request: InstallSnapshotRequest,
    mut chunks: Chunks,
) {
    let transfer = Transfer { network, link: link.clone() };
    (link.heard)(match transfer.run(request, &mut chunks).await {
        Ok((incarnation, reply)) => Heard::Answer { session, incarnation, reply },
        Err((cause, why)) => Heard::Broken { cause, why },
    });
}

struct Transfer {
    network: InProcess,
    link: Link,
}

/// Why it broke, in words and to decide by.
type Break = (String, Breach);

/// What the addressee said, and which disk it has.
type Answer = (Incarnation, Reply);

impl Transfer {
    async fn run(&self, mut request: InstallSnapshotRequest, chunks: &mut Chunks) -> Result<Answer, Break> {
        let (term, size) = (request.term, request.snapshot.size);
        // What is stored may fall back to 0, where it did not fit its checksum; it rises again from there.
        let (mut stored, mut progressed) = (None, Instant::now());
        loop {
            let deadline = progressed + self.link.snapshot_timeout;
            let exchange = timeout_at(deadline, self.exchange(request.clone()));
            let answer = exchange.await.map_err(|_| self.stalled())??;
            let offset = match &answer.1 {
                Reply::InstallSnapshot(InstallSnapshotReply {
                    term: answered,
                    outcome: InstallOutcome::Stored { offset },
                }) if *answered <= term && *offset < size => *offset,
                _ => return Ok(answer),
            };
            if stored.is_none_or(|stored| offset > stored) {
                progressed = Instant::now();
            } else {
                sleep(SHORT_PAUSE).await;
            }
            stored = Some(offset);
            let Some(data) = chunks(offset).await else { return Err(gone()) };
            request = InstallSnapshotRequest { offset, data, ..request };
        }
    }

    /// One letter, and the answer to it.
    async fn exchange(&self, request: InstallSnapshotRequest) -> Result<Answer, Break> {
        let (from, to) = (self.link.from.node_id, self.link.to);
        self.travel(self.network.fate(from, to, NAME, false)).await?;
        let node = self.network.find(&self.link)?;
        let delivered = node.deliver(self.link.caller(), Request::InstallSnapshot(request), Vec::new());
        let answer = match delivered {
            Ok(reply) => reply.await.map_err(|_| (format!("node {to} fell before it answered"), Breach::Lost)),
            Err(wrong) => Err((wrong.in_words(), wrong.to_the_refused())),
        };
        self.travel(self.network.fate(to, from, NAME, true)).await?;
        let (incarnation, reply) = (node.incarnation(), answer?);
        self.link.check_answer(incarnation).map_err(|wrong| (wrong.in_words(), wrong.to_the_noticing()))?;
        Ok((incarnation, reply))
    }

    async fn travel(&self, fate: Fate) -> Result<(), Break> {
        match fate {
            Fate::Deliver { after } => {
                pause(after).await;
                Ok(())
            }
            Fate::Drop => std::future::pending().await,
            Fate::Break => Err(("the connection broke".to_owned(), Breach::Lost)),
        }
    }

    fn stalled(&self) -> Break {
        let Link { to, snapshot_timeout, .. } = &self.link;
        (format!("a snapshot to node {to} made no progress for {snapshot_timeout:?}"), Breach::Lost)
    }
}

fn gone() -> Break {
    ("the snapshot on its way is not there any more".to_owned(), Breach::Lost)
}
