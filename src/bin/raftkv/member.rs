//! `member`: who belongs to the cluster, and changes of it.
//!
//! A change is made when the node answers. A server that is to vote first has to catch up; that is watched from here,
//! and goes on by itself when nobody watches.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use ractor_raft::rpc::pb::{
    AddServerRequest, ChangeReply, Membership, PromoteServerRequest, RemoveServerRequest, ReplaceServerRequest,
    StatusReply, cluster_client::ClusterClient,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{
    args::MemberCommand,
    client::{Client, Kind},
    config::{ClientSettings, address},
    error::{Failure, exit},
    leader::newest_and_leader,
    output::{Output, talk},
};

/// Between two looks at how far a server has come.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A server that comes no closer for so long is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(15);

/// Carries it out; returns the exit code.
pub async fn run(command: MemberCommand, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    let mut client = Client::new(settings);
    match command {
        MemberCommand::List => list(settings, &output).await,
        MemberCommand::Add { id, address, learner, no_wait } => {
            let address = routable(&address)?;
            let request = AddServerRequest { id, address: address.clone(), learner, cluster_id: 0 };
            let send = |at, request| async move { cluster(at).add_server(request).await };
            let reply = client.call(Kind::RepeatableOrder, &request, send).await?;
            let wait = !learner && !no_wait;
            let done = Done { verb: "add", id, address: Some(address), reply };
            after(done, wait, settings, &output).await
        }
        MemberCommand::Remove { id } => {
            let send = |at, request| async move { cluster(at).remove_server(request).await };
            let reply = client.call(Kind::RepeatableOrder, &RemoveServerRequest { id, cluster_id: 0 }, send).await?;
            after(Done { verb: "remove", id, address: None, reply }, false, settings, &output).await
        }
        MemberCommand::Promote { id } => {
            let send = |at, request| async move { cluster(at).promote_server(request).await };
            let reply = client.call(Kind::RepeatableOrder, &PromoteServerRequest { id, cluster_id: 0 }, send).await?;
            after(Done { verb: "promote", id, address: None, reply }, false, settings, &output).await
        }
        MemberCommand::Replace { id, address, no_wait } => {
            let address = routable(&address)?;
            let request = ReplaceServerRequest { id, address: address.clone(), cluster_id: 0 };
            let send = |at, request| async move { cluster(at).replace_server(request).await };
            let reply = client.call(Kind::Order, &request, send).await?;
            let done = Done { verb: "replace", id, address: Some(address), reply };
            after(done, !no_wait, settings, &output).await
        }
    }
}

/// The operators' service of one node.
pub fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn routable(text: &str) -> Result<String, Failure> {
    address(text).ok_or_else(|| Failure::bad_setting("address", text, "the command line", "as HOST:PORT"))
}

#[derive(Serialize)]
struct MemberLine {
    v: u8,
    id: u64,
    address: Option<String>,
    /// "voter", "joining" (a learner that is to vote), "learner", "leaving" (votes until the change is done) or "removed".
    kind: &'static str,
    leader: bool,
    /// The last entry that it is known to have, if somebody leads.
    #[serde(rename = "match")]
    match_index: Option<u64>,
    behind: Option<u64>,
    reachable: Option<bool>,
    incarnation: Option<String>,
}

async fn list(settings: &ClientSettings, output: &Output) -> Result<u8, Failure> {
    let (newest, leader) = newest_and_leader(settings).await?;
    let lines = lines(&newest, leader.as_ref());
    if output.json {
        lines.iter().try_for_each(|line| output.object(line))?;
    } else {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let row = |line: &MemberLine| {
            let kind = if line.leader { "leader" } else { line.kind };
            let reachable = line.reachable.map_or("-", |reachable| if reachable { "yes" } else { "no" });
            let (behind, disk) = (number(line.behind), text(&line.incarnation));
            vec![line.id.to_string(), text(&line.address), kind.to_owned(), reachable.to_owned(), behind, disk]
        };
        let head = ["ID", "ADDRESS", "KIND", "REACHED", "BEHIND", "DISK"];
        output.table(&head, lines.iter().map(row).collect())?;
        if newest.membership.as_ref().is_some_and(|membership| !membership.outgoing.is_empty()) {
            talk("a change of the membership is under way");
        }
    }
    Ok(if leader.is_some() { exit::DONE } else { exit::UNHEALTHY })
}

fn lines(newest: &StatusReply, leader: Option<&StatusReply>) -> Vec<MemberLine> {
    let membership = newest.membership.clone().unwrap_or_default();
    let known = |id| membership.incarnations.iter().find(|known| known.id == id);
    let line = |id, address: Option<String>, kind| {
        let leads = leader.is_some_and(|leader| leader.id == id);
        let progress = leader.and_then(|leader| progress(leader, id));
        MemberLine {
            v: 1,
            id,
            address,
            kind,
            leader: leads,
            match_index: progress.map(|(match_index, ..)| match_index),
            behind: progress.map(|(_, behind, _)| behind),
            reachable: progress.map(|(.., reachable)| reachable),
            incarnation: known(id).map(|known| format!("{:016x}", known.incarnation)),
        }
    };
    let mut lines = Vec::new();
    for member in &membership.voters {
        lines.push(line(member.id, Some(member.address.clone()), "voter"));
    }
    for member in &membership.learners {
        let kind = if membership.staged.contains(&member.id) { "joining" } else { "learner" };
        lines.push(line(member.id, Some(member.address.clone()), kind));
    }
    for member in &membership.outgoing {
        if !lines.iter().any(|line| line.id == member.id) {
            lines.push(line(member.id, Some(member.address.clone()), "leaving"));
        }
    }
    lines.extend(membership.removed.iter().map(|id| line(*id, None, "removed")));
    lines.sort_by_key(|line| line.id);
    lines
}

