//! One node's message flow: its recorder, its meters, its names and its incidents, behind one handle.

mod incidents;
mod reading;

#[cfg(any(test, feature = "testing"))]
use std::sync::OnceLock;
use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ActorId, ActorReport, ActorTimes, EventId, Mark, Origin, Outcome, Sender, TraceId,
    incidents::Incidents,
    meter::{Meter, NEVER_POISONED},
    names::Names,
    recorder::{Record, Recorder, event_id},
    spans::Calls,
};
#[cfg(any(test, feature = "testing"))]
use super::{pause::Pause, sabotage::Saboteur};

/// The name of [`ActorId`] 0: whoever sends without being an actor of the tree.
const APPLICATION: &str = "application";

/// What a [`Flow`] may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many events the recorder holds, at 64 bytes each. Rounded up to a power of two of at least 1,024.
    pub capacity: usize,
    /// Makes this process's trace ids differ from those of earlier processes of the same node. 0: they repeat.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { capacity: 16_384, seed: 0 }
    }
}

/// One node's message flow: the flight recorder and the meters of its actors. Cloning is cheap.
#[derive(Clone)]
pub struct Flow(Arc<Shared>);

struct Shared {
    name: String,
    epoch: Instant,
    trace_seed: u64,
    traces: AtomicU64,
    recorder: Recorder,
    names: Names,
    places: RwLock<Places>,
    incidents: Incidents,
    #[cfg(any(test, feature = "testing"))]
    saboteur: OnceLock<Arc<dyn Saboteur>>,
    #[cfg(any(test, feature = "testing"))]
    pause: Pause,
    calls: Calls,
}

/// Every place in the tree that was ever asked for, by path and by number.
struct Places {
    numbers: BTreeMap<Arc<str>, ActorId>,
    meters: Vec<Arc<Meter>>,
}

impl Places {
    /// Its meter; the application's for a number of another node's, which says nothing here.
    fn of(&self, actor: ActorId) -> &Arc<Meter> {
        self.meters.get(usize::from(actor.0)).unwrap_or(&self.meters[0])
    }
}

impl Flow {
    /// `name` is `raft/<cluster>/<id>`. The node's epoch is now.
    pub fn new(name: String) -> Flow {
        Flow::with_settings(name, Settings::default())
    }

