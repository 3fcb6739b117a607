//! What consensus makes of messages that no transport and no application can send.

use std::time::Duration;

use super::*;
use crate::{
    flow::{Filter, Origin, Outcome},
    node::Crash,
    raft::{PreVoteReply, Role},
    testing::{Cluster, Ledger, Line},
};

/// C05. What an earlier life of a courier reports is dropped, and the recorder says so.
///
/// Fails when: `Consensus::hear` does not ask `is_current` for `Delivered` (the leader steps down) or `Timeout`.
#[tokio::test(start_paused = true)]
async fn messages_of_an_earlier_incarnation_are_dropped() {
    let cluster = Cluster::builder(Ledger::default).nodes(3).seed(305).start().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let (peer, term) = (leader % 3 + 1, node.status().term);
    let replicator = format!("consensus/replicator {peer}");
    assert!(node.crash(&replicator, Crash::Kill));
    let actor = node.flow().actor(&replicator);
    cluster.until("another replicator", |_| (node.flow().incarnation(actor) == 2).then_some(())).await;

    // What the first one could have said just before it died.
    let reply = Reply::PreVote(PreVoteReply { term: term + 5, vote_granted: false });
    let delivered = ConsensusMessage::Delivered { peer, session: 1, incarnation: 0, reply };
    let from = |incarnation| Origin { sender: Sender { actor, incarnation }, ..Origin::default() };
    let consensus = node.shared().consensus.get().expect("it lives");
    assert!(consensus.send(from(1), delivered).is_ok());
    let timer = node.flow().actor("consensus/election timer");
    let stranger = Origin { sender: Sender { actor: timer, incarnation: 7 }, ..Origin::default() };
    assert!(consensus.send(stranger, ConsensusMessage::Timeout { epoch: 1 }).is_ok());

    cluster
        .until_within(Duration::from_secs(1), "both to be seen and dropped", |_| {
            let events = node.flow().events(&Filter::default());
            let dropped = |name| events.iter().any(|event| event.message == name && event.outcome == Outcome::Stale);
            (dropped("Delivered") && dropped("Timeout")).then_some(())
        })
        .await;
    assert_eq!((node.status().role, node.status().term), (Role::Leader, term));
    cluster.propose(Line::new("it still leads")).await.expect("it does");
}
