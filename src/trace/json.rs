//! A sequence as one JSON object, and the little that is needed to write JSON.
//!
//! ```text
//! {"v":1,
//!  "nodes":[{"node","leads","missed","clock_shift","clock_error"}],
//!  "accounts":[{"what","node","trace","term","index","began","ended",
//!               "parts":[{"place","node","nanoseconds"}],"path":[…],"acknowledged":[{"node","at","counted"}],"lines":[…]}],
//!  "untold",
//!  "steps":[{"node","id","cause","left","arrived","trace","sender","sender_life","receiver","receiver_life",
//!            "message","term","index","sent","began","ended","outcome","clock"}]}
//! ```
//! Times are nanoseconds from the first message's sending. `cause`, `left` and `arrived` are places in `steps`, or null; so are those in `path`.
//! Traces are sixteen hexadecimal digits, the low half of a W3C trace id; ids are hexadecimal text, too: they do not fit into a
//! JavaScript number.

use super::{
    Account, Sequence, Step,
    path::{Part, Place},
};

/// A JSON value that is being written.
pub(super) struct Json(String);

impl Json {
    pub fn text(value: &str) -> Json {
        let mut text = String::with_capacity(value.len() + 2);
        text.push('"');
        for letter in value.chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                // "</script>" must not end what the object may stand in.
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1F}' => {
                    text += &format!("\\u{:04x}", u32::from(letter));
                }
                other => text.push(other),
            }
        }
        text.push('"');
        Json(text)
    }

    pub fn number(value: impl std::fmt::Display) -> Json {
        Json(value.to_string())
    }

    pub fn flag(value: bool) -> Json {
        Json(value.to_string())
    }

    pub fn or_null(value: Option<impl std::fmt::Display>) -> Json {
        value.map_or_else(|| Json("null".to_owned()), Json::number)
    }

    pub fn list(values: impl IntoIterator<Item = Json>) -> Json {
        let values: Vec<_> = values.into_iter().map(|Json(value)| value).collect();
        Json(format!("[{}]", values.join(",")))
    }

    /// One value a line, for what is long.
    pub fn long_list(values: impl IntoIterator<Item = Json>) -> Json {
        let values: Vec<_> = values.into_iter().map(|Json(value)| value).collect();
        Json(if values.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", values.join(",\n")) })
    }

    pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Json)>) -> Json {
        let fields = fields.into_iter().map(|(key, Json(value))| format!("\"{key}\":{value}"));
        Json(format!("{{{}}}", fields.collect::<Vec<_>>().join(",")))
    }

    pub fn finish(self) -> String {
        self.0 + "\n"
    }
}

impl Sequence {
    /// All of it as one JSON object, whose `v` is 1; its keys stay. Each message stands on a line of its own.
    pub fn json(&self) -> String {
        let nodes = self.lanes.iter().map(|lane| {
            Json::object([
                ("node", Json::number(lane.node)),
                ("leads", Json::flag(lane.leads)),
                ("missed", Json::number(lane.missed)),
                ("clock_shift", Json::number(lane.shift)),
                ("clock_error", Json::number(lane.error)),
            ])
        });
        Json::object([
            ("v", Json::number(1)),
            ("nodes", Json::long_list(nodes)),
            ("accounts", Json::long_list(self.accounts.iter().map(account))),
            ("untold", Json::number(self.untold)),
            ("steps", Json::long_list(self.steps.iter().map(step))),
        ])
        .finish()
    }
}

/// A trace, as everyone writes it.
pub(super) fn trace(trace: u64) -> String {
    format!("{trace:016x}")
}

fn account(account: &Account) -> Json {
    let part = |Part { place, nanoseconds }: &Part| {
        let (name, node) = match place {
            Place::Disk { node } => ("fsync", Some(*node)),
            Place::Network => ("network", None),
            Place::Queue => ("queues", None),
            Place::Apply => ("apply", None),
            Place::Other => ("other", None),
        };
        Json::object([
            ("place", Json::text(name)),
            ("node", Json::or_null(node)),
            ("nanoseconds", Json::number(nanoseconds)),
        ])
    };
    let acknowledged = account.acknowledged.iter().map(|one| {
        Json::object([
            ("node", Json::number(one.node)),
            ("at", Json::or_null(one.at)),
            ("counted", Json::flag(one.counted)),
        ])
    });
    Json::object([
        ("what", Json::text(account.what.name())),
        ("node", Json::number(account.node)),
        ("trace", Json::text(&trace(account.trace))),
        ("term", Json::number(account.term)),
        ("index", Json::number(account.index)),
        ("began", Json::number(account.began)),
        ("ended", Json::number(account.ended)),
        ("parts", Json::list(account.parts.iter().map(part))),
        ("path", Json::list(account.path.iter().map(Json::number))),
        ("acknowledged", Json::list(acknowledged)),
        ("lines", Json::list(account.lines.iter().map(|line| Json::text(line)))),
    ])
}

fn step(step: &Step) -> Json {
    let event = &step.event;
    Json::object([
        ("node", Json::number(step.node)),
        ("id", Json::text(&format!("{:x}", event.id))),
        ("cause", Json::or_null(step.cause)),
        ("left", Json::or_null(step.left)),
        ("arrived", Json::or_null(step.arrived)),
        ("trace", Json::text(&trace(event.trace))),
        ("sender", Json::text(&event.sender)),
        ("sender_life", Json::number(event.sender_incarnation)),
        ("receiver", Json::text(&event.receiver)),
        ("receiver_life", Json::number(event.receiver_incarnation)),
        ("message", Json::text(&event.message)),
        ("term", Json::number(event.mark.term)),
        ("index", Json::number(event.mark.index)),
        ("sent", Json::number(step.sent)),
        ("began", Json::number(step.began)),
        ("ended", Json::number(step.ended)),
        ("outcome", Json::text(&event.outcome.to_string())),
        ("clock", Json::flag(step.clock)),
    ])
}
