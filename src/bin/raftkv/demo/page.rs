//! The demo's page: one for all nodes, whichever of them run.

use std::sync::Arc;

use ractor_raft::http::{self, Faults, Listener, Options, Server};

use super::{buttons::Buttons, cluster::Cluster};
use crate::{error::Failure, page};

/// Where it is unless somebody says otherwise, so that a browser that was left open finds the next demo.
const DEFAULT: &str = "127.0.0.1:7080";

/// Where it is if that is taken.
const ANY: &str = "127.0.0.1:0";

/// Opens the port.
pub async fn bind(address: Option<String>) -> Result<Listener, Failure> {
    match address {
        Some(address) => page::bind(&address).await,
        None => match http::bind(DEFAULT).await {
            Ok(listener) => Ok(listener),
            Err(_) => page::bind(ANY).await,
        },
    }
}

/// Shows the cluster there, with buttons if there are any.
pub fn open(cluster: &Cluster, listener: Listener, buttons: Option<Buttons>) -> Server {
    let view = cluster.view();
    let faults = buttons.map(|buttons| Arc::new(buttons) as Arc<dyn Faults>);
    let page = http::serve_view(move || view.borrow().clone(), listener, Options { faults, ..Options::default() });
    page::warn_if_public(&page);
    page
}
