//! The messages of a node on their way to whoever watches it: what is recorded, and then, if that is wanted, what comes.
//!
//! Nothing is gathered for a reader. It is a position in the recorder's ring, and what it has not asked for yet stays there,
//! until the ring comes round; then it has missed it, and is told how much. So a slow reader costs the node nothing.

use std::time::Duration;

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::time::Instant;
use tonic::Status;

use super::{Handlers, gone};
use crate::{
    flow::{Batch, Event, Filter, Follow},
    node::NodeRef,
    rpc::{
        convert::{self, FlowNames},
        listener::Signal,
        pb,
    },
};

/// The most messages that are told of what was recorded before the request.
const RECORDED: usize = 16_384;

/// So few messages are told in one reply, without a reader of their own.
const AT_ONCE: usize = 1024;

/// The most messages a second while following.
const RATE: u32 = 10_000;

/// One reader.
struct Telling {
    node: NodeRef,
    follow: Follow,
    names: FlowNames,
    /// What ended by then was recorded before the request, and is not counted against the rate.
    begun: Duration,
    allowance: Allowance,
    missed: u64,
    closing: Signal,
    stopped: BoxFuture<'static, ()>,
}

pub(super) fn messages(
    handlers: &Handlers,
    request: &pb::FlowRequest,
) -> BoxStream<'static, Result<pb::FlowReply, Status>> {
    let node = handlers.node.clone();
    let filter = filter(request, node.flow().now());
    if !request.follow && filter.last.is_some_and(|last| last <= AT_ONCE) {
        let reply = at_once(&node, &filter);
        return stream::once(async { Ok(reply) }).boxed();
    }
    let telling = Telling {
        begun: node.flow().now(),
        follow: node.flow().replay(filter),
        names: FlowNames::default(),
        allowance: Allowance::new(if request.rate == 0 { RATE } else { request.rate.min(RATE) }),
        missed: 0,
        closing: handlers.closing.clone(),
        stopped: stopped(node.clone()),
        node,
    };
    let head = Ok(reply(&telling.node, Vec::new()));
    let messages = stream::unfold(Some(telling), |telling| async {
        let mut telling = telling?;
        match telling.next().await? {
            Ok(reply) => Some((Ok(reply), Some(telling))),
            Err(status) => Some((Err(status), None)),
        }
    });
    stream::once(async { head }).chain(messages).boxed()
}

/// All of it: it is little.
fn at_once(node: &NodeRef, filter: &Filter) -> pb::FlowReply {
    let mut names = FlowNames::default();
    let events = node.flow().newest(filter).iter().map(|event| names.event_to_pb(event)).collect();
    pb::FlowReply { names: names.take_new(), ..reply(node, events) }
}

fn reply(node: &NodeRef, events: Vec<pb::FlowEvent>) -> pb::FlowReply {
    let (clock, node) = (convert::flow_clock(node.flow()), node.identity().node_id);
    pb::FlowReply { clock: Some(clock), node, events, ..Default::default() }
}

fn filter(request: &pb::FlowRequest, now: Duration) -> Filter {
    let last = usize::try_from(request.last).unwrap_or(usize::MAX);
    let until = request.until.map(Duration::from_nanos);
    Filter {
        trace: (request.trace != 0).then_some(request.trace),
        since: request.since.map(Duration::from_nanos),
        until: if request.follow { until } else { Some(until.map_or(now, |until| until.min(now))) },
        one_call_in: request.one_call_in,
        last: Some(if last == 0 { RECORDED } else { last.min(RECORDED) }),
        ..Filter::default()
    }
}

fn stopped(node: NodeRef) -> BoxFuture<'static, ()> {
    async move { drop(node.stopped().await) }.boxed()
}

impl Telling {
    /// `None`: that was all.
    async fn next(&mut self) -> Option<Result<pb::FlowReply, Status>> {
        let (begun, allowance, mut is_first) = (self.begun, &mut self.allowance, true);
        let within_the_rate = |ended: Duration| {
            if std::mem::take(&mut is_first) {
                allowance.refill();
            }
            ended <= begun || allowance.take()
        };
        let (Batch { events, missed }, beyond) = tokio::select! {
            biased;
            batch = self.follow.next_admitted(within_the_rate) => batch?,
            _ = &mut self.closing => return Some(Err(gone(&self.node))),
            () = &mut self.stopped => return Some(Err(gone(&self.node))),
        };
        self.missed += missed;
        let told = self.told(&events);
        // What is beyond the rate comes last in a batch.
        self.missed += beyond;
        Some(Ok(told))
    }

    fn told(&mut self, events: &[Event]) -> pb::FlowReply {
        let events = events.iter().map(|event| self.names.event_to_pb(event)).collect();
        pb::FlowReply {
            names: self.names.take_new(),
            missed: std::mem::take(&mut self.missed),
            ..reply(&self.node, events)
        }
    }
}

/// So many messages a second; what was not used is there for a second.
struct Allowance {
    rate: u32,
    left: f64,
    refilled: Instant,
}

impl Allowance {
    fn new(rate: u32) -> Self {
        Allowance { rate, left: f64::from(rate), refilled: Instant::now() }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let rate = f64::from(self.rate);
        self.left = (self.left + rate * (now - self.refilled).as_secs_f64()).min(rate);
        self.refilled = now;
    }

    /// The clock is read only where nothing is left.
    fn take(&mut self) -> bool {
        if self.left < 1.0 {
            self.refill();
        }
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
