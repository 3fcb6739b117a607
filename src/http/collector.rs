//! Reads all nodes while a page is open, and makes a frame of what is new ten times a second.
//!
//! There is one for all pages. A `member` task reads each node, its own directly and the others over gRPC; what they report
//! comes together here, on one clock. Of the messages it shows a sample, and says how many there were.

mod member;
mod sample;
mod source;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, interval_at, timeout},
};

use self::{
    member::{Common, Report, Reported, STATUS},
    sample::Sample,
    source::Source,
};
use super::{
    faults::Fault,
    hub::Hub,
    past::{self, Line, Told},
    timeline::{Kind, Known, slow_write},
    view::View,
    words::{Frame, Hello, Message, Node, Tree, rounded, sse},
};
use crate::{
    flow::Event,
    raft::NodeId,
    rpc::{flow::CommonClock, pb},
};

/// How often the pages are told what is new.
const FRAME: Duration = Duration::from_millis(100);

/// How long after the nodes were asked what they are the pages are told, and it is looked who belongs to the cluster.
const ANSWERS: Duration = Duration::from_millis(50);

/// How long it goes on after the last page: one that is loaded anew finds it running.
const LINGER: Duration = Duration::from_secs(2);

/// Reports that may wait to be taken up.
const REPORTS: usize = 256;

/// Slow writes of one node are told no more often.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Collects whenever a page is open, for ever.
pub(super) async fn run(view: Arc<dyn Fn() -> View + Send + Sync>, hub: Arc<Hub>, faults: Vec<Fault>) {
    hub.update(|hello| {
        hello.version = env!("CARGO_PKG_VERSION");
        hello.faults = faults;
        introduce(hello, &view());
    });
    let mut told = Told::default();
    loop {
        hub.watched(true).await;
        let mut round = Round::begin(view.clone(), hub.clone(), told);
        loop {
            round.run().await;
            if timeout(LINGER, hub.watched(true)).await.is_err() {
                break;
            }
        }
        told = round.end();
    }
}

/// Who serves the page, and how patient it is.
fn introduce(hello: &mut Hello, view: &View) {
    let Some(node) = &view.node else { return };
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = node.config();
    hello.serving = Some(node.identity().node_id);
    hello.election_ms = [millis(config.election_timeout_min), millis(config.election_timeout_max)];
    hello.heartbeat_ms = millis(config.heartbeat_interval);
}

/// From the first page to the last.
struct Round {
    view: Arc<dyn Fn() -> View + Send + Sync>,
    hub: Arc<Hub>,
    members: BTreeMap<NodeId, Member>,
    reports: mpsc::Receiver<Reported>,
    reporter: mpsc::Sender<Reported>,
    common: Common,
    /// When this round began by the common clock; the pages count from there.
    began: i64,
    sample: Sample,
    frame: Frame,
    told: Told,
    /// Who look into the recorders for what happened before.
    looking_back: JoinSet<Vec<Line>>,
    /// How many members there ever were, so that what one reports that is gone counts for nothing.
    generations: u64,
}

