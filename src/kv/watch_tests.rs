//! In simulated time, with the whole tree of each node.

use tokio::time::timeout;

use super::*;
use crate::{config::Config, kv::Command, node::Crash, testing::Cluster};

/// Nothing here takes longer, or it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

async fn in_time<T>(story: impl Future<Output = T>) -> T {
    timeout(DEADLINE, story).await.expect("it does not hang")
}

async fn simulated() -> Cluster<Kv> {
    Cluster::builder(Kv::default).nodes(3).seed(7).start().await
}

async fn item(stream: &mut BoxStream<'static, Result<Watched, WatchError>>) -> Result<Watched, WatchError> {
    in_time(stream.next()).await.expect("a stream ends with an error")
}

// Fails when: progress is told only with changes, or also where there is none.
#[tokio::test(start_paused = true)]
async fn a_quiet_prefix_is_told_of_progress_now_and_then() {
    let cluster = simulated().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let mut stream = watch(&node, "quiet/", 0);
    let begun = item(&mut stream).await.expect("it begins").applied_index;
    let written = cluster.propose(Command::put("loud", "1")).await.expect("applied").index;
    let asked = Instant::now();
    let progress = item(&mut stream).await.expect("it goes on");
    assert_eq!((progress.changes.len(), progress.applied_index), (0, written));
    assert!(written > begun && asked.elapsed() <= PROGRESS_INTERVAL);
    timeout(10 * PROGRESS_INTERVAL, stream.next()).await.expect_err("there is nothing to tell");

    // Under load it does not wait for the time.
    let asked = Instant::now();
    let load = async {
        for _ in 0..PROGRESS_ENTRIES / 256 + 1 {
            let writes = (0..256).map(|_| node.propose(Command::put("loud", "2")));
            futures_util::future::try_join_all(writes).await.expect("applied");
        }
    };
    let (progress, ()) = tokio::join!(item(&mut stream), load);
    assert!(progress.expect("it goes on").applied_index >= written + PROGRESS_ENTRIES);
    assert!(asked.elapsed() < PROGRESS_INTERVAL, "{:?}", asked.elapsed());
}

// Fails when: what is applied counts as told though the page ended before it, or a page has no end.
#[tokio::test(start_paused = true)]
async fn much_comes_in_pages_without_a_gap_between_them() {
    let cluster = simulated().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let writes = (0..5 * MAX_PAGE_CHANGES / 2).map(|n| node.propose(Command::put(format!("{}", n % 7), "1")));
    let outputs = futures_util::future::try_join_all(writes).await.expect("applied");
    let mut stream = watch(&node, "", 1);
    let (mut seen, mut pages) = (0, 0);
    while seen < outputs.len() {
        let page = item(&mut stream).await.expect("it goes on").changes;
        assert!(page.len() <= MAX_PAGE_CHANGES);
        (seen, pages) = (seen + page.len(), pages + 1);
    }
    assert_eq!((seen, pages), (outputs.len(), 3));
}

// Fails when: all watchers ask at once: their questions then take the place of the clients' calls.
#[tokio::test(start_paused = true)]
async fn a_crowd_of_watchers_leaves_room_for_calls() {
    let config = Config { max_pending: 100, ..Config::default() };
    let cluster = Cluster::builder(Kv::default).nodes(3).config(config).seed(7).start().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = watch(&node, "", 1);
        crowd.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < 20 {
                seen += item(&mut stream).await.expect("it goes on").changes.len();
            }
        }));
    }
    // Woken with the crowd: it sees how many ask before they are answered.
    let witness = tokio::spawn({
        let node = node.clone();
        async move {
            let (mut applied, mut most) = (0, 0);
            while let Ok(now) = node.applied_past(applied).await {
                applied = now;
                most = most.max(node.shared().admission.pending());
                tokio::task::yield_now().await;
                most = most.max(node.shared().admission.pending());
            }
            most
        }
    });
    for _ in 0..20 {
        cluster.propose(Command::put("a", "1")).await.expect("there is room");
    }
    for watcher in crowd {
        watcher.await.expect("it saw all of it");
    }
    cluster.stop(leader).await.expect("it stops by order");
    let most = witness.await.expect("no panic");
    assert!((10..100).contains(&most), "{most} calls waited");
}

// Fails when: a node that knows no leader for a moment ends its watches.
#[tokio::test(start_paused = true)]
async fn an_election_ends_no_watch() {
    let cluster = simulated().await;
    let leader = cluster.leader().await;
    let mut stream = watch(&cluster.node(leader).expect("it runs"), "", 0);
    item(&mut stream).await.expect("it begins");
    // When it is looked whether there is a leader, there is none; the next time there is one.
    let story = async {
        sleep(PROGRESS_INTERVAL / 2).await;
        cluster.network().partition(&[1], &[2, 3]);
        cluster.network().separate(2, 3);
        sleep(PROGRESS_INTERVAL).await;
        cluster.network().heal();
        sleep(PROGRESS_INTERVAL).await;
        cluster.propose(Command::put("a", "1")).await.expect("it is healed").index
    };
    let seen = async {
        loop {
            if let [change] = &item(&mut stream).await.expect("it goes on").changes[..] {
                break change.revision;
            }
        }
    };
    let (written, seen) = tokio::join!(story, seen);
    assert_eq!(written, seen);
}

// Fails when: a watch does not look whether there is a leader.
#[tokio::test(start_paused = true)]
async fn a_watch_on_a_node_that_is_cut_off_ends_and_those_of_the_others_go_on() {
    let cluster = simulated().await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let watch_on = |id| watch(&cluster.node(id).expect("it runs"), "", 0);
    let (mut cut_off, mut going_on) = (watch_on(leader), watch_on(others[0]));
    item(&mut cut_off).await.expect("it begins");
    item(&mut going_on).await.expect("it begins");
    cluster.network().partition(&[leader], &others);
    let error = item(&mut cut_off).await.expect_err("it hears nothing any more");
    assert!(matches!(error, WatchError::Read(ReadError::NoLeader { .. })), "{error:?}");
    let written = cluster.propose_on(others[1], Command::put("a", "1")).await.expect("two of three").index;
    let seen = loop {
        let watched = item(&mut going_on).await.expect("it goes on");
        if let [change] = &watched.changes[..] {
            break change.clone();
        }
    };
    assert_eq!(seen, Change { key: "a".into(), value: Some("1".into()), revision: written });
}

// Fails when: a pull that finds the applier gone ends the watch, or what is applied anew after a fall is told anew.
#[tokio::test(start_paused = true)]
async fn a_watch_survives_the_restart_of_the_applier_and_repeats_nothing() {
    let cluster = simulated().await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).expect("it runs");
    let mut stream = watch(&node, "", 1);
    let mut seen = Vec::new();
    for value in ["1", "2", "3"] {
        let written = cluster.propose(Command::put("a", value)).await.expect("applied").index;
        let restarts = node.status().restarts;
        assert!(node.crash("applier", Crash::Panic));
        // The page is asked for behind the panic.
        while seen.last() < Some(&written) {
            seen.extend(item(&mut stream).await.expect("it goes on").changes.iter().map(|change| change.revision));
        }
        cluster.until("the keepers start anew", |_| (node.status().restarts > restarts).then_some(())).await;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
