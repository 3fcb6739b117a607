//! The port, and the connections on it.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::error::NodeError;

/// Open connections, pages and all else: what comes beyond waits to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// A client that has connected has so long to say what it wants.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// What waits for a slow browser, in the process and in the system. Frames beyond that are missed, not kept.
const BUFFER: usize = 64 << 10;

/// How long no connection is accepted after one could not be (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const BACKLOG: u32 = 128;

/// A port that is open.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Where it can be reached, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Opens the port for a page; port 0 is any that is free.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(address: &str) -> Result<Listener, NodeError> {
    let failed =
        |error: std::io::Error| NodeError::Start { what: format!("page on {address}"), cause: error.to_string() };
    let mut last = std::io::Error::other("it names no address of a machine");
    for one in lookup_host(address).await.map_err(failed)? {
        match listen(one) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(address: SocketAddr) -> std::io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // The connections inherit it.
    socket.set_send_buffer_size(BUFFER as u32)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    Ok(Listener { address: listener.local_addr()?, listener })
}

/// Serves until it is told to stop, or dropped; then every connection is cut.
pub(super) async fn serve(listener: Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, router.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the page could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could tell it to stop is gone: so is the server.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer(stream: TcpStream, router: Router) -> Result<(), Infallible> {
    // A page wants what there is now; where that cannot be set, it comes a little later.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).max_buf_size(BUFFER);
    // A connection that breaks is the browser's affair.
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
    Ok(())
}
