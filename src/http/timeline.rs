//! What is worth a line on the Timeline.

use std::time::Duration;

use serde::Serialize;

use crate::{
    flow::Event,
    rpc::pb::{self, event::Event as Word},
};

/// A disk write that took longer than this is worth a line.
const SLOW_WRITE: Duration = Duration::from_millis(100);

/// What sort of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Somebody was elected, or tried.
    Election,
    /// An actor died and was started again.
    Restart,
    /// Who belongs to the cluster changed.
    Membership,
    /// A disk was slow, or has no room.
    Disk,
    /// A snapshot was taken or installed.
    Snapshot,
    /// A node came or went.
    Node,
    /// Somebody broke something on purpose.
    Fault,
    /// What an application has to say.
    Note,
}

/// What is known of a node already, so that what it says first is no news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    role: String,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
}

impl Known {
    /// What its status says.
    pub(super) fn of(status: &pb::StatusReply) -> Self {
        let ids = |members: &[pb::Member]| members.iter().map(|member| member.id).collect();
        Known {
            role: status.role.clone(),
            term: status.term,
            voters: ids(&status.voters),
            learners: ids(&status.learners),
        }
    }

    /// The line for what this node says, if it is worth one and was not known.
    pub(super) fn line(&mut self, id: u64, event: pb::Event) -> Option<(Kind, String)> {
        match event.event? {
            Word::RoleChanged(pb::RoleChanged { role, term, .. }) => {
                if (&role, term) == (&self.role, self.term) {
                    return None;
                }
                (self.role, self.term) = (role, term);
                let text = match &self.role[..] {
                    "leader" => format!("Node {id} won the election and leads term {term}"),
                    "candidate" => format!("Node {id} asks the others for their votes in term {term}"),
                    "pre-candidate" => format!("Node {id} has not heard from a leader in time"),
                    _ => return None,
                };
                Some((Kind::Election, text))
            }
            Word::MembershipChanged(membership) => {
                let ids = |members: &[pb::Member]| members.iter().map(|member| member.id).collect::<Vec<_>>();
                let (voters, learners) = (ids(&membership.voters), ids(&membership.learners));
                if (&voters, &learners) == (&self.voters, &self.learners) {
                    return None;
                }
                let text = match &learners[..] {
                    [] => format!("Voters are now {}, says node {id}", list(&voters)),
                    _ => format!(
                        "Voters are now {}; {} listens and learns, says node {id}",
                        list(&voters),
                        list(&learners)
                    ),
                };
                (self.voters, self.learners) = (voters, learners);
                Some((Kind::Membership, text))
            }
            Word::ActorRestarted(pb::ActorRestarted { path, cause }) => {
                Some((Kind::Restart, format!("In node {id}, {path} died and was started again: {cause}")))
            }
            Word::PeerLostData(peer) => Some((
                Kind::Disk,
                format!("The disk of node {peer} has lost entries that it had acknowledged, says node {id}"),
            )),
            Word::Removed(_) => Some((Kind::Membership, format!("Node {id} was removed"))),
            Word::Wiped(_) => Some((Kind::Disk, format!("The disk of node {id} is another one: it must be replaced"))),
            Word::DiskFull(true) => Some((Kind::Disk, format!("The disk of node {id} has no room"))),
            Word::DiskFull(false) => Some((Kind::Disk, format!("The disk of node {id} has room again"))),
            Word::Stopped(pb::Stopped { cause }) if cause.is_empty() => {
                Some((Kind::Node, format!("Node {id} was told to stop")))
            }
            Word::Stopped(pb::Stopped { cause }) => Some((Kind::Node, format!("Node {id} gave up: {cause}"))),
            Word::SnapshotTaken(index) => {
                Some((Kind::Snapshot, format!("Node {id} put its state up to entry {index} into a snapshot")))
            }
            Word::SnapshotInstalled(index) => {
                Some((Kind::Snapshot, format!("Node {id} was sent a snapshot up to entry {index}")))
            }
        }
    }
}

/// The line for a message, if it was a slow disk write.
pub(super) fn slow_write(id: u64, event: &Event) -> Option<String> {
    let is_slow = &*event.receiver == "log store" && event.message == "Persist" && event.handling >= SLOW_WRITE;
    is_slow.then(|| format!("A disk write of node {id} took {} ms", event.handling.as_millis()))
}

fn list(ids: &[u64]) -> String {
    let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
    match &ids[..] {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}
