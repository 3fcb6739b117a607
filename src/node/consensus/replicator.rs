//! Delivers this node's requests to one peer, in order.
//!
//! Parent: consensus. Restart: alone (courier).
//! Hears: Deliver, DeliverSnapshot; Answered and Broken from the transport, which also asks the log store for chunks.
//! Says: Delivered, Undelivered to consensus.
//! Lost in a crash: the connection and the requests in flight; Raft sends them again.
//!
//! After a break it does not connect again before a pause is over, which doubles up to half a second. What it should
//! deliver meanwhile is reported undelivered, once a heartbeat: more reports would say nothing new.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::chunks::chunks;
use crate::{
    flow::{self, Actor, Context, TraceId},
    node::{
        messages::{ConsensusMessage, LogStoreMessage, ReplicatorMessage},
        shared::Shared,
    },
    raft::{
        Address, AppendEntriesReply, AppendOutcome, Incarnation, InstallSnapshotRequest, LogIndex, NodeId, Reply,
        Request,
    },
    transport::{Breach, Connection, Heard},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The most entries in flight whose traces are remembered.
const MAX_TRACED: usize = 4096;

pub(crate) struct ReplicatorArguments {
    pub shared: Arc<Shared>,
    pub peer: NodeId,
    /// Where it is, as the membership says, or said last.
    pub address: Address,
    pub consensus: flow::Address<ConsensusMessage>,
    /// Has the chunks of snapshots.
    pub log_store: flow::Address<LogStoreMessage>,
}

pub(crate) struct Replicator {
    shared: Arc<Shared>,
    peer: NodeId,
    address: Address,
    consensus: flow::Address<ConsensusMessage>,
    log_store: flow::Address<LogStoreMessage>,
    connection: Option<Box<dyn Connection>>,
    /// Connections made so far; what an earlier one reports is dropped.
    connections: u64,
    /// No connection is made before this.
    paused_until: Option<Instant>,
    /// The length of the next pause.
    pause: Duration,
    last_report: Option<Instant>,
    /// The entries in flight that belong to a trace, so that the answer to them does, too.
    traced: VecDeque<(LogIndex, TraceId)>,
    /// The same for the reads in flight: by the leader's round of questions, or by the session of the one question.
    traced_reads: VecDeque<(u64, TraceId)>,
}

impl Actor for Replicator {
    type Message = ReplicatorMessage;
    type Arguments = ReplicatorArguments;

    async fn start(
        arguments: ReplicatorArguments,
        _: &mut Context<ReplicatorMessage>,
    ) -> Result<Self, ActorProcessingErr> {
        let ReplicatorArguments { shared, peer, address, consensus, log_store } = arguments;
        Ok(Replicator {
            shared,
            peer,
            address,
            consensus,
            log_store,
            connection: None,
            connections: 0,
            paused_until: None,
            pause: SHORTEST_PAUSE,
            last_report: None,
            traced: VecDeque::new(),
            traced_reads: VecDeque::new(),
        })
    }

    async fn handle(
        &mut self,
        message: ReplicatorMessage,
        context: &mut Context<ReplicatorMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReplicatorMessage::Deliver { session, request, traces } => {
                self.deliver(session, request, traces, context);
            }
            ReplicatorMessage::DeliverSnapshot { session, request } => {
                self.deliver_snapshot(session, request, context);
            }
            ReplicatorMessage::Answered { connection, session, incarnation, reply }
                if connection == self.connections =>
            {
                self.answered(session, incarnation, reply, context);
            }
            ReplicatorMessage::Broken { connection, cause, why } if connection == self.connections => {
                self.broken(cause, why, context);
            }
            ReplicatorMessage::Answered { .. } | ReplicatorMessage::Broken { .. } => {}
            ReplicatorMessage::Crash => panic!("replicator {} was told to crash", self.peer),
        }
        Ok(())
    }
}

impl Replicator {
    fn deliver(
        &mut self,
        session: u64,
        request: Request,
        traces: Vec<(LogIndex, TraceId)>,
        context: &Context<ReplicatorMessage>,
    ) {
        let Some(connection) = self.connection(context) else { return };
        let read = match &request {
            Request::AppendEntries(append) => append.read_round,
            _ => session,
        };
        connection.send(session, request, traces.clone());
        if let [(0, trace)] = traces[..] {
            remember(&mut self.traced_reads, [(read, trace)]);
        } else {
            remember(&mut self.traced, traces);
        }
    }

