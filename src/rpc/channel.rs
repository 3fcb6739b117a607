//! How a connection to a node is made.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::sockets::{Sockets, Tcp};

/// Longer than any healthy network takes, and shorter than a person waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection on which nothing was heard for so long is asked whether it is alive…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// …and has so long to answer. Without the question a half-open connection (the peer lost its power, a firewall forgot
/// the flow) stays dead for ever: all that is written to it waits in a buffer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What one stream may have on its way before the receiver must have read it.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;

/// What one connection may have on its way. More than a stream's, so that no stream can starve the others.
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;

/// An address that nothing can be reached at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not an address: {cause}")]
pub struct BadAddress {
    /// As it was given.
    pub address: String,
    /// What does not fit.
    pub cause: String,
}

/// A connection to the node at `address` (`host:port`, or `http://host:port`). It is opened by the first call, and again
/// by the first call after it broke; a call fails while it cannot be. Must be called on a tokio runtime.
///
/// # Errors
/// [`BadAddress`]: it cannot be an address.
pub fn lazy(address: &str) -> Result<Channel, BadAddress> {
    lazy_over(&Tcp, address)
}

/// As [`lazy`], over other sockets.
///
/// # Errors
/// [`BadAddress`]: it cannot be an address.
pub fn lazy_over(sockets: &dyn Sockets, address: &str) -> Result<Channel, BadAddress> {
    Ok(sockets.dial(endpoint(address)?))
}

/// As [`lazy_over`], for much data in one direction. The question whether the peer is alive stands in line behind it, so that
/// its answer may take as long as all that is on its way.
pub(super) fn lazy_for_bulk(sockets: &dyn Sockets, address: &str, patience: Duration) -> Result<Channel, BadAddress> {
    Ok(sockets.dial(endpoint(address)?.keep_alive_timeout(patience)))
}

/// What [`lazy`] dials: its address read, nothing opened.
pub(super) fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| BadAddress { address: address.to_owned(), cause: error.to_string() })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}
