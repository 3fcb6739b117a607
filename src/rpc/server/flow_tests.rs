//! What a reader is told, and what a slow or greedy one costs.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{advance, timeout};

use super::*;
use crate::{
    flow::{Flow, Mark},
    kv::Kv,
    node::Node,
    rpc::{convert::FlowReader, listener},
    storage::MemoryStorage,
    transport::InProcess,
};

const DEADLINE: Duration = Duration::from_secs(5);

/// A node that is a cluster of its own, and what stands before it.
struct Served {
    node: Node<Kv>,
    handlers: Handlers,
    close: tokio::sync::oneshot::Sender<()>,
}

impl Served {
    async fn start(name: &str) -> Served {
        let builder = Node::builder(1, Kv::default).cluster([(1, format!("flow server {name}"))]);
        let node = builder.storage(MemoryStorage::new()).transport(InProcess::new()).seed(1).spawn().await;
        let node = node.expect("it starts");
        let (close, closing) = listener::signal();
        let handlers = Handlers::new(node.as_ref().clone(), closing);
        Served { node, handlers, close }
    }

    fn flow(&self) -> &Flow {
        self.node.flow()
    }

    /// So many messages of this trace.
    fn say(&self, count: usize, trace: u64) {
        let flow = self.flow();
        let (server, origin) = (flow.actor("server"), flow.outside("node 2", trace));
        for _ in 0..count {
            flow.note(server, origin, "Tick", Mark::default());
        }
    }

    fn ask(&self, request: pb::FlowRequest) -> Reader {
        Reader { stream: messages(&self.handlers, &request), names: FlowReader::default() }
    }
}

struct Reader {
    stream: BoxStream<'static, Result<pb::FlowReply, Status>>,
    names: FlowReader,
}

impl Reader {
    /// The next reply: how many messages, and how many were missed before them.
    async fn next(&mut self) -> Option<Result<(usize, u64), Status>> {
        let reply = timeout(DEADLINE, self.stream.next()).await.expect("in time")?;
        Some(reply.map(|reply| {
            let part = self.names.read(reply).expect("it is in order");
            (part.events.len(), part.missed)
        }))
    }

    /// What there is without waiting: for what is beyond the rate nothing is said yet.
    async fn at_once(&mut self) -> (u64, u64) {
        let mut sum = (0, 0);
        while let Ok(reply) = timeout(Duration::from_millis(30), self.stream.next()).await {
            let part = self.names.read(reply.expect("it goes on").expect("messages")).expect("it is in order");
            sum = (sum.0 + part.events.len() as u64, sum.1 + part.missed);
        }
        sum
    }

    /// All of them, to the end.
    async fn all(&mut self) -> (usize, u64) {
        let mut sum = (0, 0);
        while let Some(reply) = self.next().await {
            let (events, missed) = reply.expect("it goes on to its end");
            sum = (sum.0 + events, sum.1 + missed);
        }
        sum
    }
}

fn of_trace(trace: u64) -> pb::FlowRequest {
    pb::FlowRequest { trace, ..Default::default() }
}

/// Fails when: a bound of the request is not heeded, or the head is not told where there is nothing to tell.
#[tokio::test(start_paused = true)]
async fn what_is_recorded_is_told_as_far_as_it_is_wanted() {
    let served = Served::start("recorded").await;
    served.say(3000, 7);
    served.say(50, 8);
    assert_eq!(served.ask(of_trace(7)).all().await, (3000, 0));
    assert_eq!(served.ask(of_trace(8)).all().await, (50, 0));
    assert_eq!(served.ask(pb::FlowRequest { last: 20, ..of_trace(7) }).all().await, (20, 0));
    let mut some = 0;
    for trace in 1..=64 {
        served.say(1, trace);
        let one_in_eight = pb::FlowRequest { one_call_in: 8, last: 1, ..of_trace(trace) };
        some += served.ask(one_in_eight).all().await.0;
    }
    assert!((2..=16).contains(&some), "of 64 calls one in eight, and not {some}");
    served.say(1, 0);
    let of_no_call = pb::FlowRequest { one_call_in: 1 << 40, last: 1, ..Default::default() };
    assert_eq!(served.ask(of_no_call).all().await, (1, 0), "what belongs to no call is told all the same");
    let mut nothing = served.ask(of_trace(999));
    assert_eq!(nothing.next().await.expect("a head").expect("a head"), (0, 0));
    assert!(nothing.next().await.is_none());
    let later = served.flow().now().as_nanos() as u64 + 1_000_000;
    advance(DEADLINE).await;
    served.say(5, 7);
    assert_eq!(served.ask(pb::FlowRequest { since: Some(later), ..of_trace(7) }).all().await, (5, 0));
    assert_eq!(served.ask(pb::FlowRequest { until: Some(later), ..of_trace(7) }).all().await, (3001, 0));
    served.node.shutdown().await.expect("it stops");
}

