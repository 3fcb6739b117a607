//! Each story in each format, as it was read and found good.

use std::{env, fs, path::PathBuf};

use ractor_raft::trace::Sequence;

use crate::stage;

/// Fails when: any format of any story differs from its golden file.
async fn is_as_written(story: &str) {
    let sequence = Sequence::of(&stage::recorded(story).await);
    let name = story.replace(' ', "_");
    for (ending, written) in [
        ("80.txt", sequence.text(80)),
        ("120.txt", sequence.text(120)),
        ("200.txt", sequence.text(200)),
        ("json", sequence.json()),
        ("mmd", sequence.mermaid()),
        ("chrome.json", sequence.chrome()),
    ] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/trace/golden/{name}.{ending}"));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(&file, &written).expect("it can be written");
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        let differs = written.lines().zip(golden.lines()).position(|(one, other)| one != other);
        assert!(
            written == golden,
            "{} differs from line {:?} on. Is it better? UPDATE_GOLDEN=1 cargo test --test trace\n{written}",
            file.display(),
            differs.map(|line| line + 1)
        );
    }
}

macro_rules! stories {
    ($($test:ident => $story:literal)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            is_as_written($story).await;
        }
    )*};
}

stories! {
    a_write => "write"
    a_forwarded_write => "forwarded write"
    a_read => "read"
    an_election => "election"
    a_restart => "restart"
    a_snapshot => "snapshot"
    a_change => "change"
}
