//! C01: a write that is tried again after an unknown outcome is applied once, and every try hears the first answer.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;
use ractor_raft::{
    Config,
    error::ProposeError,
    node::{Applied, Crash, NodeEvent, sessions::MAX_SESSIONS},
    raft::{LogIndex, NodeId, Payload, SessionCommand},
    testing::{Cluster, Line, Witness, Written},
};

use super::support::{Watched, cluster, ledgers};

/// How long each letter takes here, so that every step of a write has its own time.
const LETTER: Duration = Duration::from_millis(2);

fn command(session: u64, sequence: u64, text: &str) -> SessionCommand {
    SessionCommand { session, sequence, first_unanswered: 1, command: Line::new(text).encode_to_vec().into() }
}

impl Watched {
    async fn open_session(&self) -> u64 {
        let leader = self.leader().await;
        self.node(leader).expect("it leads").open_session().await.expect("there is a majority")
    }

    /// Tries through a node until it is answered.
    async fn propose_in_session(&self, id: NodeId, command: &SessionCommand) -> Applied {
        for _ in 0..10 {
            let node = self.node(id).expect("it runs");
            match node.propose_in_session(command.clone(), true, 0).await {
                Ok(applied) => return applied,
                Err(error) => assert!(!matches!(error, ProposeError::SessionExpired { .. }), "{error}"),
            }
        }
        panic!("{command:?} is never answered\n{}", self.describe());
    }

    /// How often this command stands in a node's log.
    fn times_in_the_log(&self, id: NodeId, command: &SessionCommand) -> usize {
        let recovered = self.memory(id).contents().expect("it was started");
        let is_it = |payload: &Payload| matches!(payload, Payload::SessionCommand(call) if call == command);
        recovered.entries.iter().filter(|entry| is_it(&entry.payload)).count()
    }
}

fn written(applied: &Applied) -> Written {
    Written::decode(applied.output.clone()).expect("the ledger's answer")
}

/// The leader loses its power at every step of the write: before it hears of it, before and after its peers do, before and
/// after they have answered, after it was applied and before that is told, and after all. The write came in through a
/// follower, which tries again by itself; later every node is asked the same again.
///
/// Fails when: the applier applies a repeated command (`Verdict::Repeated` is `Apply`); an unknown outcome is not tried
/// again; a retry under an expired deadline is called "not applied".
#[tokio::test(start_paused = true)]
async fn a_write_of_a_session_counts_once_wherever_its_leader_falls() {
    let mut twice_in_the_log = 0;
    for step in 0..16 {
        let cluster = cluster(3, 500 + step).await;
        cluster.network().set_delay(LETTER..=LETTER);
        let leader = cluster.leader().await;
        let follower = leader % 3 + 1;
        let session = cluster.open_session().await;
        let call = command(session, 1, "once");
        let asked = tokio::spawn({
            let (node, call) = (cluster.node(follower).expect("it runs"), call.clone());
            async move { node.propose_in_session(call, true, 0).await }
        });
        cluster.run_for(step as u32 * LETTER / 2).await;
        cluster.crash(leader).await;
        let answer = asked.await.expect("no panic").expect("two of three go on, well within the request's time");
        cluster.restart(leader).await;

        for id in cluster.ids() {
            assert_eq!(cluster.propose_in_session(id, &call).await, answer, "step {step}: node {id} says otherwise");
        }
        cluster.agree_on(&[(answer.index, "once".to_owned())]).await;
        assert_eq!(written(&answer).index, answer.index);
        let lines = cluster.lines(follower).await;
        assert_eq!(lines.iter().filter(|(_, text)| text == "once").count(), 1, "step {step}: {lines:?}");
        // Three more tries stand in the log besides those that the follower made by itself.
        twice_in_the_log += usize::from(cluster.times_in_the_log(follower, &call) > 4);
    }
    assert!(twice_in_the_log > 0, "no step left the follower in doubt: nothing was shown");
}

/// Fails when: the sessions are not rebuilt from the log together with the state machine.
#[tokio::test(start_paused = true)]
async fn a_retry_gets_the_first_answer_from_actors_that_fell_and_from_nodes_that_started_again() {
    let cluster = cluster(3, 520).await;
    let session = cluster.open_session().await;
    let leader = cluster.leader().await;
    let first = cluster.propose_in_session(leader, &command(session, 1, "first")).await;
    let second = cluster.propose_in_session(leader, &command(session, 2, "second")).await;
    for id in cluster.ids() {
        assert!(cluster.node(id).expect("it runs").crash("applier", Crash::Panic));
    }
    // In the other order, and from wherever.
    assert_eq!(cluster.propose_in_session(leader, &command(session, 2, "second")).await, second);
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    for id in cluster.ids() {
        assert_eq!(cluster.propose_in_session(id, &command(session, 1, "first")).await, first);
    }
    cluster.agree_on(&[(first.index, "first".to_owned()), (second.index, "second".to_owned())]).await;
    assert_eq!(cluster.lines(leader).await.len(), 3, "and the last line");
}

