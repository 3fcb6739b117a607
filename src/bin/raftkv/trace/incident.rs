//! What went before something fell, as the node kept it.

use std::time::Duration;

use ractor_raft::rpc::{
    convert::KeptIncident,
    flow::{self, Collected, Found, NodeIncidents},
};
use serde::Serialize;

use super::{Tracer, nobody, say_what_is_missing};
use crate::{
    error::{Failure, exit},
    output::{Output, printable, talk},
};

/// Shows the one that is meant: "last", "ID", "NODE:ID"; or lists them all.
pub async fn run(tracer: &Tracer<'_>, which: &str) -> Result<u8, Failure> {
    let found = tracer.find().await?;
    let (nodes, unreachable) = flow::incidents(&found.addresses(), tracer.settings.timeout).await;
    if nodes.is_empty() {
        return Err(nobody(&unreachable));
    }
    say_what_is_missing(&found, &unreachable);
    if which == "list" {
        return list(&tracer.output, &nodes);
    }
    let (node, incident) = choose(&nodes, which)?;
    let KeptIncident { id, cause, since_1970, messages } = incident;
    let cause = printable(cause.as_bytes());
    talk(&format!("incident {}:{id}, {}: {cause} ({messages} messages)", node.node, calendar(*since_1970)));
    let recording = flow::incident(&node.address, *id, tracer.settings.timeout).await;
    let mut recording = recording.map_err(|cause| Failure {
        exit: exit::UNAVAILABLE,
        ..Failure::other(format!("node {} does not tell the incident {id}", node.node), cause)
    })?;
    // It may be of an earlier process of the node, whose clock nobody can ask any more: it fell when the last message ended.
    let fell = recording.events.iter().map(|event| event.ended()).max().unwrap_or_default();
    recording.clock.epoch = i64::try_from(since_1970.saturating_sub(fell).as_nanos()).unwrap_or(0);
    tracer.show(&Found::default(), Collected { recordings: vec![recording], unreachable: Vec::new() }).await
}

fn choose<'a>(nodes: &'a [NodeIncidents], which: &str) -> Result<(&'a NodeIncidents, &'a KeptIncident), Failure> {
    let all = || nodes.iter().flat_map(|node| node.incidents.iter().map(move |incident| (node, incident)));
    if all().next().is_none() {
        let why =
            "no node that answers has lost its leadership, a keeper, or an actor by a panic, as far as it remembers";
        let fix = "ask for something else: raftkv trace --last election, raftkv trace --follow";
        return Err(Failure { fix: fix.to_owned(), ..Failure::other("no incident is kept", why) });
    }
    if which == "last" {
        return Ok(all().max_by_key(|(_, incident)| incident.since_1970).expect("there is one at least"));
    }
    let (of_node, id) = match which.split_once(':') {
        Some((node, id)) => (node.parse().map(Some), id.parse::<u64>()),
        None => (Ok(None), which.parse::<u64>()),
    };
    let (Ok(of_node), Ok(id)) = (of_node, id) else {
        let wanted = "last, list, an incident's number, or NODE:NUMBER";
        return Err(Failure::bad_setting("incident", which, "the flag --incident", wanted));
    };
    let is_meant = |(node, incident): &(&NodeIncidents, &KeptIncident)| {
        of_node.is_none_or(|of_node: u64| of_node == node.node) && incident.id == id
    };
    let meant: Vec<_> = all().filter(is_meant).collect();
    let names = |incidents: Vec<(&NodeIncidents, &KeptIncident)>| {
        let name = |(node, incident): &(&NodeIncidents, &KeptIncident)| format!("{}:{}", node.node, incident.id);
        incidents.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    match meant[..] {
        [one] => Ok(one),
        [] => {
            let fix = format!("give one of these: {}", names(all().collect()));
            Err(Failure { fix, ..Failure::other(format!("no incident {which} is kept"), "the oldest are dropped") })
        }
        _ => {
            let fix = format!("give one of these: {}", names(meant));
            let why = "each node counts its own";
            Err(Failure {
                fix,
                exit: exit::USAGE,
                ..Failure::other(format!("incident {which} is of several nodes"), why)
            })
        }
    }
}

#[derive(Serialize)]
struct IncidentLine<'a> {
    v: u8,
    node: u64,
    id: u64,
    at_unix_ms: u64,
    cause: &'a str,
    messages: u64,
}

fn list(output: &Output, nodes: &[NodeIncidents]) -> Result<u8, Failure> {
    let mut all: Vec<_> =
        nodes.iter().flat_map(|node| node.incidents.iter().map(move |one| (node.node, one))).collect();
    all.sort_by_key(|(node, incident)| (incident.since_1970, *node));
    if output.json {
        for (node, KeptIncident { id, cause, since_1970, messages }) in all {
            let at_unix_ms = since_1970.as_millis() as u64;
            output.object(&IncidentLine { v: 1, node, id: *id, at_unix_ms, cause, messages: *messages })?;
        }
        return Ok(exit::DONE);
    }
    let row = |(node, KeptIncident { id, cause, since_1970, messages }): &(u64, &KeptIncident)| {
        vec![format!("{node}:{id}"), calendar(*since_1970), messages.to_string(), printable(cause.as_bytes())]
    };
    output.table(&["INCIDENT", "WHEN", "MESSAGES", "CAUSE"], all.iter().map(row).collect())?;
    Ok(exit::DONE)
}

/// `2026-11-23 22:15:03 UTC`, by the Gregorian calendar.
pub fn calendar(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end with the leap day; 400 of them have 146,097 days. (Hinnant, "chrono-compatible dates".)
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_that_of_date() {
        let at = |seconds| calendar(Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_795_471_092), "2026-11-23 21:58:12 UTC");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    fn kept(id: u64, seconds: u64) -> KeptIncident {
        KeptIncident { id, cause: "it fell".to_owned(), since_1970: Duration::from_secs(seconds), messages: 1 }
    }

    // Fails when: the last is chosen by its number, which each node counts for itself.
    #[test]
    fn the_last_incident_is_the_latest_of_all_nodes_and_a_number_may_need_its_node() {
        let of_node = |node, incidents| NodeIncidents { node, address: format!("n{node}"), incidents };
        let nodes = [of_node(1, vec![kept(7, 10), kept(8, 20)]), of_node(2, vec![kept(1, 30), kept(7, 15)])];
        let chosen = |which: &str| choose(&nodes, which).map(|(node, incident)| (node.node, incident.id));
        assert_eq!(chosen("last"), Ok((2, 1)));
        assert_eq!(chosen("8"), Ok((1, 8)));
        assert_eq!(chosen("2:7"), Ok((2, 7)));
        assert_eq!(
            chosen("7").map_err(|failure| (failure.exit, failure.fix)),
            Err((2, "give one of these: 1:7, 2:7".to_owned()))
        );
        assert_eq!(chosen("9").map_err(|failure| failure.exit), Err(exit::OTHER));
        assert_eq!(chosen("x").map_err(|failure| failure.exit), Err(exit::USAGE));
    }
}
