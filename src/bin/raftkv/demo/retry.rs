//! A client that never heard an answer sends its write again: it counts once.

use ractor_raft::kv::pb::{Consistency, Session};

use super::{
    calls::{get, put_once},
    cluster::Cluster,
    report::Report,
    writer::{Writer, key},
};
use crate::{commands::open_session, error::Failure};

const VALUE: &str = "only";

/// A write that was sent more than once.
pub struct Retried {
    session: Session,
    revision: u64,
}

impl Retried {
    /// Sends it to two nodes, under one number.
    pub async fn twice(cluster: &Cluster, report: &mut Report, writer: &mut Writer) -> Result<Self, Failure> {
        let leader = cluster.await_leader().await?;
        let other = cluster.another(leader);
        let (session, _) = open_session(&mut cluster.client_of(leader)).await?;
        let revision = put_once(&mut cluster.client_of(leader), &key("once"), VALUE, session).await?;
        writer.note(&key("once"), VALUE, revision);
        let retried = Retried { session, revision };
        let answer = retried.send(cluster, other).await?;
        let seen = format!("a write sent again, to node {leader}, then node {other}: revision {revision} both times");
        retried.check(cluster, report, "write once", answer, seen).await?;
        Ok(retried)
    }

    /// Sends it once more, to a node that was not there the first time.
    pub async fn again(&self, cluster: &Cluster, report: &mut Report, id: u64) -> Result<(), Failure> {
        let answer = self.send(cluster, id).await?;
        let revision = self.revision;
        let seen = format!("that write once more, to node {id}: still {revision}; the snapshot has the answers, too");
        self.check(cluster, report, "still once", answer, seen).await
    }

    async fn send(&self, cluster: &Cluster, to: u64) -> Result<u64, Failure> {
        put_once(&mut cluster.client_of(to), &key("once"), VALUE, self.session).await
    }

    async fn check(
        &self,
        cluster: &Cluster,
        report: &mut Report,
        name: &str,
        answer: u64,
        seen: String,
    ) -> Result<(), Failure> {
        let stands = get(&mut cluster.client(None), &key("once"), Consistency::Linearizable).await?;
        let holds = answer == self.revision && stands == Some((VALUE.to_owned(), self.revision));
        let failed = format!("the answers are {} and {answer}, and there stands {stands:?}", self.revision);
        report.check(name, if holds { Ok(seen) } else { Err(failed) });
        Ok(())
    }
}
