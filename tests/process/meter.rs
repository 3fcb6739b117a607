//! A way to a server that counts what is sent to it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Passes on everything both ways.
pub struct Meter {
    /// Of this end.
    pub address: String,
    bytes: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Meter {
    /// One to this server, which need not run yet.
    pub async fn towards(server: &str) -> Meter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let bytes = Arc::default();
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, server.to_owned(), Arc::clone(&bytes)));
        Meter { address, bytes, _connections: connections }
    }

    /// How many bytes were passed on to the server.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

async fn accept(listener: TcpListener, server: String, bytes: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.expect("it listens");
        // A server that is gone is one that hangs up.
        let Ok(far) = TcpStream::connect(&server).await else { continue };
        connections.spawn(pass_on(near, far, bytes.clone()));
    }
}

/// An end at either side is an end at both, as it is of a connection without anything between.
async fn pass_on(near: TcpStream, far: TcpStream, bytes: Arc<AtomicU64>) {
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
            bytes.fetch_add(read as u64, Relaxed);
            if to_far.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = async { drop(copy(&mut from_far, &mut to_near).await) };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
