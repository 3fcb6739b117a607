//! A way to a server on which its answers can be held back.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// Passes on everything both ways while it is open; closed, it keeps what comes back until it is opened again.
pub struct Valve {
    /// Of this end.
    pub address: String,
    open: watch::Sender<bool>,
    _connections: JoinSet<()>,
}

impl Valve {
    /// An open one, to this server.
    pub async fn towards(server: &str) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let open = watch::channel(true).0;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, server.to_owned(), open.subscribe()));
        Valve { address, open, _connections: connections }
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, server: String, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.expect("it listens");
        // A server that is gone is one that hangs up.
        let Ok(far) = TcpStream::connect(&server).await else { continue };
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        connections.spawn(there(from_near, to_far));
        connections.spawn(back(from_far, to_near, open.clone()));
    }
}

/// An end at one side is an end at the other: the half that is written to is closed by the drop.
async fn there(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = copy(&mut from, &mut to).await;
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