/// Fails when: what a slow reader has not read yet is gathered for it, or what it missed is not counted.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_misses_what_the_ring_has_lost_and_is_told_how_much() {
    let served = Served::start("slow").await;
    let mut reader = served.ask(pb::FlowRequest { follow: true, ..of_trace(7) });
    assert_eq!(reader.next().await.expect("a head").expect("a head"), (0, 0));
    served.say(10, 7);
    assert_eq!(reader.next().await.expect("it goes on").expect("messages"), (10, 0));
    // It does not read while the ring comes round twice. (It is a position: there is nothing that could grow.)
    served.say(40_000, 7);
    let (mut told, mut missed) = (0, 0);
    while told + missed < 40_000 {
        advance(DEADLINE).await;
        let (events, lost) = reader.next().await.expect("it goes on").expect("messages");
        assert!(events <= 1024, "no reply holds more than a batch");
        (told, missed) = (told + events as u64, missed + lost);
    }
    // The node says something, too, while time goes by.
    assert!((16_000..=16_384).contains(&told), "all that the ring still held, and not {told}");
    served.node.shutdown().await.expect("it stops");
}

/// Fails when: the rate that is asked for is not kept, or the node's own is exceeded, or what is beyond it goes uncounted.
#[tokio::test(start_paused = true)]
async fn what_comes_faster_than_wanted_is_missed_and_counted() {
    let served = Served::start("rate").await;
    for (rate, trace, told) in [(100, 7, 100), (1_000_000, 8, u64::from(RATE)), (0, 9, u64::from(RATE))] {
        served.say(500, trace);
        let mut reader = served.ask(pb::FlowRequest { follow: true, rate, ..of_trace(trace) });
        assert_eq!(reader.at_once().await, (500, 0), "what was recorded before is not counted against the rate");
        served.say(12_000, trace);
        let (heard, missed) = reader.at_once().await;
        // Some milliseconds go by meanwhile.
        assert!((told..told + told / 10).contains(&heard), "{heard} at once, of {told} a second");
        assert_eq!(missed, 0, "it was told in the first of it");
        advance(Duration::from_secs(1)).await;
        served.say(1, trace);
        assert_eq!(reader.at_once().await, (1, 12_000 - heard));
    }
    served.node.shutdown().await.expect("it stops");
}

/// Fails when: a reader that follows keeps a server from closing, or outlives its node.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_server_and_with_the_node() {
    let served = Served::start("ends").await;
    let follow = pb::FlowRequest { follow: true, ..of_trace(7) };
    let (mut closed, mut stopped) = (served.ask(follow), served.ask(follow));
    closed.next().await.expect("a head").expect("a head");
    stopped.next().await.expect("a head").expect("a head");
    let (close, closing) = listener::signal();
    let elsewhere = Handlers::new(served.node.as_ref().clone(), closing);
    let mut stopped_alone = Reader { stream: messages(&elsewhere, &follow), names: FlowReader::default() };
    stopped_alone.next().await.expect("a head").expect("a head");
    drop(served.close);
    assert!(closed.next().await.expect("an end").is_err());
    assert!(closed.next().await.is_none());
    served.node.shutdown().await.expect("it stops");
    assert!(stopped_alone.next().await.expect("an end").is_err());
    drop((close, stopped));
}
