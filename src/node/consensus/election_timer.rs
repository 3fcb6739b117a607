//! Holds the one alarm that the core wants, and all the randomness of elections.
//!
//! Parent: consensus. Restart: alone (courier).
//! Hears: SetTimer; Woke from its own sleep.
//! Says: Timeout to consensus.
//! Lost in a crash: the alarm; the core sets it again.
//!
//! A follower's alarm is put off with every AppendEntries. So the sleep is left alone when the alarm moves to a later
//! time: it wakes too early, sees so, and sleeps for the rest.

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use crate::{
    flow::{self, Actor, Context},
    node::{
        alarm::Alarm,
        messages::{ConsensusMessage, ElectionTimerMessage},
        shared::Shared,
    },
    raft,
};

pub(crate) struct ElectionTimerArguments {
    pub shared: Arc<Shared>,
    pub seed: u64,
    pub consensus: flow::Address<ConsensusMessage>,
}

pub(crate) struct ElectionTimer {
    shared: Arc<Shared>,
    random: SmallRng,
    consensus: flow::Address<ConsensusMessage>,
    /// The alarm's epoch and when it is due.
    set: Option<(u64, Instant)>,
    sleep: Alarm,
}

impl Actor for ElectionTimer {
    type Message = ElectionTimerMessage;
    type Arguments = ElectionTimerArguments;

    async fn start(
        arguments: ElectionTimerArguments,
        _: &mut Context<ElectionTimerMessage>,
    ) -> Result<Self, ActorProcessingErr> {
        let ElectionTimerArguments { shared, seed, consensus } = arguments;
        let random = SmallRng::seed_from_u64(seed);
        Ok(ElectionTimer { shared, random, consensus, set: None, sleep: Alarm::default() })
    }

    async fn handle(
        &mut self,
        message: ElectionTimerMessage,
        context: &mut Context<ElectionTimerMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ElectionTimerMessage::SetTimer { epoch, alarm, since } => {
                let interval = self.interval(alarm);
                let due = self.shared.clock.instant(since + interval);
                self.set = Some((epoch, due));
                if self.sleep.deadline().is_none_or(|wakes| due < wakes) {
                    self.sleep_until(due, context);
                }
            }
            ElectionTimerMessage::Woke => {
                self.sleep.stop();
                match self.set {
                    Some((epoch, due)) if due <= Instant::now() => {
                        self.set = None;
                        let _ = self.consensus.send(context.origin(), ConsensusMessage::Timeout { epoch });
                    }
                    Some((_, due)) => self.sleep_until(due, context),
                    None => {}
                }
            }
            ElectionTimerMessage::Crash => panic!("the election timer was told to crash"),
        }
        Ok(())
    }
}

impl ElectionTimer {
    fn interval(&mut self, alarm: raft::Alarm) -> Duration {
        let config = &self.shared.config;
        match alarm {
            raft::Alarm::Heartbeat => config.heartbeat_interval,
            raft::Alarm::Notice => config.heartbeat_interval / 10,
            // "Raft uses randomized election timeouts to ensure that split votes are rare" (§5.2).
            raft::Alarm::Election => {
                self.random.random_range(config.election_timeout_min..=config.election_timeout_max)
            }
        }
    }

    fn sleep_until(&mut self, due: Instant, context: &Context<ElectionTimerMessage>) {
        let (myself, mut origin) = (context.myself().clone(), context.origin());
        // An alarm belongs to nobody's call.
        origin.trace = 0;
        self.sleep.set(due, move || {
            let _ = myself.send(origin, ElectionTimerMessage::Woke);
        });
    }
}
