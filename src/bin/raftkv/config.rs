//! Settings from three sources. A flag wins over `RAFTKV_…` in the environment, that over the TOML file; whatever is
//! wrong with a value is said with its key and its source (R020).

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    path::PathBuf,
    time::Duration,
};

use ractor_raft::{config::Config, error::NodeError, raft::NodeId};

use crate::{
    args::Args,
    error::{Failure, exit},
};
pub use addresses::address;
use addresses::{check_advertised, check_routable};
use sources::{KEYS, flags, read_file};

mod addresses;
mod snapshots;
mod sources;
mod values;

pub use snapshots::RestoreSettings;

/// Where the nodes are if nobody says.
const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003";

/// Every setting that was given, from the strongest source that gave it.
#[derive(Debug)]
pub struct Settings(BTreeMap<&'static str, Setting>);

/// One value as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    key: &'static str,
    value: String,
    source: Source,
}

/// Who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Flag(String),
    Environment(String),
    File(PathBuf),
}

/// What every client command needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// `host:port` each, in the order to try them.
    pub endpoints: Vec<String>,
    /// For everything together.
    pub timeout: Duration,
}

/// What `serve` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSettings {
    /// This node.
    pub id: NodeId,
    /// Its directory.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: String,
    /// Where the others reach it.
    pub advertise: String,
    /// The first members; this node is one of them, unless it joins.
    pub cluster: BTreeMap<NodeId, String>,
    /// Members of the cluster that it joins.
    pub join: Vec<String>,
    /// What tells it apart from others with the same first members.
    pub cluster_name: Option<String>,
    /// Peers that are dialled elsewhere.
    pub peers: BTreeMap<NodeId, String>,
    /// Where its page is, if it has one.
    pub http: Option<String>,
    /// Whether every message is recorded.
    pub recorder: bool,
    /// The rest.
    pub config: Config,
}

impl Settings {
    /// Gathers them; `environment` looks a variable up.
    pub fn read(args: &Args, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let mut settings = BTreeMap::new();
        let file = args.config.clone().or_else(|| environment("RAFTKV_CONFIG").map(PathBuf::from));
        if let Some(path) = file {
            for (key, value) in read_file(&path)? {
                settings.insert(key, Setting { key, value, source: Source::File(path.clone()) });
            }
        }
        for key in KEYS {
            let name = format!("RAFTKV_{}", key.to_uppercase());
            if let Some(value) = environment(&name) {
                settings.insert(key, Setting { key, value, source: Source::Environment(name) });
            }
        }
        for (key, value) in flags(args) {
            let source = Source::Flag(format!("--{}", key.replace('_', "-")));
            settings.insert(key, Setting { key, value, source });
        }
        Ok(Settings(settings))
    }

    fn get(&self, key: &str) -> Option<&Setting> {
        self.0.get(key)
    }

    /// Whether the answer is to be JSON.
    pub fn json(&self) -> Result<bool, Failure> {
        match self.get("output").map(|setting| (setting, setting.value.as_str())) {
            None | Some((_, "table")) => Ok(false),
            Some((_, "json")) => Ok(true),
            Some((setting, _)) => Err(setting.wanted("table or json")),
        }
    }

    /// What the client commands need.
    pub fn client(&self) -> Result<ClientSettings, Failure> {
        let endpoints = match self.get("endpoints") {
            Some(setting) => setting.addresses()?,
            None => DEFAULT_ENDPOINTS.split(',').map(str::to_owned).collect(),
        };
        let timeout = match self.get("timeout") {
            Some(setting) => setting.duration()?,
            None => Duration::from_secs(5),
        };
        Ok(ClientSettings { endpoints, timeout })
    }

    /// What `serve` needs.
    pub fn serve(&self) -> Result<ServeSettings, Failure> {
        let id: NodeId = match self.required("id", "this node's number in --cluster, from 1 on")?.number()? {
            0 => return Err(self.required("id", "")?.wanted("a number from 1 on: 0 is no node")),
            id => id,
        };
        let data = PathBuf::from(&self.required("data", "a directory for this node alone")?.value);
        let listen = self.required("listen", "an address such as 127.0.0.1:7001")?;
        let listen_address = listen.one_address()?;
        let (cluster, join, advertise) = match (self.get("cluster"), self.get("join")) {
            (Some(_), Some(join)) => return Err(join.wanted("alone, or cluster alone: a first member does not join")),
            (None, None) => return Err(nothing_to_bootstrap(id, &listen_address)),
            (Some(cluster), None) => {
                let cluster = cluster.members()?;
                let advertise = self.advertised_in(&cluster, id, &listen_address)?;
                (cluster, Vec::new(), advertise)
            }
            (None, Some(join)) => {
                let advertise = self.get("advertise").map(Setting::one_address).transpose()?;
                let advertise = advertise.unwrap_or_else(|| listen_address.clone());
                check_advertised(id, &advertise, &listen_address)?;
                (BTreeMap::new(), join.addresses()?, advertise)
            }
        };
        let cluster_name = self.get("cluster_name").map(Setting::name).transpose()?;
        let peers = match self.get("peer") {
            Some(setting) if cluster.is_empty() => setting.members()?,
            Some(setting) => setting.peers_among(&cluster)?,
            None => BTreeMap::new(),
        };
        let recorder = self.get("recorder").map_or(Ok(true), Setting::switch)?;
        let (http, config) = (self.http()?, self.node_config()?);
        let listen = listen_address;
        Ok(ServeSettings { id, data, listen, advertise, cluster, join, cluster_name, peers, http, recorder, config })
    }

