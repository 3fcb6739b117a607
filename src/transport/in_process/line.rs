//! One connection inside one process.
//!
//! As over gRPC, what is not of one kind may overtake each other: a vote is not held up by entries. So there is a lane for
//! each kind of request, in which letters keep their order; the answers do not.

use std::{collections::BTreeMap, future::Future};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{Fate, InProcess, pause, snapshot};
use crate::{
    flow::TraceId,
    raft::{Incarnation, InstallSnapshotRequest, LogIndex, Reply, Request},
    transport::{Breach, Caller, Chunks, Connection, Heard, Link, WrongPeer},
};

/// A connection. Its tasks end with it; a letter that is repeated is the network's own.
pub(super) struct Line {
    network: InProcess,
    link: Link,
    /// By what is asked.
    lanes: BTreeMap<&'static str, Lane>,
    /// The snapshot on its way.
    snapshot: Option<Task>,
}

struct Lane {
    letters: mpsc::UnboundedSender<Sent>,
    /// When the last letter arrives: none overtakes it.
    last: Instant,
    _task: Task,
}

/// Ends when it is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request on its way.
struct Sent {
    letter: Asked,
    /// `None`: the connection breaks here.
    arrives: Option<Instant>,
}

/// What is in the letter.
#[derive(Clone)]
struct Asked {
    session: u64,
    caller: Caller,
    request: Request,
    traces: Vec<(LogIndex, TraceId)>,
}

impl Line {
    pub(super) fn new(network: InProcess, link: Link) -> Self {
        Line { network, link, lanes: BTreeMap::new(), snapshot: None }
    }

    fn lane(&mut self, name: &'static str) -> &mut Lane {
        let (network, link) = (&self.network, &self.link);
        self.lanes.entry(name).or_insert_with(|| {
            let (letters, arriving) = mpsc::unbounded_channel();
            let task = tokio::spawn(carry(network.clone(), link.clone(), arriving));
            Lane { letters, last: Instant::now(), _task: Task(task.abort_handle()) }
        })
    }
}

impl Connection for Line {
    fn send(&mut self, session: u64, request: Request, traces: Vec<(LogIndex, TraceId)>) {
        let name = request.name();
        let letter = Asked { session, caller: self.link.caller(), request, traces };
        let after = match self.network.fate(self.link.from.node_id, self.link.to, name, false) {
            Fate::Deliver { after } => Some(after),
            Fate::Repeat { after, again } => {
                let arrives = Instant::now() + after + again;
                tokio::spawn(repeat(self.network.clone(), self.link.clone(), letter.clone(), arrives));
                Some(after)
            }
            Fate::Drop => return,
            Fate::Break => None,
        };
        let lane = self.lane(name);
        if let Some(after) = after {
            lane.last = lane.last.max(Instant::now() + after);
        }
        let arrives = after.map(|_| lane.last);
        let _ = lane.letters.send(Sent { letter, arrives });
    }

    fn send_snapshot(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks) {
        // First the end of the one before.
        self.snapshot = None;
        let task = tokio::spawn(snapshot::stream(self.network.clone(), self.link.clone(), session, request, chunks));
        self.snapshot = Some(Task(task.abort_handle()));
    }
}

/// Brings the letters of one lane to their addressee in order, and the answers back.
async fn carry(network: InProcess, link: Link, mut arriving: mpsc::UnboundedReceiver<Sent>) {
    let mut answers = JoinSet::new();
    loop {
        let sent = tokio::select! {
            biased;
            Some(_) = answers.join_next() => continue,
            sent = arriving.recv() => sent,
        };
        let Some(Sent { letter, arrives }) = sent else { return };
        let Some(arrives) = arrives else {
            return (link.heard)(Heard::Broken { cause: "the connection broke".to_owned(), why: Breach::Lost });
        };
        match deliver(&network, &link, letter, arrives).await {
            Ok(answer) => drop(answers.spawn(answer)),
            Err((cause, why)) => return (link.heard)(Heard::Broken { cause, why }),
        }
    }
}

/// Brings one letter to its addressee, when it is time and who it is for is awake. Gives what brings the answer back.
async fn deliver(
    network: &InProcess,
    link: &Link,
    letter: Asked,
    arrives: Instant,
) -> Result<impl Future<Output = ()> + Send + 'static, (String, Breach)> {
    if arrives > Instant::now() {
        sleep_until(arrives).await;
    }
    let node = network.find(link)?;
    node.flow().awake().await;
    let Asked { session, caller, request, traces } = letter;
    let (name, incarnation) = (request.name(), node.incarnation());
    let delivered = node.deliver(caller, request, traces);
    let (network, link) = (network.clone(), link.clone());
    Ok(async move {
        match delivered {
            Ok(reply) => bring_back(network, link, session, name, incarnation, async { reply.await.ok() }).await,
            Err(wrong) => refuse(network, link, name, wrong).await,
        }
    })
}

/// Brings a letter once more. A break that it comes upon is not the connection's.
async fn repeat(network: InProcess, link: Link, letter: Asked, arrives: Instant) {
    if let Ok(answer) = deliver(&network, &link, letter, arrives).await {
        answer.await;
    }
}

async fn bring_back(
    network: InProcess,
    link: Link,
    session: u64,
    name: &'static str,
    incarnation: Incarnation,
    reply: impl Future<Output = Option<Reply>>,
) {
    let broken = |cause: String| (link.heard)(Heard::Broken { cause, why: Breach::Lost });
    let Some(reply) = reply.await else { return broken(format!("node {} fell before it answered", link.to)) };
    match network.fate(link.to, link.from.node_id, name, true) {
        Fate::Deliver { after } | Fate::Repeat { after, .. } => pause(after).await,
        Fate::Drop => return,
        Fate::Break => return broken("the connection broke before the answer came".to_owned()),
    }
    (link.heard)(match link.check_answer(incarnation) {
        Ok(()) => Heard::Answer { session, incarnation, reply },
        Err(wrong) => Heard::Broken { cause: wrong.in_words(), why: wrong.to_the_noticing() },
    });
}

/// Brings back the news that a request was not heard.
async fn refuse(network: InProcess, link: Link, name: &'static str, wrong: WrongPeer) {
    let heard = match network.fate(link.to, link.from.node_id, name, true) {
        Fate::Deliver { after } | Fate::Repeat { after, .. } => {
            pause(after).await;
            Heard::Broken { cause: wrong.in_words(), why: wrong.to_the_refused() }
        }
        Fate::Drop => return,
        Fate::Break => {
            Heard::Broken { cause: "the connection broke before the answer came".to_owned(), why: Breach::Lost }
        }
    };
    (link.heard)(heard);
}
