//! A way to a server on which what is sent can be held back.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// What passes. Nothing is lost: what is held back passes when it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Neither way.
    Cut,
    /// What the server answers, but not what it is asked.
    NothingThere,
    /// What the server is asked, but not what it answers.
    NothingBack,
    /// Everything, each piece so much later.
    Slow(Duration),
}

impl Flow {
    fn passes(self, there: bool) -> bool {
        match self {
            Flow::Open | Flow::Slow(_) => true,
            Flow::Cut => false,
            Flow::NothingThere => !there,
            Flow::NothingBack => there,
        }
    }
}

/// Passes on everything both ways while it is open.
pub struct Valve {
    /// Of this end.
    pub address: String,
    flow: watch::Sender<Flow>,
    _connections: JoinSet<()>,
}

impl Valve {
    /// An open one, to this server.
    pub async fn towards(server: &str) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let flow = watch::channel(Flow::Open).0;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, server.to_owned(), flow.subscribe()));
        Valve { address, flow, _connections: connections }
    }

    /// From now on.
    pub fn set(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }

    /// Keeps what comes back until it is opened again.
    pub fn close(&self) {
        self.set(Flow::NothingBack);
    }

    pub fn open(&self) {
        self.set(Flow::Open);
    }
}

async fn accept(listener: TcpListener, server: String, flow: watch::Receiver<Flow>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.expect("it listens");
        // A server that is gone is one that hangs up.
        let Ok(far) = TcpStream::connect(&server).await else { continue };
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        connections.spawn(pass_on(from_near, to_far, flow.clone(), true));
        connections.spawn(pass_on(from_far, to_near, flow.clone(), false));
    }
}

/// An end at one side is an end at the other: the half that is written to is closed by the drop.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>, there: bool) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let Ok(now) = flow.wait_for(|flow| flow.passes(there)).await.map(|flow| *flow) else { return };
        if let Flow::Slow(delay) = now {
            sleep(delay).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
