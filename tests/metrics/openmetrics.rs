//! A strict reader of the text format of OpenMetrics 1.0: whatever it does not know is an error.

use std::collections::BTreeMap;

/// A whole text.
pub struct Exposition {
    pub families: BTreeMap<String, Family>,
    pub samples: Vec<Sample>,
}

pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
    pub unit: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    pub family: String,
}

impl Exposition {
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    pub fn lookup(&self, name: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
        self.all(name).find(|sample| sample.labels == *labels).map(|sample| sample.value)
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        self.lookup(name, &wanted).unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
    }

    /// Whatever must never fall.
    pub fn counters(&self) -> impl Iterator<Item = (String, BTreeMap<String, String>, f64)> {
        let falls_never = |sample: &&Sample| matches!(&self.families[&sample.family].kind[..], "counter" | "histogram");
        self.samples.iter().filter(falls_never).map(|sample| (sample.name.clone(), sample.labels.clone(), sample.value))
    }
}

/// # Panics
/// If it is not OpenMetrics, to the letter.
pub fn parse(text: &str) -> Exposition {
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it does not end in # EOF: {text}"));
    let mut exposition = Exposition { families: BTreeMap::new(), samples: Vec::new() };
    let mut family: Option<Family> = None;
    for line in body.lines() {
        match line.strip_prefix("# ") {
            Some(comment) => describe(&mut exposition, &mut family, comment),
            None => {
                let family = family.as_ref().unwrap_or_else(|| panic!("{line:?} belongs to no family"));
                let sample = sample(line, family);
                let twice = exposition.lookup(&sample.name, &sample.labels);
                assert_eq!(twice, None, "{line:?} is there twice");
                exposition.samples.push(sample);
            }
        }
    }
    finish(&mut exposition, family);
    histograms_add_up(&exposition);
    exposition
}

fn describe(exposition: &mut Exposition, family: &mut Option<Family>, comment: &str) {
    let mut words = comment.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{comment:?} is cut off"));
    let (what, name, rest) = (word(), word(), word().to_owned());
    assert!(is_name(name), "{name:?} is no name");
    if family.as_ref().is_none_or(|family| family.name != name) {
        finish(exposition, family.take());
        let (name, kind, help) = (name.to_owned(), String::new(), String::new());
        *family = Some(Family { name, kind, help, unit: None });
    }
    let family = family.as_mut().expect("it was put there");
    match what {
        "HELP" => family.help = rest,
        "TYPE" => {
            assert!(matches!(&rest[..], "gauge" | "counter" | "histogram" | "info"), "{name} is a {rest:?}");
            family.kind = rest;
        }
        "UNIT" => {
            assert!(name.ends_with(&format!("_{rest}")), "{name} does not end in its unit, {rest}");
            assert!(matches!(&rest[..], "seconds" | "bytes"), "{rest} is no base unit");
            family.unit = Some(rest);
        }
        other => panic!("{other:?} is no kind of comment"),
    }
}

fn finish(exposition: &mut Exposition, family: Option<Family>) {
    let Some(family) = family else { return };
    let name = family.name.clone();
    assert!(!family.kind.is_empty() && !family.help.is_empty(), "{name} has no type or no help");
    assert!(family.kind != "histogram" || family.unit.is_some(), "{name} has no unit");
    assert!(exposition.families.insert(name.clone(), family).is_none(), "{name} is there in two places");
}

fn sample(line: &str, family: &Family) -> Sample {
    let (labelled, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} has no value"));
    let (name, labels) = match labelled.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?} has no }}"))),
        None => (labelled, ""),
    };
    let suffixes: &[&str] = match &family.kind[..] {
        "gauge" => &[""],
        "counter" => &["_total"],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[],
    };
    let suffix = name.strip_prefix(&family.name[..]);
    assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line:?} is no sample of {}", family.name);
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("{value:?} is no number"));
    assert!(value.is_finite(), "{line}");
    assert!(family.kind == "gauge" || value >= 0.0, "{line}");
    Sample { name: name.to_owned(), labels: parse_labels(labels), value, family: family.name.clone() }
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text:?} are no labels"));
        assert!(is_name(key) && !key.contains(':'), "{key:?} is no name of a label");
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("{text:?} has no closing quote")) {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    other => panic!("{other:?} is no escape"),
                },
                (_, character) => value.push(character),
            }
        };
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} is there twice in {text:?}");
        rest = &after[end..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("{text:?} lacks a comma"));
            assert!(!rest.is_empty(), "{text:?} ends in a comma");
        }
    }
    labels
}

/// Buckets ascend, in their bounds and in their counts, and the last one holds all.
fn histograms_add_up(exposition: &Exposition) {
    for family in exposition.families.values().filter(|family| family.kind == "histogram") {
        let count = format!("{}_count", family.name);
        let bucket = format!("{}_bucket", family.name);
        for total in exposition.all(&count) {
            let mut buckets = exposition.all(&bucket).filter(|bucket| {
                let mut labels = bucket.labels.clone();
                labels.remove("le");
                labels == total.labels
            });
            let (mut bound, mut seen) = (0.0, 0.0);
            for bucket in buckets.by_ref() {
                let le = &bucket.labels["le"];
                let next: f64 = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound is a number") };
                assert!(le == "+Inf" || next < 1e6, "{le} is no bound");
                assert!(next > bound && bucket.value >= seen, "{bucket:?} after {bound} {seen}");
                (bound, seen) = (next, bucket.value);
            }
            assert_eq!((bound, seen), (f64::INFINITY, total.value), "{count} {:?}", total.labels);
            assert!(exposition.lookup(&format!("{}_sum", family.name), &total.labels).is_some());
        }
    }
}

fn is_name(text: &str) -> bool {
    let letter = |character: char| character.is_ascii_alphabetic() || matches!(character, '_' | ':');
    text.starts_with(letter) && text.chars().all(|character| letter(character) || character.is_ascii_digit())
}

/// Fails when: the reader lets pass what is not OpenMetrics.
#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_total_seconds What.\n# TYPE a_total_seconds gauge\n# UNIT a_total_seconds seconds\na_total_seconds{x=\"\\\"\"} 1\n# EOF\n";
    assert_eq!(parse(good).value("a_total_seconds", &[("x", "\"")]), 1.0);
    let bad = [
        ("# EOF\n", ""),
        ("gauge", "counter"),
        ("gauge", "gouge"),
        ("} 1", "} one"),
        ("{x=", "{x=\"1\",x="),
        ("{x=", "{1="),
        ("\\\"", "\\q"),
        ("What.", ""),
        ("UNIT a_total_seconds seconds", "UNIT a_total_seconds minutes"),
        ("# EOF\n", "b 1\n# EOF\n"),
    ];
    for (from, to) in bad {
        let text = good.replace(from, to);
        assert!(std::panic::catch_unwind(|| parse(&text)).is_err(), "this passed:\n{text}");
    }
}
