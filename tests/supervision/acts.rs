//! What goes on when an actor dies: each act makes some of the messages be said, under the clients' load.

use std::time::Duration;

use ractor_raft::{
    flow::Crash,
    node::{NodeRef, Trouble},
    raft::NodeId,
};

use super::stage::{ELECTION_TIMEOUT, Stage};

/// In the order in which a cell looks for the first one in which its message is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Clients alone.
    Serve,
    /// A snapshot is asked for, on every node.
    TakeSnapshots,
    /// A follower is cut off until it must be sent a snapshot.
    LagBehind,
    /// The leadership is handed over.
    Transfer,
    /// The leader has no room for a while, for entries and for snapshots.
    FillTheDisk,
    /// An actor dies, and others with it.
    Fall(&'static str),
    /// The leader loses its power, and comes back.
    LosePower,
    /// A fourth node joins.
    Join,
    /// A follower is removed.
    Leave,
    /// A node is told to stop, and is started again.
    ShutDown,
    /// A node that was stopped starts.
    Begin,
    /// A node comes back with an empty disk, and is replaced.
    LoseTheDisk,
    /// A write fails.
    BreakTheDisk,
    /// A snapshot is not taken by its state machine.
    RefuseToRestore,
    /// A node comes back with less than it had acknowledged.
    Forget,
}

pub const ACTS: [Act; 21] = [
    Act::Serve,
    Act::TakeSnapshots,
    Act::LagBehind,
    Act::Transfer,
    Act::FillTheDisk,
    Act::Fall("applier"),
    Act::Fall("log store"),
    Act::Fall("consensus"),
    Act::Fall("consensus/election timer"),
    Act::Fall("consensus/replicator *"),
    Act::Fall("consensus/snapshotter"),
    Act::Fall("server"),
    Act::LosePower,
    Act::Join,
    Act::Leave,
    Act::ShutDown,
    Act::Begin,
    Act::LoseTheDisk,
    Act::BreakTheDisk,
    Act::RefuseToRestore,
    Act::Forget,
];

impl Act {
    /// The servers change, and replicators with them.
    pub fn changes_members(self) -> bool {
        matches!(self, Act::Join | Act::Leave | Act::LoseTheDisk | Act::Forget)
    }

    /// Nodes end in it, by an order or by their own decision.
    pub fn ends_nodes(self) -> bool {
        use Act::{BreakTheDisk, Forget, LosePower, LoseTheDisk, RefuseToRestore, ShutDown};
        matches!(self, BreakTheDisk | Forget | LosePower | LoseTheDisk | RefuseToRestore | ShutDown)
    }

    /// Plays it. Whatever the blow that falls in it does, it ends as it should.
    pub async fn play(self, stage: &Stage) {
        match self {
            Act::Serve => {
                stage.plan.arm(None);
                stage.cluster.run_for(2 * ELECTION_TIMEOUT).await;
            }
            Act::TakeSnapshots => take_snapshots(stage).await,
            Act::LagBehind => lag_behind(stage).await,
            Act::Transfer => transfer(stage).await,
            Act::FillTheDisk => fill_the_disk(stage).await,
            Act::Fall(actor) => fall(stage, actor).await,
            Act::LosePower => lose_power(stage).await,
            Act::Join => join(stage).await,
            Act::Leave => leave(stage).await,
            Act::ShutDown => shut_down(stage).await,
            Act::Begin => begin(stage).await,
            Act::LoseTheDisk => lose_the_disk(stage).await,
            Act::BreakTheDisk => break_the_disk(stage).await,
            Act::RefuseToRestore => refuse_to_restore(stage).await,
            Act::Forget => forget(stage).await,
        }
    }
}

/// What is under way ends, or is answered, and works the next time.
async fn take_snapshots(stage: &Stage) {
    stage.plan.arm(None);
    for id in stage.cluster.ids() {
        let mut taken = false;
        for _ in 0..50 {
            let Some(node) = stage.cluster.node(id) else { continue };
            let answer = tokio::time::timeout(Duration::from_secs(5), node.take_snapshot()).await;
            if answer.is_err() {
                stage.complain(format!("nobody answered the call for a snapshot of node {id}"));
            }
            taken = matches!(answer, Ok(Ok(_)));
            if taken {
                break;
            }
            stage.cluster.run_for(Duration::from_millis(20)).await;
        }
        if !taken {
            stage.complain(format!("node {id} takes no snapshot any more"));
        }
    }
    stage.cluster.run_for(2 * ELECTION_TIMEOUT).await;
}

