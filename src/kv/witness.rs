//! Shows each state of a store to a test, which compares replicas by it. Without the feature `testing` there is nobody to
//! show it to.

use super::Kv;
#[cfg(any(test, feature = "testing"))]
use {crate::raft::LogIndex, std::sync::Arc};

/// Takes the index of the last command in a state, and the state's hash.
#[cfg(any(test, feature = "testing"))]
type Told = Arc<dyn Fn(LogIndex, [u8; 16]) + Send + Sync>;

/// Who is told of each state, if anybody is.
#[derive(Clone, Default)]
pub(super) struct Witness {
    #[cfg(any(test, feature = "testing"))]
    told: Option<Told>,
}

impl Witness {
    /// This is what the store has come to.
    pub(super) fn sees(&self, kv: &Kv) {
        #[cfg(any(test, feature = "testing"))]
        if let Some(told) = &self.told {
            told(kv.applied(), kv.hash());
        }
        #[cfg(not(any(test, feature = "testing")))]
        let _ = kv;
    }
}

#[cfg(any(test, feature = "testing"))]
impl Kv {
    /// Shows the hash of each state that it comes to, with the index of the last command in it, to `witness`: tests compare
    /// replicas by it. Feature `testing`.
    pub fn watched_by(mut self, witness: impl Fn(LogIndex, [u8; 16]) + Send + Sync + 'static) -> Self {
        self.witness = Witness { told: Some(Arc::new(witness)) };
        self
    }
}
