//! `status`: one line for each node of the cluster, reachable or not.
//!
//! The endpoints are asked all at once; members that none of them turned out to be are asked at their own addresses. An
//! endpoint that does not answer and is no member's address is only mentioned, unless nobody answers at all. Whoever
//! answers and is no member has a line of its own, which says so.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ractor_raft::rpc::pb::{StatusReply, StatusRequest, cluster_client::ClusterClient};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    again,
    client::connect,
    config::ClientSettings,
    error::{Failure, exit},
    output::{Output, talk},
};

mod picture;

pub use picture::Picture;

/// A node that has not answered by then is called unreachable, so that one dead node does not take the whole timeout.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at something that changes.
pub const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One node, as far as it is known. The order of the fields is that of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NodeLine {
    v: u8,
    id: Option<u64>,
    address: String,
    reachable: bool,
    role: Option<String>,
    term: Option<u64>,
    leader: Option<u64>,
    commit: Option<u64>,
    applied: Option<u64>,
    last: Option<u64>,
    snapshot: Option<u64>,
    voters: Option<Vec<u64>>,
    learners: Option<Vec<u64>>,
    restarts: Option<u64>,
    /// What keeps it from its work, where something does: "disk full", "removed", "wiped".
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// It is not the member that has this id, and why: "R004" (of another cluster), "R007" (another disk).
    #[serde(skip_serializing_if = "Option::is_none")]
    stranger: Option<&'static str>,
}

type Answer = Result<StatusReply, String>;

/// Prints it, once or again and again; returns the exit code.
pub async fn run(watch: bool, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    if watch {
        return again::and_again(async || ask_everyone(settings).await, |answers| show(&answers, &output)).await;
    }
    show(&ask_everyone(settings).await, &output)
}

/// The endpoints, and the members that none of them turned out to be.
async fn ask_everyone(settings: &ClientSettings) -> BTreeMap<String, Answer> {
    let deadline = Instant::now() + settings.timeout.min(PATIENCE);
    let mut answers = ask_all(&settings.endpoints, deadline).await;
    if answers.values().any(Result::is_ok) {
        let missing = Picture::of(&answers).addresses_to_ask(&answers);
        let deadline = deadline.max(Instant::now() + Duration::from_millis(500));
        answers.extend(ask_all(&missing, deadline).await);
    }
    answers
}

fn show(answers: &BTreeMap<String, Answer>, output: &Output) -> Result<u8, Failure> {
    if answers.values().all(Result::is_err) {
        for (endpoint, _) in answers.iter().filter(|_| output.json) {
            output.object(&unreachable(None, endpoint))?;
        }
        return Err(nobody_answered(answers));
    }
    let picture = Picture::of(answers);
    let lines = lines(&picture);
    if output.json {
        lines.iter().try_for_each(|line| output.object(line))?;
    } else {
        print_table(output, &lines, &picture)?;
    }
    for reply in picture.places.values().filter_map(|(_, reply)| *reply) {
        if let Some(text) = in_words(reply) {
            talk(&text);
        }
    }
    in_the_wrong_place(&picture).iter().for_each(|text| talk(text));
    for (endpoint, answer) in answers {
        if let Err(cause) = answer {
            talk(&format!("{endpoint} cannot be reached: {cause}"));
        }
    }
    let healthy = picture.leader.is_some() && !voters(&picture).any(|id| is_wiped(&picture, id));
    Ok(if healthy { exit::DONE } else { exit::UNHEALTHY })
}

/// Asks all at once.
pub async fn ask_all(addresses: &[String], deadline: Instant) -> BTreeMap<String, Answer> {
    let asked = addresses.iter().map(async |address| (address.clone(), ask(address, deadline).await));
    join_all(asked).await.into_iter().collect()
}

