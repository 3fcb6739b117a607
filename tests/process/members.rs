//! Servers that come, go, lose their disks and fill them, with the command line of an operator.

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    command_line::run,
    server::{PATIENCE, free_address},
    valve::Valve,
    witness::Witness,
};

/// The lines of `member list`, by rising id.
async fn members(endpoints: &str) -> Vec<Value> {
    run(endpoints, &["member", "list", "-o", "json"]).await.json()
}

async fn is(endpoints: &str, id: u64, kind: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = members(endpoints).await;
        if members.iter().any(|member| member["id"] == id && member["kind"] == kind) {
            return;
        }
        assert!(Instant::now() < deadline, "node {id} is no {kind}: {members:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// The log knows whose disk is whose: from then on a wiped one is noticed.
async fn disks_are_known(endpoints: &str) {
    let deadline = Instant::now() + PATIENCE;
    while members(endpoints).await.iter().any(|member| member["incarnation"].is_null()) {
        assert!(Instant::now() < deadline, "not all disks are known");
        sleep(LOOK_AGAIN).await;
    }
}

/// Fails when: `--join` does not ask to be added, a second start asks again, or `member` says something else than is true.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_joins_leads_and_is_removed_by_the_command_line() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let all = cluster.endpoints();
    client::put(&leader.address, "before", "it joined").await.expect("there is a leader");

    let command = cluster.serve_joining(4);
    cluster.spawn(4, command);
    assert!(cluster.servers[&4].is_ready().await, "it joins by itself");
    let address = cluster.addresses[&4].clone();
    // What it has done by itself is no error to ask for; and here it is waited for.
    let added = run(&all, &["member", "add", "4", &address, "-o", "json"]).await.exits_with(0).json();
    let index = added[0]["index"].clone();
    assert_eq!(added, [json!({"v": 1, "change": "add", "id": 4, "address": address, "index": index, "kind": "voter"})]);
    let leading = cluster.leader().await;
    let own = [&leading.id.to_string(), &leading.address];
    let refused = run(&all, &["member", "replace", own[0], own[1]]).await.exits_with(1).stderr;
    assert!(refused.contains("error[R020]") && refused.contains("`raftkv leader transfer`"), "{refused}");
    run(&all, &["member", "add", "40", "127.0.0.1:40", "--learner"]).await.exits_with(0);
    let refused = run(&all, &["leader", "transfer", "40"]).await.exits_with(1).stderr;
    assert!(refused.contains("error[R020]") && refused.contains("node 40 does not vote"), "{refused}");
    run(&all, &["member", "remove", "40"]).await.exits_with(0);
    let transferred = run(&all, &["leader", "transfer", "4", "-o", "json"]).await.exits_with(0).json();
    assert_eq!((&transferred[0]["id"], &transferred[0]["address"]), (&json!(4), &json!(address)));
    // Of one that is not among the endpoints.
    let shown = run(&all, &["leader", "show", "-o", "json"]).await.exits_with(0).json();
    assert_eq!(shown, transferred);

    // At another address than the cluster has for it.
    cluster.kill(4).await;
    let moved = free_address();
    cluster.addresses.insert(4, moved.clone());
    let command = cluster.serve_joining(4);
    cluster.spawn(4, command);
    assert!(cluster.servers[&4].says(&format!("member replace 4 {moved}")).await, "it is told");
    cluster.addresses.insert(4, address.clone());

    // A second start needs nobody to join.
    cluster.kill(4).await;
    let command = cluster.serve_joining(4);
    cluster.spawn(4, command);
    assert!(cluster.servers[&4].is_ready().await);
    let written = client::put_somewhere(cluster.addresses.values(), "after", "it came back").await;
    client::has_applied(&address, written).await;

    let refused = run(&all, &["member", "add", "5", &address]).await.exits_with(1);
    assert!(refused.stderr.contains("error[R020]") && refused.stderr.contains("node 4"), "{}", refused.stderr);
    let refused = run(&all, &["member", "add", "5", "0.0.0.0:1"]).await.exits_with(2);
    assert!(refused.stderr.contains("error[R012]"), "{}", refused.stderr);
    run(&all, &["member", "add", "5", "nowhere"]).await.exits_with(2);

    let removed = run(&all, &["member", "remove", "4", "-o", "json"]).await.exits_with(0).json();
    assert_eq!((&removed[0]["kind"], &removed[0]["id"]), (&json!("removed"), &json!(4)));
    run(&all, &["member", "remove", "4"]).await.exits_with(0);
    assert!(cluster.servers[&4].says("R008").await, "it is told");
    let status = client::status(&address).await.expect("it is up");
    assert_eq!(status.trouble, "removed");
    let refused = run(&all, &["member", "add", "4", &address]).await.exits_with(1);
    assert!(refused.stderr.contains("error[R008]"), "{}", refused.stderr);
    let kinds: Vec<_> = members(&all).await.iter().map(|line| (line["id"].clone(), line["kind"].clone())).collect();
    assert_eq!(kinds[3], (json!(4), json!("removed")));

    // As long as it knows who leads, because that one still tells it of its removal, it passes on what it is asked.
    cluster.kill(4).await;
    let command = cluster.serve_joining(4);
    cluster.spawn(4, command);
    assert!(cluster.servers[&4].is_ready().await);
    assert!(cluster.servers[&4].says("R008").await, "it is told again");
    let answered = run(&address, &["put", "key", "value", "--timeout", "2s"]).await;
    if answered.exit != 0 {
        let refused = answered.exits_with(3).stderr;
        assert!(refused.contains("error[R008]"), "{refused}");
    }

    cluster.kill(4).await;
    std::fs::remove_dir_all(cluster.data(4)).expect("it is there");
    let command = cluster.serve_joining(4);
    cluster.spawn(4, command);
    let mut server = cluster.servers.remove(&4).expect("just started");
    server.ends_with(1, &["error[R008]"]).await;
    cluster.addresses.remove(&4);
    cluster.agree().await;
}

/// Fails when: an order is made as a read is, which says "not done" when nobody answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_is_lost_is_in_doubt() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let valve = Valve::towards(&leader.address).await;
    valve.close();
    let removed = (leader.id % 3 + 1).to_string();
    let lost = run(&valve.address, &["member", "remove", &removed, "--timeout", "1s"]).await.exits_with(7).stderr;
    assert!(lost.contains("error[R014]") && lost.contains("does no harm"), "{lost}");
    is(&leader.address, leader.id % 3 + 1, "removed").await;
    let lost = run(&valve.address, &["put", "key", "value", "--timeout", "300ms"]).await.exits_with(3).stderr;
    assert!(lost.contains("error[R002]") && !lost.contains("a read that"), "{lost}");
}

