//! The architecture invariants, read from the source text: what is absent from a module, and which way the arrows point.
//!
//! Comments and strings do not count; tests within `src` do, but for the files whose name ends in `tests.rs`. A module that
//! is new has to be written into [`LAYERS`] with what it may name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

#[path = "layering/table.rs"]
mod table;

/// What each module of the crate may name with `crate::`. Arrows point one way: there is no cycle.
const LAYERS: [(&str, &[&str]); 18] = [
    ("raft", &[]),
    ("flow", &[]),
    ("trace", &["flow"]),
    ("storage", &["raft"]),
    ("state_machine", &["raft"]),
    ("error", &["raft", "storage"]),
    ("config", &["error"]),
    ("transport", &["raft", "flow", "storage", "error"]),
    ("node", &["raft", "flow", "storage", "state_machine", "error", "config", "transport"]),
    ("client", &["raft", "error", "state_machine", "node"]),
    ("metrics", &["raft", "flow", "node"]),
    ("rpc", &["raft", "flow", "trace", "storage", "state_machine", "error", "config", "transport", "node"]),
    ("backup", &["raft", "storage", "error", "node", "rpc"]),
    ("kv", &["raft", "flow", "error", "state_machine", "node", "rpc"]),
    ("testing", &["raft", "flow", "storage", "state_machine", "error", "config", "transport", "node", "client"]),
    ("http", &["raft", "flow", "trace", "error", "metrics", "node", "rpc"]),
    ("bin", &[]),
    ("lib", &[]),
];

/// Where an arrow points back, and why it may.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("transport.rs", "node", "a network serves a node: it holds the handle, not the actors"),
    ("transport/in_process.rs", "node", "the same"),
    ("node/builder.rs", "rpc", "gRPC is the network that is taken where none is named"),
];

