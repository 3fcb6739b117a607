//! The page: the whole cluster in a browser, from any node of it (feature `server`).
//!
//! [`serve`] answers HTTP for a node until it stops or its [`Server`] is dropped; [`serve_view`] does it for an application
//! that has several nodes in one process, some of which may come and go.
//!
//! | path | |
//! |---|---|
//! | `/` | the page, one file without outside requests |
//! | `/events` | what it shows, as server-sent events |
//! | `/trace?id=` | every message of one call, from the recorders of all nodes |
//! | `/livez` | the process is up |
//! | `/metrics` | the figures of this process's node, as Prometheus reads them |
//! | `/readyz` | a leader is known and this node has caught up; else 503, and why |
//! | `/metrics` | the node in figures, for Prometheus ([`metrics`](crate::metrics)) |
//! | `/demo/…` | faults to be injected, where the application offers any |
//!
//! ```text
//!   node (own) ──directly──┐
//!   peer ──Status, Actors, Flow, Events──▶ collector ──a frame each 100 ms──▶ hub ──▶ page, page, page
//! ```
//! One collector serves all pages. It starts with the first and stops after the last, so that a node costs nothing more
//! while nobody looks. The hub holds the last frames once, whoever reads them: a browser that is slower than that misses
//! some, and is told how many. Nothing here waits for a browser, and no actor of the node waits for anything here.
//!
//! A page can be opened by whoever reaches the port. So it is loopback's unless somebody says otherwise, and there a request
//! that names another host is refused: a name on the Internet may lead to this machine (DNS rebinding).

mod collector;
mod faults;
mod headers;
mod hub;
mod listener;
mod past;
mod readiness;
mod recorders;
mod routes;
#[cfg(test)]
mod tests;
mod timeline;
mod trace;
mod view;
mod words;

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

pub use self::{
    faults::{Fault, Faults, Order},
    listener::{Listener, bind},
    readiness::readiness,
    timeline::Kind,
    view::View,
};
use self::{hub::Hub, routes::Site};
use crate::node::NodeRef;

/// The page as it is served, but for the nonce of its script and style.
pub const PAGE: &str = include_str!("http/page.html");

/// How many pages may be open at a time unless somebody says otherwise.
pub const MAX_PAGES: usize = 128;

/// What may be chosen about a server.
#[derive(Clone)]
pub struct Options {
    /// How many pages may be open at a time; whoever comes then is refused with 503.
    pub max_pages: usize,
    /// What can be broken from the page. `None`: nothing, and there are no buttons for it.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_pages: MAX_PAGES, faults: None }
    }
}

/// A server at work. It stops when this is dropped.
pub struct Server {
    address: SocketAddr,
    hub: Arc<Hub>,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to type into a browser on this machine.
    pub fn url(&self) -> String {
        let ip = self.address.ip();
        match self.address {
            address if !ip.is_unspecified() => format!("http://{address}/"),
            address => format!("http://localhost:{}/", address.port()),
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// How many pages are open.
    pub fn pages(&self) -> usize {
        self.hub.pages()
    }

    /// Writes a line on the Timeline of every page, also those that are opened later.
    pub fn note(&self, kind: Kind, text: impl Into<String>) {
        self.hub.note(kind, None, text.into());
    }

    /// What [`note`](Server::note) does, for whoever has not the server.
    pub fn notes(&self) -> impl Fn(Kind, String) + Send + Sync + Clone + 'static {
        let hub = self.hub.clone();
        move |kind, text| hub.note(kind, None, text)
    }

    /// Stops it; returns when no task of it is left.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        // One that panicked has ended as well.
        let _ = (&mut self.task).await;
    }

    /// Waits until it has stopped, because the node did.
    pub async fn stopped(&mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shows `node` and the other members of its cluster, until the node stops. Must be called on a tokio runtime.
pub fn serve(node: NodeRef, listener: Listener, options: Options) -> Server {
    let seen = node.clone();
    let ends = async move { drop(node.stopped().await) };
    run(Arc::new(move || View::of(&seen)), listener, options, ends)
}

/// Shows whatever `view` says there is, which is asked four times a second, until the [`Server`] is dropped. Must be called on
/// a tokio runtime.
pub fn serve_view(view: impl Fn() -> View + Send + Sync + 'static, listener: Listener, options: Options) -> Server {
    run(Arc::new(view), listener, options, std::future::pending())
}

fn run(
    view: Arc<dyn Fn() -> View + Send + Sync>,
    listener: Listener,
    options: Options,
    ends: impl Future<Output = ()> + Send + 'static,
) -> Server {
    let address = listener.address();
    let hub = Arc::new(Hub::new(options.max_pages));
    let (stopping, stop) = watch::channel(false);
    let site = Arc::new(Site::new(view.clone(), hub.clone(), options.faults.clone(), address));
    let offered = options.faults.map(|faults| faults.offered()).unwrap_or_default();
    let collecting = collector::run(view, hub.clone(), offered);
    let serving = listener::serve(listener, routes::router(site), stop);
    let task = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = serving => {}
            () = ends => {}
            () = collecting => {}
        }
    });
    Server { address, hub, stopping, task }
}