/// What a server has of the leader's log, how much it lacks, and whether it is reached.
fn progress(leader: &StatusReply, id: u64) -> Option<(u64, u64, bool)> {
    if leader.id == id {
        return Some((leader.last, 0, true));
    }
    let peer = leader.peers.iter().find(|peer| peer.id == id)?;
    Some((peer.match_index, leader.last.saturating_sub(peer.match_index), peer.reachable))
}

/// A change that was made.
struct Done {
    verb: &'static str,
    id: u64,
    address: Option<String>,
    reply: ChangeReply,
}

#[derive(Serialize)]
struct ChangeLine {
    v: u8,
    change: &'static str,
    id: u64,
    address: Option<String>,
    index: u64,
    /// As in `member list`.
    kind: &'static str,
}

async fn after(done: Done, wait: bool, settings: &ClientSettings, output: &Output) -> Result<u8, Failure> {
    let Done { verb, id, address, reply } = done;
    let kind = match (verb, wait) {
        ("remove", _) => "removed",
        (_, true) => catch_up(id, settings).await?,
        _ => {
            let (newest, _) = newest_and_leader(settings).await?;
            kind_of(&newest.membership.unwrap_or_default(), id)
        }
    };
    if output.json {
        output.object(&ChangeLine { v: 1, change: verb, id, address, index: reply.index, kind })?;
    } else {
        let line = match kind {
            "voter" => format!("node {id} is a voter"),
            "removed" => format!("node {id} is removed; its id is never used again"),
            "joining" => format!("node {id} is a learner, and votes as soon as it has caught up"),
            _ => format!("node {id} is a learner"),
        };
        output.line(line.as_bytes())?;
    }
    Ok(exit::DONE)
}

fn kind_of(membership: &Membership, id: u64) -> &'static str {
    if membership.voters.iter().any(|voter| voter.id == id) {
        "voter"
    } else if membership.staged.contains(&id) {
        "joining"
    } else if membership.removed.contains(&id) {
        "removed"
    } else {
        "learner"
    }
}

/// Waits until it votes, and shows how far it is where somebody looks.
async fn catch_up(id: u64, settings: &ClientSettings) -> Result<&'static str, Failure> {
    let patience = settings.timeout.max(PATIENCE);
    let (mut closest, mut progressed) = (0, Instant::now());
    let mut shown = Shown(std::io::stderr().is_terminal());
    loop {
        let statuses = newest_and_leader(settings).await;
        if let Ok((_, Some(leader))) = &statuses {
            let membership = leader.membership.clone().unwrap_or_default();
            let kind = kind_of(&membership, id);
            // A learner that was one before it was replaced stays one.
            if kind != "joining" && membership.outgoing.is_empty() {
                return Ok(kind);
            }
            if let Some((match_index, behind, reachable)) = progress(leader, id) {
                if match_index > closest {
                    (closest, progressed) = (match_index, Instant::now());
                }
                let reached = if reachable { "" } else { "; it is not reached, start it with --join" };
                shown.show(&format!("node {id} is {behind} entries behind{reached}"));
            }
        }
        if progressed.elapsed() >= patience {
            return Err(not_caught_up(id, closest, patience));
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn not_caught_up(id: u64, match_index: u64, patience: Duration) -> Failure {
    Failure::new(
        10,
        exit::UNHEALTHY,
        format!("node {id} has not caught up, and came no closer for {patience:?}"),
        format!(
            "it has the log up to entry {match_index}; it belongs to the cluster, and votes as soon as it has caught up"
        ),
        format!(
            "start node {id} with --join if it is not running, and see its log; `raftkv member list` shows how far it is"
        ),
    )
}

/// A line that is written over, on a terminal only.
struct Shown(bool);

impl Shown {
    fn show(&mut self, text: &str) {
        if self.0 {
            // Where stderr is closed, nobody wants to see it.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use ractor_raft::rpc::pb::{Member, PeerStatus};

    use super::*;

    // Fails when: a server in two places of a joint configuration is listed twice, or not by what it becomes.
    #[test]
    fn every_server_is_listed_once_with_what_it_is() {
        let members = |ids: &[u64]| ids.iter().map(|id| Member { id: *id, address: format!("n{id}:1") }).collect();
        let membership = Membership {
            voters: members(&[1, 2]),
            outgoing: members(&[1, 2, 3, 4]),
            learners: members(&[3, 5]),
            staged: vec![3],
            removed: vec![9],
            incarnations: vec![],
            unsettled: vec![],
        };
        let peers = vec![PeerStatus { id: 2, match_index: 7, reachable: true }];
        let status = StatusReply { id: 1, last: 10, membership: Some(membership), peers, ..StatusReply::default() };
        let lines = lines(&status, Some(&status));
        let kinds: Vec<_> = lines.iter().map(|line| (line.id, line.kind, line.behind)).collect();
        let expected = [
            (1, "voter", Some(0)),
            (2, "voter", Some(3)),
            (3, "joining", None),
            (4, "leaving", None),
            (5, "learner", None),
            (9, "removed", None),
        ];
        assert_eq!(kinds, expected);
    }
}
