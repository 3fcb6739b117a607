//! One call over several endpoints: tried in order, the leader's hint followed, all within one timeout.
//!
//! A write goes under a session, so that it is applied once however often it is sent; when the time is over without an
//! answer, it ends with R014. Without a session only what is certainly not applied is sent again: a connection that could
//! not be made, or an answer that says so.
//!
//! All calls of one client are for the cluster that answered the first of them. A stranger among the endpoints refuses (R004).

mod refusals;

use std::{collections::VecDeque, time::Duration};

use ractor_raft::rpc::cluster;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use self::refusals::{Refusals, TOO_LATE, Verdict, judge, lost};
use crate::{config::ClientSettings, error::Failure};

/// How long one connection may take while others wait for their turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait once nobody in a whole round had an answer.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a try takes at least that may be repeated.
const SHORTEST_TRY: Duration = Duration::from_millis(500);

/// How many hints to follow before going back to the endpoints: nodes may disagree about the leader for a while.
const MAX_HINTS: usize = 3;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
