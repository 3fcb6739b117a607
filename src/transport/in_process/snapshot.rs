//! A snapshot on its way inside one process, with the words and the end that it has over gRPC.
//!
//! First a stream of one message asks how much is there already, then another goes on from that offset, one letter for
//! each chunk, which is stored before the next is sent. A stream has one answer: to its last message, or to the first
//! that did not store just what it brought. Then the core decides how to go on.
//!
//! A letter that is lost is a stall; after the link's `snapshot_timeout` without progress the connection counts as broken.

use tokio::time::timeout;

use super::{Broke, Fate, InProcess};
use crate::{
    raft::{Incarnation, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Reply, Request},
    transport::{Breach, Chunks, Heard, Link},
};

const NAME: &str = "InstallSnapshot";

/// Sends `request`, then chunk by chunk what the addressee has not got, and reports how it ended.
pub(super) async fn stream(
    network: InProcess,
    link: Link,
    session: u64,
    request: InstallSnapshotRequest,
    mut chunks: Chunks,
) {
    let transfer = Transfer { network, link };
    let heard = match transfer.run(request, &mut chunks).await {
        Ok((incarnation, reply)) => Heard::Answer { session, incarnation, reply },
        Err((cause, why)) => Heard::Broken { cause, why },
    };
    (transfer.link.heard)(heard);
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
    /// Asks, and sends what the peer has not.
    async fn run(&self, request: InstallSnapshotRequest, chunks: &mut Chunks) -> Result<Answer, Break> {
        let size = request.snapshot.size;
        let there = self.within_time(self.store(request.clone())).await?;
        let there = self.within_time(self.answer(there)).await?;
        let Some(mut offset) = stored(&there.1) else { return Ok(there) };
        if offset > size {
            return Err(lost(format!("the peer says that it has {offset} of the snapshot's {size} bytes")));
        }
        loop {
            // However long this side's disk and throttle take: the peer waits for them.
            let Some(data) = chunks(offset).await else {
                return Err(lost("the snapshot is not there any more: a newer one took its place".to_owned()));
            };
            let missing = size - offset;
            if data.len() as u64 > missing || (data.is_empty() && missing > 0) {
                return Err(lost(format!("the snapshot has {} bytes where {missing} are missing", data.len())));
            }
            let end = offset + data.len() as u64;
            let chunk = InstallSnapshotRequest { offset, data, ..request.clone() };
            let reply = self.within_time(self.store(chunk)).await?;
            if end == size || stored(&reply.1) != Some(end) {
                return self.within_time(self.answer(reply)).await;
            }
            offset = end;
        }
    }

    /// One message of a stream, to what the addressee makes of it.
    async fn store(&self, request: InstallSnapshotRequest) -> Result<Answer, Break> {
        let (from, to) = (self.link.from.node_id, self.link.to);
        // As the header of a message says it when it is sent.
        let caller = self.link.caller();
        self.network.sender_awake(from).await;
        let again = match self.network.fate(from, to, NAME, false) {
            Fate::Deliver { after } => {
                super::pause(after).await;
                None
            }
            Fate::Repeat { after, again } => {
                super::pause(after).await;
                Some(again)
            }
            Fate::Drop => std::future::pending().await,
            Fate::Break => return Err(broke(Broke)),
        };
        let node = self.network.find(&self.link)?;
        node.flow().awake().await;
        if let Some(again) = again {
            let (late, request) = (node.clone(), request.clone());
            // Of a stream that the addressee has not seen the end of. Nobody waits for what it says.
            tokio::spawn(async move {
                super::pause(again).await;
                late.flow().awake().await;
                drop(late.deliver(caller, Request::InstallSnapshot(request), Vec::new()));
            });
        }
        let delivered = node.deliver(caller, Request::InstallSnapshot(request), Vec::new());
        let reply = match delivered {
            Ok(reply) => reply.await.map_err(|_| lost(format!("node {to} fell before it answered")))?,
            Err(wrong) => {
                self.come_back().await?;
                return Err((wrong.in_words(), wrong.to_the_refused()));
            }
        };
        Ok((node.incarnation(), reply))
    }

    /// The one answer to a stream, on its way back.
    async fn answer(&self, (incarnation, reply): Answer) -> Result<Answer, Break> {
        self.come_back().await?;
        self.link.check_answer(incarnation).map_err(|wrong| (wrong.in_words(), wrong.to_the_noticing()))?;
        Ok((incarnation, reply))
    }

    async fn come_back(&self) -> Result<(), Break> {
        self.network.travel(self.link.to, self.link.from.node_id, NAME, true).await.map_err(broke)
    }

    async fn within_time<T>(&self, step: impl Future<Output = Result<T, Break>>) -> Result<T, Break> {
        let patience = self.link.snapshot_timeout;
        let stalled = |_| lost(format!("the snapshot made no progress for {patience:?}"));
        timeout(patience, step).await.map_err(stalled)?
    }
}

/// How much is there, if the stream may go on.
fn stored(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::InstallSnapshot(InstallSnapshotReply { outcome: InstallOutcome::Stored { offset }, .. }) => {
            Some(*offset)
        }
        _ => None,
    }
}

fn lost(cause: String) -> Break {
    (cause, Breach::Lost)
}

fn broke(Broke: Broke) -> Break {
    lost("the connection broke".to_owned())
}
