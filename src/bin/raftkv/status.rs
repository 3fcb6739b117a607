//! `status`: one line for each node of the cluster, reachable or not.
//!
//! The endpoints are asked all at once; members that none of them turned out to be are asked at their own addresses. An
//! endpoint that does not answer and is no member's address is only mentioned, unless nobody answers at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use ractor_raft::rpc::pb::{StatusReply, StatusRequest, cluster_client::ClusterClient};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::connect,
    config::ClientSettings,
    error::{Failure, exit},
    output::{Output, talk},
};

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
}

type Answer = Result<StatusReply, String>;

/// Prints it; returns the exit code.
pub async fn run(settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    let deadline = Instant::now() + settings.timeout.min(PATIENCE);
    let mut answers = ask_all(&settings.endpoints, deadline).await;
    if answers.values().all(Result::is_err) {
        for (endpoint, _) in answers.iter().filter(|_| output.json) {
            output.object(&unreachable(None, endpoint))?;
        }
        return Err(nobody_answered(&answers));
    }
    let missing = addresses_of_missing_members(&answers);
    let deadline = deadline.max(Instant::now() + Duration::from_millis(500));
    for (address, answer) in ask_all(&missing, deadline).await {
        answers.insert(address, answer);
    }
    let lines = lines(&answers);
    if output.json {
        lines.iter().try_for_each(|line| output.object(line))?;
    } else {
        print_table(&output, &lines, &answers)?;
    }
    for reply in answers.values().flatten() {
        if let Some(text) = in_words(reply) {
            talk(&text);
        }
    }
    for (endpoint, answer) in &answers {
        if let Err(cause) = answer {
            talk(&format!("{endpoint} cannot be reached: {cause}"));
        }
    }
    Ok(if leads(&lines).is_some() { exit::DONE } else { exit::UNHEALTHY })
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

/// Members as the node with the highest commit index knows them: the others may lag.
pub fn members(answers: &BTreeMap<String, Answer>) -> BTreeMap<u64, String> {
    let newest = answers.values().flatten().max_by_key(|reply| reply.commit);
    let members = newest.into_iter().flat_map(|reply| reply.voters.iter().chain(&reply.learners));
    members.map(|member| (member.id, member.address.clone())).collect()
}

fn addresses_of_missing_members(answers: &BTreeMap<String, Answer>) -> Vec<String> {
    let found = answers.values().flatten().map(|reply| reply.id).collect::<BTreeSet<_>>();
    let missing = members(answers).into_iter().filter(|(id, _)| !found.contains(id)).map(|(_, address)| address);
    missing.filter(|address| !answers.contains_key(address)).collect()
}

/// By rising id: who answered, and which members did not.
fn lines(answers: &BTreeMap<String, Answer>) -> Vec<NodeLine> {
    let mut lines = members(answers).into_iter().map(|(id, address)| (id, unreachable(Some(id), &address))).collect();
    let lines: &mut BTreeMap<u64, NodeLine> = &mut lines;
    for reply in answers.values().flatten() {
        lines.insert(reply.id, reachable(reply));
    }
    lines.values().cloned().collect()
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
    }
}

/// Who leads, as it says itself: the one of the highest term, if two do.
fn leads(lines: &[NodeLine]) -> Option<&NodeLine> {
    lines.iter().filter(|line| line.role.as_deref() == Some("leader")).max_by_key(|line| line.term)
}

fn print_table(output: &Output, lines: &[NodeLine], answers: &BTreeMap<String, Answer>) -> Result<(), Failure> {
    let leader = leads(lines);
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let row = |line: &NodeLine| {
        let lag = leader.and_then(|leader| Some(leader.last?.saturating_sub(line.last?)));
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
    talk(&summary(lines, leader, answers));
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
    match &line.trouble {
        Some(trouble) => format!("{role} ({trouble})"),
        None => role.to_owned(),
    }
}

/// How many more nodes may fail. A voter counts if it answered.
fn summary(lines: &[NodeLine], leader: Option<&NodeLine>, answers: &BTreeMap<String, Answer>) -> String {
    let newest = answers.values().flatten().max_by_key(|reply| reply.commit);
    let voters = newest.map_or(0, |reply| reply.voters.len());
    let is_voter = |id: u64| newest.is_some_and(|reply| reply.voters.iter().any(|voter| voter.id == id));
    let up = lines.iter().filter(|line| line.reachable && line.id.is_some_and(is_voter)).count();
    let needed = voters / 2 + 1;
    let leads = match leader.and_then(|leader| leader.id) {
        Some(id) => format!("node {id} leads"),
        None => "nobody leads".to_owned(),
    };
    match up.checked_sub(needed) {
        Some(0) => format!("{leads}; {up} of {voters} voters are up, and none may fail now"),
        Some(spare) => format!("{leads}; {up} of {voters} voters are up, {spare} may fail"),
        None => format!("{leads}; {up} of {voters} voters are up, {needed} are needed"),
    }
}

/// What an operator has to do about a node, if anything.
fn in_words(reply: &StatusReply) -> Option<String> {
    let id = reply.id;
    match reply.trouble.as_str() {
        "disk full" => Some(format!("R016: the disk of node {id} is full; make room, and it goes on by itself")),
        "removed" => Some(format!("R008: node {id} was removed from the cluster; stop it")),
        "wiped" => Some(format!(
            "R007: the disk of node {id} was wiped; put its former data directory back, or: raftkv member replace {id} {}",
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
