//! What a node says of the incidents that it keeps.

use std::time::Duration;

use super::{super::Malformed, pb};
use crate::{flow::Incident, rpc::convert::check_id};

/// An incident that a node keeps, without its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptIncident {
    /// Its number on that node. Later ones are higher.
    pub id: u64,
    /// What happened.
    pub cause: String,
    /// When, since 1970, by the calendar of the node's machine.
    pub since_1970: Duration,
    /// How many messages were kept.
    pub messages: u64,
}

/// An incident on its way out, without its messages.
pub fn incident_to_pb(incident: &Incident) -> pb::Incident {
    pb::Incident {
        id: incident.id,
        cause: incident.cause.clone(),
        at_unix_ms: u64::try_from(incident.since_1970.as_millis()).unwrap_or(u64::MAX),
        messages: incident.events.len() as u64,
    }
}

/// The incidents of a node, and which node it is.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn incidents_from_pb(reply: pb::IncidentsReply) -> Result<(u64, Vec<KeptIncident>), Malformed> {
    let node = check_id("node", reply.node)?;
    let incident = |(at, incident): (usize, pb::Incident)| {
        if incident.id == 0 {
            return Err(Malformed::new(format!("incidents[{at}].id"), "is 0"));
        }
        let since_1970 = Duration::from_millis(incident.at_unix_ms);
        Ok(KeptIncident { id: incident.id, cause: incident.cause, since_1970, messages: incident.messages })
    };
    let incidents = reply.incidents.into_iter().enumerate().map(incident).collect::<Result<_, _>>()?;
    Ok((node, incidents))
}