    /// Beside it, requests and heartbeats go on.
    fn deliver_snapshot(
        &mut self,
        session: u64,
        request: InstallSnapshotRequest,
        context: &Context<ReplicatorMessage>,
    ) {
        let (snapshot, origin) = (request.snapshot.clone(), context.origin());
        let chunks = chunks(&self.shared, self.log_store.clone(), snapshot, origin);
        if let Some(connection) = self.connection(context) {
            connection.send_snapshot(session, request, chunks);
        }
    }

    /// Made now, if there is none. `None`: it cannot be had at the moment, and that was reported.
    fn connection(&mut self, context: &Context<ReplicatorMessage>) -> Option<&mut dyn Connection> {
        if self.connection.is_none() {
            if self.paused_until.is_some_and(|end| Instant::now() < end) {
                self.report_paused(context);
                return None;
            }
            self.connect(context);
        }
        match &mut self.connection {
            Some(connection) => Some(&mut **connection),
            None => None,
        }
    }

    fn connect(&mut self, context: &Context<ReplicatorMessage>) {
        self.connections += 1;
        let connection = self.connections;
        let (myself, outside) = (context.myself().clone(), context.flow().outside("transport", 0));
        let heard = move |heard: Heard| {
            let message = match heard {
                Heard::Answer { session, incarnation, reply } => {
                    ReplicatorMessage::Answered { connection, session, incarnation, reply }
                }
                Heard::Broken { cause, why } => ReplicatorMessage::Broken { connection, cause, why },
            };
            let _ = myself.send(outside, message);
        };
        let link = self.shared.link_to(self.peer, &self.address, Arc::new(heard));
        self.connection = Some(self.shared.transport.connect(link));
    }

    fn answered(
        &mut self,
        session: u64,
        incarnation: Incarnation,
        reply: Reply,
        context: &mut Context<ReplicatorMessage>,
    ) {
        self.pause = SHORTEST_PAUSE;
        self.last_report = None;
        if let Some(trace) = self.trace_of(session, &reply) {
            context.belongs_to(trace);
        }
        let delivered = ConsensusMessage::Delivered { peer: self.peer, session, incarnation, reply };
        let _ = self.consensus.send(context.origin(), delivered);
    }

    /// The call that an answer belongs to: a write whose entry is stored, else a read that is confirmed.
    fn trace_of(&mut self, session: u64, reply: &Reply) -> Option<TraceId> {
        let (stored, read) = match reply {
            Reply::AppendEntries(AppendEntriesReply {
                outcome: AppendOutcome::Matched { match_index },
                read_round,
                ..
            }) => (*match_index, *read_round),
            Reply::ReadIndex(_) => (0, session),
            _ => return None,
        };
        let read = answered(&mut self.traced_reads, read);
        answered(&mut self.traced, stored).or(read)
    }

    fn broken(&mut self, cause: String, why: Breach, context: &Context<ReplicatorMessage>) {
        self.connection = None;
        self.traced.clear();
        self.traced_reads.clear();
        self.paused_until = Some(Instant::now() + self.pause);
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        self.report(cause, why, context);
    }

    fn report_paused(&mut self, context: &Context<ReplicatorMessage>) {
        let heartbeat = self.shared.config.heartbeat_interval;
        if self.last_report.is_none_or(|last| last.elapsed() >= heartbeat) {
            self.report("it could not be reached a moment ago".to_owned(), Breach::Lost, context);
        }
    }

    fn report(&mut self, cause: String, why: Breach, context: &Context<ReplicatorMessage>) {
        self.last_report = Some(Instant::now());
        let undelivered = ConsensusMessage::Undelivered { peer: self.peer, cause, why };
        let _ = self.consensus.send(context.origin(), undelivered);
    }
}

fn remember(traced: &mut VecDeque<(u64, TraceId)>, more: impl IntoIterator<Item = (u64, TraceId)>) {
    traced.extend(more);
    let excess = traced.len().saturating_sub(MAX_TRACED);
    traced.drain(..excess);
}

/// The last of the traces up to `number`, all of which are done with.
fn answered(traced: &mut VecDeque<(u64, TraceId)>, number: u64) -> Option<TraceId> {
    let mut last = None;
    while let Some((asked, trace)) = traced.front().copied()
        && asked <= number
    {
        last = Some(trace);
        traced.pop_front();
    }
    last
}