/// Fails when: a module names one that stands above it, a new module has no place, or an exception has no reason any more.
#[test]
fn arrows_point_one_way() {
    let layers = BTreeMap::from(LAYERS);
    let mut exceptions = BTreeSet::from(EXCEPTIONS.map(|(file, named, _)| (file.to_owned(), named.to_owned())));
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(allowed) = layers.get(&source.module[..]) else {
            panic!("{} is of no layer", source.path.display());
        };
        if matches!(&source.module[..], "bin" | "lib") {
            continue;
        }
        let file = source.path.to_string_lossy().into_owned();
        for named in source.crate_names() {
            let excepted = exceptions.remove(&(file.clone(), named.clone()));
            if named != source.module && !allowed.contains(&&named[..]) && !excepted {
                wrong.push(format!("{file} names {named}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(exceptions, BTreeSet::new(), "these exceptions are needed no more");
}

/// Fails when: the table above allows two modules to name each other, over however many others.
#[test]
fn the_layers_have_no_cycle() {
    let mut left = BTreeMap::from(LAYERS);
    while !left.is_empty() {
        let standing: BTreeSet<_> = left.keys().copied().collect();
        let before = left.len();
        left.retain(|_, names| names.iter().any(|name| standing.contains(name)));
        assert!(left.len() < before, "a cycle among {standing:?}");
    }
}

/// "Nothing in `raft` waits, fails, reads a clock, draws a random number, or names an actor, a socket or a disk."
///
/// Fails when: it does.
#[test]
fn the_core_is_pure() {
    let absent = [
        "tokio",
        "ractor",
        "tonic",
        "rusqlite",
        "rand",
        "tracing",
        "Instant",
        "SystemTime",
        "thread",
        "fs",
        "net",
        "io",
        "async",
        "await",
        "Mutex",
        "HashMap",
        "HashSet",
        "Result",
        "unsafe",
        "println",
        "eprintln",
    ];
    // `fmt::Result` is what a `Display` has to return.
    nothing_in("raft", &absent, |line| line.contains("fmt::Result"));
}

/// The stores are synchronous: the actor around them is somebody else's.
///
/// Fails when: a store spawns, awaits, or knows an actor.
#[test]
fn storage_knows_no_actor() {
    nothing_in("storage", &["ractor", "Actor", "ActorRef", "tokio", "async", "await"], |_| false);
}

/// The envelope stands below all that is sent in it.
///
/// Fails when: `flow` names a message, a role or an entry.
#[test]
fn flow_knows_no_node() {
    nothing_in("flow", &["NodeHandle", "Consensus", "Raft", "Input", "Effect"], |_| false);
}

/// The wire carries what the rules decide.
///
/// Fails when: `rpc` drives the core.
#[test]
fn rpc_knows_no_rules() {
    // `raft_server::Raft` is the generated service.
    nothing_in("rpc", &["Raft", "Effect", "Input", "Settings"], |line| line.contains("raft_server::Raft"));
}

/// Within the tree: the vocabulary, then the leaf actors, then consensus, then the root.
///
/// Fails when: a leaf actor names the actor above it.
#[test]
fn leaf_actors_know_messages_and_no_actor_above_them() {
    let leaves =
        ["messages.rs", "log_store.rs", "applier.rs", "consensus/election_timer.rs", "consensus/replicator.rs"];
    let above = ["Consensus", "supervision", "Blueprint", "Root", "builder"];
    let is_leaf = |source: &Source| leaves.iter().any(|leaf| source.path == Path::new("node").join(leaf));
    let found: Vec<_> = sources().into_iter().filter(is_leaf).collect();
    assert_eq!(found.len(), leaves.len(), "every leaf is found");
    nothing_among(found, &above, |_| false);
}

fn nothing_in(module: &str, absent: &[&str], except: impl Fn(&str) -> bool) {
    let of_module: Vec<_> = sources().into_iter().filter(|source| source.module == module).collect();
    assert!(!of_module.is_empty(), "there is no module {module}");
    nothing_among(of_module, absent, except);
}

fn nothing_among(sources: Vec<Source>, absent: &[&str], except: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.code.lines().enumerate().filter(|(_, line)| !except(line)) {
            found.extend(
                words(line)
                    .filter(|word| absent.contains(word))
                    .map(|word| format!("{}:{} names {word}", source.path.display(), number + 1)),
            );
        }
    }
    assert_eq!(found, [""; 0]);
}

/// One file, without its comments and strings.
struct Source {
    path: PathBuf,
    /// The module of the crate's root that it belongs to.
    module: String,
    /// How many modules deep it stands: 1 for `src/raft.rs`.
    depth: usize,
    code: String,
}

impl Source {
    /// The modules of the root that it names, by `crate::` or by `super::` from its own root file.
    fn crate_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let paths = self.code.match_indices("crate::").map(|(at, found)| at + found.len());
        let supers = "super::".repeat(self.depth);
        let above = self.code.match_indices(&supers).filter(|(at, _)| {
            !self.code[..*at].ends_with("super::") && !self.code[at + supers.len()..].starts_with("super::")
        });
        for from in paths.chain(above.map(|(at, found)| at + found.len())) {
            names.extend(first_names(&self.code[from..]));
        }
        names.retain(|name| name.chars().next().is_some_and(char::is_lowercase) && name != "super" && name != "self");
        names
    }
}

/// The first name of a path, or of each path in a group `{a::b, c::{d, e}}`.
fn first_names(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else {
        return words(text).next().filter(|word| text.starts_with(word)).map(str::to_owned).into_iter().collect();
    };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(words(&group[start..at]).next().map(str::to_owned));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(words(&group[start..at]).next().map(str::to_owned));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty())
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    let in_root = |path: &PathBuf| path.strip_prefix(&root).expect("found below it").to_owned();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let path = in_root(&path);
        let parts: Vec<_> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        Source { module: parts[0].clone(), depth: parts.len(), code: without_comments(&text), path }
    };
    found.into_iter().map(source).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The text with every comment and every string's content left out; lines stay lines.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let end = match char {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => string_end(rest),
            // A quote or a backslash as a character, which opens no string.
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\") => 3 + rest[3..].find('\'').map_or(0, |at| at + 1),
            _ => {
                code.push(char);
                rest = &rest[char.len_utf8()..];
                continue;
            }
        };
        code.extend(rest[..end].chars().filter(|char| *char == '\n'));
        rest = &rest[end..];
    }
    code
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[test]
fn comments_and_strings_do_not_count() {
    let text = "a // tokio\nb \"rand \\\" tonic\" c /* async\n*/ d '\"' e '\\'' f";
    assert_eq!(without_comments(text).split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(first_names("{raft::{self, Log}, flow, error::NodeError};"), ["raft", "flow", "error"]);
    assert_eq!(first_names("raft::Log"), ["raft"]);
}
