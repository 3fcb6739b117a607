use std::time::Duration;

use crate::{
    error::ReadError,
    kv::{Command, Kv},
    node::Node,
    storage::MemoryStorage,
    transport::InProcess,
};

const DEADLINE: Duration = Duration::from_secs(20);

// Fails when: the applier does not tell, or `end` does not.
#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_by_what_is_applied_and_by_the_end() {
    let story = async {
        let builder = Node::builder(1, Kv::default).cluster([(1, "applied waiters")]);
        let node = builder.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await.expect("starts");
        let before = node.applied_past(0).await.expect("an election leaves an entry");
        let wait_for = |index| {
            let node = node.clone();
            tokio::spawn(async move { node.applied_past(index).await })
        };
        let (next, later) = (wait_for(before), wait_for(before + 1));
        tokio::task::yield_now().await;
        assert_eq!(node.shared().applied_waiters.count(), 2);
        node.propose(Command::put("a", "1")).await.expect("applied");
        assert_eq!(next.await.expect("no panic"), Ok(before + 1));
        assert!(!later.is_finished());
        node.shutdown().await.expect("it stops by order");
        assert_eq!(later.await.expect("no panic"), Err(ReadError::Unavailable { node: 1 }));
        assert_eq!(node.shared().applied_waiters.count(), 0);
    };
    tokio::time::timeout(DEADLINE, story).await.expect("it does not hang");
}
