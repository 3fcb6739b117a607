//! What the tour prints: one line a check, aligned, and a summary.

use std::time::Duration;

use tokio::time::Instant;

use ractor_raft::http::{Kind, Server};

use super::cluster::Cluster;

/// How wide the names of the checks are.
const NAME_WIDTH: usize = 16;

/// The checks so far.
pub struct Report {
    begun: Instant,
    held: usize,
    failed: Vec<String>,
    /// Puts a line on the page.
    note: Box<dyn Fn(Kind, String) + Send>,
}

impl Report {
    /// Says what there is to see.
    pub fn open(cluster: &Cluster, page: &Server) -> Self {
        println!("raftkv demo: {} nodes in this process, with gRPC on loopback", cluster.members.len());
        println!("and SQLite files in {}", cluster.data().display());
        println!("see all of it in a browser: {}", page.url());
        Report { begun: Instant::now(), held: 0, failed: Vec::new(), note: Box::new(page.notes()) }
    }

    /// One line: it holds, and what was seen; or it does not, and why.
    pub fn check(&mut self, name: &str, seen: Result<String, String>) {
        match seen {
            Ok(seen) => {
                self.held += 1;
                println!("  ✓ {name:NAME_WIDTH$} {seen}");
            }
            Err(why) => {
                self.failed.push(name.to_owned());
                println!("  ✗ {name:NAME_WIDTH$} {}", why.replace('\n', "\n    "));
            }
        }
    }

    /// A line between the checks.
    pub fn say(&self, text: &str) {
        (self.note)(Kind::Note, format!("The tour: {}", text.trim_end_matches(':')));
        println!("\n  {text}");
    }

    /// The summary.
    pub fn close(&self) {
        let took = self.begun.elapsed().as_secs_f64();
        if self.failed.is_empty() {
            println!("\nall {} checks hold, after {took:.1} s", self.held);
        } else {
            println!("\n{} checks hold; what does not: {}", self.held, self.failed.join(", "));
        }
    }

    /// Whether nothing failed.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.held > 0
    }
}

/// A time as a person reads it: three digits and a unit.
pub fn short(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..10.0 => format!("{micros:.1} µs"),
        ..1000.0 => format!("{micros:.0} µs"),
        ..10_000.0 => format!("{:.1} ms", micros / 1e3),
        ..1_000_000.0 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}
