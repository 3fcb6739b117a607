//! Three servers of one system on loopback, each with a data directory of its own.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// The same bytes for `raftkv.v1.PutRequest` and `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// The same bytes for `raftkv.v1.GetRequest` and `etcdserverpb.RangeRequest`; both are linearizable without more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Get {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// Whatever was answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Anything {}

/// The fields of `raft.v1.StatusReply` that are needed here.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftStatus {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    leader: u64,
    #[prost(uint64, tag = "15")]
    log_writes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EtcdStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<EtcdHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "6")]
    raft_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EtcdHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, Copy, PartialEq)]
pub enum System {
    Raftkv { recorder: bool },
    Etcd,
}

impl System {
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "raftkv" => System::Raftkv { recorder: true },
            "unrecorded" => System::Raftkv { recorder: false },
            "etcd" => System::Etcd,
            _ => bail!("--systems knows raftkv, unrecorded and etcd, not {name}"),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            System::Raftkv { recorder: true } => "raftkv",
            System::Raftkv { recorder: false } => "unrecorded",
            System::Etcd => "etcd",
        }
    }

    pub fn get_path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            System::Raftkv { .. } => "/raftkv.v1.Kv/Get",
            System::Etcd => "/etcdserverpb.KV/Range",
        })
    }

    pub fn put_path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            System::Raftkv { .. } => "/raftkv.v1.Kv/Put",
            System::Etcd => "/etcdserverpb.KV/Put",
        })
    }
}

pub struct Server {
    pub address: String,
    pub process: Child,
    command: Vec<String>,
    recorder: bool,
}

impl Server {
    fn start(command: Vec<String>, address: String, recorder: bool) -> Result<Self> {
        let process = Self::launch(&command, recorder)?;
        Ok(Server { address, process, command, recorder })
    }

    fn launch(command: &[String], recorder: bool) -> Result<Child> {
        Command::new(&command[0])
            .args(&command[1..])
            .env("RAFTKV_RECORDER", if recorder { "on" } else { "off" })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command[0]))
    }

    pub fn restart(&mut self) -> Result<()> {
        self.process = Self::launch(&self.command, self.recorder)?;
        Ok(())
    }

    /// User and system time so far, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // Fields 14 and 15 of the line; `fields` starts at the third. A tick is 10 ms on Linux.
        (ticks(11) + ticks(12)) / 100.0
    }

    pub fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

pub struct Cluster {
    pub system: System,
    pub servers: Vec<Server>,
    _data: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.process.kill();
            let _ = server.process.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    pub async fn start(system: System, binary: &Path) -> Result<Self> {
        Self::start_with(system, binary, &[]).await
    }

    /// With these flags besides, for raftkv.
    pub async fn start_with(system: System, binary: &Path, flags: &[&str]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("raft-bench").tempdir()?;
        let ports = (0..6).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let client = |n: usize| format!("127.0.0.1:{}", ports[n]);
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[3 + n]);
        let mut servers = Vec::new();
        for n in 0..3 {
            let directory = data.path().join(format!("{n}")).display().to_string();
            let command: Vec<String> = match system {
                System::Raftkv { .. } => {
                    let members = (0..3).map(|n| format!("{}={}", n + 1, client(n))).collect::<Vec<_>>().join(",");
                    let id = (n + 1).to_string();
                    let arguments =
                        ["serve", "--id", &id, "--data", &directory, "--listen", &client(n), "--cluster", &members];
                    let binary = binary.display().to_string();
                    let flags = flags.iter().map(|flag| flag.to_string());
                    std::iter::once(binary).chain(arguments.map(str::to_owned)).chain(flags).collect()
                }
                System::Etcd => {
                    let members = (0..3).map(|n| format!("n{n}={}", peer(n))).collect::<Vec<_>>().join(",");
                    let url = format!("http://{}", client(n));
                    let name = format!("n{n}");
                    let peer = peer(n);
                    [
                        "etcd",
                        "--name",
                        &name,
                        "--data-dir",
                        &directory,
                        "--listen-client-urls",
                        &url,
                        "--advertise-client-urls",
                        &url,
                        "--listen-peer-urls",
                        &peer,
                        "--initial-advertise-peer-urls",
                        &peer,
                        "--initial-cluster",
                        &members,
                        "--log-level",
                        "error",
                        "--logger",
                        "zap",
                    ]
                    .map(str::to_owned)
                    .to_vec()
                }
            };
            servers.push(Server::start(command, client(n), system == System::Raftkv { recorder: true })?);
        }
        let cluster = Cluster { system, servers, _data: data };
        cluster.leader().await?;
        Ok(cluster)
    }

    pub async fn status(&self, server: &Server) -> Option<(u64, bool, u64)> {
        let channel = Endpoint::from_shared(format!("http://{}", server.address)).ok()?;
        let channel = channel.connect_timeout(Duration::from_millis(300)).timeout(Duration::from_millis(500));
        let mut client = Grpc::new(channel.connect().await.ok()?);
        client.ready().await.ok()?;
        match self.system {
            System::Raftkv { .. } => {
                let path = PathAndQuery::from_static("/raft.v1.Cluster/Status");
                let codec = ProstCodec::<Anything, RaftStatus>::default();
                let status = client.unary(Request::new(Anything {}), path, codec).await.ok()?.into_inner();
                Some((status.term, status.leader == status.id, status.log_writes))
            }
            System::Etcd => {
                let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
                let codec = ProstCodec::<Anything, EtcdStatus>::default();
                let status = client.unary(Request::new(Anything {}), path, codec).await.ok()?.into_inner();
                let id = status.header.map(|header| header.member_id).unwrap_or_default();
                Some((status.raft_term, status.leader == id, 0))
            }
        }
    }

    /// The index of the server that leads.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            for (n, server) in self.servers.iter().enumerate() {
                if self.status(server).await.is_some_and(|(_, leads, _)| leads) {
                    return Ok(n);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} has no leader after 30 s", self.system.name())
    }

    pub async fn connect(&self, server: usize, connections: usize) -> Result<Vec<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.servers[server].address))?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }
}
