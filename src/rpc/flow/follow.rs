//! The messages of all nodes as they come.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Client, CommonClock, Unreachable, client,
    collect::{Reading, align},
    pb::FlowRequest,
};
use crate::{
    flow::TraceId,
    raft::Address,
    trace::{Clock, Recording},
};

/// How long a node may take to begin.
const BEGINNING: Duration = Duration::from_secs(2);

/// How long to wait before a node is asked again that could not be reached, or broke off.
const PAUSE: Duration = Duration::from_millis(500);

/// How often the clocks are lined up anew: those of two machines part by some microseconds a second.
const REALIGN: Duration = Duration::from_secs(10);

/// What is told while one follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Messages of one node, since the last that it told.
    Messages(Recording),
    /// A node that cannot be reached, or broke off. It is asked again, and goes on where it was.
    Broken(Unreachable),
}

/// The messages of the nodes at these addresses from now on, as they end, until it is dropped: those of one client's call, or
/// all; `rate` a second of each node at most, as far as the node allows. What a node tells is read as it is asked for; what
/// is not read in time is missed, and counted.
pub fn follow(
    addresses: &[Address],
    trace: Option<TraceId>,
    rate: Option<u32>,
) -> impl Stream<Item = Told> + Send + use<> {
    let clock = CommonClock::start();
    let request =
        FlowRequest { trace: trace.unwrap_or(0), rate: rate.unwrap_or(0), follow: true, ..Default::default() };
    let nodes = addresses.iter().map(|address| Following::new(address.clone(), request, clock).into_stream());
    stream::select_all(nodes.collect::<Vec<_>>())
}

/// One node.
struct Following {
    address: Address,
    request: FlowRequest,
    common: CommonClock,
    at: Option<At>,
    /// The life that was read last, and when its last message ended, in nanoseconds.
    read: Option<(u64, u64)>,
    /// Whether it is to be asked again after a pause.
    broken: bool,
}

/// Where it is with a node that answers.
struct At {
    client: Client,
    reading: Reading,
    clock: Clock,
    aligned: Instant,
}

impl Following {
    fn new(address: Address, request: FlowRequest, common: CommonClock) -> Self {
        Following { address, request, common, at: None, read: None, broken: false }
    }

    fn into_stream(self) -> Pin<Box<dyn Stream<Item = Told> + Send>> {
        stream::unfold(self, |mut following| async {
            let told = following.next().await;
            Some((told, following))
        })
        .boxed()
    }

    async fn next(&mut self) -> Told {
        match self.read_on().await {
            Ok(recording) => Told::Messages(recording),
            Err(cause) => {
                self.at = None;
                self.broken = true;
                Told::Broken(Unreachable { address: self.address.clone(), cause })
            }
        }
    }

    async fn read_on(&mut self) -> Result<Recording, String> {
        let mut at = match self.at.take() {
            Some(at) => at,
            None => self.begin().await?,
        };
        if at.aligned.elapsed() >= REALIGN {
            let alignment = align(&mut at.client, self.common, Instant::now() + BEGINNING).await?;
            if alignment.life != at.reading.life {
                return Err("it was started again".to_owned());
            }
            (at.clock, at.aligned) = (alignment.clock, Instant::now());
        }
        at.reading.more().await?.ok_or("it ended the stream")?;
        let recording = at.reading.read(at.clock);
        if let Some(last) = recording.events.iter().map(|event| event.ended()).max() {
            self.read = Some((at.reading.life, u64::try_from(last.as_nanos()).unwrap_or(u64::MAX)));
        }
        self.at = Some(at);
        Ok(recording)
    }

    /// From where it was; a later life from its beginning; at first from now on.
    async fn begin(&mut self) -> Result<At, String> {
        if std::mem::take(&mut self.broken) {
            sleep(PAUSE).await;
        }
        let deadline = Instant::now() + BEGINNING;
        let beginning = async {
            let mut client = client(&self.address)?;
            let alignment = align(&mut client, self.common, deadline).await?;
            let since = match self.read {
                Some((life, last)) if life == alignment.life => last.saturating_add(1),
                Some(_) => 0,
                None => u64::try_from(self.common.now().saturating_sub(alignment.clock.epoch)).unwrap_or(0),
            };
            let request = FlowRequest { since: Some(since), ..self.request };
            let reading = Reading::begin(&mut client, request, deadline).await?;
            if reading.life != alignment.life {
                return Err("it was started again".to_owned());
            }
            self.read.get_or_insert((alignment.life, since));
            Ok(At { client, reading, clock: alignment.clock, aligned: Instant::now() })
        };
        timeout_at(deadline, beginning).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}
