//! What one endpoint's failure means for a call, and what all of them mean in the end.

use std::{collections::BTreeMap, time::Duration};

use ractor_raft::rpc::{error::Told, reason};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Kind;
use crate::error::{Failure, exit};

/// Says less than anything that was said before it.
pub(super) const TOO_LATE: &str = "no answer came in time";

/// What one endpoint's failure means for the call.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Not applied; somebody else, or the same one later, may answer.
    TryAgain(Refusal),
    /// There is nothing to try again.
    Final(Failure),
}

/// Why one endpoint did not do it.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    cause: String,
    /// The write may have been applied.
    in_doubt: bool,
    /// Who leads, as it says.
    pub(super) hint: Option<String>,
    /// The whole of it, if it was a node that refused.
    told: Option<Failure>,
}

/// What all endpoints said so far.
#[derive(Default)]
pub(super) struct Refusals {
    pub(super) causes: BTreeMap<String, String>,
    /// Whether anybody took the call in and did not answer it.
    reached: bool,
    /// Where a write or an order that counts once may have been applied, if anywhere, and what is known of it.
    pub(super) doubt: Option<Failure>,
    /// What a node said last.
    told: Option<Failure>,
    /// How long the slowest refusal took: a node without a leader waits for one before it gives up.
    slowest: Duration,
}

/// An answer that is a failure. Only a node of ours may say that nothing was applied; a broken connection says nothing.
pub(super) fn judge(endpoint: &str, kind: Kind, status: &Status) -> Verdict {
    let Some(told) = Told::of(status) else {
        return match status.code() {
            // The request was not taken in at all. (Not so `OutOfRange`: tonic says it at our end of an answer that is too
            // large, when the write is applied.)
            Code::Unimplemented | Code::InvalidArgument | Code::Unauthenticated => {
                Verdict::Final(Failure::other(format!("{endpoint} refused the request"), status.message()))
            }
            code => lost(endpoint, kind, format!("{code:?}: {}", status.message())),
        };
    };
    let again = || Refusal {
        cause: status.message().to_owned(),
        hint: told.metadata.get("leader_addr").cloned(),
        told: Some(Failure::told(endpoint, status, &told)),
        ..Refusal::default()
    };
    match told.reason.as_str() {
        reason::NOT_LEADER | reason::NO_LEADER | reason::NOT_READY | reason::UNAVAILABLE | reason::BUSY => {
            Verdict::TryAgain(again())
        }
        // Another endpoint may be in its place.
        reason::NODE_WIPED | reason::NODE_REMOVED | reason::WRONG_CLUSTER => Verdict::TryAgain(again()),
        reason::READ_TIMED_OUT if kind.changes_nothing() => Verdict::TryAgain(again()),
        // Of what changes nothing: no majority agreed.
        reason::UNKNOWN_OUTCOME if kind.changes_nothing() => {
            let fix = "see with `raftkv status` which nodes reach each other";
            let told = Failure::new(2, exit::UNAVAILABLE, "no majority agreed in time", status.message(), fix);
            Verdict::TryAgain(Refusal { told: Some(told), ..again() })
        }
        reason::UNKNOWN_OUTCOME => lost(endpoint, kind, status.message().to_owned()),
        _ => Verdict::Final(Failure::told(endpoint, status, &told)),
    }
}

/// The call was made, and what became of it is not known.
pub(super) fn lost(endpoint: &str, kind: Kind, cause: String) -> Verdict {
    let (what, fix) = match kind {
        Kind::Read | Kind::Harmless => return Verdict::again(cause),
        Kind::Write | Kind::InSession => (
            "the outcome is unknown: the write may have been applied, or may still be",
            "read the key before you write again; compare-and-swap (raftkv cas) makes a repeated write safe",
        ),
        Kind::Order => (
            "the outcome is unknown: the change may have been made, or may still be",
            "see with `raftkv member list` and `raftkv leader show` whether it was made, before you ask for it again",
        ),
        Kind::RepeatableOrder => (
            "the outcome is unknown: the change may have been made, or may still be",
            "see with `raftkv member list` and `raftkv leader show` whether it was made; asking for it again does no harm",
        ),
    };
    let failure = Failure::new(14, exit::UNKNOWN_OUTCOME, what, format!("{endpoint}: {cause}"), fix);
    if kind.counts_once() {
        return Verdict::TryAgain(Refusal { cause, in_doubt: true, told: Some(failure), ..Refusal::default() });
    }
    Verdict::Final(failure)
}

impl Verdict {
    pub(super) fn again(cause: String) -> Self {
        Verdict::TryAgain(Refusal { cause, ..Refusal::default() })
    }
}

impl Refusals {
    pub(super) fn add(&mut self, endpoint: String, refusal: Refusal, took: Duration) {
        self.reached |= refusal.cause == TOO_LATE;
        if refusal.cause != TOO_LATE || !self.causes.contains_key(&endpoint) {
            self.causes.insert(endpoint, refusal.cause);
        }
        if refusal.in_doubt {
            self.doubt = refusal.told;
        } else {
            self.told = refusal.told.or(self.told.take());
        }
        self.slowest = self.slowest.max(took);
    }

