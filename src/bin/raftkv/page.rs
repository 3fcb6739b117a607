//! The port of the page.

use ractor_raft::{
    error::NodeError,
    http::{self, Listener, Server},
};

use crate::{
    error::{Failure, exit},
    output::talk,
};

/// Opens it where it is wanted.
///
/// # Errors
/// R020: it cannot be had there.
pub async fn bind(address: &str) -> Result<Listener, Failure> {
    http::bind(address).await.map_err(|error| {
        let cause = if let NodeError::Start { cause, .. } = error { cause } else { error.to_string() };
        let port = address.rsplit_once(':').map_or("7080", |(_, port)| port);
        let fix = match port.parse::<u16>() {
            Ok(1..1024) => "give http a port above 1023, or 0 for any that is free, such as 127.0.0.1:0".to_owned(),
            _ => format!(
                "give http an address of this machine with a free port, such as 127.0.0.1:{port} or 127.0.0.1:0"
            ),
        };
        Failure::new(20, exit::USAGE, format!("http is {address:?}, which will not do"), cause, fix)
    })
}

/// A page shows everything, keys and values excepted.
pub fn warn_if_public(page: &Server) {
    if !page.is_local() {
        talk(&format!(
            "warning: whoever reaches {} sees the page, and there is no password: keep it behind a firewall or a proxy",
            page.address()
        ));
    }
}
