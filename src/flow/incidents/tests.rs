//! What is on disk after something fell, and after the disk was looked at by somebody else.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

use super::{format, *};
use crate::flow::{Flow, Mark, Settings};

const SECOND: Duration = Duration::from_secs(1);

/// One process of a node; `process` tells it from the others.
fn flow(directory: &Path, process: u64) -> Flow {
    let flow = Flow::with_settings("incident-test/1".to_owned(), Settings { seed: process, ..Settings::default() });
    flow.keep_incidents_in(directory);
    flow
}

fn tick(flow: &Flow) {
    flow.note(flow.actor("server"), flow.outside("node 2", 7), "Tick", Mark { term: 3, index: 5 });
}

/// Something falls, more than a second after what fell before.
async fn fall(flow: &Flow, cause: &str) {
    sleep(2 * SECOND).await;
    tick(flow);
    flow.keep_incident(cause);
    flow.wait_for_incidents();
}

fn files(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).expect("it is there").map(|file| file.expect("readable").file_name());
    let mut names: Vec<_> = files.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    names
}

fn causes(flow: &Flow) -> Vec<(u64, String)> {
    flow.all_incidents().into_iter().map(|incident| (incident.id, incident.cause)).collect()
}

fn directory() -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("there is room for temporary files");
    let path = directory.path().join("data").join("incidents");
    (directory, path)
}

/// Fails when: an incident is not written, is read back otherwise than it was, or a later process counts from 1 again.
#[tokio::test]
async fn an_incident_outlives_its_process() {
    let (_directory, path) = directory();
    let first = flow(&path, 1);
    tokio::time::pause();
    fall(&first, "the first fall").await;
    let kept = first.incidents();
    assert_eq!((kept[0].id, kept[0].events.len(), kept[0].life), (1, 1, first.life()));
    let second = flow(&path, 2);
    assert_eq!(second.incidents(), [], "in memory there is nothing of the process before");
    assert_eq!(second.all_incidents(), kept);
    assert_eq!(second.incident(1), Some(kept[0].clone()));
    fall(&second, "the second fall").await;
    assert_eq!(causes(&second), [(1, "the first fall".to_owned()), (2, "the second fall".to_owned())]);
    assert_eq!(second.incident(3), None);
}

/// Fails when: the oldest are not dropped, or what a process left unfinished stays for ever.
#[tokio::test]
async fn the_disk_holds_the_last_eight_and_nothing_else() {
    let (_directory, path) = directory();
    fs::create_dir_all(&path).expect("there is room");
    fs::write(path.join("incident-0000000099.new"), "half of it").expect("there is room");
    tokio::time::pause();
    for process in 0..3 {
        let flow = flow(&path, process);
        for number in 0..4 {
            fall(&flow, &format!("fall {number} of process {process}")).await;
        }
    }
    let expected: Vec<_> = (5..=12).map(|id| format!("incident-{id:010}")).collect();
    assert_eq!(files(&path), expected);
    assert_eq!(causes(&flow(&path, 9))[0], (5, "fall 0 of process 1".to_owned()));
}

/// Fails when: a checksum is not looked at, or one damaged file hides the others.
#[tokio::test]
async fn a_damaged_file_is_skipped_wherever_it_is_damaged() {
    let (_directory, path) = directory();
    tokio::time::pause();
    let writer = flow(&path, 1);
    fall(&writer, "the one that is damaged").await;
    fall(&writer, "the one that is not").await;
    let reader = flow(&path, 2);
    let damaged = path.join("incident-0000000001");
    let whole = fs::read(&damaged).expect("it is there");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, bytes).expect("there is room");
        assert_eq!(causes(&reader), [(2, "the one that is not".to_owned())], "byte {at}");
    }
    for length in [0, 1, 15, 16, whole.len() - 1] {
        fs::write(&damaged, &whole[..length]).expect("there is room");
        assert_eq!(causes(&reader), [(2, "the one that is not".to_owned())], "cut to {length} bytes");
    }
    fs::write(&damaged, vec![0; format::MAX_BYTES + 1]).expect("there is room");
    assert_eq!(reader.incident(1), None, "larger than any incident");
    // The file of another in its place.
    fs::copy(path.join("incident-0000000002"), &damaged).expect("there is room");
    assert_eq!(causes(&reader), [(2, "the one that is not".to_owned())]);
}