async fn ask(address: &str, deadline: Instant) -> Answer {
    let channel = connect(address, deadline).await?;
    let mut client = ClusterClient::new(channel);
    match timeout_at(deadline, client.status(StatusRequest {})).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// By rising id: who answered, and which members did not; then those who are no members.
fn lines(picture: &Picture<'_>) -> Vec<NodeLine> {
    let line = |(id, (address, reply)): (&u64, &(String, Option<&StatusReply>))| match reply {
        Some(reply) => reachable(reply),
        None => unreachable(Some(*id), address),
    };
    let stranger = |(code, asked, reply): &(&'static str, &str, &StatusReply)| NodeLine {
        stranger: Some(code),
        address: (*asked).to_owned(),
        ..reachable(reply)
    };
    picture.places.iter().map(line).chain(picture.strangers.iter().map(stranger)).collect()
}

fn reachable(reply: &StatusReply) -> NodeLine {
    let ids = |members: &[ractor_raft::rpc::pb::Member]| Some(members.iter().map(|member| member.id).collect());
    NodeLine {
        v: 1,
        id: Some(reply.id),
        address: reply.address.clone(),
        reachable: true,
        role: Some(reply.role.clone()),
        term: Some(reply.term),
        leader: (reply.leader != 0).then_some(reply.leader),
        commit: Some(reply.commit),
        applied: Some(reply.applied),
        last: Some(reply.last),
        snapshot: Some(reply.snapshot),
        voters: ids(&reply.voters),
        learners: ids(&reply.learners),
        restarts: Some(reply.restarts),
        trouble: (!reply.trouble.is_empty()).then(|| reply.trouble.clone()),
        stranger: None,
    }
}

fn unreachable(id: Option<u64>, address: &str) -> NodeLine {
    NodeLine {
        v: 1,
        id,
        address: address.to_owned(),
        reachable: false,
        role: None,
        term: None,
        leader: None,
        commit: None,
        applied: None,
        last: None,
        snapshot: None,
        voters: None,
        learners: None,
        restarts: None,
        trouble: None,
        stranger: None,
    }
}

fn print_table(output: &Output, lines: &[NodeLine], picture: &Picture<'_>) -> Result<(), Failure> {
    let leader = picture.leader.map(reachable);
    let leader = leader.as_ref();
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let row = |line: &NodeLine| {
        let lag =
            leader.filter(|_| line.stranger.is_none()).and_then(|leader| Some(leader.last?.saturating_sub(line.last?)));
        vec![
            number(line.id),
            line.address.clone(),
            role(line, leader),
            number(line.term),
            number(line.leader),
            number(line.commit),
            number(line.applied),
            number(line.last),
            number(lag),
            number(line.restarts),
        ]
    };
    let head = ["ID", "ADDRESS", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "LAST", "BEHIND", "RESTARTS"];
    output.table(&head, lines.iter().map(row).collect())?;
    talk(&summary(picture));
    Ok(())
}

/// What it is, and what keeps it from that.
fn role(line: &NodeLine, leader: Option<&NodeLine>) -> String {
    let among = |ids: &Option<Vec<u64>>| line.id.is_some_and(|id| ids.as_ref().is_some_and(|ids| ids.contains(&id)));
    let learner = leader.is_some_and(|leader| among(&leader.learners));
    let role = match &line.role {
        Some(role) if role == "follower" && learner => "learner",
        Some(role) => role,
        None => "unreachable",
    };
    if let Some(code) = line.stranger {
        return format!("stranger ({code})");
    }
    match &line.trouble {
        Some(trouble) => format!("{role} ({trouble})"),
        None => role.to_owned(),
    }
}

/// How many more nodes may fail.
fn summary(picture: &Picture<'_>) -> String {
    let count = voters(picture).count();
    let down: Vec<_> = voters(picture).filter_map(|id| Some(format!("node {id} {}", why_down(picture, id)?))).collect();
    let (up, needed) = (count - down.len(), count / 2 + 1);
    let leads = match picture.leader {
        Some(leader) => format!("node {} leads", leader.id),
        None => "nobody leads".to_owned(),
    };
    let down = if down.is_empty() { String::new() } else { format!(": {}", down.join(", ")) };
    match up.checked_sub(needed) {
        Some(_) if picture.leader.is_none() => {
            let fix = "if it lasts, they do not reach each other: see their logs";
            format!("{leads}; {up} of {count} voters answer{down}; {fix}")
        }
        Some(0) => format!("{leads}; {up} of {count} voters are up, and none may fail now{down}"),
        Some(spare) => format!("{leads}; {up} of {count} voters are up, {spare} may fail{down}"),
        None => format!("{leads}; {up} of {count} voters are up, {needed} are needed{down}"),
    }
}

fn voters(picture: &Picture<'_>) -> impl Iterator<Item = u64> {
    picture.newest.into_iter().flat_map(|reply| &reply.voters).map(|voter| voter.id)
}

/// What keeps a voter from taking part. `None`: nothing that is known.
fn why_down(picture: &Picture<'_>, id: u64) -> Option<&'static str> {
    let Some(reply) = picture.places.get(&id).and_then(|(_, reply)| *reply) else { return Some("cannot be reached") };
    match reply.trouble.as_str() {
        "wiped" => return Some("has another disk than the cluster knows"),
        "removed" => return Some("was removed"),
        _ => {}
    }
    let leader = picture.leader.filter(|leader| leader.id != id)?;
    let reached = leader.peers.iter().any(|peer| peer.id == id && peer.reachable);
    (!reached).then_some("is not reached by the leader")
}

fn is_wiped(picture: &Picture<'_>, id: u64) -> bool {
    picture.places.get(&id).and_then(|(_, reply)| *reply).is_some_and(|reply| reply.trouble == "wiped")
}

/// Who answers where a member should, or in its name.
fn in_the_wrong_place(picture: &Picture<'_>) -> Vec<String> {
    let stranger = |(code, asked, reply): &(&'static str, &str, &StatusReply)| match *code {
        "R004" => format!(
            "R004: node {} at {asked} is of another cluster, {:016x}; correct the address, or stop it",
            reply.id, reply.cluster_id
        ),
        _ => format!(
            "{code}: what answers at {asked} is not node {} as the cluster knows it: it has another disk; if that one was \
             replaced, stop it and discard its directory",
            reply.id
        ),
    };
    let swapped = |(id, asked, reply): &(u64, &str, &StatusReply)| {
        format!("R005: {asked} is the address of node {id}, and node {} answers there; correct one of them", reply.id)
    };
    picture.strangers.iter().map(stranger).chain(picture.swapped.iter().map(swapped)).collect()
}

/// What an operator has to do about a node, if anything.
fn in_words(reply: &StatusReply) -> Option<String> {
    let id = reply.id;
    match reply.trouble.as_str() {
        "disk full" => Some(format!("R016: the disk of node {id} is full; make room, and it goes on by itself")),
        "removed" => Some(format!("R008: node {id} was removed from the cluster; stop it")),
        "wiped" => Some(format!(
            "R007: the cluster knows node {id} by another disk; if it was started from a directory that was replaced, stop \
             it and discard that directory; if its disk was lost or exchanged: raftkv member replace {id} {}",
            reply.address
        )),
        _ => None,
    }
}

/// R002.
pub fn nobody_answered(answers: &BTreeMap<String, Answer>) -> Failure {
    let cause = |(endpoint, answer): (&String, &Answer)| {
        answer.as_ref().err().map(|cause| format!("{endpoint}: {cause}")).unwrap_or_default()
    };
    Failure::new(
        2,
        exit::UNAVAILABLE,
        "no endpoint can be reached",
        answers.iter().map(cause).collect::<Vec<_>>().join("; "),
        "start the nodes (raftkv serve), or say with --endpoints where they are",
    )
}
