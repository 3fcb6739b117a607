//! What a value must be, and what is said of one that is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

use ractor_raft::raft::NodeId;

use super::{Setting, address};
use crate::error::Failure;

impl Setting {
    pub(super) fn switch(&self) -> Result<bool, Failure> {
        match self.value.as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(self.wanted("on or off")),
        }
    }

    pub(super) fn name(&self) -> Result<String, Failure> {
        let name = self.value.trim();
        if name.is_empty() { Err(self.wanted("a name, the same on every node")) } else { Ok(name.to_owned()) }
    }

    pub(super) fn wanted(&self, wanted: &str) -> Failure {
        Failure::bad_setting(self.key, &self.value, &self.source, wanted)
    }

    pub(super) fn number<N: FromStr>(&self) -> Result<N, Failure> {
        self.value.trim().parse().map_err(|_| self.wanted("a whole number"))
    }

    pub(super) fn duration(&self) -> Result<Duration, Failure> {
        let text = self.value.trim();
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let unit_ms = match &text[digits.len()..] {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            _ => return Err(self.wanted("a time such as 5s, 300ms or 1m")),
        };
        match digits.parse::<u64>() {
            Ok(number) if number > 0 => Ok(Duration::from_millis(number.saturating_mul(unit_ms))),
            _ => Err(self.wanted("a time such as 5s, 300ms or 1m")),
        }
    }

    pub(super) fn range_of_ms(&self) -> Result<(Duration, Duration), Failure> {
        let range = self.value.split_once('-').and_then(|(from, to)| {
            Some((Duration::from_millis(from.trim().parse().ok()?), Duration::from_millis(to.trim().parse().ok()?)))
        });
        range.ok_or_else(|| self.wanted("two numbers of milliseconds such as 150-300"))
    }

    pub(super) fn one_address(&self) -> Result<String, Failure> {
        address(&self.value).ok_or_else(|| self.wanted("one HOST:PORT such as 127.0.0.1:7001"))
    }

    pub(super) fn addresses(&self) -> Result<Vec<String>, Failure> {
        let addresses = self.listed().map(address).collect::<Option<Vec<_>>>();
        let wanted = || self.wanted("HOST:PORT,… such as 127.0.0.1:7001,127.0.0.1:7002");
        addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(wanted)
    }

    /// What stands between the commas; one at the end does no harm.
    pub(super) fn listed(&self) -> impl Iterator<Item = &str> {
        self.value.split(',').filter(|one| !one.trim().is_empty())
    }

    pub(super) fn peers_among(&self, cluster: &BTreeMap<NodeId, String>) -> Result<BTreeMap<NodeId, String>, Failure> {
        let peers = self.members()?;
        match peers.keys().find(|id| !cluster.contains_key(id)) {
            Some(stranger) => Err(self.wanted(&format!("ids of --cluster only: node {stranger} is not in it"))),
            None => Ok(peers),
        }
    }

    pub(super) fn members(&self) -> Result<BTreeMap<NodeId, String>, Failure> {
        let mut members = BTreeMap::new();
        for member in self.listed() {
            let pair = member.split_once('=').and_then(|(id, at)| Some((id.trim().parse().ok()?, address(at)?)));
            let Some((id @ 1.., at)) = pair else {
                return Err(self.wanted("ID=HOST:PORT,… with ids from 1 on, such as 1=127.0.0.1:7001,2=127.0.0.1:7002"));
            };
            if members.insert(id, at).is_some() {
                return Err(self.wanted(&format!("each id once: {id} is there twice")));
            }
        }
        let addresses = members.values().collect::<BTreeSet<_>>();
        if members.is_empty() || addresses.len() < members.len() {
            return Err(self.wanted("at least one member, and each with an address of its own"));
        }
        Ok(members)
    }
}