/// A client writes on, many at a time, while leaders fall. It hears an answer to each, and each is applied once.
///
/// Fails when: two commands get one number; `first_unanswered` passes a command that is tried again; an unknown outcome is
/// not tried again.
#[tokio::test(start_paused = true)]
async fn a_client_pipelines_over_leaders_that_fall_and_each_command_counts_once() {
    let cluster = cluster(3, 530).await;
    let survivor = cluster.leader().await % 3 + 1;
    let client = cluster.node(survivor).expect("it runs").client();
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for count in 0..150 {
                    let text = format!("{writer}/{count}");
                    let written = client.propose(Line::new(&text)).await.expect("within 30 seconds");
                    acknowledged.push((written.index, text));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..4 {
        cluster.run_for(Duration::from_millis(150)).await;
        let leader = cluster.leader().await;
        if leader == survivor {
            // The client's own node stays; its leadership does not.
            let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != survivor).collect();
            cluster.network().partition(&[survivor], &others);
            cluster.run_for(Duration::from_secs(1)).await;
            cluster.network().heal();
        } else {
            cluster.crash(leader).await;
            cluster.run_for(Duration::from_millis(500)).await;
            cluster.restart(leader).await;
        }
    }
    let mut acknowledged: Vec<(LogIndex, String)> = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no panic"));
    }
    cluster.agree_on(&acknowledged).await;
    let lines = cluster.lines(survivor).await;
    let different: BTreeSet<_> = lines.iter().map(|(_, text)| text).collect();
    assert_eq!((lines.len(), different.len()), (3001, 3001), "each once, and the last line");
}

/// Fails when: the least recently used session does not go; a command under it is applied; a client whose session went, with
/// nothing in doubt, is told instead of given another one.
#[tokio::test(start_paused = true)]
async fn a_session_that_others_pushed_out_is_refused_and_a_client_without_doubts_gets_another() {
    let cluster = cluster(1, 540).await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let client = node.client();
    client.propose(Line::new("before")).await.expect("there is a leader");
    let (idle, busy) = (cluster.open_session().await, cluster.open_session().await);
    let first = cluster.propose_in_session(leader, &command(busy, 1, "busy")).await;
    for opened in (0..MAX_SESSIONS).step_by(512) {
        let others = (0..512).map(|_| node.open_session());
        for session in futures_util::future::join_all(others).await {
            session.expect("there is a leader");
        }
        // It is used all the while, and therefore stays.
        assert_eq!(cluster.propose_in_session(leader, &command(busy, 1, "busy")).await, first, "after {opened}");
    }
    let refused = node.propose_in_session(command(idle, 1, "idle"), true, 0).await;
    assert_eq!(refused, Err(ProposeError::SessionExpired { session: idle }));
    client.propose(Line::new("after")).await.expect("nothing was in doubt");
    let lines: Vec<_> = cluster.lines(leader).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(lines, ["before", "busy", "after"]);
}

/// A node was away while the command was applied and compacted: it has the session by a snapshot alone. Then it leads, and is
/// asked again.
///
/// Fails when: the sessions are not in the snapshot that is sent, or are not taken over from one that is installed.
#[tokio::test(start_paused = true)]
async fn a_leader_that_has_the_session_by_an_installed_snapshot_gives_the_first_answer() {
    let mut config = Config::default();
    config.snapshot_threshold = 20;
    config.snapshot_trailing = 4;
    let witness = Witness::default();
    let cluster = Cluster::builder(ledgers(&witness)).seed(550).config(config).start().await;
    let cluster = Watched { cluster, witness };
    let leader = cluster.leader().await;
    let away = leader % 3 + 1;
    cluster.crash(away).await;
    let session = cluster.open_session().await;
    let first = cluster.propose_in_session(leader, &command(session, 1, "once")).await;
    let compacted = |id| cluster.memory(id).contents().is_some_and(|recovered| recovered.base.index > first.index);
    for line in 0.. {
        if cluster.ids().into_iter().filter(|id| *id != away).all(compacted) {
            break;
        }
        cluster.write(&format!("line {line}")).await;
    }
    cluster.restart(away).await;
    let installed = |id: NodeId, event: &NodeEvent| id == away && matches!(event, NodeEvent::SnapshotInstalled { .. });
    cluster
        .until("the snapshot to be installed", |cluster| {
            cluster.events().iter().any(|(id, event)| installed(*id, event)).then_some(())
        })
        .await;
    for _ in 0..50 {
        let leader = cluster.leader().await;
        if leader == away {
            break;
        }
        cluster.crash(leader).await;
        cluster.leader().await;
        cluster.restart(leader).await;
        // Whoever is behind is not elected.
        let last = cluster.write("on all nodes").await;
        cluster.until_applied(last).await;
    }
    assert_eq!(cluster.leader().await, away, "it never came to lead\n{}", cluster.describe());
    assert_eq!(cluster.propose_in_session(away, &command(session, 1, "once")).await, first);
    let fresh = cluster.propose_in_session(away, &command(session, 2, "twice")).await;
    cluster.agree_on(&[(first.index, "once".to_owned()), (fresh.index, "twice".to_owned())]).await;
}
