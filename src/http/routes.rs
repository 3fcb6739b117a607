//! The paths.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    PAGE,
    faults::{Faults, Order},
    headers::{is_own_order, names_this_host, nonce, policy, secure},
    hub::Hub,
    readiness::readiness,
    trace::of_call,
    view::View,
};
use crate::metrics;

/// Traces that are looked for at a time.
const SEARCHES: usize = 2;

/// No order is longer.
const LONGEST_ORDER: usize = 1024;

/// What the handlers know.
pub(super) struct Site {
    pub view: Arc<dyn Fn() -> View + Send + Sync>,
    pub hub: Arc<Hub>,
    pub faults: Option<Arc<dyn Faults>>,
    pub address: SocketAddr,
    pub was_ready: AtomicBool,
    pub searches: Semaphore,
}

impl Site {
    pub(super) fn new(
        view: Arc<dyn Fn() -> View + Send + Sync>,
        hub: Arc<Hub>,
        faults: Option<Arc<dyn Faults>>,
        address: SocketAddr,
    ) -> Self {
        Site { view, hub, faults, address, was_ready: AtomicBool::new(false), searches: Semaphore::new(SEARCHES) }
    }
}

pub(super) fn router(site: Arc<Site>) -> Router {
    let router = Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/trace", get(traced))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(figures));
    let router = match site.faults {
        Some(_) => router.route("/demo/{fault}", post(inject)),
        None => router,
    };
    router.layer(middleware::from_fn_with_state(site.clone(), checked)).with_state(site)
}

/// Around all of them.
async fn checked(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = if names_this_host(request.headers(), site.address) {
        next.run(request).await
    } else {
        let why = format!("this is {}, and the request names another host\n", site.address);
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    secure(response.headers_mut());
    response
}

async fn page() -> Response {
    let nonce = nonce();
    let page = PAGE.replace("{nonce}", &nonce);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".parse().expect("a type")),
        (header::CONTENT_SECURITY_POLICY, policy(&nonce)),
    ];
    (headers, page).into_response()
}

async fn events(State(site): State<Arc<Site>>) -> Response {
    match site.hub.open() {
        Some(frames) => {
            let body = Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>));
            ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
        }
        None => {
            let why = format!("{} pages are open already; close one, then try again\n", site.hub.pages());
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], why).into_response()
        }
    }
}

/// Under the same rule as gRPC's health service.
async fn readyz(State(site): State<Arc<Site>>) -> Response {
    let node = (site.view)().node;
    let ready = match &node {
        Some(node) if !node.has_stopped() => readiness(&node.status(), site.was_ready.load(Relaxed)),
        _ => Err("no node runs in this process".to_owned()),
    };
    site.was_ready.store(ready.is_ok(), Relaxed);
    match ready {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Those of the node in this process; Prometheus asks each node itself.
async fn figures(State(site): State<Arc<Site>>) -> Response {
    match (site.view)().node {
        Some(node) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&node)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no node runs in this process\n").into_response(),
    }
}

#[derive(Deserialize)]
struct Traced {
    /// Hexadecimal.
    id: String,
}

/// All messages of one call that the nodes still have. Times are milliseconds since its first message.
async fn traced(State(site): State<Arc<Site>>, Query(Traced { id }): Query<Traced>) -> Response {
    let Some(trace) = u64::from_str_radix(&id, 16).ok().filter(|trace| *trace != 0) else {
        return (StatusCode::BAD_REQUEST, "id is not a trace\n").into_response();
    };
    let Ok(_searching) = site.searches.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others are searching; try again\n").into_response();
    };
    let messages = of_call(trace, (site.view)()).await;
    json(&messages)
}

fn json(value: &impl serde::Serialize) -> Response {
    let json = serde_json::to_string(value).expect("texts and numbers have a JSON form");
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Only from this server's own page.
async fn inject(State(site): State<Arc<Site>>, Path(fault): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(why) = is_own_order(&headers) {
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let order = match body.len() {
        0 => Ok(Order::default()),
        1..=LONGEST_ORDER => serde_json::from_slice::<Order>(&body).map_err(|error| error.to_string()),
        _ => Err("it is too long".to_owned()),
    };
    let order = match order {
        Ok(order) => Order { name: fault, ..order },
        Err(why) => return (StatusCode::BAD_REQUEST, format!("the order cannot be read: {why}\n")).into_response(),
    };
    let Some(faults) = &site.faults else { return StatusCode::NOT_FOUND.into_response() };
    if faults.offered().iter().all(|offered| offered.name != order.name) {
        return (StatusCode::NOT_FOUND, "there is no such fault\n").into_response();
    }
    match faults.inject(order).await {
        Ok(done) => (StatusCode::OK, done + "\n").into_response(),
        Err(why) => (StatusCode::CONFLICT, why + "\n").into_response(),
    }
}