/// Fails when: the error of a write ends the process, or forgets what was to be written.
#[tokio::test]
async fn where_the_disk_fails_the_incident_stays_in_memory() {
    let (directory, path) = directory();
    // Where the directory should be made, there is a file.
    fs::write(directory.path().join("data"), "in the way").expect("there is room");
    let flow = flow(&path, 1);
    tokio::time::pause();
    fall(&flow, "a fall").await;
    assert_eq!(causes(&flow), [(1, "a fall".to_owned())]);
    fs::remove_file(directory.path().join("data")).expect("it is ours");
    fall(&flow, "another").await;
    assert_eq!(files(&path), ["incident-0000000002"], "the disk takes the next one");
    assert_eq!(causes(&flow), [(1, "a fall".to_owned()), (2, "another".to_owned())]);
}

/// Fails when: each fall of one chain is an incident of its own, or what came between them is left out or is there twice.
#[tokio::test]
async fn what_falls_within_a_second_is_one_incident() {
    let (_directory, path) = directory();
    let flow = flow(&path, 1);
    tokio::time::pause();
    tick(&flow);
    flow.keep_incident("consensus panicked at Persist: no room");
    sleep(SECOND / 2).await;
    tick(&flow);
    flow.keep_incident("keeper consensus fell");
    flow.keep_incident("keeper consensus fell");
    flow.wait_for_incidents();
    sleep(SECOND).await;
    flow.keep_incident("much later");
    flow.wait_for_incidents();
    let kept = flow.all_incidents();
    let together = "consensus panicked at Persist: no room; keeper consensus fell";
    assert_eq!(causes(&flow), [(1, together.to_owned()), (2, "much later".to_owned())]);
    assert_eq!(kept.iter().map(|incident| incident.events.len()).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(self::flow(&path, 2).all_incidents(), kept, "the disk has the whole of it");
}

/// Fails when: what follows within the second, or a long cause, makes an incident larger without bound.
#[tokio::test(start_paused = true)]
async fn an_incident_is_bounded_whatever_falls() {
    let flow = Flow::new("incident-test/2".to_owned());
    for _ in 0..20 {
        for _ in 0..INCIDENT_EVENTS {
            tick(&flow);
            tokio::time::advance(Duration::from_nanos(1)).await;
        }
        flow.keep_incident("a cause ".repeat(2000));
    }
    let kept = flow.incidents();
    assert_eq!((kept.len(), kept[0].events.len()), (1, 2 * INCIDENT_EVENTS));
    assert!(kept[0].cause.len() <= MAX_CAUSE);
    assert!(format::encode(&kept[0]).len() <= format::MAX_BYTES);
}

/// Fails when: the largest incident that there is room for is not cut to the size of a file, or loses its latest messages.
#[test]
fn a_file_holds_the_latest_messages_that_have_room() {
    let event = |number: u64| crate::flow::Event {
        id: u64::MAX - number,
        cause: u64::MAX,
        trace: u64::MAX,
        sender: format!("sender {number}").repeat(20).into(),
        sender_incarnation: u32::MAX,
        receiver: "receiver".into(),
        receiver_incarnation: u32::MAX,
        message: "Word".into(),
        mark: Mark { term: u64::MAX, index: u64::MAX },
        sent: Duration::from_nanos(1 << 60),
        waited: Duration::from_nanos(1 << 60),
        handling: Duration::from_nanos(1 << 60),
        outcome: crate::flow::Outcome::Noted,
    };
    let events: Vec<_> = (0..8192).map(event).collect();
    let whole = Incident { id: 1, cause: String::new(), at: SECOND, since_1970: SECOND, life: 7, events };
    let bytes = format::encode(&whole);
    assert!(bytes.len() <= format::MAX_BYTES);
    let read = format::decode(&bytes).expect("it is whole");
    assert!(read.events.len() > 1000 && whole.events.ends_with(&read.events), "{} are left", read.events.len());
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = format::decode(&bytes);
    }
}