    /// A write that would likely be cut off by the deadline is not begun: what is known to be not applied would become
    /// unknown.
    pub(super) fn leave_time_for_another(&self, kind: Kind, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match kind {
            Kind::Read | Kind::Harmless => !left.is_zero(),
            // What is in doubt can only get better.
            Kind::InSession | Kind::RepeatableOrder if self.doubt.is_some() => !left.is_zero(),
            Kind::Write | Kind::Order | Kind::InSession | Kind::RepeatableOrder => left > 2 * self.slowest,
        }
    }

    pub(super) fn into_failure(self, kind: Kind, timeout: Duration) -> Failure {
        if let Some(doubt) = self.doubt {
            return doubt;
        }
        let causes = self.causes.iter().map(|(endpoint, cause)| format!("{endpoint}: {cause}"));
        let why = causes.collect::<Vec<_>>().join("; ");
        if let Some(told) = self.told {
            // A stranger or a busy node is reached, and may lead.
            let is_there = matches!(told.code, Some(ractor_raft::error::Code(4 | 19)));
            let exit = if is_there { exit::OTHER } else { exit::UNAVAILABLE };
            return Failure { why, exit, ..told };
        }
        if self.reached {
            let or = match kind {
                Kind::Read => "ask for a read that can be served sooner",
                _ => "see with `raftkv status` which nodes reach each other",
            };
            let fix = format!("give a longer --timeout than {timeout:?}, or {or}");
            return Failure::new(2, exit::UNAVAILABLE, format!("no answer within {timeout:?}"), why, fix);
        }
        let endpoints = self.causes.into_keys().collect::<Vec<_>>().join(",");
        let fix = format!("start the nodes at {endpoints} (raftkv serve), or name others with --endpoints");
        Failure::new(2, exit::UNAVAILABLE, format!("no endpoint could be reached within {timeout:?}"), why, fix)
    }
}

#[cfg(test)]
mod tests {
    use ractor_raft::rpc::identity::WrongPeer;

    use super::*;

    // Fails when: an order is called a read, so that a timeout says that it was not carried out.
    #[test]
    fn an_order_that_may_be_repeated_stays_in_doubt_until_it_is_answered() {
        let second = Duration::from_secs(1);
        let Verdict::TryAgain(refusal) = lost("here:1", Kind::RepeatableOrder, TOO_LATE.to_owned()) else {
            panic!("it may be asked for again")
        };
        let mut refusals = Refusals::default();
        refusals.add("here:1".to_owned(), refusal, second);
        assert!(refusals.leave_time_for_another(Kind::RepeatableOrder, Instant::now() + second));
        let not_leading = Refusal { cause: "nobody leads".to_owned(), ..Refusal::default() };
        refusals.add("there:1".to_owned(), not_leading, second);
        let failure = refusals.into_failure(Kind::RepeatableOrder, second);
        assert_eq!((failure.code, failure.exit), (Some(ractor_raft::error::Code(14)), exit::UNKNOWN_OUTCOME));
    }

    // Fails when: who opens a session, or writes, is told to ask for another read.
    #[test]
    fn only_a_read_is_told_to_be_a_read_that_can_be_served_sooner() {
        for kind in [Kind::Read, Kind::Harmless, Kind::Write] {
            let mut refusals = Refusals::default();
            let late = Refusal { cause: TOO_LATE.to_owned(), ..Refusal::default() };
            refusals.add("here:1".to_owned(), late, Duration::ZERO);
            let fix = refusals.into_failure(kind, Duration::from_secs(1)).fix;
            assert_eq!(fix.contains("a read that"), kind == Kind::Read, "{kind:?}: {fix}");
        }
    }

    // Fails when: `OutOfRange` is among the codes that say that the request was not taken in.
    #[test]
    fn an_answer_that_cannot_be_decoded_leaves_the_outcome_of_a_write_unknown() {
        let status =
            Status::out_of_range("Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes");
        match judge("here:1", Kind::Write, &status) {
            Verdict::Final(failure) => assert_eq!(failure.exit, exit::UNKNOWN_OUTCOME),
            other => panic!("{other:?}"),
        }
        let refused = Status::invalid_argument("no such thing");
        match judge("here:1", Kind::Write, &refused) {
            Verdict::Final(failure) => assert_eq!(failure.exit, exit::OTHER),
            other => panic!("{other:?}"),
        }
    }

    // Fails when: a stranger's word is final: the cluster may be at another endpoint.
    #[test]
    fn a_stranger_is_passed_over_and_named_in_the_end() {
        let wrong = WrongPeer::Cluster { node: 1, cluster: 8, found: 7 };
        let Verdict::TryAgain(refusal) = judge("here:1", Kind::InSession, &wrong.into()) else {
            panic!("somebody else may answer")
        };
        let mut refusals = Refusals::default();
        refusals.add("here:1".to_owned(), refusal, Duration::ZERO);
        let failure = refusals.into_failure(Kind::InSession, Duration::from_secs(1));
        assert_eq!((failure.code, failure.exit), (Some(ractor_raft::error::Code(4)), exit::OTHER));
    }
}
