//! The cluster that actors die in: its disks, its state machine, its clients, and who starts a node again that ended.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    Config,
    error::{ProposeError, ReadError},
    flow::{ActorReport, Status},
    node::{Consistency, Node},
    raft::{LogIndex, NodeId},
    state_machine::{RestoreError, Snapshot, StateMachine},
    storage::Storage,
    testing::{Cluster, Ledger, Line, Witness, Written},
};
use tokio::{task::JoinHandle, time::Instant};

use super::{forgetful::ForgetfulDisk, strike::Plan};

/// The longest election timeout of the default configuration.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a call may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A ledger that can be told not to take its snapshot.
pub struct Book {
    pub ledger: Ledger,
    refuses: Arc<AtomicBool>,
}

impl StateMachine for Book {
    type Command = Line;
    type Output = Written;

    fn apply(&mut self, at: LogIndex, line: Line) -> Written {
        self.ledger.apply(at, line)
    }

    fn snapshot(&self) -> impl Snapshot {
        self.ledger.snapshot()
    }

    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError> {
        if self.refuses.load(SeqCst) {
            return Err(std::io::Error::other("it was told to refuse").into());
        }
        self.ledger.restore(bytes)
    }
}

/// A cluster and all that goes on in it. Clones are the same.
#[derive(Clone)]
pub struct Stage {
    pub cluster: Cluster<Book>,
    pub plan: Plan,
    pub witness: Witness,
    /// The next snapshots that are read are refused.
    pub refuses: Arc<AtomicBool>,
    disks: Arc<Mutex<BTreeMap<NodeId, ForgetfulDisk>>>,
    scene: Arc<Mutex<Scene>>,
}

#[derive(Default)]
struct Scene {
    /// Every life of every node that began, by its number.
    lives: BTreeMap<(NodeId, usize), Node<Book>>,
    /// What the spawn of a life that did not begin said.
    stillborn: BTreeMap<(NodeId, usize), String>,
    acknowledged: Vec<(LogIndex, String)>,
    /// Calls of these may end by a mere deadline: letters to or from them get lost.
    excused: Vec<NodeId>,
    /// These need not serve in the end.
    gone: Vec<NodeId>,
    /// What went wrong meanwhile.
    complaints: Vec<String>,
    over: bool,
}

impl Stage {
    /// Three nodes on disks in memory, which know each other.
    pub async fn set(plan: Plan, seed: u64) -> Self {
        let disks = Arc::new(Mutex::new(BTreeMap::new()));
        let maker = disks.clone();
        Self::set_on(plan, seed, disks, move |id| {
            let disk = ForgetfulDisk::default();
            maker.lock().expect("nobody panics here").insert(id, disk.clone());
            disk
        })
        .await
    }

    /// Three nodes on disks of another kind.
    pub async fn set_on<S: Storage>(
        plan: Plan,
        seed: u64,
        disks: Arc<Mutex<BTreeMap<NodeId, ForgetfulDisk>>>,
        maker: impl Fn(NodeId) -> S + Send + Sync + 'static,
    ) -> Self {
        let mut config = Config::default();
        config.snapshot_threshold = 20;
        config.snapshot_trailing = 4;
        config.snapshot_chunk_bytes = 256;
        config.snapshot_timeout = Duration::from_millis(500);
        config.request_timeout = REQUEST_TIMEOUT;
        let (witness, refuses) = (Witness::default(), Arc::new(AtomicBool::new(false)));
        let factory = {
            let (witness, refuses) = (witness.clone(), refuses.clone());
            move || Book { ledger: Ledger::watched_by(&witness), refuses: refuses.clone() }
        };
        let builder = Cluster::builder(factory).seed(seed).config(config).storage(maker);
        let saboteurs = plan.clone();
        let cluster = builder.sabotaged_by(move |id| saboteurs.saboteur(id)).start().await;
        let stage = Stage { cluster, plan, witness, refuses, disks, scene: Arc::default() };
        stage.cluster.ids().into_iter().for_each(|id| stage.note_life(id));
        stage.cluster.leader().await;
        stage.cluster.acquainted().await;
        stage
    }

    fn scene<T>(&self, look: impl FnOnce(&mut Scene) -> T) -> T {
        look(&mut self.scene.lock().expect("nobody panics while it holds this"))
    }

    pub fn disk(&self, id: NodeId) -> ForgetfulDisk {
        self.disks.lock().expect("nobody panics here")[&id].clone()
    }

    pub fn excuse(&self, nodes: &[NodeId]) {
        self.scene(|scene| scene.excused.extend(nodes));
    }

    pub fn let_go(&self, node: NodeId) {
        self.scene(|scene| scene.gone.push(node));
    }

    /// Who must serve in the end.
    pub fn present(&self) -> Vec<NodeId> {
        let gone = self.scene(|scene| scene.gone.clone());
        self.cluster.ids().into_iter().filter(|id| !gone.contains(id)).collect()
    }

    pub fn complain(&self, what: String) {
        self.scene(|scene| scene.complaints.push(what));
    }

    pub fn complaints(&self) -> Vec<String> {
        self.scene(|scene| scene.complaints.clone())
    }

    pub fn acknowledged(&self) -> Vec<(LogIndex, String)> {
        self.scene(|scene| scene.acknowledged.clone())
    }

    /// That life of a node; the error of one that did not begin.
    pub fn life(&self, node: NodeId, life: usize) -> Result<Node<Book>, String> {
        self.scene(|scene| match scene.lives.get(&(node, life)) {
            Some(found) => Ok(found.clone()),
            None => Err(scene.stillborn.get(&(node, life)).cloned().unwrap_or_else(|| "it is unknown".to_owned())),
        })
    }

