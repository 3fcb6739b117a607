//! What tests put into a node. Without the feature `testing` nothing can be, and a node carries none of it.

use crate::{
    flow::Flow,
    node::shared::{Clock, RIGHT},
};
#[cfg(any(test, feature = "testing"))]
use {
    super::Builder,
    crate::{flow::Saboteur, node::observer::Observer, state_machine::StateMachine},
    std::sync::Arc,
};

/// Who looks on, who strikes, and how wrong the clock is.
#[derive(Default)]
pub(crate) struct Seams {
    #[cfg(any(test, feature = "testing"))]
    pub(crate) observer: Option<Arc<dyn Observer>>,
    #[cfg(any(test, feature = "testing"))]
    saboteur: Option<Arc<dyn Saboteur>>,
    /// `None`: it is right.
    #[cfg(any(test, feature = "testing"))]
    clock_rate: Option<u32>,
}

impl Seams {
    /// The node's clock, which starts now.
    pub(super) fn clock(&self) -> Clock {
        #[cfg(any(test, feature = "testing"))]
        let rate = self.clock_rate.unwrap_or(RIGHT);
        #[cfg(not(any(test, feature = "testing")))]
        let rate = RIGHT;
        Clock::start(rate)
    }

    /// The same flow; its actors are struck from now on, if they are to be.
    pub(super) fn flow(&self, flow: Flow) -> Flow {
        #[cfg(any(test, feature = "testing"))]
        if let Some(saboteur) = &self.saboteur {
            flow.sabotage(saboteur.clone());
        }
        flow
    }
}

#[cfg(any(test, feature = "testing"))]
impl<M: StateMachine> Builder<M> {
    /// Shows every step of the rules to `observer`. Feature `testing`.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.seams.observer = Some(observer);
        self
    }

    /// Lets `saboteur` decide which actors die at which messages. Feature `testing`.
    pub fn sabotage(mut self, saboteur: Arc<dyn Saboteur>) -> Self {
        self.seams.saboteur = Some(saboteur);
        self
    }

    /// Lets the clock of this node's elections and leases run at another rate than time does: 1.1 is a tenth too fast.
    /// Feature `testing`.
    ///
    /// # Panics
    /// If it is not between 0.1 and 10.
    pub fn clock_rate(mut self, rate: f64) -> Self {
        assert!((0.1..=10.0).contains(&rate), "no clock is as wrong as {rate}");
        self.seams.clock_rate = Some((rate * f64::from(RIGHT)).round() as u32);
        self
    }
}