    /// Where the page is to be.
    pub fn http(&self) -> Result<Option<String>, Failure> {
        let one =
            |setting: &Setting| setting.one_address().map_err(|_| setting.wanted("HOST:PORT such as 127.0.0.1:7080"));
        self.get("http").map(one).transpose()
    }

    /// The address of a first member, which --cluster has.
    fn advertised_in(&self, cluster: &BTreeMap<NodeId, String>, id: NodeId, listen: &str) -> Result<String, Failure> {
        let Some(own) = cluster.get(&id) else { return Err(not_in_the_cluster(id, cluster, listen)) };
        if let Some(setting) = self.get("advertise") {
            let advertise = setting.one_address()?;
            check_routable(id, &advertise, listen)?;
            if *own != advertise {
                let wanted =
                    format!("the address that cluster has for node {id} ({own}), or change it there, on all nodes");
                return Err(setting.wanted(&wanted));
            }
        }
        cluster.iter().try_for_each(|(member, address)| check_routable(*member, address, listen))?;
        Ok(own.clone())
    }

    /// How many threads the runtime of `serve` gets. A node is one mailbox after another: more threads than it can keep
    /// busy only wake each other up.
    pub fn threads(&self) -> Result<usize, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self.get("threads") {
            None => Ok((cores / 2).max(1)),
            Some(setting) => match setting.number()? {
                0 => Err(setting.wanted("at least 1")),
                threads => Ok(threads),
            },
        }
    }

    fn node_config(&self) -> Result<Config, Failure> {
        let mut config = Config::default();
        if let Some(setting) = self.get("heartbeat_ms") {
            config.heartbeat_interval = Duration::from_millis(setting.number()?);
        }
        if let Some(setting) = self.get("election_timeout_ms") {
            (config.election_timeout_min, config.election_timeout_max) = setting.range_of_ms()?;
        }
        if let Some(setting) = self.get("max_entry_bytes") {
            config.max_entry_bytes = setting.number()?;
        }
        if let Some(setting) = self.get("max_pending") {
            config.max_pending = setting.number()?;
        }
        self.set_snapshots(&mut config)?;
        config.validate().map_err(|error| self.with_its_source(error))?;
        Ok(config)
    }

    /// The library names its own field; the user wants to know which of the settings that was, and where it came from.
    fn with_its_source(&self, error: NodeError) -> Failure {
        let NodeError::Config { key, value, fix } = &error else { return error.into() };
        let (key, part) = match *key {
            "heartbeat_interval" => ("heartbeat_ms", "it"),
            "election_timeout_min" => ("election_timeout_ms", "its lower end"),
            "election_timeout_max" => ("election_timeout_ms", "its upper end"),
            other => (other, "it"),
        };
        let fix = fix.strip_prefix("it ").map_or(fix.clone(), |rest| format!("{part} {rest}"));
        let fix = fix.replace("heartbeat_interval", "heartbeat_ms").replace("election_timeout_min", "its lower end");
        let (value, why) = match self.get(key) {
            Some(setting) => (&setting.value, format!("it comes from {}", setting.source)),
            None => (value, "nothing sets it, so it has its default".to_owned()),
        };
        Failure { what: format!("{key} is {value:?}, which will not do"), why, fix, ..error.into() }
    }

    fn required(&self, key: &'static str, wanted: &str) -> Result<&Setting, Failure> {
        self.get(key).ok_or_else(|| {
            let flag = format!("--{}", key.replace('_', "-"));
            let why = format!("neither {flag} nor RAFTKV_{} nor {key} in a config file is there", key.to_uppercase());
            Failure::new(20, exit::USAGE, format!("{key} is missing"), why, format!("give {flag} {wanted}"))
        })
    }
}

/// A time as a flag of one command alone gives it.
pub fn time_of_flag(flag: &'static str, value: &str) -> Result<Duration, Failure> {
    let key = flag.trim_start_matches('-');
    Setting { key, value: value.to_owned(), source: Source::Flag(flag.to_owned()) }.duration()
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(flag) => write!(f, "the flag {flag}"),
            Source::Environment(name) => write!(f, "{name} in the environment"),
            Source::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

fn nothing_to_bootstrap(id: NodeId, listen: &str) -> Failure {
    Failure::new(
        3,
        exit::USAGE,
        format!("node {id} has nothing to bootstrap or join"),
        "there is neither --cluster nor --join, so it does not know who belongs to its cluster",
        format!(
            "name all first members, the same on each of them: --cluster {id}={listen},…; or members to join: --join ADDR,…"
        ),
    )
}

fn not_in_the_cluster(id: NodeId, cluster: &BTreeMap<NodeId, String>, listen: &str) -> Failure {
    let members = cluster.iter().map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(",");
    Failure::new(
        3,
        exit::USAGE,
        format!("node {id} has nothing to bootstrap or join"),
        format!("--cluster {members} does not name node {id}"),
        format!("give --id one of its members, or add {id}={listen} to --cluster on every node"),
    )
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
