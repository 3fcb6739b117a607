//! Watches the nodes while a test does what it does to them: who leads in which term, and that no term is forgotten.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ractor_raft::rpc::pb::{StatusReply, cluster_client::ClusterClient};
use tokio::{task::JoinSet, time::sleep};

use crate::{client, cluster::LOOK_AGAIN};

/// Asks each node, again and again, until it is dropped or asked for its findings.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// Who leads a term, by its own word or a follower's.
    leaders: BTreeMap<u64, u64>,
    /// The last term that each node has led; it was on its disk before anybody could vote.
    led: BTreeMap<u64, u64>,
    violations: Vec<String>,
}

impl Witness {
    pub fn of(addresses: &BTreeMap<u64, String>) -> Witness {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        for address in addresses.values() {
            let (seen, mut client) = (seen.clone(), ClusterClient::new(client::channel(address)));
            tasks.spawn(async move {
                loop {
                    if let Ok(status) = client::status_over(&mut client).await {
                        seen.lock().expect("nobody panics with it").note(&status);
                    }
                    sleep(LOOK_AGAIN).await;
                }
            });
        }
        Witness { seen, tasks }
    }

    /// The newest term in which somebody has led.
    pub fn newest_term(&self) -> u64 {
        self.seen.lock().expect("nobody panics with it").leaders.keys().next_back().copied().unwrap_or(0)
    }

    /// Asserts that nothing was wrong. In how many terms somebody was seen to lead.
    pub fn finds_nothing_wrong(mut self) -> usize {
        self.tasks.abort_all();
        let seen = self.seen.lock().expect("nobody panics with it");
        assert!(seen.violations.is_empty(), "{}", seen.violations.join("\n"));
        seen.leaders.len()
    }
}

impl Seen {
    fn note(&mut self, status: &StatusReply) {
        let StatusReply { id, term, leader, .. } = *status;
        let leads = status.role == "leader";
        if leader != 0 || leads {
            let leader = if leads { id } else { leader };
            let first = *self.leaders.entry(term).or_insert(leader);
            if first != leader {
                self.violations.push(format!("Election Safety: nodes {first} and {leader} both lead term {term}"));
            }
        }
        let led = self.led.entry(id).or_default();
        if term < *led {
            self.violations.push(format!("node {id} led term {led} and is in term {term} now"));
        } else if leads {
            *led = term;
        }
    }
}
