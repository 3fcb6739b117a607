//! `raftkv.v1.Kv`: what a client asks becomes a command or a query; what the store says becomes the answer. No rules.
//!
//! - Writes are proposed. Where the node does not lead, they are forwarded to the leader, unless the request's metadata
//!   has `raft-no-forward: 1`: then the answer is the redirect, `FAILED_PRECONDITION` with `leader_id` and `leader_addr`.
//! - Reads are served by the node that is asked, as fresh as the request wants.
//! - A watch is the library's [`watch`](super::watch()) in a stream, and its errors.
//! - Every answer says in `raft-cluster-id` which cluster it is of; a request that says the id of another one is refused
//!   (R004), so that a client does not go on by mistake with a cluster that stands at the addresses of the former.
//! - A `traceparent` in the metadata is continued: its trace id is the call's in every node's message flow.
//! - A write with a `session` is applied once: a repeated (session, sequence) gets the first answer. Under a session that
//!   was never opened or has expired it is not applied (`FAILED_PRECONDITION`, reason `SESSION_EXPIRED`).

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    command::{Command, CompareAndSwapOutcome, DeleteOutcome, Outcome, Output, PutOutcome},
    pb::{self, kv_server},
    scan::KeyRange,
    state::Kv,
    watch,
};
use crate::{
    flow::TraceId,
    node::{Consistency, Node},
    raft::LogIndex,
    rpc::{
        self, cluster,
        convert::{Malformed, session_command_from_pb},
        limits, trace, wants_forwarding,
    },
};

/// The most pairs in one page of a scan, also where the request sets no limit.
pub const MAX_PAGE_PAIRS: usize = 1000;

/// A page ends once it has so many bytes, so that it fits into what gRPC clients take by default (4 MiB).
const MAX_PAGE_BYTES: usize = 1 << 20;

/// The handlers of `raftkv.v1.Kv` on one node.
pub struct KvService {
    node: Node<Kv>,
}

/// The service, to be added to the routes of the node's gRPC server.
pub fn service(node: Node<Kv>) -> kv_server::KvServer<KvService> {
    let max_request_bytes = limits::client_message(node.as_ref().config());
    kv_server::KvServer::new(KvService { node }).max_decoding_message_size(max_request_bytes)
}

#[tonic::async_trait]
impl kv_server::Kv for KvService {
    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let (call, pb::PutRequest { key, value, session }) = self.open(request)?;
        check_key(&key)?;
        match self.propose(call, session, Command::put(key, value)).await? {
            Outcome::Put(PutOutcome { revision }) => Ok(self.answer(pb::PutResponse { revision })),
            other => Err(answered_something_else(&other)),
        }
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let (Call { trace, .. }, request) = self.open(request)?;
        let pb::GetRequest { key, consistency, at_least } = request;
        check_key(&key)?;
        let consistency = consistency_of(consistency, at_least)?;
        let (value, applied_index) = self.read(consistency, trace, move |store| store.get(&key).cloned()).await?;
        let found = value.is_some();
        let (value, revision) = value.map(|value| (value.bytes, value.revision)).unwrap_or_default();
        Ok(self.answer(pb::GetResponse { found, value, revision, applied_index }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        let (call, pb::DeleteRequest { key, session }) = self.open(request)?;
        check_key(&key)?;
        match self.propose(call, session, Command::delete(key)).await? {
            Outcome::Delete(DeleteOutcome { existed, previous, revision }) => {
                Ok(self.answer(pb::DeleteResponse { existed, previous, revision }))
            }
            other => Err(answered_something_else(&other)),
        }
    }

    async fn compare_and_swap(
        &self,
        request: Request<pb::CompareAndSwapRequest>,
    ) -> Result<Response<pb::CompareAndSwapResponse>, Status> {
        let (call, pb::CompareAndSwapRequest { key, expect, set, session }) = self.open(request)?;
        check_key(&key)?;
        match self.propose(call, session, Command::compare_and_swap(key, expect, set)).await? {
            Outcome::CompareAndSwap(CompareAndSwapOutcome { swapped, current, revision }) => {
                Ok(self.answer(pb::CompareAndSwapResponse { swapped, current, revision }))
            }
            other => Err(answered_something_else(&other)),
        }
    }

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Result<Response<pb::ScanResponse>, Status> {
        let (Call { trace, .. }, request) = self.open(request)?;
        let pb::ScanRequest { prefix, start, end, limit, consistency, at_least, from } = request;
        let range = range_of(prefix, start, end)?;
        let consistency = consistency_of(consistency, at_least)?;
        let limit = match limit as usize {
            0 => MAX_PAGE_PAIRS,
            limit => limit.min(MAX_PAGE_PAIRS),
        };
        let query = move |store: &Kv| store.scan(&range, &from, limit, MAX_PAGE_BYTES);
        let (page, applied_index) = self.read(consistency, trace, query).await?;
        let pair = |(key, value): (Bytes, super::state::Value)| pb::KeyValue {
            key,
            value: value.bytes,
            revision: value.revision,
        };
        let pairs = page.pairs.into_iter().map(pair).collect();
        Ok(self.answer(pb::ScanResponse { pairs, next: page.next, applied_index }))
    }

    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        cluster::check(&self.node, request.metadata())?;
        let pb::WatchRequest { prefix, from } = request.into_inner();
        // Copied out of the receive buffer: a watch lasts.
        let watched = watch::watch(&self.node, Bytes::copy_from_slice(&prefix), from);
        Ok(self.answer(watched.map(|watched| Ok(watched?.into())).boxed()))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.open(request)?;
        let (hash, applied_index) = self.read(Consistency::Stale, None, |store| store.hash()).await?;
        Ok(self.answer(pb::HashResponse { applied_index, hash: Bytes::copy_from_slice(&hash) }))
    }
}

