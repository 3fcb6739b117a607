//! `leader`: who leads, and letting another one lead.

use ractor_raft::rpc::pb::{StatusReply, TransferLeadershipRequest};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    args::LeaderCommand,
    client::{Client, Kind},
    config::ClientSettings,
    error::{Failure, exit},
    member::cluster,
    output::Output,
    status::{LOOK_AGAIN, PATIENCE, Picture, ask_all, nobody_answered},
};

/// Carries it out; returns the exit code.
pub async fn run(command: LeaderCommand, settings: &ClientSettings, output: Output) -> Result<u8, Failure> {
    match command {
        LeaderCommand::Show => {
            let (newest, leader) = newest_and_leader(settings).await?;
            print(&leader.ok_or_else(|| no_leader(&newest))?, &output)
        }
        LeaderCommand::Transfer { id } => transfer(id, settings, &output).await,
    }
}

async fn transfer(to: Option<u64>, settings: &ClientSettings, output: &Output) -> Result<u8, Failure> {
    let (_, before) = newest_and_leader(settings).await?;
    let request = TransferLeadershipRequest { to: to.unwrap_or(0), cluster_id: 0 };
    // To the same one again is no other leader; to whoever is best is.
    let kind = if to.is_some() { Kind::RepeatableOrder } else { Kind::Order };
    let send = |at, request| async move { cluster(at).transfer_leadership(request).await };
    Client::new(settings).call(kind, &request, send).await?;
    let deadline = Instant::now() + settings.timeout;
    loop {
        let (newest, leader) = newest_and_leader(settings).await?;
        let is_other = |leader: &StatusReply| match to {
            Some(to) => leader.id == to,
            None => before.as_ref().is_none_or(|before| before.id != leader.id),
        };
        match leader {
            Some(leader) if is_other(&leader) || Instant::now() >= deadline => return print(&leader, output),
            None if Instant::now() >= deadline => return Err(no_leader(&newest)),
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

#[derive(Serialize)]
struct LeaderLine {
    v: u8,
    id: u64,
    address: String,
    term: u64,
}

fn print(leader: &StatusReply, output: &Output) -> Result<u8, Failure> {
    let StatusReply { id, address, term, .. } = leader.clone();
    if output.json {
        output.object(&LeaderLine { v: 1, id, address, term })?;
    } else {
        output.line(format!("node {id} at {address} leads in term {term}").as_bytes())?;
    }
    Ok(exit::DONE)
}

/// What the endpoint says that knows most, and what the leader says, if there is one: also where it is no endpoint.
pub async fn newest_and_leader(settings: &ClientSettings) -> Result<(StatusReply, Option<StatusReply>), Failure> {
    let deadline = Instant::now() + settings.timeout.min(PATIENCE);
    let mut answers = ask_all(&settings.endpoints, deadline).await;
    if Picture::of(&answers).leader.is_none() {
        let missing = Picture::of(&answers).addresses_to_ask(&answers);
        answers.extend(ask_all(&missing, Instant::now() + settings.timeout.min(PATIENCE)).await);
    }
    let Picture { newest, leader, .. } = Picture::of(&answers);
    let newest = newest.ok_or_else(|| nobody_answered(&answers))?;
    Ok((newest.clone(), leader.cloned()))
}

fn no_leader(newest: &StatusReply) -> Failure {
    let why = format!("node {} has term {}, and nobody says that it leads", newest.id, newest.term);
    let fix = "see with `raftkv status` who can be reached; a majority of the voters has to";
    Failure::new(2, exit::UNAVAILABLE, "there is no leader", why, fix)
}
