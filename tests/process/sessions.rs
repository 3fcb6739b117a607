//! C01 at the layer of processes: the command line's writes count once while leaders are killed.

use crate::{cluster::Cluster, command_line::run};

/// So many steps for the counter.
const STEPS: u64 = 40;

/// A counter by compare-and-swap: a step that were made twice, or whose first answer got lost, would find the wrong number
/// there and say so (exit code 5), or leave its outcome open (7). The leader is killed while a step is under way, at another
/// moment each time.
///
/// Fails when: the command line sends its writes without a session; a node applies a repeated write; an unknown outcome is not
/// tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_of_the_command_line_misses_no_step_while_leaders_are_killed() {
    let mut cluster = Cluster::start(&[]).await;
    let endpoints = cluster.endpoints();
    cluster.leader().await;
    run(&endpoints, &["cas", "counter", "--set", "0", "--timeout", "20s"]).await.exits_with(0);
    for step in 0..STEPS {
        let (expected, next) = (step.to_string(), (step + 1).to_string());
        let arguments = ["cas", "counter", "--expect", &expected, "--set", &next, "--timeout", "20s"];
        if step % 4 == 3 {
            let leader = cluster.leader().await;
            let moment = std::time::Duration::from_millis(step / 2);
            let (ran, ()) = tokio::join!(run(&endpoints, &arguments), async {
                // Not to let something happen, but to let it happen at another moment each time.
                tokio::time::sleep(moment).await;
                cluster.kill(leader.id).await;
            });
            ran.exits_with(0);
            cluster.restart(leader.id).await;
        } else {
            run(&endpoints, &arguments).await.exits_with(0);
        }
    }
    let read = run(&endpoints, &["get", "counter", "--timeout", "20s"]).await.exits_with(0);
    assert_eq!(read.stdout.trim(), STEPS.to_string());
    cluster.agree().await;
}