/// M06. Fails when: a wiped disk is taken for the one before, or a replaced one is not taken in; or an order waits at a node that
/// will never know a leader until there is no time left to ask another.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_is_refused_and_then_replaced() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let all = cluster.endpoints();
    disks_are_known(&all).await;
    let witness = Witness::of(&cluster.addresses);
    let wiped = leader.id % 3 + 1;
    let written = client::put(&leader.address, "key", "value").await.expect("there is a leader");
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).expect("it is there");

    // Started as ever, by somebody who has not noticed.
    cluster.restart(wiped).await;
    assert!(cluster.servers[&wiped].says("R007").await, "it is told");
    let status = client::status(&cluster.addresses[&wiped]).await.expect("it is up");
    assert_eq!((status.trouble.as_str(), status.term, status.commit), ("wiped", 0, 0));
    // Whoever asks it is told the same, and served elsewhere where there is an elsewhere.
    let endpoint = cluster.addresses[&wiped].clone();
    for asked in [&["put", "key", "value"][..], &["get", "key"], &["member", "remove", "9"]] {
        let refused = run(&endpoint, &[asked, &["--timeout", "2s"]].concat()).await.exits_with(3).stderr;
        assert!(refused.contains("error[R007]") && refused.contains("discard that directory"), "{refused}");
    }
    run(&format!("{endpoint},{}", leader.address), &["get", "key"]).await.exits_with(0);
    let lines = run(&all, &["status", "-o", "json"]).await.exits_with(6).json();
    assert_eq!(lines[wiped as usize - 1]["trouble"], "wiped");
    let status = run(&all, &["status"]).await.exits_with(6).stderr;
    assert!(status.contains(&format!("member replace {wiped}")) && status.contains("2 of 3 voters are up"), "{status}");
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).expect("it is there");

    // Started as a new one, under an id that is taken.
    let command = cluster.serve_joining(wiped);
    cluster.spawn(wiped, command);
    let mut server = cluster.servers.remove(&wiped).expect("just started");
    server.ends_with(1, &["error[R007]", &format!("member replace {wiped}")]).await;

    let address = cluster.addresses[&wiped].clone();
    let id = wiped.to_string();
    run(&all, &["member", "replace", &id, &address, "--no-wait"]).await.exits_with(0);
    let command = cluster.serve_joining(wiped);
    cluster.spawn(wiped, command);
    assert!(cluster.servers[&wiped].is_ready().await, "it is expected now");
    is(&all, wiped, "voter").await;
    client::has_applied(&address, written).await;
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "nobody was disturbed");

    // The same flags as ever do as well, and it need not be started again once it is replaced.
    disks_are_known(&all).await;
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).expect("it is there");
    cluster.restart(wiped).await;
    assert!(cluster.servers[&wiped].says("R007").await, "it is told again");
    let written = client::put(&leader.address, "another key", "value").await.expect("there is a leader");
    // Also where it is the first that is asked: it knows of no leader.
    let endpoints = format!("{address},{all}");
    let replaced = run(&endpoints, &["member", "replace", &id, &address, "-o", "json"]).await.exits_with(0).json();
    assert_eq!((&replaced[0]["change"], &replaced[0]["kind"]), (&json!("replace"), &json!("voter")));
    client::has_applied(&address, written).await;
    assert_eq!(client::status(&address).await.expect("it is up").trouble, "");
    // Its vote counts: without the other follower it takes part in every commit.
    let other = 6 - leader.id - wiped;
    cluster.kill(other).await;
    client::put(&leader.address, "by two", "of three").await.expect("two are a majority");
    let now = client::status(&leader.address).await.expect("it is up");
    assert_eq!((now.role.as_str(), now.term), ("leader", leader.term), "nobody was disturbed");
    cluster.restart(other).await;
    let state = cluster.agree().await;
    assert!(["key", "another key", "by two"].iter().all(|key| state.contains_key(key.as_bytes())));
    witness.finds_nothing_wrong();
}

