//! Leases and a clock that goes on while the process does not.

use std::time::Duration;

use ractor_raft::kv::pb::{Consistency, GetRequest, PutRequest, kv_client::KvClient};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::transport::Channel;

use crate::{client::kv, cluster::Cluster, server::PATIENCE};

const ROUNDS: usize = 5;
/// So many questions wait in the leader's sockets while it is stopped.
const QUESTIONS: usize = 16;

/// R04. A leader is stopped (SIGSTOP) with a lease in its hand; others elect, and write; it goes on, and finds reads that
/// were asked after that write. The lease ran out on the clock while nobody looked at it.
///
/// Fails when: neither the core (`Raft::read`) nor `lease_holds` in `node/shared.rs` looks at the clock (seen in the second
/// round); either alone is enough here.
#[tokio::test]
async fn a_leader_that_was_stopped_does_not_answer_by_a_lease_that_ran_out_meanwhile() {
    // Others are elected long before the old leader would step down for want of answers.
    let cluster = Cluster::start(&["--election-timeout-ms", "200-2000"]).await;
    let mut answered = 0;
    for round in 1..=ROUNDS {
        let old = cluster.leader().await.id;
        let value = format!("written in round {round}");
        let mut clients = Vec::new();
        for _ in 0..QUESTIONS {
            let mut client = kv(&cluster.addresses[&old]);
            // Opens the connection, and gets the leader a lease.
            let _ = read(&mut client).await;
            clients.push(client);
        }
        cluster.servers[&old].signal("STOP").await;
        let others = cluster.addresses.iter().filter(|(id, _)| **id != old).map(|(_, address)| address);
        write(others, &value).await;
        let mut questions = JoinSet::new();
        for mut client in clients {
            questions.spawn(async move { read(&mut client).await });
        }
        // They are on their way before it goes on: each task has run up to where it waits for the answer.
        tokio::task::yield_now().await;
        cluster.servers[&old].signal("CONT").await;
        for answer in questions.join_all().await.into_iter().flatten() {
            assert_eq!(answer, value.as_bytes(), "round {round}: node {old} answered with what was overwritten");
            answered += 1;
        }
    }
    assert!(answered > 0, "nothing was read");
}

/// Writes to whoever takes it. Who still follows the leader that was stopped would wait for it: each has a moment only.
async fn write(addresses: impl Iterator<Item = &String> + Clone, value: &str) {
    let deadline = Instant::now() + PATIENCE;
    for address in addresses.cycle() {
        assert!(Instant::now() < deadline, "nobody takes a write");
        let request = PutRequest { key: "key".into(), value: value.to_owned().into(), session: None };
        if let Ok(Ok(_)) = timeout(Duration::from_millis(50), kv(address).put(request)).await {
            return;
        }
    }
}

/// What a lease read gives; `None` where it is refused.
async fn read(client: &mut KvClient<Channel>) -> Option<Vec<u8>> {
    let request = GetRequest { key: "key".into(), consistency: Consistency::Lease.into(), at_least: 0 };
    let answer = timeout(PATIENCE, client.get(request)).await.expect("every read is answered").ok()?.into_inner();
    Some(answer.value.to_vec())
}
