//! Snapshots: taken while the log goes on, sent over bad links, restored before anything is served.

use std::time::Duration;

use futures_util::TryStreamExt;
use prost::Message as _;
use ractor_raft::{
    Config,
    error::SnapshotError,
    flow::Filter,
    node::{Consistency, Crash, NodeEvent, NodeRef, RestartPolicy},
    raft::{LogIndex, NodeId, SessionCommand, SnapshotMetadata},
    testing::{Cluster, ClusterBuilder, Ledger, Line, Witness},
};

use super::support::{Watched, ledgers};

/// So many bytes are in a chunk; a snapshot has many of them.
const CHUNK: usize = 64;

/// Snapshots after a few entries, and in small chunks.
fn config() -> Config {
    let mut config = Config::default();
    config.snapshot_threshold = 20;
    config.snapshot_trailing = 4;
    config.snapshot_chunk_bytes = CHUNK;
    config.snapshot_timeout = Duration::from_millis(200);
    config
}

async fn cluster(nodes: u64, seed: u64, config: Config) -> Watched {
    let witness = Witness::default();
    Watched { cluster: builder(&witness, nodes, seed, config).start().await, witness }
}

fn builder(witness: &Witness, nodes: u64, seed: u64, config: Config) -> ClusterBuilder<Ledger> {
    let policy = RestartPolicy { budget: 1000, window: Duration::from_secs(1) };
    Cluster::builder(ledgers(witness)).nodes(nodes).seed(seed).config(config).restart_policy(policy)
}

impl Watched {
    /// Writes so many lines, and returns them with their places.
    async fn write_lines(&self, name: &str, count: u64) -> Vec<(LogIndex, String)> {
        let mut lines = Vec::new();
        for number in 0..count {
            let text = format!("{name} {number}");
            lines.push((self.write(&text).await, text));
        }
        lines
    }

    fn snapshot(&self, id: NodeId) -> Option<SnapshotMetadata> {
        self.memory(id).contents().and_then(|recovered| recovered.snapshot)
    }

    /// The first entry that the log of a node still has.
    fn first_index(&self, id: NodeId) -> LogIndex {
        self.memory(id).contents().map_or(1, |recovered| recovered.base.index + 1)
    }

    /// How many bytes of a snapshot a node has from elsewhere.
    fn received(&self, id: NodeId) -> u64 {
        self.memory(id).contents().and_then(|recovered| recovered.receiving).map_or(0, |(_, stored)| stored)
    }

    fn installed(&self, id: NodeId) -> usize {
        let events = self.events();
        events.iter().filter(|(at, event)| *at == id && matches!(event, NodeEvent::SnapshotInstalled { .. })).count()
    }

    /// How often an actor of a node was told this in the node's present life.
    fn heard(&self, id: NodeId, message: &str) -> usize {
        let node = self.node(id).expect("it runs");
        node.flow().events(&Filter::default()).iter().filter(|event| event.message == message).count()
    }

    /// Writes while nodes are cut off, lose their power or their snapshotter, or are told to take a snapshot.
    async fn make_trouble(&self, rounds: u64) -> Vec<(LogIndex, String)> {
        // Whoever was cut off before it was heard of would not help to replace a leader that is cut off next.
        self.acquainted().await;
        let mut lines = Vec::new();
        for round in 0..rounds {
            let victim = 1 + self.draw(3);
            let others: Vec<_> = self.ids().into_iter().filter(|id| *id != victim).collect();
            let node = self.node(victim).expect("it runs");
            self.network().heal();
            match self.draw(4) {
                0 => self.network().partition(&[victim], &others),
                1 => drop(tokio::spawn(async move { node.take_snapshot().await })),
                2 => drop(node.crash("consensus/snapshotter", Crash::Kill)),
                _ => {
                    self.crash(victim).await;
                    self.restart(victim).await;
                }
            }
            lines.extend(self.write_lines(&format!("round {round}"), 5 + self.draw(20)).await);
            self.run_for(Duration::from_millis(self.draw(30))).await;
        }
        self.network().heal();
        lines
    }

