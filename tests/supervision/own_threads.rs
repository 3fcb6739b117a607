//! A smaller matrix in real time: on several threads, with SQLite on a real disk, so that the log store and the snapshotter
//! have threads of their own. Who dies are those whose work touches the disk.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use futures_util::StreamExt;
use ractor_raft::storage::SqliteStorage;

use super::{
    acts::Act,
    stage::Stage,
    strike::{Blow, Plan, cells},
    trial::{Outcome, Trial, hush, play_on, seed, tell},
};

const ACTS: [Act; 2] = [Act::TakeSnapshots, Act::Fall("applier")];

/// So many clusters at a time: they mostly wait.
const AT_A_TIME: usize = 8;

async fn play(trial: &Trial) -> Outcome {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().to_owned();
    let maker = move |id| SqliteStorage::new(path.join(format!("node {id}")));
    let disks = Arc::new(Mutex::new(BTreeMap::new()));
    let stage = Stage::set_on(Plan::of(&trial.blows), seed(trial.act), disks, maker).await;
    play_on(stage, trial, usize::MAX).await
}

async fn play_all(trials: &[Trial]) -> Vec<Outcome> {
    futures_util::stream::iter(trials).map(play).buffered(AT_A_TIME).collect().await
}

/// Fails when: `stop_keepers` does not wait for the log store's thread (the next one finds the disk in use), or `Child::gone`
/// for a courier's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_with_threads_of_their_own_die_at_every_message() {
    hush();
    let rehearsals = ACTS.map(|act| Trial { act, blows: Vec::new() });
    let heard = play_all(&rehearsals).await;
    let mut trials = Vec::new();
    for cell in
        cells().into_iter().filter(|cell| ["log store", "applier", "consensus/snapshotter"].contains(&cell.actor))
    {
        let said = |(_, outcome): &(&Act, &Outcome)| outcome.heard.contains_key(&(cell.actor, cell.word));
        if let Some((act, _)) = ACTS.iter().zip(&heard).find(said) {
            trials.push(Trial { act: *act, blows: vec![Blow { cell, nth: 1, after: None }] });
        }
    }
    assert!(trials.len() >= 40, "too little is said: {} cells", trials.len());
    let began = Instant::now();
    let outcomes = play_all(&trials).await;
    assert_eq!(tell("with threads and SQLite", &trials, &outcomes, began), trials.len());
}
