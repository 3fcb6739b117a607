//! Addresses as they are typed: what is one, and what could be dialled.

use ractor_raft::raft::NodeId;

use crate::error::{Failure, exit};

/// `host:port`, also `http://host:port`; `None` if it is neither.
pub fn address(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let plain = !host.is_empty() && !host.contains(['/', '=', ' ', ',']);
    (plain && (!host.contains(':') || host.starts_with('['))).then(|| text.to_owned())
}

/// Refuses what nobody could dial: no host, or no port (R012).
pub fn check_routable(member: NodeId, address: &str, listen: &str) -> Result<(), Failure> {
    check_given(&format!("--cluster {member}="), ",…", member, address, listen)
}

/// The same of an address that --advertise gave, or --listen.
pub fn check_advertised(member: NodeId, address: &str, listen: &str) -> Result<(), Failure> {
    check_given("--advertise ", "", member, address, listen)
}

fn check_given(flag: &str, more: &str, member: NodeId, address: &str, listen: &str) -> Result<(), Failure> {
    let (host, port) = address.rsplit_once(':').expect("address() let through only host:port");
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    if bare_host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(unroutable(flag, more, member, address, listen));
    }
    if port.parse() == Ok(0_u16) {
        return Err(Failure::new(
            12,
            exit::USAGE,
            format!("nobody can reach node {member} at {address}"),
            "port 0 lets the system choose a port, and the other nodes and clients cannot know which".to_owned(),
            format!("write a port, the same here and in --listen: {flag}{host}:7001{more}"),
        ));
    }
    Ok(())
}

fn unroutable(flag: &str, more: &str, member: NodeId, address: &str, listen: &str) -> Failure {
    let port = listen.rsplit_once(':').map_or("7001", |(_, port)| port);
    Failure::new(
        12,
        exit::USAGE,
        format!("nobody can reach node {member} at {address}"),
        format!("{address} says where to listen, not where to dial, and the other nodes and clients are given it"),
        format!("write the host that the others see: {flag}HOST:{port}{more} and keep --listen as it is"),
    )
}
