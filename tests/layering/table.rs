//! The table in `tests/README.md`: each row is there, and each test that it names.

use std::{collections::BTreeMap, fs, path::Path};

/// How many rows each letter has.
const ROWS: [(char, usize); 7] = [('E', 12), ('L', 12), ('D', 8), ('N', 8), ('M', 11), ('R', 5), ('C', 7)];

/// The cells of a row of the table: what happens, what must hold, tests, how it was seen red, seen in.
struct Row {
    tests: Vec<String>,
    cells: usize,
    red: String,
}

fn rows(readme: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in readme.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let id = cells[0];
        let is_id = id.len() == 3 && id[1..].bytes().all(|digit| digit.is_ascii_digit());
        if is_id {
            let tests = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let row = Row { tests, cells: cells.len(), red: cells[3].to_owned() };
            assert!(rows.insert(id.to_owned(), row).is_none(), "{id} is there twice");
        }
    }
    rows
}

/// The comment above `fn name(` in `source`; `None`: there is no such test.
fn comment_of(source: &str, name: &str) -> Option<String> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains(&format!("fn {name}(")))?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("//") || line.starts_with("#["));
    let above: Vec<_> = above.copied().collect();
    Some(above.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// Fails when: a row is taken out of the table, or a test that it names is renamed, removed, or does not name the row.
#[test]
fn each_row_of_the_table_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows = rows(&read("tests/README.md"));
    let ids: Vec<_> = ROWS
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number:02}")))
        .collect();
    assert_eq!(rows.len(), ids.len(), "rows that are none, or are missing");
    for id in ids {
        let row = rows.get(&id).unwrap_or_else(|| panic!("{id} has no row"));
        assert!(row.cells == 5 && !row.red.is_empty() && !row.tests.is_empty(), "{id} has empty cells");
        let mut was_red = false;
        for test in &row.tests {
            let (path, name) = test.split_once("::").unwrap_or((test, ""));
            let source = read(path);
            assert!(source.contains(&id), "{id}: {path} does not say that it shows it");
            if name.is_empty() {
                assert!(path.starts_with("tests/scripts/"), "{id}: {test} names no test");
                continue;
            }
            let comment = comment_of(&source, name).unwrap_or_else(|| panic!("{id}: there is no {name} in {path}"));
            was_red |= comment.contains("Fails when") || comment.contains("Seen red");
        }
        assert!(was_red, "{id}: none of its tests says how it was seen red");
    }
}
