//! What is checked before a request is answered, and what every answer says to the browser.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Must be there on whatever changes something. A page of another origin cannot send it without asking first.
pub(super) const DEMO_HEADER: HeaderName = HeaderName::from_static("x-raftkv-demo");

/// Whether the request means this server. On loopback only its own names do.
pub(super) fn names_this_host(headers: &HeaderMap, address: SocketAddr) -> bool {
    match host(headers) {
        Some(host) => !address.ip().is_loopback() || is_loopback(host_name(host)),
        None => false,
    }
}

/// Whether a page of this server asked for it, and knew that it changes something.
///
/// # Errors
/// It did not, and why.
pub(super) fn is_own_order(headers: &HeaderMap) -> Result<(), &'static str> {
    if !headers.contains_key(DEMO_HEADER) {
        return Err("the header x-raftkv-demo is missing");
    }
    let Some(host) = host(headers) else { return Err("there is no Host") };
    // A name on the Internet may have been made to lead here; an address, or localhost, cannot.
    if !is_loopback(host_name(host)) && host_name(host).parse::<IpAddr>().is_err() {
        return Err("open the page by its address, not by a name");
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && origin.as_bytes() != format!("http://{host}").as_bytes()
    {
        return Err("it comes from another site");
    }
    match headers.get("sec-fetch-site") {
        Some(site) if site != "same-origin" => Err("it comes from another site"),
        _ => Ok(()),
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// Without its port, and without the brackets of IPv6.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What every answer carries.
pub(super) fn secure(headers: &mut HeaderMap) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// What the page may do: run its own script and style, and talk to this server.
pub(super) fn policy(nonce: &str) -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a nonce is hexadecimal")
}

/// Nobody guesses it, and no two answers have the same.
pub(super) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}
