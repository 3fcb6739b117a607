//! A watch over gRPC that goes on at another node when the one it watches fails.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status, Streaming};

use super::{
    history::Change,
    pb::{self, kv_client::KvClient},
    watch::Watched,
};
use crate::{
    raft::LogIndex,
    rpc::{channel, cluster, error::Told, reason},
};

/// A node answers at once; one that does not within this time is passed over.
const FIRST_RESPONSE: Duration = Duration::from_secs(5);

/// How long to wait once no endpoint in a whole round had an answer.
const PAUSE: Duration = Duration::from_millis(100);

/// Watches a prefix over whichever endpoint answers, without loss or repeat from one to the next.
///
/// ```no_run
/// # async fn run() -> Result<(), tonic::Status> {
/// use ractor_raft::kv::WatchClient;
///
/// let endpoints = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"];
/// let mut watch = WatchClient::new(endpoints, "users/", 0);
/// loop {
///     for change in watch.next().await?.changes {
///         println!("{:?} is {:?} since {}", change.key, change.value, change.revision);
///     }
/// }
/// # }
/// ```
pub struct WatchClient {
    endpoints: Vec<String>,
    prefix: Bytes,
    /// Everything below has been told; 0: it has not begun.
    next: LogIndex,
    /// Whose changes are told. 0: it has not begun.
    cluster_id: u64,
    patience: Option<Duration>,
    stream: Option<Streaming<pb::WatchResponse>>,
    /// The endpoint that is watched, or the next to try.
    place: usize,
    /// Endpoints that have failed since the last answer.
    failures: usize,
    /// What each of them failed with last, by its place.
    causes: BTreeMap<usize, Status>,
    /// Endpoints of another cluster, since the last answer.
    elsewhere: usize,
    /// When somebody was last watched, or the first was tried.
    heard: Option<Instant>,
    /// The one whose history goes back furthest, of those that said since the last answer that it does not suffice.
    compacted: Option<(LogIndex, Status)>,
}