    /// Cuts a follower off until the leader's log does not reach back to it any more. Returns it and what was written.
    async fn left_behind(&self) -> (NodeId, Vec<(LogIndex, String)>) {
        let leader = self.leader().await;
        let follower = leader % 3 + 1;
        let mut lines = self.write_lines("before", 5).await;
        self.until_applied(lines[4].0).await;
        let others: Vec<_> = self.ids().into_iter().filter(|id| *id != follower).collect();
        self.network().partition(&[follower], &others);
        let last = self.status(follower).expect("it runs").last_index;
        while others.iter().any(|id| self.first_index(*id) <= last + 1) {
            lines.extend(self.write_lines("meanwhile", 10).await);
        }
        (follower, lines)
    }
}

/// Fails when: `Effect::SendSnapshot`, `StoreChunk` or `Restore` is not carried out, or `status` does not show the snapshot.
#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_catches_up_by_a_snapshot() {
    let cluster = cluster(3, 601, config()).await;
    let (follower, lines) = cluster.left_behind().await;
    cluster.network().heal();
    cluster
        .until("the snapshot to be installed", |cluster| {
            let installed = |(id, event): &(NodeId, NodeEvent)| match event {
                NodeEvent::SnapshotInstalled { index } if *id == follower => Some(*index),
                _ => None,
            };
            let index = cluster.events().iter().find_map(installed)?;
            (cluster.status(follower)?.snapshot_index >= index).then_some(())
        })
        .await;
    cluster.agree_on(&lines).await;
    assert!(cluster.heard(follower, "StoreChunk") > 2, "it came in one piece");
}

/// N04. Fails when: `Consensus::take_snapshot` does not pass on the membership that the core named.
#[tokio::test(start_paused = true)]
async fn a_snapshot_holds_the_membership() {
    let cluster = cluster(3, 602, config()).await;
    let (follower, _) = cluster.left_behind().await;
    cluster.network().heal();
    cluster.until("the snapshot to be installed", |_| (cluster.installed(follower) > 0).then_some(())).await;
    for id in cluster.ids() {
        let snapshot = cluster.snapshot(id).expect("each has one");
        assert_eq!(*snapshot.membership, cluster.status(id).expect("it runs").membership);
    }
}

/// N05. The receiver loses power at each chunk: it goes on from the last one that is on its disk.
///
/// Fails when: the core asks for the snapshot from its first byte on after a start (it forgets `Recovered::receiving`).
#[tokio::test(start_paused = true)]
async fn a_receiver_that_falls_at_any_chunk_goes_on_from_the_last_durable_one() {
    let mut resumed = 0;
    for step in 1.. {
        let cluster = cluster(3, 610, config()).await;
        let (follower, lines) = cluster.left_behind().await;
        cluster.network().heal();
        let wanted = step * CHUNK as u64;
        let fell = cluster.until("some chunks, or all of them", |_| {
            (cluster.received(follower) >= wanted || cluster.installed(follower) > 0)
                .then(|| cluster.received(follower))
        });
        let stored = fell.await;
        cluster.crash(follower).await;
        let done = stored < wanted;
        cluster.restart(follower).await;
        cluster.agree_on(&lines).await;
        if done {
            break;
        }
        let size = cluster.snapshot(follower).expect("it was installed").size;
        let left = (size - stored).div_ceil(CHUNK as u64) as usize;
        assert_eq!(cluster.heard(follower, "StoreChunk"), left, "{stored} of {size} bytes were there");
        resumed += 1;
    }
    assert!(resumed > 2, "it came in {resumed} chunks");
}

/// N05. The sending courier dies at each chunk, and the sending node at each chunk.
///
/// Fails when: the core is not told `Lost(Replicator)`.
#[tokio::test(start_paused = true)]
async fn a_sender_that_falls_at_any_chunk_is_followed_by_another() {
    for whole_node in [false, true] {
        let mut steps = 0;
        for step in 1.. {
            let cluster = cluster(3, 611, config()).await;
            let (follower, lines) = cluster.left_behind().await;
            let leader = cluster.leader().await;
            cluster.network().heal();
            // No chunk comes and is followed by the next one between two looks at it.
            cluster.network().set_delay(Duration::from_millis(1)..=Duration::from_millis(2));
            let wanted = step * CHUNK as u64;
            let stored = cluster
                .until("some chunks, or all of them", |_| {
                    (cluster.received(follower) >= wanted || cluster.installed(follower) > 0)
                        .then(|| cluster.received(follower))
                })
                .await;
            if whole_node {
                cluster.crash(leader).await;
                cluster.until("another leader", |cluster| cluster.known_leader().filter(|id| *id != leader)).await;
                cluster.restart(leader).await;
            } else {
                let node = cluster.node(leader).expect("it runs");
                assert!(node.crash(&format!("consensus/replicator {follower}"), Crash::Kill));
            }
            cluster.agree_on(&lines).await;
            if stored < wanted {
                break;
            }
            if !whole_node {
                let size = cluster.snapshot(follower).expect("it was installed").size;
                let chunks = size.div_ceil(CHUNK as u64) as usize;
                let heard = cluster.heard(follower, "StoreChunk");
                assert!(heard <= chunks + 1, "{heard} chunks came, of {chunks}");
            }
            steps += 1;
        }
        assert!(steps > 2, "it came in {steps} chunks");
    }
}

