//! Where connections come from: TCP, unless a program brings something else that carries bytes, such as Unix sockets, a
//! tunnel, or a simulated network.
//!
//! What is spoken over them, the keepalive and the limits are the same whatever they are ([`channel`](super::channel),
//! `listener`).

use std::{io, net::SocketAddr};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tonic::transport::{Channel, Endpoint, server::TcpIncoming};

/// Makes the connections of a node or a client.
pub trait Sockets: Send + Sync + 'static {
    /// Makes the connection that `endpoint` describes, without waiting for it: it is opened by the first call, and again by
    /// the first after it broke, as by [`Endpoint::connect_with_connector_lazy`].
    fn dial(&self, endpoint: Endpoint) -> Channel;

    /// Listens at `address` until the [`Listener`] is dropped.
    ///
    /// # Errors
    /// The address cannot be had. `AddrInUse` is tried again for a while.
    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Listener>>;
}

/// A port that is open.
pub struct Listener {
    /// Where it can be reached, with the port that was really taken.
    pub address: String,
    /// Connections as they are accepted. An error is one connection that was not; it goes on after it.
    pub connections: BoxStream<'static, io::Result<Accepted>>,
}

/// A connection that was accepted.
pub struct Accepted {
    /// Its bytes.
    pub stream: Box<dyn Duplex>,
    /// This end of it, where it has such an address.
    pub local_address: Option<SocketAddr>,
    /// The other end, for those who are told of strangers.
    pub remote_address: Option<SocketAddr>,
}

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// Connections over TCP, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Sockets for Tcp {
    fn dial(&self, endpoint: Endpoint) -> Channel {
        endpoint.tcp_nodelay(true).connect_lazy()
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let address = address.to_owned();
        Box::pin(async move { Tcp::accept_on(TcpListener::bind(address).await?) })
    }
}

impl Tcp {
    /// On a port that is open already.
    pub(super) fn accept_on(listener: TcpListener) -> io::Result<Listener> {
        let address = listener.local_addr()?.to_string();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let connections = stream::unfold(incoming, |mut incoming| async {
            let accepted = incoming.next().await?.map(|stream| Accepted {
                local_address: stream.local_addr().ok(),
                remote_address: stream.peer_addr().ok(),
                stream: Box::new(stream),
            });
            Some((accepted, incoming))
        });
        Ok(Listener { address, connections: connections.boxed() })
    }
}