impl KvService {
    /// Refuses what is meant for another cluster.
    fn open<T>(&self, request: Request<T>) -> Result<(Call, T), Status> {
        let metadata = request.metadata();
        cluster::check(&self.node, metadata)?;
        let call = Call { forward: wants_forwarding(metadata), trace: trace::read(metadata) };
        Ok((call, request.into_inner()))
    }

    /// Says which cluster answers.
    fn answer<T>(&self, message: T) -> Response<T> {
        cluster::answer(&self.node, message)
    }

    async fn propose(&self, call: Call, session: Option<pb::Session>, command: Command) -> Result<Outcome, Status> {
        let node = self.node.as_ref();
        let trace = call.trace.unwrap_or_else(|| node.flow().new_trace());
        let command = command.encode_to_vec().into();
        let applied = match session {
            None => node.propose(command, call.forward, trace).await?,
            Some(pb::Session { id, sequence, first_unanswered }) => {
                let session = rpc::pb::Session { id, sequence, first_unanswered };
                let command = session_command_from_pb(session, command)?;
                node.propose_in_session(command, call.forward, trace).await?
            }
        };
        let output = Output::decode(applied.output)
            .map_err(|error| Status::internal(format!("the store's answer cannot be read: {error}")))?;
        output.outcome.ok_or_else(|| Status::internal("the store gave no answer"))
    }

    async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        trace: Option<TraceId>,
        query: impl FnOnce(&Kv) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), Status> {
        let trace = trace.unwrap_or_else(|| self.node.flow().new_trace());
        Ok(self.node.read_traced(consistency, trace, query).await?)
    }
}

/// What the metadata says about a call.
struct Call {
    /// Whether another node may be asked to write in the client's name.
    forward: bool,
    /// The client's own trace, if it sent one.
    trace: Option<TraceId>,
}

fn consistency_of(consistency: i32, at_least: LogIndex) -> Result<Consistency, Status> {
    match pb::Consistency::try_from(consistency) {
        Ok(pb::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(pb::Consistency::Lease) => Ok(Consistency::Lease),
        Ok(pb::Consistency::AtLeast) => Ok(Consistency::AtLeast(at_least)),
        Ok(pb::Consistency::Stale) => Ok(Consistency::Stale),
        Err(_) => Err(invalid("consistency", format!("is {consistency}; 0 to 3 are known"))),
    }
}

fn range_of(prefix: Bytes, start: Bytes, end: Bytes) -> Result<KeyRange, Status> {
    if start.is_empty() && end.is_empty() {
        return Ok(KeyRange::Prefix(prefix));
    }
    if prefix.is_empty() {
        Ok(KeyRange::Between { start, end })
    } else {
        Err(invalid("prefix", "stands beside start or end: a scan is by prefix or by range"))
    }
}

fn check_key(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() { Err(invalid("key", "is empty")) } else { Ok(()) }
}

fn invalid(field: &str, problem: impl Into<String>) -> Status {
    Malformed { field: field.to_owned(), problem: problem.into() }.into()
}

fn answered_something_else(outcome: &Outcome) -> Status {
    Status::internal(format!("the store answered to another command: {outcome:?}"))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
