//! Entries of the log and the memberships in them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Malformed, counted, number, pb};
use crate::raft::{Address, Entry, Incarnation, LogPosition, Membership, NodeId, Payload, SessionCommand, Term};

/// Entries behind `prev`, without gaps, of rising terms up to the leader's.
pub(super) fn entries_from_pb(
    prev: LogPosition,
    leader_term: Term,
    entries: Vec<pb::Entry>,
) -> Result<Vec<Entry>, Malformed> {
    let mut last = prev;
    let mut converted = Vec::with_capacity(entries.len());
    for (place, entry) in entries.into_iter().enumerate() {
        let entry =
            entry_from_pb(last, leader_term, entry).map_err(|error| error.within(format_args!("entries[{place}]")))?;
        last = entry.position();
        converted.push(entry);
    }
    Ok(converted)
}

fn entry_from_pb(last: LogPosition, leader_term: Term, entry: pb::Entry) -> Result<Entry, Malformed> {
    let index = counted("index", entry.index)?;
    // `last.index` is at most LARGEST, so that one more is no overflow.
    if index != last.index + 1 {
        return Err(Malformed::new("index", format!("is {index}, and {} comes before it", last.index)));
    }
    let term = counted("term", entry.term)?;
    if term < last.term || term > leader_term {
        let problem =
            format!("is {term}, not between the entry before it ({}) and the leader's ({leader_term})", last.term);
        return Err(Malformed::new("term", problem));
    }
    let payload = match entry.payload {
        Some(pb::entry::Payload::Noop(true)) => Payload::Noop,
        Some(pb::entry::Payload::Noop(false)) => return Err(Malformed::new("noop", "is false")),
        Some(pb::entry::Payload::Command(command)) => Payload::Command(Bytes::copy_from_slice(&command)),
        Some(pb::entry::Payload::OpenSession(true)) => Payload::OpenSession,
        Some(pb::entry::Payload::OpenSession(false)) => return Err(Malformed::new("open_session", "is false")),
        Some(pb::entry::Payload::SessionCommand(call)) => {
            let within = |error: Malformed| error.within("session_command");
            Payload::SessionCommand(SessionCommand {
                session: counted("session", call.session).map_err(within)?,
                sequence: counted("sequence", call.sequence).map_err(within)?,
                first_unanswered: number("first_unanswered", call.first_unanswered).map_err(within)?,
                command: Bytes::copy_from_slice(&call.command),
            })
        }
        Some(pb::entry::Payload::Membership(membership)) => {
            let membership = membership_from_pb(membership).map_err(|error| error.within("membership"))?;
            Payload::Membership(membership.into())
        }
        None => return Err(Malformed::new("payload", "is missing")),
    };
    Ok(Entry { index, term, payload })
}

pub(super) fn entry_to_pb(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        Payload::Noop => pb::entry::Payload::Noop(true),
        Payload::Command(command) => pb::entry::Payload::Command(command),
        Payload::OpenSession => pb::entry::Payload::OpenSession(true),
        Payload::SessionCommand(call) => pb::entry::Payload::SessionCommand(pb::SessionCommand {
            session: call.session,
            sequence: call.sequence,
            first_unanswered: call.first_unanswered,
            command: call.command,
        }),
        Payload::Membership(membership) => pb::entry::Payload::Membership(membership_to_pb(&membership)),
    };
    pb::Entry { index: entry.index, term: entry.term, payload: Some(payload) }
}

/// One that cannot be is refused: a log with it would stop the node, or elect two leaders.
pub(super) fn membership_from_pb(membership: pb::Membership) -> Result<Membership, Malformed> {
    if membership.voters.is_empty() {
        return Err(Malformed::new("voters", "is empty"));
    }
    any_membership_from_pb(membership)
}

/// Also the empty one of a node that waits to be added.
pub(super) fn any_membership_from_pb(membership: pb::Membership) -> Result<Membership, Malformed> {
    let voters = members_from_pb("voters", membership.voters)?;
    let outgoing = members_from_pb("outgoing", membership.outgoing)?;
    let learners = members_from_pb("learners", membership.learners)?;
    if let Some(id) = learners.keys().find(|id| voters.contains_key(id)) {
        return Err(Malformed::new("learners", format!("has node {id}, which is also a voter")));
    }
    let staged = ids_from_pb("staged", membership.staged)?;
    if let Some(id) = staged.iter().find(|id| !learners.contains_key(id)) {
        return Err(Malformed::new("staged", format!("has node {id}, which is no learner")));
    }
    let removed = ids_from_pb("removed", membership.removed)?;
    if let Some(id) = removed.iter().find(|id| voters.contains_key(id) || learners.contains_key(id)) {
        return Err(Malformed::new("removed", format!("has node {id}, which belongs to the cluster")));
    }
    let mut incarnations = BTreeMap::new();
    for (place, known) in membership.incarnations.into_iter().enumerate() {
        let within = |error: Malformed| error.within(format_args!("incarnations[{place}]"));
        let id = counted("id", known.id).map_err(within)?;
        if known.incarnation == 0 {
            return Err(within(Malformed::new("incarnation", "is 0")));
        }
        if incarnations.insert(id, known.incarnation).is_some() {
            return Err(Malformed::new("incarnations", format!("has node {id} twice")));
        }
    }
    let unsettled = ids_from_pb("unsettled", membership.unsettled)?;
    if let Some(id) = unsettled.iter().find(|id| !incarnations.contains_key(id)) {
        return Err(Malformed::new("unsettled", format!("has node {id}, whose disk is not in incarnations")));
    }
    Ok(Membership { voters, outgoing, learners, staged, removed, incarnations, unsettled })
}

pub(super) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let known = |(id, incarnation): (&NodeId, &Incarnation)| pb::Incarnation { id: *id, incarnation: *incarnation };
    pb::Membership {
        voters: members_to_pb(&membership.voters),
        learners: members_to_pb(&membership.learners),
        outgoing: members_to_pb(&membership.outgoing),
        staged: membership.staged.iter().copied().collect(),
        removed: membership.removed.iter().copied().collect(),
        incarnations: membership.incarnations.iter().map(known).collect(),
        unsettled: membership.unsettled.iter().copied().collect(),
    }
}

fn ids_from_pb(field: &str, ids: Vec<NodeId>) -> Result<BTreeSet<NodeId>, Malformed> {
    let mut converted = BTreeSet::new();
    for (place, id) in ids.into_iter().enumerate() {
        if !converted.insert(counted(&format!("{field}[{place}]"), id)?) {
            return Err(Malformed::new(field, format!("has node {id} twice")));
        }
    }
    Ok(converted)
}

pub(super) fn members_from_pb(field: &str, members: Vec<pb::Member>) -> Result<BTreeMap<NodeId, Address>, Malformed> {
    let mut converted = BTreeMap::new();
    for (place, member) in members.into_iter().enumerate() {
        let id = counted("id", member.id).map_err(|error| error.within(format_args!("{field}[{place}]")))?;
        if converted.insert(id, member.address).is_some() {
            return Err(Malformed::new(field, format!("has node {id} twice")));
        }
    }
    Ok(converted)
}

pub(super) fn members_to_pb(members: &BTreeMap<NodeId, Address>) -> Vec<pb::Member> {
    members.iter().map(|(id, address)| pb::Member { id: *id, address: address.clone() }).collect()
}
