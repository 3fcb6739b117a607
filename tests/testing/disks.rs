//! Disks that hang, are slow, and fail at any operation.

use std::{collections::BTreeSet, time::Duration};

#[cfg(feature = "sqlite")]
use ractor_raft::{error::NodeError, testing::Told};
use ractor_raft::{
    raft::Role,
    testing::{Cluster, ClusterBuilder, Ledger, Line},
};
use tokio::time::Instant;

fn builder(nodes: u64, seed: u64) -> ClusterBuilder<Ledger> {
    Cluster::builder(Ledger::default).nodes(nodes).seed(seed)
}

/// D06, in simulated time.
///
/// Fails when: the log store does not wait for the pace of its disk, or consensus waits with it (`disk_hangs`).
#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_is_replaced_and_goes_on_when_it_answers() {
    let cluster = builder(3, 1).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    cluster.hang_disk(leader, true);
    let in_flight = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.propose_on(leader, Line::new("in flight")).await }
    });
    let next = cluster.until("another leader", |cluster| cluster.known_leader().filter(|next| *next != leader)).await;
    let during = cluster.propose_on(next, Line::new("during")).await.expect("two disks are a majority");
    cluster.run_for(Duration::from_secs(1)).await;
    let status = cluster.status(leader).expect("it runs");
    assert!(status.role != Role::Leader && status.applied_index < during.index);
    cluster.hang_disk(leader, false);
    cluster.until_applied(during.index).await;
    if let Ok(written) = in_flight.await.expect("no panic") {
        assert!(written.index < during.index, "the others had it, and committed it");
    }
    assert_eq!(cluster.leaders().values().map(BTreeSet::len).max(), Some(1));
}

/// Fails when: `Paced` does not say what its pace is, or the log store waits on one side of the write only.
#[tokio::test(start_paused = true)]
async fn a_slow_disk_takes_its_time_before_and_after_each_write() {
    let cluster = builder(1, 1).start().await;
    cluster.leader().await;
    cluster.propose(Line::new("before")).await.expect("it leads");
    let slow = Duration::from_millis(70);
    cluster.slow_disk(1, slow..=slow);
    let began = Instant::now();
    cluster.propose(Line::new("slowly")).await.expect("it leads");
    assert!((2 * slow..3 * slow).contains(&began.elapsed()), "{:?}", began.elapsed());
    cluster.slow_disk(1, None);
    // Its housekeeping may have begun slowly.
    cluster.run_for(10 * slow).await;
    let began = Instant::now();
    cluster.propose(Line::new("quickly")).await.expect("it leads");
    assert!(began.elapsed() < slow);
}

/// D01. Fails when: `fail_at` counts otherwise, or a write that failed is retried, or taken for durable.
#[cfg(feature = "sqlite")]
#[tokio::test(start_paused = true)]
async fn whichever_operation_of_a_disk_fails_nothing_acknowledged_is_lost() {
    let mut stopped = 0;
    for operation in 1..40 {
        let cluster = builder(1, operation).simulated_disks().start().await;
        cluster.leader().await;
        cluster.disk(1).fail_at(operation);
        let mut acknowledged = Vec::new();
        for count in 0..20 {
            if let Ok(written) = cluster.propose_on(1, Line::new(format!("line {count}"))).await {
                acknowledged.push(written.index);
            }
            cluster.run_for(Duration::from_millis(20)).await;
        }
        if let Some((_, told)) = cluster.ends().first() {
            assert!(matches!(told, Told::Failed(NodeError::Storage(_))), "{told:?}");
            stopped += 1;
        }
        cluster.restart(1).await;
        cluster.leader().await;
        let last = cluster.propose(Line::new("last")).await.expect("it leads").index;
        cluster.until_applied(last).await;
        let indexes = cluster.look(1, |ledger| ledger.lines().map(|(at, _)| at).collect::<BTreeSet<_>>()).await;
        let lost: Vec<_> = acknowledged.iter().filter(|at| !indexes.contains(at)).collect();
        assert!(lost.is_empty(), "operation {operation}: {lost:?} were acknowledged");
    }
    assert!(stopped > 25, "only {stopped} stopped of it");
}

/// Fails when: `set_failures` draws nothing, or the same for every seed.
#[cfg(feature = "sqlite")]
#[tokio::test(start_paused = true)]
async fn disks_fail_by_chance() {
    let mut lives = BTreeSet::new();
    for seed in 0..6 {
        let cluster = builder(1, 1).simulated_disks().start().await;
        cluster.leader().await;
        cluster.disk(1).set_failures(50, seed);
        let mut count = 0;
        while cluster.ends().is_empty() && count < 500 {
            count += u64::from(cluster.propose_on(1, Line::new("line")).await.is_ok());
            cluster.run_for(Duration::from_millis(1)).await;
        }
        assert!(count < 500, "seed {seed}: it lived on");
        lives.insert(count);
    }
    assert!(lives.len() > 2, "{lives:?}");
}

/// D04. Fails when: nothing is flipped, or more than a bit, or what is not durable.
#[cfg(feature = "sqlite")]
#[tokio::test(start_paused = true)]
async fn any_bit_of_a_stopped_node_can_flip() {
    use rand::SeedableRng;
    let cluster = builder(1, 1).simulated_disks().start().await;
    cluster.leader().await;
    cluster.propose(Line::new("line")).await.expect("it leads");
    cluster.crash(1).await;
    let (disk, mut random) = (cluster.disk(1), rand::rngs::SmallRng::seed_from_u64(1));
    let mut files = BTreeSet::new();
    for _ in 0..200 {
        let before = disk.image();
        let (file, bit) = disk.flip_any_bit(&mut random).expect("there are bits");
        let differing = |(name, bytes): (&String, &Vec<u8>)| {
            let pairs = bytes.iter().zip(&before[name]);
            pairs.map(|(now, then)| (now ^ then).count_ones()).sum::<u32>()
        };
        let image = disk.image();
        assert_eq!(image.iter().map(differing).sum::<u32>(), 1);
        assert_eq!(image[&file][bit / 8] ^ before[&file][bit / 8], 1 << (bit % 8));
        disk.restore(&before);
        files.insert(file);
    }
    assert!(files.len() > 1, "only {files:?}");
}
