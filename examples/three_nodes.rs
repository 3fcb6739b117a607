//! Three nodes in one process, over the in-process transport and in memory: nothing to install, nothing left behind. They
//! write and read, let a fourth one in, let it lead, remove it, and go on without their leader.
//!
//! `cargo run --example three_nodes`

use std::time::Duration;

use ractor_raft::{
    kv::{Command, Kv, Outcome},
    node::{Consistency, Node},
    raft::{NodeId, Role},
    storage::MemoryStorage,
    transport::InProcess,
};

const MEMBERS: [(NodeId, &str); 3] = [(1, "one"), (2, "two"), (3, "three")];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for (id, _) in MEMBERS {
        let node = Node::builder(id, Kv::default)
            .cluster(MEMBERS)
            .storage(MemoryStorage::new())
            .transport(network.clone())
            .spawn()
            .await?;
        nodes.push(node);
    }

    // Any node takes a command; a follower passes it on to the leader.
    let mut revision = 0;
    for (node, key) in nodes.iter().zip(["ada", "grace", "edsger"]) {
        let output = propose(node, Command::put(key, "was here")).await?;
        let Some(Outcome::Put(put)) = output else { panic!("a put was proposed, {output:?} came back") };
        println!("node {} wrote {key} at {}", node.status().id, put.revision);
        assert!(put.revision > revision, "later writes have larger revisions");
        revision = put.revision;
    }

    // Any node answers a read, and a linearizable one sees all of that. The query is a closure over the state.
    for node in &nodes {
        let keys =
            node.read(Consistency::Linearizable, |store| store.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
        let keys = keys.await?;
        println!("node {} has {keys:?}", node.status().id);
        assert_eq!(keys, ["ada", "edsger", "grace"]);
    }

    // A fourth node asks any of them to be let in, and votes once it has caught up.
    let fourth = Node::builder(4, Kv::default)
        .join(MEMBERS.map(|(_, address)| address))
        .advertise("four")
        .storage(MemoryStorage::new())
        .transport(network.clone())
        .spawn()
        .await?;
    nodes[0].add_server(4, "four").await?; // it did so itself: this waits until it votes
    println!("the voters are {:?}", nodes[0].status().membership.voters.keys());
    assert!(nodes[0].status().membership.voters.contains_key(&4));

    // It leads when it is told to, and hands over when it is removed.
    nodes[0].transfer_leadership(4).await?;
    println!("node {:?} leads", nodes[0].status().leader);
    nodes[0].remove_server(4).await?;
    fourth.shutdown().await?;
    let output = propose(&nodes[0], Command::put("barbara", "came later")).await?;
    assert!(matches!(output, Some(Outcome::Put(_))), "{output:?}");

    // Without the leader, the other two elect one of themselves and go on.
    let leader =
        nodes.iter().position(|node| node.status().role == Role::Leader).expect("somebody answered the writes");
    nodes.remove(leader).shutdown().await?;
    let output = propose(&nodes[0], Command::compare_and_swap("ada", Some("was here".into()), "is gone")).await?;
    let Some(Outcome::CompareAndSwap(swap)) = output else { panic!("a swap was proposed, {output:?} came back") };
    println!("two nodes swapped ada's value at {}", swap.revision);
    assert!(swap.swapped);

    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

/// Proposes until somebody leads. Only what is certainly not applied is proposed again.
async fn propose(node: &Node<Kv>, command: Command) -> Result<Option<Outcome>, Box<dyn std::error::Error>> {
    loop {
        match node.propose(command.clone()).await {
            Ok(output) => return Ok(output.outcome),
            Err(error) if error.may_have_been_applied() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