async fn lag_behind(stage: &Stage) {
    let lagging = stage.follower().await;
    let others: Vec<_> = stage.cluster.ids().into_iter().filter(|id| *id != lagging).collect();
    stage.excuse(&[lagging]);
    stage.cluster.network().partition(&[lagging], &others);
    let last = stage.cluster.status(lagging).map_or(0, |status| status.last_index);
    let behind = |stage: &Stage| {
        let base = |id: &NodeId| stage.disk(*id).storage.contents().map_or(0, |contents| contents.base.index);
        others.iter().all(|id| base(id) > last + 5)
    };
    for count in 0..200 {
        if behind(stage) {
            break;
        }
        stage.write(&format!("meanwhile {count}")).await;
    }
    stage.plan.arm(None);
    stage.cluster.network().heal();
    let target = stage.write("all are together").await;
    stage.until("the one that lagged to catch up", |cluster| applied(cluster.node(lagging).as_deref()) >= target).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

fn applied(node: Option<&NodeRef>) -> u64 {
    node.map_or(0, |node| node.status().applied_index)
}

/// It is answered, and works after a few tries.
async fn transfer(stage: &Stage) {
    let before = stage.cluster.leader().await;
    stage.plan.arm(None);
    for count in 0..20 {
        let leader = stage.cluster.leader().await;
        if leader != before {
            return;
        }
        let Some(node) = stage.cluster.node(leader) else { continue };
        let order = node.transfer_leadership(leader % 3 + 1);
        let answer = tokio::time::timeout(Duration::from_secs(5), order).await;
        if answer.is_err() {
            stage.complain(format!("nobody answered the order to hand over, given {count} times before"));
        }
        stage.cluster.run_for(ELECTION_TIMEOUT).await;
    }
    stage.complain("the leadership cannot be handed over".to_owned());
}

async fn fill_the_disk(stage: &Stage) {
    let full = stage.cluster.leader().await;
    stage.plan.arm(None);
    stage.disk(full).storage.set_full(true);
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
    if let Some(node) = stage.cluster.node(full) {
        let answer = tokio::time::timeout(Duration::from_secs(5), node.take_snapshot()).await;
        if answer.is_err() {
            stage.complain("nobody answered the call for a snapshot on a full disk".to_owned());
        }
    }
    stage.disk(full).storage.set_full(false);
    let freed = |stage: &Stage| stage.cluster.status(full).is_some_and(|status| status.trouble.is_none());
    stage.until("it to be known that there is room", |_| freed(stage)).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

async fn fall(stage: &Stage, actor: &str) {
    let leader = stage.cluster.leader().await;
    let path = actor.replace('*', &(leader % 3 + 1).to_string());
    let node = stage.cluster.node(leader).expect("it runs");
    let starts = |stage: &Stage| stage.plan.starts().iter().filter(|(of, _, at)| *of == leader && *at == path).count();
    let before = starts(stage);
    stage.plan.arm(None);
    if !node.crash(&path, Crash::Kill) {
        stage.complain(format!("nobody lives at {path}"));
    }
    stage.until("another one to be started", |_| starts(stage) > before).await;
    stage.cluster.run_for(2 * ELECTION_TIMEOUT).await;
}

async fn lose_power(stage: &Stage) {
    let leader = stage.cluster.leader().await;
    stage.excuse(&stage.cluster.ids());
    stage.plan.arm(None);
    stage.cluster.crash(leader).await;
    stage.until("another leader", |cluster| cluster.known_leader().is_some_and(|next| next != leader)).await;
    stage.up(leader).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

/// It is the others that die: what becomes of one that dies before it belongs to the cluster, its operator sees.
async fn join(stage: &Stage) {
    stage.plan.arm(Some(4));
    for _ in 0..10 {
        if stage.cluster.try_join(4).await.is_ok() {
            break;
        }
        stage.cluster.run_for(ELECTION_TIMEOUT).await;
    }
    stage
        .until("node 4 to vote", |cluster| {
            let leader = cluster.known_leader().and_then(|leader| cluster.status(leader));
            leader.is_some_and(|status| status.membership.voters.contains_key(&4))
        })
        .await;
}

async fn leave(stage: &Stage) {
    let removed = stage.follower().await;
    stage.excuse(&[removed]);
    stage.let_go(removed);
    stage.plan.arm(Some(removed));
    order(stage, "remove", async |node: &NodeRef| node.remove_server(removed).await.is_ok()).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

/// Given to the leader, again and again until it is carried out.
async fn order(stage: &Stage, what: &str, order: impl AsyncFn(&NodeRef) -> bool) {
    for _ in 0..30 {
        let leader = stage.cluster.leader().await;
        if let Some(node) = stage.cluster.node(leader) {
            match tokio::time::timeout(Duration::from_secs(20), order(&node)).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => stage.complain(format!("nobody answered the order to {what}")),
            }
        }
        stage.cluster.run_for(Duration::from_millis(50)).await;
    }
    stage.complain(format!("the order to {what} is never carried out"));
}

async fn shut_down(stage: &Stage) {
    let leader = stage.cluster.leader().await;
    stage.plan.arm(None);
    // What it says is looked at with the cell: it may be the root that is hit.
    if let Err(error) = stage.cluster.stop(leader).await
        && stage.plan.struck().iter().flatten().all(|struck| struck.path != "node")
    {
        stage.complain(format!("the shutdown ended with {error}"));
    }
    stage.up(leader).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

async fn begin(stage: &Stage) {
    let follower = stage.follower().await;
    if let Err(error) = stage.cluster.stop(follower).await {
        stage.complain(format!("an ordinary shutdown ended with {error}"));
    }
    stage.plan.arm(None);
    stage.up(follower).await;
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

async fn lose_the_disk(stage: &Stage) {
    let wiped = stage.follower().await;
    stage.excuse(&stage.cluster.ids());
    stage.cluster.wipe(wiped).await;
    stage.plan.arm(None);
    stage.up(wiped).await;
    let told = |stage: &Stage| stage.cluster.status(wiped).is_some_and(|status| status.trouble == Some(Trouble::Wiped));
    stage.until("the wiped one to be told", |_| told(stage)).await;
    let address = stage.cluster.address(wiped);
    order(stage, "replace", async |node: &NodeRef| node.replace_server(wiped, address.as_str()).await.is_ok()).await;
    let trusted = |stage: &Stage| stage.cluster.status(wiped).is_some_and(|status| status.trouble.is_none());
    stage.until("it to be trusted again", |_| trusted(stage)).await;
}

async fn break_the_disk(stage: &Stage) {
    let broken = stage.follower().await;
    let lives = stage.plan.lives(broken);
    stage.plan.arm(None);
    stage.disk(broken).storage.fail_writes(1);
    // The application starts it again.
    stage.until("the node to end", |_| stage.plan.lives(broken) > lives).await;
    stage.disk(broken).storage.fail_writes(0);
    stage.cluster.run_for(ELECTION_TIMEOUT).await;
}

async fn refuse_to_restore(stage: &Stage) {
    let refusing = stage.follower().await;
    stage.excuse(&stage.cluster.ids());
    stage.cluster.run_for(2 * ELECTION_TIMEOUT).await;
    if stage.disk(refusing).storage.contents().is_none_or(|contents| contents.snapshot.is_none()) {
        stage.complain("there is no snapshot to refuse".to_owned());
    }
    stage.plan.arm(None);
    stage.refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    let lives = stage.plan.lives(refusing);
    stage.up(refusing).await;
    stage.until("the node to end", |_| stage.plan.lives(refusing) > lives + 1).await;
    stage.refuses.store(false, std::sync::atomic::Ordering::SeqCst);
    stage.cluster.run_for(2 * ELECTION_TIMEOUT).await;
}

async fn forget(stage: &Stage) {
    let forgetful = stage.follower().await;
    let target = stage.write("to be forgotten").await;
    stage.until("all to have it", |cluster| applied(cluster.node(forgetful).as_deref()) >= target).await;
    stage.excuse(&stage.cluster.ids());
    let leader = stage.cluster.leader().await;
    let term = stage.cluster.status(leader).map_or(0, |status| status.term);
    stage.cluster.crash(forgetful).await;
    stage.disk(forgetful).forget(3);
    stage.let_go(forgetful);
    stage.plan.arm(None);
    stage.up(forgetful).await;
    let ended = |stage: &Stage| stage.cluster.node(forgetful).is_none_or(|node| !super::stage::lives(&node));
    // Only the leader to which it had acknowledged them knows. Where that one fell, its successor gives it all again.
    let led_by_another = |stage: &Stage| stage.cluster.status(leader).is_none_or(|status| status.term > term);
    let whole = |stage: &Stage| led_by_another(stage) && applied(stage.cluster.node(forgetful).as_deref()) >= target;
    // A death in the very moment of its end may leave that to the next start.
    for _ in 0..5 {
        stage.until("its disk to be condemned", |_| ended(stage) || whole(stage)).await;
        if whole(stage) || stage.cluster.try_restart(forgetful).await.is_err() {
            return;
        }
    }
    stage.complain("a disk that lost entries is used on".to_owned());
}