/// Fails when: a leader that is told to stop goes without handing over.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over() {
    let mut cluster = Cluster::start(&["--election-timeout-ms", "2000-3000"]).await;
    let leader = cluster.leader().await;
    let began = Instant::now();
    cluster.servers[&leader.id].signal("TERM").await;
    cluster.servers.remove(&leader.id).expect("it ran").ends_with(0, &["stopped"]).await;
    let next = cluster.leader().await;
    assert_eq!(next.term, leader.term + 1);
    assert!(began.elapsed().as_millis() < 2000, "somebody had to wait for an election: {:?}", began.elapsed());
}

/// D05. Fails when: `ENOSPC` is taken for a broken disk, or the write that found no room is not tried again.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_hands_over_serves_reads_and_catches_up_when_there_is_room() {
    use crate::shim::Fault;

    let cluster = Cluster::start_with_shim().await;
    let full = cluster.leader().await;
    let all = cluster.endpoints();
    disks_are_known(&all).await;
    client::put(&full.address, "before", "there was room").await.expect("there is room");
    cluster.disks().set(Fault::NoRoom, full.id);
    client::put_somewhere(cluster.addresses.values(), "meanwhile", "the others have room").await;
    let deadline = Instant::now() + PATIENCE;
    while client::status(&full.address).await.expect("it is up").trouble != "disk full" {
        assert!(Instant::now() < deadline, "it does not notice");
        sleep(LOOK_AGAIN).await;
    }
    assert!(cluster.servers[&full.id].says("R016").await);
    let status = run(&all, &["status"]).await.exits_with(0);
    assert!(
        status.stdout.contains("(disk full)") && status.stderr.contains("R016"),
        "{}{}",
        status.stdout,
        status.stderr
    );
    let next = cluster.leader().await;
    assert_ne!(next.id, full.id, "it would have to refuse every write");
    let read =
        run(&full.address, &["get", "before", "--consistency", "stale", "-o", "json"]).await.exits_with(0).json();
    assert_eq!(read[0]["value"], "there was room");

    cluster.disks().repair(Fault::NoRoom, full.id);
    let state = cluster.agree().await;
    assert!(state.contains_key(&b"before"[..]) && state.contains_key(&b"meanwhile"[..]));
    assert_eq!(client::status(&full.address).await.expect("it is up").trouble, "");
}

/// Fails when: the stream does not begin with what is, or leaves something out.
#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happens_to_a_node() {
    use ractor_raft::rpc::pb::{EventsRequest, cluster_client::ClusterClient, event::Event};

    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.leader().await;
    let follower = leader.id % 3 + 1;
    let channel = client::channel(&cluster.addresses[&follower]);
    let mut events = ClusterClient::new(channel).events(EventsRequest {}).await.expect("a stream").into_inner();
    let mut next = async || {
        let event =
            tokio::time::timeout(PATIENCE, events.message()).await.expect("something happens").expect("no error");
        event.expect("it goes on").event.expect("one of them")
    };
    assert!(matches!(next().await, Event::MembershipChanged(membership) if membership.voters.len() == 3));
    assert!(matches!(next().await, Event::RoleChanged(role) if role.leader == leader.id && role.role == "follower"));
    run(&cluster.endpoints(), &["leader", "transfer", &follower.to_string()]).await.exits_with(0);
    while !matches!(next().await, Event::RoleChanged(role) if role.leader == follower && role.role == "leader") {}
    run(&cluster.endpoints(), &["member", "add", "9", "127.0.0.1:9", "--learner"]).await.exits_with(0);
    while !matches!(next().await, Event::MembershipChanged(membership) if membership.learners.len() == 1) {}
    cluster.servers[&follower].signal("TERM").await;
    cluster.servers.remove(&follower).expect("it ran").ends_with(0, &[]).await;
}
