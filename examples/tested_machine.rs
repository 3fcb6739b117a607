//! A state machine of one's own, tried under faults: three replicas of it are crashed, cut off, held and sent snapshots, in
//! simulated time, and must agree. One that is sound passes; one whose snapshot forgets a field is caught.
//!
//! `cargo run --example tested_machine`, and `SEED=3 cargo run --example tested_machine` for one seed alone
//!
//! In your own project this is a test of ten lines, with the feature `testing` of this crate and `test-util` of tokio
//! among the dev-dependencies:
//!
//! ```ignore
//! #[tokio::test(start_paused = true)]
//! async fn the_queue_survives() {
//!     Trial::new(Queue::default, Queue::state, any_command).run().await;
//! }
//! ```

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use prost::Message;
use ractor_raft::{
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
    testing::{Dice, Trial},
};

/// Puts a job into the queue, or takes the oldest out.
#[derive(Clone, PartialEq, Message)]
struct Command {
    /// The job. `None`: take one.
    #[prost(string, optional, tag = "1")]
    put: Option<String>,
}

/// What was taken, and how many were before it.
#[derive(Clone, PartialEq, Message)]
struct Taken {
    #[prost(string, optional, tag = "1")]
    job: Option<String>,
    #[prost(uint64, tag = "2")]
    before: u64,
}

#[derive(Clone, Default)]
struct Queue {
    jobs: VecDeque<String>,
    /// How many were ever taken.
    taken: u64,
    /// The planted bug: whoever wrote the snapshot forgot that there is a counter.
    snapshot_forgets_the_counter: bool,
}

impl Queue {
    /// All there is, to compare replicas by.
    fn state(&self) -> (VecDeque<String>, u64) {
        (self.jobs.clone(), self.taken)
    }

    fn with_the_bug() -> Self {
        Queue { snapshot_forgets_the_counter: true, ..Queue::default() }
    }
}

impl StateMachine for Queue {
    type Command = Command;
    type Output = Taken;

    fn apply(&mut self, _at: LogIndex, command: Command) -> Taken {
        if let Some(job) = command.put {
            self.jobs.push_back(job);
            return Taken::default();
        }
        let (job, before) = (self.jobs.pop_front(), self.taken);
        self.taken += u64::from(job.is_some());
        Taken { job, before }
    }

    fn snapshot(&self) -> impl Snapshot {
        let taken = if self.snapshot_forgets_the_counter { 0 } else { self.taken };
        QueueSnapshot { jobs: self.jobs.iter().cloned().collect(), taken }
    }

    fn restore(&mut self, mut bytes: impl Read) -> Result<(), RestoreError> {
        let mut encoded = Vec::new();
        bytes.read_to_end(&mut encoded)?;
        let QueueSnapshot { jobs, taken } = QueueSnapshot::decode(&encoded[..])?;
        (self.jobs, self.taken) = (jobs.into(), taken);
        Ok(())
    }
}

#[derive(Clone, PartialEq, Message)]
struct QueueSnapshot {
    #[prost(string, repeated, tag = "1")]
    jobs: Vec<String>,
    #[prost(uint64, tag = "2")]
    taken: u64,
}

impl Snapshot for QueueSnapshot {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.encode_to_vec())
    }
}

/// Clients send these.
fn any_command(dice: &mut Dice) -> Command {
    let put = dice.below(2) == 0;
    Command { put: put.then(|| format!("job {}", dice.below(1000))) }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    // Among the faults are panics of actors, which would each be printed.
    std::panic::set_hook(Box::new(|_| {}));

    let sound = Trial::new(Queue::default, Queue::state, any_command).invariant(|queue| {
        let few = queue.jobs.len() < 1000;
        few.then_some(()).ok_or_else(|| format!("{} jobs wait", queue.jobs.len()))
    });
    match sound.try_run().await {
        Ok(passed) => println!("The queue: {passed}."),
        Err(failure) => {
            println!("The queue fails, which it should not.\n{failure}");
            std::process::exit(1);
        }
    }

    match Trial::new(Queue::with_the_bug, Queue::state, any_command).try_run().await {
        Err(failure) => println!("\nThe queue whose snapshot forgets a field is caught.\n{failure}"),
        Ok(passed) => {
            println!("\nThe bug was not found: {passed}.");
            std::process::exit(1);
        }
    }
}