impl WatchClient {
    /// For the keys that begin with `prefix`: with `from`, every change whose revision is at least that; with 0, from now
    /// on. `endpoints` are tried in order, `host:port` each.
    pub fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        prefix: impl Into<Bytes>,
        from: LogIndex,
    ) -> Self {
        WatchClient {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: prefix.into(),
            next: from,
            cluster_id: 0,
            patience: None,
            stream: None,
            place: 0,
            failures: 0,
            causes: BTreeMap::new(),
            elsewhere: 0,
            heard: None,
            compacted: None,
        }
    }

    /// Gives up when nobody could be watched for so long. Without it the client tries for ever.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The endpoint that is watched now, or tried next. Empty: there are none.
    pub fn endpoint(&self) -> &str {
        self.endpoints.get(self.place).map_or("", String::as_str)
    }

    /// The endpoints that have failed since the last answer, each with what it failed with last.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Status)> {
        self.causes.iter().map(|(place, status)| (self.endpoints[*place].as_str(), status))
    }

    /// What is told next; see [`watch`](super::watch()). Waits as long as it takes. Nothing is lost when the future is
    /// dropped.
    ///
    /// # Errors
    /// None of the endpoints remembers what is next (reason
    /// [`REVISION_COMPACTED`](crate::rpc::reason::REVISION_COMPACTED)), all of them belong to another cluster by now, whose
    /// changes are none of this watch ([`WRONG_CLUSTER`](crate::rpc::reason::WRONG_CLUSTER)), an endpoint is no such service, or the
    /// [`patience`](Self::patience) is at its end. It may be called again.
    pub async fn next(&mut self) -> Result<Watched, Status> {
        if self.endpoints.is_empty() {
            return Err(Status::invalid_argument("there is no endpoint to watch"));
        }
        self.heard.get_or_insert_with(Instant::now);
        loop {
            match self.response().await {
                Ok(response) => return Ok(self.took(response)),
                Err(status) => self.failed(status).await?,
            }
        }
    }

    async fn response(&mut self) -> Result<pb::WatchResponse, Status> {
        let broken = || Status::unavailable("the node ended the stream");
        if let Some(stream) = &mut self.stream {
            return stream.message().await?.ok_or_else(broken);
        }
        let begin = async {
            let channel =
                channel::lazy(self.endpoint()).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
            let mut request = Request::new(pb::WatchRequest { prefix: self.prefix.clone(), from: self.next });
            cluster::write(self.cluster_id, request.metadata_mut());
            let answer = client.watch(request).await?;
            let cluster_id = cluster::read(answer.metadata());
            let mut stream = answer.into_inner();
            let response = stream.message().await?.ok_or_else(broken)?;
            Ok((cluster_id, stream, response))
        };
        let late = |_| Err(Status::deadline_exceeded(format!("no answer within {FIRST_RESPONSE:?}")));
        let (cluster_id, stream, response) = timeout(FIRST_RESPONSE, begin).await.unwrap_or_else(late)?;
        if cluster_id != 0 {
            self.cluster_id = cluster_id;
        }
        self.stream = Some(stream);
        Ok(response)
    }

    fn took(&mut self, response: pb::WatchResponse) -> Watched {
        let watched = Watched::from(response);
        self.next = watched.applied_index + 1;
        (self.heard, self.failures, self.compacted) = (Some(Instant::now()), 0, None);
        self.elsewhere = 0;
        self.causes.clear();
        watched
    }

    /// Turns to the next endpoint, or says why that is of no use.
    async fn failed(&mut self, status: Status) -> Result<(), Status> {
        if self.stream.take().is_some() {
            // A quiet prefix may have had nothing to say for hours.
            self.heard = Some(Instant::now());
        }
        self.causes.insert(self.place, status.clone());
        let told = Told::of(&status);
        let is_compacted = told.as_ref().is_some_and(|told| told.reason == reason::REVISION_COMPACTED);
        let is_elsewhere = told.as_ref().is_some_and(|told| told.reason == reason::WRONG_CLUSTER);
        if told.is_none() && is_final(&status) {
            return Err(status);
        }
        self.elsewhere += usize::from(is_elsewhere);
        if is_compacted {
            let oldest = told.and_then(|told| told.metadata.get("oldest")?.parse().ok()).unwrap_or(LogIndex::MAX);
            if self.compacted.as_ref().is_none_or(|(furthest, _)| oldest < *furthest) {
                self.compacted = Some((oldest, status.clone()));
            }
        }
        self.place = (self.place + 1) % self.endpoints.len();
        self.failures += 1;
        if !self.failures.is_multiple_of(self.endpoints.len()) {
            return Ok(());
        }
        if self.elsewhere >= self.endpoints.len() {
            self.elsewhere = 0;
            return Err(status);
        }
        // Histories differ: a node that was restarted, or given a snapshot, remembers less. All have been asked now.
        if let Some((_, compacted)) = self.compacted.take() {
            return Err(compacted);
        }
        let silence = self.heard.map(|heard| heard.elapsed());
        if self.patience.is_some_and(|patience| silence >= Some(patience)) {
            self.heard = None;
            return Err(status);
        }
        sleep(PAUSE).await;
        Ok(())
    }
}

/// Whether it would be the same at the next try: what answers is no such service, or the address is none.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
    )
}

impl From<Watched> for pb::WatchResponse {
    fn from(Watched { changes, applied_index }: Watched) -> Self {
        let change = |Change { key, value, revision }| {
            let deleted = value.is_none();
            pb::Change { key, value: value.unwrap_or_default(), revision, deleted }
        };
        pb::WatchResponse { changes: changes.into_iter().map(change).collect(), applied_index }
    }
}

impl From<pb::WatchResponse> for Watched {
    fn from(pb::WatchResponse { changes, applied_index }: pb::WatchResponse) -> Self {
        let change =
            |pb::Change { key, value, revision, deleted }| Change { key, value: (!deleted).then_some(value), revision };
        Watched { changes: changes.into_iter().map(change).collect(), applied_index }
    }
}
