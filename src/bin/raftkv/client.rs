//! One call over several endpoints: tried in order, the leader's hint followed, all within one timeout.
//!
//! A write goes under a session, so that it is applied once however often it is sent; when the time is over without an
//! answer, it ends with R014. Without a session only what is certainly not applied is sent again: a connection that could
//! not be made, or an answer that says so.
//!
//! All calls of one client are for the cluster that answered the first of them. A stranger among the endpoints refuses (R004).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ractor_raft::rpc::{cluster, error::Told, reason};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    config::ClientSettings,
    error::{Failure, exit},
};

/// How long one connection may take while others wait for their turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait once nobody in a whole round had an answer.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a try takes at least that may be repeated.
const SHORTEST_TRY: Duration = Duration::from_millis(500);

/// How many hints to follow before going back to the endpoints: nodes may disagree about the leader for a while.
const MAX_HINTS: usize = 3;

/// Says less than anything that was said before it.
const TOO_LATE: &str = "no answer came in time";

/// Whether a call may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing, and tells what is stored.
    Read,
    /// It is no read, and made twice it does no harm: a session that nobody uses, a backup.
    Harmless,
    /// It may be made again only if it was certainly not applied.
    Write,
    /// As a write, of an operator.
    Order,
    /// It is an order that counts once, however often it is given.
    RepeatableOrder,
    /// It is a write of a session: made twice, it counts once.
    InSession,
}

impl Kind {
    fn changes_nothing(self) -> bool {
        matches!(self, Kind::Read | Kind::Harmless)
    }

    /// Whether it may be made again where it is not known what became of it. The doubt stays until it is answered.
    fn counts_once(self) -> bool {
        matches!(self, Kind::InSession | Kind::RepeatableOrder)
    }
}

/// Makes calls to whichever endpoint can answer.
pub struct Client {
    endpoints: Vec<String>,
    timeout: Duration,
    /// The last one that answered, so that the next page of a scan need not look for it again.
    connected: Option<(String, Channel)>,
    /// The cluster that answered first. 0: none has said yet which it is.
    cluster_id: u64,
}

/// What one endpoint's failure means for the call.
#[derive(Debug)]
enum Verdict {
    /// Not applied; somebody else, or the same one later, may answer.
    TryAgain(Refusal),
    /// There is nothing to try again.
    Final(Failure),
}

/// Why one endpoint did not do it.
#[derive(Debug, Default)]
struct Refusal {
    cause: String,
    /// The write may have been applied.
    in_doubt: bool,
    /// Who leads, as it says.
    hint: Option<String>,
    /// The whole of it, if it was a node that refused.
    told: Option<Failure>,
}

/// What all endpoints said so far.
#[derive(Default)]
struct Refusals {
    causes: BTreeMap<String, String>,
    /// Whether anybody took the call in and did not answer it.
    reached: bool,
    /// Where a write or an order that counts once may have been applied, if anywhere, and what is known of it.
    doubt: Option<Failure>,
    /// What a node said last.
    told: Option<Failure>,
    /// How long the slowest refusal took: a node without a leader waits for one before it gives up.
    slowest: Duration,
}

impl Client {
    /// For these endpoints, with this time for each call.
    pub fn new(settings: &ClientSettings) -> Self {
        Client { endpoints: settings.endpoints.clone(), timeout: settings.timeout, connected: None, cluster_id: 0 }
    }

    /// Makes one call with `message`; `send` does it over one connection.
    pub async fn call<M: Clone, R, F>(
        &mut self,
        kind: Kind,
        message: &M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_until(Instant::now() + self.timeout, kind, message, send).await
    }

    /// Who answered last; empty: nobody yet.
    pub fn endpoint(&self) -> &str {
        self.connected.as_ref().map_or("", |(endpoint, _)| endpoint)
    }

