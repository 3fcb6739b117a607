//! One node's message flow: its recorder, its meters, its names and its incidents, behind one handle.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    path::PathBuf,
    sync::{
        Arc, OnceLock, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ActorId, ActorReport, ActorTimes, Event, EventId, Filter, Follow, Incident, Mark, Origin, Outcome, Saboteur,
    Sender, TraceId,
    event::is_one_in,
    incidents::{INCIDENT_EVENTS, Incidents, Kept},
    meter::{Meter, NEVER_POISONED},
    names::Names,
    pause::Pause,
    recorder::{Record, Recorder, event_id, event_parts},
    spans::Calls,
};

/// The name of [`ActorId`] 0: whoever sends without being an actor of the tree.
const APPLICATION: &str = "application";

/// Events are recorded as they end, give or take how long a thread is kept from writing one down.
#[cfg(feature = "grpc")]
const IN_DISORDER: Duration = Duration::from_millis(50);

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
    saboteur: OnceLock<Arc<dyn Saboteur>>,
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
            saboteur: OnceLock::new(),
            pause: Pause::default(),
            calls: Calls::default(),
            name,
        }));
        assert_eq!(flow.actor(APPLICATION), ActorId::default());
        flow
    }

    /// Lets actors die by this saboteur's decision, from now on. Does nothing if there is one already.
    pub fn sabotage(&self, saboteur: Arc<dyn Saboteur>) {
        let _ = self.0.saboteur.set(saboteur);
    }

    pub(super) fn saboteur(&self) -> Option<&Arc<dyn Saboteur>> {
        self.0.saboteur.get()
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

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

    /// The recorded events that pass the filter, in the order in which their handling began.
    pub fn events(&self, filter: &Filter) -> Vec<Event> {
        let mut records = self.0.recorder.last(usize::MAX);
        self.sift(filter, &mut records);
        in_order(&mut records);
        let surplus = filter.last.map_or(0, |last| records.len().saturating_sub(last));
        self.resolve(&records[surplus..])
    }

    /// The last recorded events that pass the filter, as many as it says, in the order in which they ended. It looks at no more
    /// of the ring than it has to, so that whoever asks for little, often, costs little.
    #[cfg(feature = "grpc")]
    pub(crate) fn newest(&self, filter: &Filter) -> Vec<Event> {
        let places = self.places();
        let wanted = |record: &Record| self.passes(filter, &places, record);
        let is_too_old = |record: &Record| filter.since.is_some_and(|since| record.ended() + IN_DISORDER < since);
        let records = self.0.recorder.newest(filter.last.unwrap_or(usize::MAX), wanted, is_too_old);
        drop(places);
        self.resolve(&records)
    }

    /// The events that end from now on and pass the filter, as they come. Whoever reads too slowly misses some, and is told
    /// how many; no actor ever waits for a reader.
    pub fn follow(&self, filter: Filter) -> Follow {
        Follow::new(self.clone(), filter, self.0.recorder.end())
    }

    /// The recorded events that pass the filter, the last so many as it says, and then those to come, as [`follow`](Flow::follow)
    /// gives them. What is recorded already is not gathered first, but read as it is asked for.
    pub fn replay(&self, filter: Filter) -> Follow {
        let last = filter.last.unwrap_or(usize::MAX);
        let places = self.places();
        let position = self.0.recorder.begin_of_last(last, |record| self.passes(&filter, &places, record));
        drop(places);
        Follow::new(self.clone(), Filter { last: None, ..filter }, position)
    }

    /// The events from this position of the recorder on that pass the filter and are admitted, by when they ended; how many
    /// passed and were not; where to go on; and how many were missed.
    pub(super) fn read_on(
        &self,
        filter: &Filter,
        position: u64,
        limit: usize,
        mut admits: impl FnMut(Duration) -> bool,
    ) -> (Vec<Event>, u64, u64, u64) {
        let (mut records, next, missed) = self.0.recorder.from(position, limit);
        self.sift(filter, &mut records);
        let passed = records.len();
        records.retain(|record| admits(record.ended()));
        (self.resolve(&records), (passed - records.len()) as u64, next, missed)
    }

    /// Keeps the last events (4,096 of them, 30 seconds at most), because something fell. What falls within a second after it
    /// is added to the same incident.
    pub fn keep_incident(&self, cause: impl Into<String>) {
        let records = |since: Duration| {
            let mut records = self.0.recorder.last(INCIDENT_EVENTS);
            records.retain(|record| record.ended() >= since);
            in_order(&mut records);
            records
        };
        if self.0.incidents.keep(cause.into(), self.now(), records) {
            let flow = self.clone();
            let write = move || flow.0.incidents.write(|kept| flow.incident_of(kept));
            if let Err(error) = std::thread::Builder::new().name("incidents".to_owned()).spawn(write) {
                self.0.incidents.give_up_writing(&error);
            }
        }
    }

    /// Keeps incidents in files as well: the last eight in this directory, of a megabyte each at most. They outlive the
    /// process. It is made with the first of them; what an earlier process left there is found again.
    pub fn keep_incidents_in(&self, directory: impl Into<PathBuf>) {
        self.0.incidents.keep_in(directory.into());
    }

    /// The last incidents of this process, the oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.0.incidents.kept().iter().map(|kept| self.incident_of(kept)).collect()
    }

    /// The last incidents, those of earlier processes included that are on disk. It waits for the disk: not for a runtime's
    /// worker.
    pub fn all_incidents(&self) -> Vec<Incident> {
        self.0.incidents.all(|kept| self.incident_of(kept))
    }

    /// The incident of this number, if it is still kept. It waits for the disk.
    pub fn incident(&self, id: u64) -> Option<Incident> {
        self.0.incidents.find(id, |kept| self.incident_of(kept))
    }

    /// Waits, for two seconds at most, until the incidents are on disk that are to be there.
    pub async fn incidents_settled(&self) {
        self.0.incidents.settle().await;
    }

    /// For tests in simulated time, in which a disk takes no time at all.
    #[cfg(test)]
    pub(super) fn wait_for_incidents(&self) {
        let begun = std::time::Instant::now();
        while !self.0.incidents.is_settled() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the disk takes too long");
            std::thread::yield_now();
        }
    }

    fn incident_of(&self, kept: &Kept) -> Incident {
        Incident {
            id: kept.id,
            cause: kept.cause.clone(),
            at: kept.at,
            since_1970: kept.since_1970,
            life: self.life(),
            events: self.resolve(&kept.records),
        }
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

    /// Leaves those that pass.
    fn sift(&self, filter: &Filter, records: &mut Vec<Record>) {
        let places = self.places();
        records.retain(|record| self.passes(filter, &places, record));
    }

    fn passes(&self, filter: &Filter, places: &Places, record: &Record) -> bool {
        let at = |actor: ActorId, beginning: &str| places.of(actor).path.starts_with(beginning);
        filter.trace.is_none_or(|trace| trace == record.trace)
            && (record.trace == 0 || is_one_in(record.trace, filter.one_call_in))
            && filter.since.is_none_or(|since| record.ended() >= since)
            && filter.until.is_none_or(|until| Duration::from_nanos(record.sent) <= until)
            && filter.message.as_ref().is_none_or(|message| *message == self.0.names.name(record.message))
            && filter
                .actor
                .as_ref()
                .is_none_or(|beginning| at(event_parts(record.id).0, beginning) || at(record.sender.actor, beginning))
    }

    fn resolve(&self, records: &[Record]) -> Vec<Event> {
        let places = self.places();
        let path = |actor: ActorId| places.of(actor).path.clone();
        let events = records.iter().map(|record| Event {
            id: record.id,
            cause: record.cause,
            trace: record.trace,
            sender: path(record.sender.actor),
            sender_incarnation: record.sender.incarnation,
            receiver: path(event_parts(record.id).0),
            receiver_incarnation: record.receiver_incarnation,
            message: self.0.names.name(record.message).into(),
            mark: record.mark,
            sent: Duration::from_nanos(record.sent),
            waited: Duration::from_nanos(record.waited),
            handling: Duration::from_nanos(record.handling),
            outcome: record.outcome,
        });
        events.collect()
    }
}

impl Debug for Flow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("name", &self.0.name).field("recording", &self.is_recording()).finish()
    }
}

/// By when their handling began. In simulated time many begin at once; then as they ended.
fn in_order(records: &mut [Record]) {
    records.sort_by_key(|record| record.sent + record.waited);
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
