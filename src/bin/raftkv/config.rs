//! Settings from three sources. A flag wins over `RAFTKV_…` in the environment, that over the TOML file; whatever is
//! wrong with a value is said with its key and its source (R020).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ractor_raft::{config::Config, error::NodeError, raft::NodeId};

use crate::{
    args::{Args, Command, Restore, Serve, Snapshot},
    error::{Failure, exit},
};
pub use addresses::address;
use addresses::{check_advertised, check_routable};

mod addresses;
mod snapshots;

pub use snapshots::RestoreSettings;

/// Every key of the TOML file. In the environment it is RAFTKV_ and the key in capitals.
const KEYS: [&str; 23] = [
    "advertise",
    "cluster",
    "cluster_name",
    "data",
    "election_timeout_ms",
    "endpoints",
    "heartbeat_ms",
    "http",
    "id",
    "join",
    "listen",
    "max_entry_bytes",
    "max_pending",
    "output",
    "peer",
    "recorder",
    "snapshot_bytes_per_second",
    "snapshot_chunk_bytes",
    "snapshot_threshold",
    "snapshot_threshold_bytes",
    "snapshot_trailing",
    "threads",
    "timeout",
];

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

impl Setting {
    fn switch(&self) -> Result<bool, Failure> {
        match self.value.as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(self.wanted("on or off")),
        }
    }

    fn name(&self) -> Result<String, Failure> {
        let name = self.value.trim();
        if name.is_empty() { Err(self.wanted("a name, the same on every node")) } else { Ok(name.to_owned()) }
    }

    fn wanted(&self, wanted: &str) -> Failure {
        Failure::bad_setting(self.key, &self.value, &self.source, wanted)
    }

    fn number<N: FromStr>(&self) -> Result<N, Failure> {
        self.value.trim().parse().map_err(|_| self.wanted("a whole number"))
    }

    fn duration(&self) -> Result<Duration, Failure> {
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

    fn range_of_ms(&self) -> Result<(Duration, Duration), Failure> {
        let range = self.value.split_once('-').and_then(|(from, to)| {
            Some((Duration::from_millis(from.trim().parse().ok()?), Duration::from_millis(to.trim().parse().ok()?)))
        });
        range.ok_or_else(|| self.wanted("two numbers of milliseconds such as 150-300"))
    }

    fn one_address(&self) -> Result<String, Failure> {
        address(&self.value).ok_or_else(|| self.wanted("one HOST:PORT such as 127.0.0.1:7001"))
    }

    fn addresses(&self) -> Result<Vec<String>, Failure> {
        let addresses = self.listed().map(address).collect::<Option<Vec<_>>>();
        let wanted = || self.wanted("HOST:PORT,… such as 127.0.0.1:7001,127.0.0.1:7002");
        addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(wanted)
    }

    /// What stands between the commas; one at the end does no harm.
    fn listed(&self) -> impl Iterator<Item = &str> {
        self.value.split(',').filter(|one| !one.trim().is_empty())
    }

    fn peers_among(&self, cluster: &BTreeMap<NodeId, String>) -> Result<BTreeMap<NodeId, String>, Failure> {
        let peers = self.members()?;
        match peers.keys().find(|id| !cluster.contains_key(id)) {
            Some(stranger) => Err(self.wanted(&format!("ids of --cluster only: node {stranger} is not in it"))),
            None => Ok(peers),
        }
    }

    fn members(&self) -> Result<BTreeMap<NodeId, String>, Failure> {
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

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(flag) => write!(f, "the flag {flag}"),
            Source::Environment(name) => write!(f, "{name} in the environment"),
            Source::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// Flags that were given, under their keys.
fn flags(args: &Args) -> impl Iterator<Item = (&'static str, String)> {
    let none = Serve::default();
    let serve = if let Command::Serve(serve) = &args.command { serve } else { &none };
    let none = Restore::default();
    let restore = if let Command::Snapshot(Snapshot::Restore(restore)) = &args.command { restore } else { &none };
    let http = if let Command::Demo(demo) = &args.command { &demo.http } else { &serve.http };
    let peer = (!serve.peer.is_empty()).then(|| serve.peer.join(","));
    let flags = [
        ("endpoints", args.endpoints.clone()),
        ("output", args.output.clone()),
        ("timeout", args.timeout.clone()),
        ("id", serve.id.clone().or(restore.id.clone())),
        ("data", serve.data.clone().or(restore.data.clone())),
        ("listen", serve.listen.clone()),
        ("advertise", serve.advertise.clone()),
        ("cluster", serve.cluster.clone().or(restore.cluster.clone())),
        ("cluster_name", serve.cluster_name.clone().or(restore.cluster_name.clone())),
        ("join", serve.join.clone()),
        ("peer", peer),
        ("heartbeat_ms", serve.heartbeat_ms.clone()),
        ("election_timeout_ms", serve.election_timeout_ms.clone()),
        ("http", http.clone()),
        ("max_entry_bytes", serve.max_entry_bytes.clone()),
        ("max_pending", serve.max_pending.clone()),
        ("recorder", serve.recorder.clone()),
        ("snapshot_bytes_per_second", serve.snapshot_bytes_per_second.clone()),
        ("snapshot_chunk_bytes", serve.snapshot_chunk_bytes.clone()),
        ("snapshot_threshold", serve.snapshot_threshold.clone()),
        ("snapshot_threshold_bytes", serve.snapshot_threshold_bytes.clone()),
        ("snapshot_trailing", serve.snapshot_trailing.clone()),
        ("threads", serve.threads.clone()),
    ];
    flags.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

/// Keys and values of the file, as text. Lists may be arrays, members may be a table.
fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    let unreadable = |why: String| {
        let what = format!("the config file {} cannot be read", path.display());
        Failure::new(20, exit::USAGE, what, why, format!("correct {}, or leave --config out", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| unreadable(error.to_string()))?;
    table.into_iter().map(|(key, value)| Ok((known_key(&key, path)?, text_of(value)))).collect()
}

fn known_key(key: &str, path: &Path) -> Result<&'static str, Failure> {
    KEYS.into_iter().find(|known| *known == key).ok_or_else(|| {
        let why = format!("it stands in the file {}", path.display());
        let fix = format!("correct or remove {key:?}; the settings are {}", KEYS.join(", "));
        Failure::new(20, exit::USAGE, format!("{key:?} is not a setting"), why, fix)
    })
}

fn text_of(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        toml::Value::Array(values) => values.into_iter().map(text_of).collect::<Vec<_>>().join(","),
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| format!("{key}={}", text_of(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
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