    fn note_life(&self, id: NodeId) {
        let life = self.plan.lives(id);
        if let Some(node) = self.cluster.node(id) {
            self.scene(|scene| scene.lives.insert((id, life), node));
        }
    }

    /// Starts a node, whatever it was before. As an operator does: more than once, if it does not start.
    pub async fn up(&self, id: NodeId) {
        for _ in 0..5 {
            let life = self.plan.lives(id) + 1;
            match self.cluster.try_restart(id).await {
                Ok(_) => return self.note_life(id),
                Err(error) => self.scene(|scene| drop(scene.stillborn.insert((id, life), error.to_string()))),
            }
            self.cluster.run_for(Duration::from_millis(10)).await;
        }
        self.complain(format!("node {id} does not start"));
    }

    /// Another one than the leader, which is waited for.
    pub async fn follower(&self) -> NodeId {
        self.cluster.leader().await % 3 + 1
    }

    /// Writes as often as it takes.
    pub async fn write(&self, text: &str) -> LogIndex {
        for count in 0..200 {
            if let Ok(written) = self.cluster.propose(Line::new(format!("{text}, try {count}"))).await {
                return written.index;
            }
            self.cluster.run_for(Duration::from_millis(20)).await;
        }
        self.complain(format!("{text:?} cannot be written"));
        0
    }

    /// Waits, in vain at most so long.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Cluster<Book>) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&self.cluster) {
            if Instant::now() >= deadline {
                self.complain(format!("awaited in vain: {what}\n{}", self.cluster.describe()));
                return false;
            }
            self.cluster.run_for(Duration::from_millis(5)).await;
        }
        true
    }

    fn is_over(&self) -> bool {
        self.scene(|scene| scene.over)
    }

    /// Clients on every node, and an application that starts a node again whose root has ended.
    pub fn begin(&self) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(guard(self.clone()))];
        for id in self.cluster.ids() {
            tasks.push(tokio::spawn(write(self.clone(), id)));
            tasks.push(tokio::spawn(write_in_session(self.clone(), id)));
            tasks.push(tokio::spawn(read(self.clone(), id)));
        }
        tasks
    }

    /// Ends what [`begin`](Self::begin) began.
    pub async fn end(&self, tasks: Vec<JoinHandle<()>>) {
        self.scene(|scene| scene.over = true);
        for task in tasks {
            if let Err(error) = task.await {
                self.complain(format!("a client panicked: {error}"));
            }
        }
    }

    /// A caller got an answer that only a deadline gave. That is one who was left hanging, unless its node is dead or deaf.
    fn late(&self, id: NodeId, what: &str) {
        let excused = self.scene(|scene| scene.excused.contains(&id));
        if !excused && self.cluster.node(id).is_some_and(|node| lives(&node)) {
            self.complain(format!("a caller of node {id} was left hanging: {what}"));
        }
    }
}

/// Whether its root lives.
pub fn lives(node: &Node<Book>) -> bool {
    let running = |actor: &ActorReport| actor.path == "node" && actor.status == Status::Running;
    node.tree().iter().any(running)
}

/// What an application's supervisor does.
async fn guard(stage: Stage) {
    while !stage.is_over() {
        for id in stage.cluster.ids() {
            let gone = stage.scene(|scene| scene.gone.contains(&id));
            if !gone && stage.cluster.node(id).is_some_and(|node| !lives(&node)) {
                stage.up(id).await;
            }
        }
        stage.cluster.run_for(Duration::from_millis(5)).await;
    }
}

/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(15);

async fn write(stage: Stage, id: NodeId) {
    for count in 0.. {
        if stage.is_over() {
            return;
        }
        let text = format!("{count} on node {id}");
        match stage.cluster.propose_on(id, Line::new(text.as_str())).await {
            Ok(written) => stage.scene(|scene| scene.acknowledged.push((written.index, text))),
            Err(ProposeError::Unknown { reason }) if reason.contains("request_timeout") => stage.late(id, &reason),
            Err(_) => {}
        }
        stage.cluster.run_for(PAUSE).await;
    }
}

async fn write_in_session(stage: Stage, id: NodeId) {
    let mut client = None;
    for count in 0.. {
        if stage.is_over() {
            return;
        }
        stage.cluster.run_for(2 * PAUSE).await;
        let Some(node) = stage.cluster.node(id).filter(lives) else {
            client = None;
            continue;
        };
        // A session goes on until its node is another one.
        let client = client.get_or_insert_with(|| node.client().with_timeout(REQUEST_TIMEOUT));
        let text = format!("{count} in a session on node {id}");
        if let Ok(written) = client.propose(Line::new(text.as_str())).await {
            stage.scene(|scene| scene.acknowledged.push((written.index, text)));
        }
    }
}

async fn read(stage: Stage, id: NodeId) {
    let kinds = [Consistency::Linearizable, Consistency::Lease, Consistency::Stale, Consistency::AtLeast(1)];
    for count in 0.. {
        if stage.is_over() {
            return;
        }
        let began = Instant::now();
        let answer = stage.cluster.read_on(id, kinds[count % kinds.len()], |book| book.ledger.len()).await;
        if matches!(answer, Err(ReadError::TimedOut { .. })) && began.elapsed() >= REQUEST_TIMEOUT {
            stage.late(id, "a read");
        }
        stage.cluster.run_for(PAUSE).await;
    }
}
