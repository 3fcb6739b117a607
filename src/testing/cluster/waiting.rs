//! Waiting for what comes of it, with a deadline on every wait.

use std::{fmt::Write as _, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::Cluster;
use crate::{node::Status, raft::LogIndex, state_machine::StateMachine};

/// How long a wait may take before the test is given up. In simulated time that is nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at while nothing is reported.
const GLANCE: Duration = Duration::from_millis(2);

/// Waiting.
impl<M: StateMachine> Cluster<M> {
    /// Waits until `condition` gives something, and returns it.
    ///
    /// # Panics
    /// After 60 seconds, with `what` was awaited and what each node is.
    pub async fn until<T>(&self, what: &str, condition: impl FnMut(&Self) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, condition).await
    }

    /// As [`until`](Cluster::until), with another deadline.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn until_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            let written = self.0.diary.written().notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some(found) = condition(self) {
                return found;
            }
            if began.elapsed() >= deadline {
                self.give_up(what, deadline);
            }
            // A report, or a glance: not everything is reported.
            let _ = timeout(GLANCE, written).await;
        }
    }

    /// Waits until every node that runs has applied this.
    pub async fn until_applied(&self, index: LogIndex) {
        let what = format!("every running node to have applied {index}");
        self.until(&what, |cluster| {
            let mut statuses = cluster.ids().into_iter().filter_map(|id| cluster.status(id));
            statuses.all(|status| status.applied_index >= index).then_some(())
        })
        .await;
    }

    /// Waits until the log says which disk each server has. From then on only what is proposed or ordered adds entries.
    pub async fn acquainted(&self) {
        self.until("the log to know the disks of all servers", |cluster| {
            let leader = cluster.status(cluster.known_leader()?)?;
            let known = |id| leader.membership.incarnations.contains_key(&id);
            let settled =
                leader.membership.addresses().all(|(id, _)| known(id)) && leader.membership.unsettled.is_empty();
            (settled && leader.commit_index == leader.last_index).then_some(())
        })
        .await;
    }

    /// Lets time pass.
    pub async fn run_for(&self, time: Duration) {
        sleep(time).await;
    }

    pub(super) async fn promptly<T>(&self, what: &str, answer: impl Future<Output = T>) -> T {
        self.within_time(self.0.config.request_timeout + Duration::from_secs(1), what, answer).await
    }

    pub(super) async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        self.within_time(PATIENCE, what, future).await
    }

    async fn within_time<T>(&self, deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
        match timeout(deadline, future).await {
            Ok(output) => output,
            Err(_) => self.give_up(what, deadline),
        }
    }

    fn give_up(&self, what: &str, deadline: Duration) -> ! {
        panic!("awaited {deadline:?} in vain: {what}\n{}", self.describe());
    }

    /// One line for each node: what it is, and how it ended if it did.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for id in self.ids() {
            let line = match self.status(id) {
                Some(Status {
                    role,
                    term,
                    leader,
                    commit_index,
                    applied_index,
                    last_index,
                    restarts,
                    membership,
                    ..
                }) => format!(
                    "{role} in term {term}, leader {leader:?}, last {last_index}, committed {commit_index}, applied \
                     {applied_index}, {restarts} restarts, {membership}"
                ),
                None => "not running".to_owned(),
            };
            let _ = writeln!(text, "  node {id}: {line}");
        }
        for (id, told) in self.ends() {
            let _ = writeln!(text, "  the supervisor of node {id} was told: {told:?}");
        }
        text
    }
}