/// N05. A third of all letters is lost: the transfer stalls, is broken off, goes on where it was, and ends.
///
/// Fails when: `Transfer::run` waits for ever for an answer, or begins anew each time.
#[tokio::test(start_paused = true)]
async fn a_snapshot_ends_even_where_a_third_of_the_letters_is_lost() {
    for seed in 620..625 {
        let mut patient = config();
        patient.heartbeat_interval = Duration::from_millis(50);
        patient.election_timeout_min = Duration::from_secs(1);
        patient.election_timeout_max = Duration::from_secs(2);
        let cluster = cluster(3, seed, patient).await;
        let (follower, lines) = cluster.left_behind().await;
        cluster.network().heal();
        cluster.network().set_faults(333, 0);
        cluster.until("the snapshot to be installed", |_| (cluster.installed(follower) > 0).then_some(())).await;
        cluster.network().heal();
        cluster.agree_on(&lines).await;
    }
}

/// N07. What was compacted is there before the first question is answered, also a stale one.
///
/// Fails when: the applier starts with `factory()` also where there is a snapshot, or `query` does not look whether there
/// is a state machine.
#[tokio::test(start_paused = true)]
async fn nothing_is_served_after_a_restart_before_the_snapshot_is_restored() {
    let cluster = cluster(3, 630, config()).await;
    let lines = cluster.write_lines("line", 60).await;
    cluster.until_applied(lines[59].0).await;
    for id in cluster.ids() {
        cluster.crash(id).await;
    }
    for id in cluster.ids() {
        // Alone, it cannot learn that anything is committed: what it has is its snapshot.
        let snapshot = cluster.snapshot(id).expect("it was taken").last_included.index;
        assert!(snapshot > 20 && cluster.first_index(id) > 1, "{snapshot}");
        cluster.restart(id).await;
        let (seen, at) = cluster
            .read_on(id, Consistency::Stale, |ledger| ledger.lines().map(|(index, _)| index).max())
            .await
            .expect("it is restored soon");
        assert_eq!((seen, at), (Some(snapshot), snapshot), "node {id}");
        assert_eq!(cluster.status(id).expect("it runs").snapshot_index, snapshot);
        cluster.crash(id).await;
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.agree_on(&lines).await;
    assert_eq!(cluster.ids().iter().map(|id| cluster.installed(*id)).sum::<usize>(), 0, "their own sufficed");
}

/// N03. Snapshots are taken and installed while entries are applied, cut off and caught up again, in many orders.
///
/// Fails when: `Applier::install` does not go on behind the snapshot.
#[tokio::test(start_paused = true)]
async fn snapshots_that_race_each_other_and_the_log_never_take_the_state_back() {
    let mut installed = 0;
    for seed in 640..660 {
        let cluster = cluster(3, seed, config()).await;
        let lines = cluster.make_trouble(12).await;
        cluster.agree_on(&lines).await;
        installed += cluster.ids().iter().map(|id| cluster.installed(*id)).sum::<usize>();
    }
    assert!(installed > 10, "only {installed} were installed");
}

/// N03, N07, D02. The same on disks that lose in a power cut what was not synced, under the real store.
///
/// Fails when: the log stands on a snapshot before that is on disk, or a snapshot is finished before its bytes are.
#[cfg(feature = "sqlite")]
#[tokio::test(start_paused = true)]
async fn snapshots_survive_power_cuts() {
    let (mut installed, mut taken) = (0, 0);
    for seed in 660..666 {
        let witness = Witness::default();
        let cluster = builder(&witness, 3, seed, config()).simulated_disks().start().await;
        let cluster = Watched { cluster, witness };
        let mut lines = cluster.make_trouble(10).await;
        for id in cluster.ids() {
            cluster.crash(id).await;
        }
        for id in cluster.ids() {
            cluster.restart(id).await;
        }
        lines.extend(cluster.make_trouble(3).await);
        cluster.agree_on(&lines).await;
        installed += cluster.ids().iter().map(|id| cluster.installed(*id)).sum::<usize>();
        taken += cluster.ids().iter().filter(|id| cluster.status(**id).is_some_and(|it| it.snapshot_index > 0)).count();
    }
    assert!(installed > 2 && taken > 10, "{installed} were installed, {taken} taken");
}

/// C01. The sessions are in the snapshot: a command that was compacted is still applied once.
///
/// Fails when: `Taken` does not have the sessions, or `Applier::install` leaves those that were there.
#[tokio::test(start_paused = true)]
async fn a_command_of_a_session_is_applied_once_also_after_a_restart_from_a_snapshot() {
    let cluster = cluster(3, 669, config()).await;
    let leader = cluster.leader().await;
    let ask = async |id: NodeId, session| {
        let command = Line::new("once").encode_to_vec().into();
        let call = SessionCommand { session, sequence: 1, first_unanswered: 1, command };
        cluster.node(id).expect("it runs").propose_in_session(call, true, 0).await.expect("there is a leader")
    };
    let session = cluster.node(leader).expect("it leads").open_session().await.expect("there is a majority");
    let first = ask(leader, session).await;
    let lines = cluster.write_lines("line", 60).await;
    cluster.until_applied(lines[59].0).await;
    for id in cluster.ids() {
        cluster.crash(id).await;
        assert!(cluster.first_index(id) > first.index, "it is still in the log of node {id}");
        cluster.restart(id).await;
    }
    assert_eq!(ask(cluster.leader().await, session).await, first);
    cluster.agree_on(&lines).await;
}

/// Fails when: `Effect::AnswerSnapshot` reaches nobody, a port that is dropped says nothing, or each chunk is read from what
/// is the finished snapshot by then.
#[tokio::test(start_paused = true)]
async fn an_operator_has_a_snapshot_taken_and_handed_out() {
    let mut config = config();
    config.snapshot_threshold = 1000;
    let cluster = cluster(3, 680, config).await;
    let node = cluster.node(1).expect("it runs");
    assert_eq!(node.save_snapshot().err(), Some(SnapshotError::Absent { node: 1 }));
    let lines = cluster.write_lines("line", 10).await;
    cluster.until_applied(lines[9].0).await;

    let index = taken(&node).await.expect("there is room");
    assert!(index >= lines[9].0);
    assert_eq!(node.status().snapshot_index, index);
    assert!(cluster.events().contains(&(1, NodeEvent::SnapshotTaken { index })));
    assert_eq!(taken(&node).await, Ok(index), "there is nothing new to take");

    let saved = node.save_snapshot().expect("it was just taken");
    assert_eq!(Some(&saved.metadata), cluster.snapshot(1).as_ref());
    let chunks: Vec<_> = saved.chunks.try_collect().await.expect("nothing takes its place");
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.len() <= CHUNK));
    assert_eq!(chunks.concat().len() as u64, saved.metadata.size);

    // A later one takes its place while it is handed out: it goes on. Before anything of it was asked for, it is gone.
    let mut saved = node.save_snapshot().expect("it is still there");
    let late = node.save_snapshot().expect("it is still there");
    let begun = saved.chunks.try_next().await.expect("it is there").expect("there are more");
    cluster.propose(Line::new("one more")).await.expect("there is a leader");
    cluster.until_applied(lines[9].0 + 1).await;
    taken(&node).await.expect("there is room");
    let rest: Vec<_> = saved.chunks.try_collect().await.expect("it is open");
    assert_eq!([&*begun, &rest.concat()].concat(), chunks.concat());
    assert_eq!(late.chunks.try_collect::<Vec<_>>().await, Err(SnapshotError::Replaced { node: 1, index }));

    // Whoever waits when the keepers fall is told.
    cluster.propose(Line::new("and another")).await.expect("there is a leader");
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { node.take_snapshot().await }
    });
    node.crash("consensus", Crash::Kill);
    let answer = tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("nobody hangs");
    assert!(matches!(answer.expect("no panic"), Err(SnapshotError::Unavailable { node: 1 }) | Ok(_)));
}

/// Has a snapshot taken, in bounded time.
async fn taken(node: &NodeRef) -> Result<LogIndex, SnapshotError> {
    tokio::time::timeout(Duration::from_secs(10), node.take_snapshot()).await.expect("nobody hangs")
}