/// A node that is read.
struct Member {
    source: Source,
    generation: u64,
    task: JoinHandle<()>,
    node: Node,
    known: Option<Known>,
    /// Whether it has ever answered.
    met: bool,
    /// When its election timer was set, by the pages' clock.
    timer: Option<f64>,
    complained: Option<Instant>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Round {
    fn begin(view: Arc<dyn Fn() -> View + Send + Sync>, hub: Arc<Hub>, told: Told) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS);
        let clock = CommonClock::start();
        let sample = Sample::default();
        let common = Common { clock, phase: Instant::now(), one_call_in: sample.one_call_in() };
        let mut looking_back = JoinSet::new();
        looking_back.spawn(past::before(view(), clock.now()));
        Round {
            view,
            hub,
            members: BTreeMap::new(),
            reports,
            reporter,
            began: clock.now(),
            common,
            sample,
            frame: Frame::default(),
            told,
            looking_back,
            generations: 0,
        }
    }

    fn end(mut self) -> Told {
        self.told.is_told_until(milliseconds(self.common.clock.now()));
        std::mem::take(&mut self.told)
    }

    /// Until no page is left.
    async fn run(&mut self) {
        let hub = self.hub.clone();
        let unwatched = hub.watched(false);
        tokio::pin!(unwatched);
        self.look();
        let phase = self.common.phase;
        let past = phase.elapsed().as_nanos() / STATUS.as_nanos() + 1;
        let next = phase + STATUS * u32::try_from(past).unwrap_or(u32::MAX) + ANSWERS;
        let (mut frames, mut looks) = (interval(FRAME), interval_at(next, STATUS));
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = &mut unwatched => return,
                _ = looks.tick() => self.look(),
                _ = frames.tick() => self.tell(),
                Some(reported) = self.reports.recv() => self.take(reported),
                Some(Ok(lines)) = self.looking_back.join_next() => self.look_back(lines),
            }
        }
    }

    /// Who is there now, and what each of them is.
    fn look(&mut self) {
        let view = (self.view)();
        self.members.retain(|id, _| view.members.contains_key(id));
        for (id, address) in &view.members {
            let source = match view.own(*id) {
                Some(node) => Source::Own(node.clone()),
                None => Source::Peer(address.clone()),
            };
            let before = self.members.get(id);
            if before.is_some_and(|before| before.source == source) {
                continue;
            }
            // What it was does not change with the way it is read: what it says next is news all the same.
            let (node, known, met) = match before {
                Some(before) => (before.node.clone(), before.known.clone(), before.met),
                None => (Node::unknown(*id, address, "it has not answered yet".to_owned()), None, false),
            };
            self.generations += 1;
            let generation = self.generations;
            let reporter = (generation, self.reporter.clone());
            let task = tokio::spawn(member::read(*id, source.clone(), self.common.clone(), reporter));
            let member = Member { source, generation, task, node, known, met, timer: None, complained: None };
            self.members.insert(*id, member);
        }
        let at = self.at(self.common.clock.now());
        let shown = |member: &Member| {
            let timer = member.timer.map(|set| rounded((at - set).max(0.0)));
            Node { timer, ..member.node.clone() }
        };
        self.frame.nodes = self.members.values().map(shown).collect();
        let (nodes, members) = (self.frame.nodes.clone(), &self.members);
        self.hub.update(|hello| {
            introduce(hello, &view);
            hello.nodes = nodes;
            hello.trees.retain(|id, _| members.contains_key(id));
        });
    }

    /// What the recorders told of what happened.
    fn look_back(&mut self, lines: Vec<Line>) {
        for Line { at, kind, node, text, .. } in self.told.new_of(lines) {
            self.hub.note_of(at, kind, Some(node), text);
        }
    }

    fn tell(&mut self) {
        self.frame.at = rounded(self.at(self.common.clock.now()));
        self.frame.timeline = self.hub.take_new();
        self.sample.next_frame();
        self.frame.flow.sort_by(|one, other| one.sent.total_cmp(&other.sent));
        let frame = std::mem::take(&mut self.frame);
        self.hub.tell(sse("frame", &frame));
    }

    fn take(&mut self, reported: Reported) {
        let Reported { id, generation, report } = reported;
        if self.members.get(&id).is_none_or(|member| member.generation != generation) {
            return;
        }
        match report {
            Report::Status(status) => self.status(id, *status),
            Report::Gone(why) => self.gone(id, why),
            Report::Actors(reply) => {
                let tree = Tree::read(reply, rounded(self.at(self.common.clock.now())));
                self.hub.update(|hello| drop(hello.trees.insert(id, tree.clone())));
                self.frame.trees.insert(id, tree);
            }
            Report::Happened(event) => self.happened(id, event),
            Report::Messages { epoch, events, one_call_in } => {
                let epoch = self.at(epoch);
                for event in events {
                    self.message(id, &event, epoch, one_call_in);
                }
            }
        }
    }

    fn status(&mut self, id: NodeId, status: pb::StatusReply) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let was_gone = member.node.gone.is_some() && member.met;
        member.met = true;
        let known = Known::of(&status);
        member.known.get_or_insert(known);
        member.node = Node::read(id, status);
        if was_gone {
            self.hub.note(Kind::Node, Some(id), format!("Node {id} is back"));
        }
    }

    fn gone(&mut self, id: NodeId, why: String) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let was_there = member.node.gone.replace(why.clone()).is_none() && member.met;
        member.timer = None;
        if was_there {
            self.hub.note(Kind::Node, Some(id), format!("Node {id} does not answer: {why}"));
        }
    }

    fn happened(&mut self, id: NodeId, event: pb::Event) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if let Some(pb::event::Event::RoleChanged(changed)) = &event.event {
            if changed.role == "leader" {
                self.looking_back.spawn(past::elections((self.view)(), self.common.clock.now()));
            }
            member.node.role.clone_from(&changed.role);
            (member.node.term, member.node.leader) = (changed.term, changed.leader);
        }
        let line = member.known.as_mut().and_then(|known| known.line(id, event));
        if let Some((kind, text)) = line {
            self.hub.note(kind, Some(id), text);
            // Whoever watches an election does not want to wait for the next look.
            self.look();
        }
    }

    fn message(&mut self, id: NodeId, event: &Event, epoch: f64, one_call_in: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        // Whoever hears from the leader waits anew; the leader itself sets its timer for the next heartbeat.
        let is_heard = event.message == "AppendEntries" && event.sender.starts_with("node ");
        if is_heard || (event.message == "SetTimer" && &*event.receiver == "consensus/election timer") {
            member.timer = Some(epoch + event.sent.as_secs_f64() * 1e3);
        }
        if let Some(text) = slow_write(id, event)
            && member.complained.is_none_or(|last| last.elapsed() >= COMPLAINT)
        {
            member.complained = Some(Instant::now());
            self.hub.note(Kind::Disk, Some(id), text);
        }
        if self.sample.admits(event, one_call_in) {
            self.frame.flow.push(Message::read(id, event, epoch));
        }
    }

    /// A time of the common clock as the pages count: milliseconds since this round began.
    fn at(&self, common: i64) -> f64 {
        (common - self.began) as f64 / 1e6
    }
}

/// Nanoseconds since 1970, as the Timeline counts.
fn milliseconds(common: i64) -> u64 {
    u64::try_from(common / 1_000_000).unwrap_or(0)
}