    /// When a call that begins now would be given up.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// As [`call`](Client::call), given up at `deadline`.
    pub async fn call_until<M: Clone, R, F>(
        &mut self,
        deadline: Instant,
        kind: Kind,
        message: &M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut refusals = Refusals::default();
        let mut queue = VecDeque::new();
        let mut hints = 0;
        while refusals.leave_time_for_another(kind, deadline) {
            let Some(endpoint) = queue.pop_front() else {
                if !refusals.causes.is_empty() {
                    sleep(PAUSE.min(deadline - Instant::now())).await;
                }
                hints = 0;
                queue = self.round();
                continue;
            };
            let begun = Instant::now();
            let mut request = Request::new(message.clone());
            cluster::write(self.cluster_id, request.metadata_mut());
            let send = |channel| send(channel, request);
            // A node that does not answer leaves time to ask another, where that is safe.
            let half = begun + (deadline - begun) / 2;
            let until = if kind.counts_once() { half.max(begun + SHORTEST_TRY).min(deadline) } else { deadline };
            match self.attempt(&endpoint, kind, until, send).await {
                Ok(reply) => return Ok(reply),
                Err(Verdict::Final(failure)) => return Err(refusals.doubt.unwrap_or(failure)),
                Err(Verdict::TryAgain(refusal)) => {
                    self.connected = None;
                    if let Some(hint) = refusal.hint.clone().filter(|_| hints < MAX_HINTS) {
                        hints += 1;
                        queue.push_front(hint);
                    }
                    refusals.add(endpoint, refusal, begun.elapsed());
                }
            }
        }
        Err(refusals.into_failure(kind, self.timeout))
    }

    /// Whoever answered last, then all in order.
    fn round(&self) -> VecDeque<String> {
        let preferred = self.connected.iter().map(|(endpoint, _)| endpoint);
        let mut round = preferred.chain(&self.endpoints).cloned().collect::<VecDeque<_>>();
        if round.len() > self.endpoints.len() {
            let preferred = round[0].clone();
            let mut place = 0;
            round.retain(|endpoint| {
                place += 1;
                place == 1 || *endpoint != preferred
            });
        }
        round
    }

    async fn attempt<R, F>(
        &mut self,
        endpoint: &str,
        kind: Kind,
        deadline: Instant,
        send: impl FnOnce(Channel) -> F,
    ) -> Result<R, Verdict>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let channel = match &self.connected {
            Some((connected, channel)) if connected == endpoint => channel.clone(),
            _ => connect(endpoint, deadline).await.map_err(Verdict::again)?,
        };
        match timeout_at(deadline, send(channel.clone())).await {
            Ok(Ok(response)) => {
                if self.cluster_id == 0 {
                    self.cluster_id = cluster::read(response.metadata());
                }
                self.connected = Some((endpoint.to_owned(), channel));
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(judge(endpoint, kind, &status)),
            Err(_) => Err(lost(endpoint, kind, TOO_LATE.to_owned())),
        }
    }
}

/// Opens a connection to `endpoint`.
///
/// # Errors
/// Why not, in words.
pub async fn connect(endpoint: &str, deadline: Instant) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|error| error.to_string())?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2));
    let until = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    match timeout_at(until, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

/// The innermost cause: "transport error" alone helps nobody.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An answer that is a failure. Only a node of ours may say that nothing was applied; a broken connection says nothing.
fn judge(endpoint: &str, kind: Kind, status: &Status) -> Verdict {
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
fn lost(endpoint: &str, kind: Kind, cause: String) -> Verdict {
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
    fn again(cause: String) -> Self {
        Verdict::TryAgain(Refusal { cause, ..Refusal::default() })
    }
}

impl Refusals {
    fn add(&mut self, endpoint: String, refusal: Refusal, took: Duration) {
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
    fn leave_time_for_another(&self, kind: Kind, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match kind {
            Kind::Read | Kind::Harmless => !left.is_zero(),
            // What is in doubt can only get better.
            Kind::InSession | Kind::RepeatableOrder if self.doubt.is_some() => !left.is_zero(),
            Kind::Write | Kind::Order | Kind::InSession | Kind::RepeatableOrder => left > 2 * self.slowest,
        }
    }

    fn into_failure(self, kind: Kind, timeout: Duration) -> Failure {
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

    // Fails when: `attempt` does not take the cluster down, takes down a later one, or `call_until` does not say it.
    #[tokio::test]
    async fn all_calls_are_for_the_cluster_that_answered_first() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoints = vec![listener.local_addr().expect("it is bound").to_string()];
        let mut client = Client { endpoints, timeout: Duration::from_secs(5), connected: None, cluster_id: 0 };
        let mut said = Vec::new();
        for answers in [0, 7, 8, 0] {
            let send = |_, request: Request<()>| async move {
                let mut response = Response::new(cluster::read(request.metadata()));
                cluster::write(answers, response.metadata_mut());
                Ok(response)
            };
            said.push(client.call(Kind::Read, &(), send).await.expect("it answers"));
        }
        assert_eq!(said, [0, 0, 7, 7]);
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