    /// As [`new`](Flow::new), with a larger or smaller recorder.
    pub fn with_settings(name: String, settings: Settings) -> Flow {
        let flow = Flow(Arc::new(Shared {
            epoch: Instant::now(),
            trace_seed: splitmix(fingerprint(&name) ^ splitmix(settings.seed)),
            traces: AtomicU64::new(0),
            recorder: Recorder::new(settings.capacity),
            names: Names::new(),
            places: RwLock::new(Places { numbers: BTreeMap::new(), meters: Vec::new() }),
            incidents: Incidents::new(),
            #[cfg(any(test, feature = "testing"))]
            saboteur: OnceLock::new(),
            #[cfg(any(test, feature = "testing"))]
            pause: Pause::default(),
            calls: Calls::default(),
            name,
        }));
        assert_eq!(flow.actor(APPLICATION), ActorId::default());
        flow
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn saboteur(&self) -> &OnceLock<Arc<dyn Saboteur>> {
        &self.0.saboteur
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn pause_state(&self) -> &Pause {
        &self.0.pause
    }

    /// `raft/<cluster>/<id>`, as it was told.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Differs from one [`Flow`] to the next that has the same name and another [`Settings::seed`]: from one process of a node to
    /// the next, whose epochs differ.
    pub fn life(&self) -> u64 {
        self.0.trace_seed
    }

    /// Time since the node's epoch, which all times in here count from.
    pub fn now(&self) -> Duration {
        self.0.epoch.elapsed()
    }

    /// The id of the actor at this place in the tree, given out at its first asking.
    pub fn actor(&self, path: &str) -> ActorId {
        self.meter(path).actor
    }

    /// The path of an actor. [`ActorId`] 0 is "application".
    pub fn path(&self, actor: ActorId) -> Arc<str> {
        self.places().of(actor).path.clone()
    }

    /// The present life of an actor. 0: it has never lived.
    pub fn incarnation(&self, actor: ActorId) -> u32 {
        self.places().of(actor).life().map_or(0, |life| life.sender.incarnation)
    }

    /// What a message from outside the tree (a gRPC handler, a library call) carries.
    pub fn outside(&self, path: &str, trace: TraceId) -> Origin {
        Origin { sender: Sender { actor: self.actor(path), incarnation: 0 }, cause: 0, trace }
    }

    /// A trace id that no other node gives out, nor this one again. Never 0.
    pub fn new_trace(&self) -> TraceId {
        loop {
            let count = self.0.traces.fetch_add(1, Ordering::Relaxed);
            let trace = splitmix(self.0.trace_seed.wrapping_add(count));
            if trace != 0 {
                return trace;
            }
        }
    }

    /// Records what no actor handles: a request that leaves the node or enters it, a reply to a client.
    ///
    /// `receiver` is whoever takes it, by the name that [`actor`](Flow::actor) knows it under ("server", "node 2").
    /// Returns what a message carries that is sent because of it.
    pub fn note(&self, receiver: ActorId, origin: Origin, name: &'static str, mark: Mark) -> Origin {
        let sender = Sender { actor: receiver, incarnation: 0 };
        if !self.is_recording() {
            return Origin { sender, cause: 0, trace: origin.trace };
        }
        let id = self.next_event(receiver);
        self.record(&Record {
            id,
            cause: origin.cause,
            trace: origin.trace,
            mark,
            sent: self.nanoseconds(Instant::now()),
            sender: origin.sender,
            message: self.number(name),
            outcome: Outcome::Noted,
            ..Record::default()
        });
        Origin { sender, cause: id, trace: origin.trace }
    }

    /// What a call that is made here and now is said by, because of, and belongs to: the present `tracing` span, where
    /// a layer of this flow has seen it (feature `tracing-layer`). The default: nobody, nothing, and no trace.
    pub fn current(&self) -> Origin {
        #[cfg(feature = "tracing-layer")]
        return super::layer::current(self);
        #[cfg(not(feature = "tracing-layer"))]
        Origin::default()
    }

    /// The number of an event of a place where events are rare.
    pub(super) fn next_event(&self, receiver: ActorId) -> EventId {
        event_id(receiver, self.places().of(receiver).reserve_events(1).start)
    }

    /// Turns the recorder on or off. Off, messages are still counted, but neither timed nor recorded.
    pub fn set_recording(&self, on: bool) {
        self.0.recorder.switch(on);
    }

    /// Whether the recorder is on, as it is at first.
    pub fn is_recording(&self) -> bool {
        self.0.recorder.is_on()
    }

    /// How many events were given up because the recorder's ring came round while they were written.
    pub fn lost_events(&self) -> u64 {
        self.0.recorder.lost()
    }

    /// How many messages were recorded so far, those that the ring has forgotten included.
    pub fn recorded_events(&self) -> u64 {
        self.0.recorder.end()
    }

    /// The memory that the recorder has taken, in bytes. It takes it in pieces of 64 KiB, as the ring fills for the first
    /// time, and no more than [`recorder_limit`](Flow::recorder_limit).
    pub fn recorder_bytes(&self) -> usize {
        self.0.recorder.bytes()
    }

    /// The memory that the recorder takes at most, in bytes: 64 for each event of [`Settings::capacity`].
    pub fn recorder_limit(&self) -> usize {
        self.0.recorder.most_bytes()
    }

    /// Every actor that ever lived in this node's tree, by path.
    pub fn tree(&self) -> Vec<ActorReport> {
        let places = self.places();
        let meters = places.numbers.values().map(|actor| &places.meters[usize::from(actor.0)]);
        let now = self.nanoseconds(Instant::now());
        meters.filter_map(|meter| meter.report(|number| self.0.names.name(number), now)).collect()
    }

    /// How long messages waited and took, for every actor that ever lived in this node's tree, by path.
    pub fn times(&self) -> Vec<ActorTimes> {
        let places = self.places();
        let meters = places.numbers.values().map(|actor| &places.meters[usize::from(actor.0)]);
        meters.filter_map(|meter| meter.times(|number| self.0.names.name(number))).collect()
    }

    /// The meter at this place in the tree, made at its first asking.
    pub(super) fn meter(&self, path: &str) -> Arc<Meter> {
        if let Some(meter) = self.find(path) {
            return meter;
        }
        let mut places = self.0.places.write().expect(NEVER_POISONED);
        if let Some(actor) = places.numbers.get(path) {
            return places.meters[usize::from(actor.0)].clone();
        }
        // With 65,536 places something else is wrong; the surplus share the application's.
        let Ok(number) = u16::try_from(places.meters.len()) else { return places.meters[0].clone() };
        let path: Arc<str> = path.into();
        let meter = Arc::new(Meter::new(path.clone(), ActorId(number)));
        places.numbers.insert(path, ActorId(number));
        places.meters.push(meter.clone());
        meter
    }

    fn find(&self, path: &str) -> Option<Arc<Meter>> {
        let places = self.places();
        places.numbers.get(path).map(|actor| places.meters[usize::from(actor.0)].clone())
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.0.places.read().expect(NEVER_POISONED)
    }

    /// The actor that goes by this process-wide name ended without a failure of its own that it could have written down.
    pub(super) fn note_end(&self, name: Option<&str>, cause: &str) {
        let actor = self.actor_named(name);
        if actor != ActorId::default() {
            self.places().of(actor).set_last_failure(cause.to_owned());
        }
    }

    /// The actor that goes by this process-wide name; the application for any that is not of this tree.
    pub(super) fn actor_named(&self, name: Option<&str>) -> ActorId {
        let path = name.and_then(|name| name.strip_prefix(&self.0.name)).and_then(|rest| rest.strip_prefix('/'));
        path.and_then(|path| self.find(path)).map_or(ActorId::default(), |meter| meter.actor)
    }

    pub(super) fn number(&self, name: &'static str) -> u16 {
        self.0.names.number(name)
    }

    pub(super) fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.0.epoch);
        // `as_nanos` counts in 128 bits, which every message would pay for three times.
        since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())
    }

    pub(super) fn record(&self, record: &Record) {
        self.0.recorder.write(record);
    }
}

impl Debug for Flow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("name", &self.0.name).field("recording", &self.is_recording()).finish()
    }
}

/// FNV-1a.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// SplitMix64's output for this state: a bijection that leaves no trace of the order of its arguments.
fn splitmix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
