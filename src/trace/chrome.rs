//! A sequence as Chrome trace events, which Perfetto and `chrome://tracing` load: a process a node, a thread an actor, a slice
//! a handled message, an arrow from where it was sent.

use std::collections::BTreeMap;

use super::{
    Sequence,
    json::{self, Json},
    names,
    sequence::Step,
};
use crate::flow::Outcome;

impl Sequence {
    /// As Chrome trace events in JSON, for <https://ui.perfetto.dev> and `chrome://tracing`. Arrows are flow events; what no
    /// actor handled is an instant.
    pub fn chrome(&self) -> String {
        let threads = Threads::of(&self.steps);
        let mut events = threads.names();
        for (number, step) in self.steps.iter().enumerate() {
            events.push(threads.step(step));
            events.extend(self.arrow(number, &threads).into_iter().flatten());
        }
        Json::object([("displayTimeUnit", Json::text("ms")), ("traceEvents", Json::long_list(events))]).finish()
    }

    /// Both ends of the arrow to a step: from where it left its node, or else from what it was sent in.
    fn arrow(&self, number: usize, threads: &Threads) -> Option<[Json; 2]> {
        let to = &self.steps[number];
        let from = &self.steps[to.left.or(to.cause)?];
        let left = if to.left.is_some() { from.ended } else { to.sent };
        let left = left.clamp(from.began, from.ended).min(to.began);
        let end = |phase: &'static str, step: &Step, at: i64| {
            let fields = [
                ("ph", Json::text(phase)),
                ("id", Json::number(number + 1)),
                ("name", Json::text(&to.event.message)),
                ("cat", Json::text(if to.left.is_some() { "network" } else { "mailbox" })),
                ("pid", Json::number(step.node)),
                ("tid", Json::number(threads.of_receiver(step))),
                ("ts", microseconds(at)),
            ];
            // An end belongs to the slice that it stands in, not to the next one.
            Json::object(fields.into_iter().chain((phase == "f").then(|| ("bp", Json::text("e")))))
        };
        Some([end("s", from, left), end("f", to, to.began)])
    }
}

/// The threads of each node: its actors. Their numbers are above those of all processes: Perfetto takes a thread with the number of a
/// process for that one's main thread.
struct Threads(BTreeMap<(u64, String), usize>);

impl Threads {
    fn of(steps: &[Step]) -> Self {
        let mut threads: BTreeMap<_, _> =
            steps.iter().map(|step| ((step.node, step.event.receiver.to_string()), 0)).collect();
        let processes = threads.keys().map(|(node, _)| *node).max().unwrap_or(0);
        let first = usize::try_from(processes).ok().filter(|last| *last < 1 << 30).map_or(1, |last| last + 1);
        threads.values_mut().enumerate().for_each(|(number, thread)| *thread = first + number);
        Threads(threads)
    }

    fn of_receiver(&self, step: &Step) -> usize {
        self.0.get(&(step.node, step.event.receiver.to_string())).copied().unwrap_or(0)
    }

    fn names(&self) -> Vec<Json> {
        let named = |kind: &'static str, node: u64, thread: usize, name: &str| {
            Json::object([
                ("ph", Json::text("M")),
                ("name", Json::text(kind)),
                ("pid", Json::number(node)),
                ("tid", Json::number(thread)),
                ("args", Json::object([("name", Json::text(name))])),
            ])
        };
        let mut nodes: Vec<_> = self.0.keys().map(|(node, _)| *node).collect();
        nodes.dedup();
        let processes = nodes.into_iter().map(|node| named("process_name", node, 0, &format!("node {node}")));
        let threads = self.0.iter().map(|((node, actor), thread)| named("thread_name", *node, *thread, actor));
        processes.chain(threads).collect()
    }

    fn step(&self, step: &Step) -> Json {
        let event = &step.event;
        let mut about = vec![
            ("from", Json::text(&event.sender)),
            ("term", Json::number(event.mark.term)),
            ("index", Json::number(event.mark.index)),
            ("trace", Json::text(&json::trace(event.trace))),
            ("outcome", Json::text(&event.outcome.to_string())),
        ];
        if event.outcome != Outcome::Noted {
            about.push(("waited_ms", Json::text(&names::milliseconds(step.waited()))));
        }
        let mut fields = vec![
            ("name", Json::text(&names::word(&event.message, event.mark))),
            ("cat", Json::text("message")),
            ("pid", Json::number(step.node)),
            ("tid", Json::number(self.of_receiver(step))),
            ("ts", microseconds(step.began)),
            ("args", Json::object(about)),
        ];
        if event.outcome == Outcome::Noted {
            fields.extend([("ph", Json::text("i")), ("s", Json::text("t"))]);
        } else {
            fields.extend([("ph", Json::text("X")), ("dur", microseconds(step.handling()))]);
        }
        Json::object(fields)
    }
}

fn microseconds(nanoseconds: i64) -> Json {
    Json::number(format_args!("{}.{:03}", nanoseconds / 1000, nanoseconds.unsigned_abs() % 1000))
}
