//! The sockets of a simulated host: TCP as turmoil plays it, each connection of which can be broken at a certain byte.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use hyper_util::rt::TokioIo;
use ractor_raft::rpc::sockets::{Accepted, Listener, Sockets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};
use turmoil::net::{TcpListener, TcpStream};

/// The sockets of one host.
#[derive(Clone)]
pub struct HostSockets {
    /// Its name.
    pub host: String,
    pub breaks: Breaks,
}

impl Sockets for HostSockets {
    fn dial(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(Connector(self.clone()))
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let address = address.to_owned();
        async move {
            // A host knows itself by no name.
            let (_, port) = address.rsplit_once(':').expect("name:port");
            let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await?;
            let connections = stream::unfold(listener, |listener| async {
                let accepted = listener.accept().await.map(|(stream, remote)| Accepted {
                    stream: Box::new(stream),
                    local_address: None,
                    remote_address: Some(remote),
                });
                Some((accepted, listener))
            });
            Ok(Listener { address, connections: connections.boxed() })
        }
        .boxed()
    }
}

/// What tonic asks for connections.
#[derive(Clone)]
struct Connector(HostSockets);

impl Service<Uri> for Connector {
    type Response = TokioIo<Breakable>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Breakable>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let HostSockets { host, breaks } = self.0.clone();
        async move {
            let address = uri.authority().expect("an address was dialled").to_string();
            let to = address.split_once(':').expect("name:port").0.to_owned();
            let fuse = breaks.dialled(host, to);
            let stream = TcpStream::connect(address).await?;
            Ok(TokioIo::new(Breakable { stream, fuse }))
        }
        .boxed()
    }
}

/// Which connections are to break, and when. Clones are the same.
#[derive(Clone, Default)]
pub struct Breaks(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    /// The connections that were dialled, by the names of their two ends.
    dialled: BTreeMap<(String, String), Vec<Weak<Mutex<Fuse>>>>,
    /// After how many bytes the next ones that are dialled break.
    next: BTreeMap<(String, String), VecDeque<u64>>,
    /// How many broke.
    broken: u64,
}

/// When a connection breaks.
#[derive(Default)]
struct Fuse {
    /// After so many bytes more are written.
    bytes: Option<u64>,
    broken: bool,
    reader: Option<Waker>,
}

impl Breaks {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections were broken so far.
    pub fn broken(&self) -> u64 {
        self.lines().broken
    }

    fn dialled(&self, from: String, to: String) -> Line {
        let mut lines = self.lines();
        let ends = (from, to);
        let bytes = lines.next.get_mut(&ends).and_then(VecDeque::pop_front);
        let fuse = Arc::new(Mutex::new(Fuse { bytes, ..Fuse::default() }));
        let dialled = lines.dialled.entry(ends).or_default();
        dialled.retain(|fuse| fuse.strong_count() > 0);
        dialled.push(Arc::downgrade(&fuse));
        Line { fuse, breaks: self.clone() }
    }

    /// Breaks the connections that `from` has to `to`, each when it has carried so many bytes more.
    pub fn break_after(&self, from: &str, to: &str, bytes: u64) {
        let fuses = self.lines().dialled.get(&(from.to_owned(), to.to_owned())).cloned().unwrap_or_default();
        for line in fuses.iter().filter_map(Weak::upgrade).map(|fuse| Line { fuse, breaks: self.clone() }) {
            line.fuse().bytes = Some(bytes);
            if bytes == 0 {
                line.blow();
            }
        }
    }

    /// Breaks the next connection that `from` opens to `to`, when it has carried so many bytes.
    pub fn break_next_after(&self, from: &str, to: &str, bytes: u64) {
        self.lines().next.entry((from.to_owned(), to.to_owned())).or_default().push_back(bytes);
    }

    /// From now on none breaks.
    pub fn heal(&self) {
        let mut lines = self.lines();
        lines.next.clear();
        for fuse in lines.dialled.values().flatten().filter_map(Weak::upgrade) {
            fuse.lock().unwrap_or_else(PoisonError::into_inner).bytes = None;
        }
    }
}

/// What of [`Breaks`] is about one connection.
struct Line {
    fuse: Arc<Mutex<Fuse>>,
    breaks: Breaks,
}

impl Line {
    fn fuse(&self) -> MutexGuard<'_, Fuse> {
        self.fuse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blow(&self) {
        let mut fuse = self.fuse();
        if !std::mem::replace(&mut fuse.broken, true) {
            let reader = fuse.reader.take();
            drop(fuse);
            self.breaks.lines().broken += 1;
            reader.into_iter().for_each(Waker::wake);
        }
    }

    /// How much of so many bytes can still be written.
    fn lets_through(&self, wanted: usize) -> io::Result<usize> {
        match *self.fuse() {
            Fuse { broken: true, .. } => Err(io::ErrorKind::ConnectionReset.into()),
            Fuse { bytes: Some(left), .. } => Ok(wanted.min(left as usize)),
            _ => Ok(wanted),
        }
    }

    fn carried(&self, bytes: usize) {
        let blown = match &mut self.fuse().bytes {
            None => false,
            Some(left) => {
                *left -= bytes as u64;
                *left == 0
            }
        };
        if blown {
            self.blow();
        }
    }
}

/// A connection that may break. Whoever holds it reads an error then and drops it, which the other end is told.
struct Breakable {
    stream: TcpStream,
    fuse: Line,
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fuse.lets_through(0)?;
        self.fuse.fuse().reader = Some(context.waker().clone());
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = self.fuse.lets_through(bytes.len())?;
        let written = Pin::new(&mut self.stream).poll_write(context, &bytes[..length]);
        if let Poll::Ready(Ok(written)) = written {
            self.fuse.carried(written);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
