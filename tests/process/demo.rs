//! `raftkv demo`, as somebody runs it who wants to see what there is.

use tokio::time::timeout;

use crate::server::{PATIENCE, raftkv};

/// What the tour takes in, in this order.
const STEPS: [&str; 29] = [
    "elect",
    "write",
    "read",
    "follower read",
    "lease read",
    "write once",
    "lose the leader",
    "restart",
    "cut off",
    "election timer",
    "replicator",
    "server",
    "applier",
    "log store",
    "consensus",
    "nothing lost",
    "nobody hung",
    "snapshot",
    "join",
    "vote",
    "hand over",
    "still once",
    "leave",
    "nothing lost",
    "nobody hung",
    "same state",
    "backup",
    "watch",
    "message flow",
];

/// Fails when: a step of the tour does not hold, is left out, or is not counted; a client whose node says nothing any more,
/// since it was cut off when it led, waits for it instead of asking another (then "cut off" ends the tour).
#[tokio::test(flavor = "multi_thread")]
async fn the_tour_takes_in_the_whole_protocol_and_each_step_holds() {
    let mut command = raftkv();
    command.args(["demo", "--once"]);
    let output = timeout(2 * PATIENCE, command.output()).await.expect("it ends").expect("the binary is built");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}\n{complained}");
    let names = said.lines().filter_map(|line| line.strip_prefix("  ✓ ")).collect::<Vec<_>>();
    assert_eq!(names.len(), STEPS.len(), "{said}");
    for (name, step) in names.iter().zip(STEPS) {
        assert!(name.starts_with(&format!("{step:17}")), "{step:?} is to come before {name:?}: {said}");
    }
    assert!(said.contains(&format!("all {} checks hold", STEPS.len())), "{said}");
}

/// Fails when: the demo writes into a directory with something in it, or calls that another failure.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_does_not_touch_data_that_is_there() {
    let directory = tempfile::tempdir().expect("there is room");
    std::fs::write(directory.path().join("mine"), "precious").expect("there is room");
    let mut command = raftkv();
    command.args(["demo", "--once", "--data"]).arg(directory.path());
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("the binary is built");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty"));
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 1);
}
