//! Each format by its own rules, read by a parser that is stricter than the tools that take it.

use std::collections::{BTreeMap, BTreeSet};

use ractor_raft::trace::Sequence;

use crate::stage::{STORIES, recorded};

/// Fails when: a diagram breaks Mermaid's grammar, or one of the JSON formats its own.
#[tokio::test(start_paused = true)]
async fn every_story_is_well_formed_in_every_format() {
    for story in STORIES {
        let sequence = Sequence::of(&recorded(story).await);
        let arrows = check_mermaid(&sequence.mermaid());
        assert!(arrows > 3, "{story} has {arrows} arrows");
        #[cfg(feature = "server")]
        {
            check_json(&sequence.json());
            let slices = check_chrome(&sequence.chrome());
            assert!(slices > 3, "{story} has {slices} slices");
        }
    }
}

/// Reads a Mermaid sequence diagram, of which only what is written here is allowed. Returns how many arrows it has.
///
/// The real parser (mermaid 11) took all the golden files, too; it cannot be had without a registry of another language.
pub fn check_mermaid(diagram: &str) -> usize {
    let mut lines = diagram.lines();
    assert_eq!(lines.next(), Some("sequenceDiagram"));
    let (mut participants, mut arrows, mut in_box) = (BTreeSet::new(), 0, false);
    for line in lines {
        let line = line.trim_start();
        if line.starts_with("box transparent ") {
            assert!(!in_box && arrows == 0, "boxes come one by one and first: {line}");
            in_box = true;
        } else if line == "end" {
            assert!(in_box, "nothing to end");
            in_box = false;
        } else if let Some(participant) = line.strip_prefix("participant ") {
            let (id, name) = participant.split_once(" as ").expect("it has a name");
            assert!(in_box && is_id(id) && participants.insert(id.to_owned()), "{line}");
            check_text(name);
        } else if let Some(note) = line.strip_prefix("Note over ") {
            let (at, text) = note.split_once(": ").expect("it says something");
            assert!(participants.contains(at), "{line}");
            check_text(text);
        } else {
            let (ends, text) = line.split_once(": ").unwrap_or_else(|| panic!("no arrow: {line}"));
            let (from, to) =
                ends.split_once("->>").or_else(|| ends.split_once("-x")).unwrap_or_else(|| panic!("{line}"));
            assert!(participants.contains(from) && participants.contains(to) && !in_box, "{line}");
            check_text(text);
            arrows += 1;
        }
    }
    assert!(!in_box);
    arrows
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|letter| letter.is_ascii_alphanumeric())
}

/// Text ends with its line; `;` only ends an entity, `#` only begins one.
fn check_text(text: &str) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('#') {
        assert!(!before.contains(';'), "{text}");
        let (entity, behind) = after.split_once(';').unwrap_or_else(|| panic!("an open entity: {text}"));
        assert!(!entity.is_empty() && entity.chars().all(|letter| letter.is_ascii_digit()), "{text}");
        rest = behind;
    }
    assert!(!rest.contains(';') && !text.contains('<') && !text.contains('%'), "{text}");
}

/// Reads the JSON of a sequence: the keys that it promises, and links that lead somewhere.
#[cfg(feature = "server")]
pub fn check_json(text: &str) {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(value["v"], 1);
    let steps = value["steps"].as_array().expect("steps");
    for step in steps {
        let keys: BTreeSet<_> = step.as_object().expect("an object").keys().map(|key| &**key).collect();
        let promised = [
            "node",
            "id",
            "cause",
            "left",
            "arrived",
            "trace",
            "sender",
            "sender_life",
            "receiver",
            "receiver_life",
            "message",
            "term",
            "index",
            "sent",
            "began",
            "ended",
            "outcome",
            "clock",
        ];
        assert_eq!(keys, promised.into_iter().collect());
        for link in ["cause", "left", "arrived"] {
            let place = &step[link];
            assert!(place.is_null() || place.as_u64().is_some_and(|place| (place as usize) < steps.len()), "{step}");
        }
        assert_eq!(step["trace"].as_str().map(str::len), Some(16));
    }
    for account in value["accounts"].as_array().expect("accounts") {
        assert!(account["lines"].as_array().is_some_and(|lines| !lines.is_empty()), "{account}");
    }
    assert!(value["nodes"].is_array());
}

/// Reads Chrome trace events by the format's rules ("Trace Event Format", Google): every slice lies in a named process and a
/// named thread, every flow has its begin and then its end, an end lies in a slice. Returns how many slices there are.
#[cfg(feature = "server")]
pub fn check_chrome(text: &str) -> usize {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let events = value["traceEvents"].as_array().expect("traceEvents");
    let (mut processes, mut threads) = (BTreeSet::new(), BTreeSet::new());
    let (mut begun, mut ended) = (BTreeMap::new(), BTreeMap::new());
    let mut stood = BTreeMap::<_, Vec<(f64, f64)>>::new();
    let mut slices = 0;
    for event in events {
        let number = |key: &str| event[key].as_u64().unwrap_or_else(|| panic!("no {key}: {event}"));
        let (process, thread) = (number("pid"), number("tid"));
        let phase = event["ph"].as_str().expect("a phase");
        assert!(event["name"].is_string(), "{event}");
        if phase == "M" {
            match event["name"].as_str() {
                Some("process_name") => assert!(processes.insert(process), "{event}"),
                Some("thread_name") => assert!(threads.insert((process, thread)), "{event}"),
                other => panic!("{other:?}"),
            }
            assert!(event["args"]["name"].is_string());
            continue;
        }
        assert!(processes.contains(&process) && threads.contains(&(process, thread)), "no name: {event}");
        let at = event["ts"].as_f64().expect("a time");
        assert!(at >= 0.0, "{event}");
        match phase {
            "X" => {
                let took = event["dur"].as_f64().expect("it lasts");
                assert!(took >= 0.0);
                stood.entry((process, thread)).or_default().push((at, at + took));
                slices += 1;
            }
            "i" => {
                assert_eq!(event["s"], "t");
                stood.entry((process, thread)).or_default().push((at, at));
            }
            "s" => assert!(begun.insert(number("id"), at).is_none(), "{event}"),
            "f" => {
                assert_eq!(event["bp"], "e");
                assert!(ended.insert(number("id"), (at, process, thread)).is_none(), "{event}");
            }
            other => panic!("no phase of ours: {other}"),
        }
    }
    assert_eq!(begun.keys().collect::<Vec<_>>(), ended.keys().collect::<Vec<_>>(), "an arrow has two ends");
    for (id, (at, process, thread)) in ended {
        assert!(begun[&id] <= at, "arrow {id} ends before it begins");
        let slices = &stood[&(process, thread)];
        assert!(slices.iter().any(|(from, to)| *from <= at && at <= *to), "arrow {id} ends in no slice");
    }
    slices
}
