//! A sequence for a terminal: one column a node where there is room, else one line a message.

use super::{
    Lane, Sequence,
    lines::{self, Line, Quiet},
    names,
};

/// Columns narrower than this are no columns.
const NARROWEST: usize = 24;
/// The time before the columns, and the three times behind them.
const TIME: usize = 9;
const TIMES: usize = 22;

impl Sequence {
    /// For a terminal of so many columns: a column a node and a line an arrow; where that is too narrow, or the nodes too many,
    /// one line a message. It holds no colours and no control characters but line feeds.
    pub fn text(&self, width: usize) -> String {
        if self.steps.is_empty() {
            return self
                .remarks()
                .into_iter()
                .chain(["nothing is recorded".to_owned()])
                .map(|line| line + "\n")
                .collect();
        }
        let (mut lines, quiet) = lines::lines(self);
        // What is left out at the beginning takes no time here.
        let begin = lines.first().map_or(0, |line| line.at);
        lines.iter_mut().for_each(|line| line.at -= begin);
        let nodes = self.lanes.len();
        let column = (width.saturating_sub(TIME + 2 + TIMES) / nodes.max(1)).saturating_sub(3);
        let mut text = self.titles();
        text.extend(self.remarks());
        text.push(String::new());
        if column < NARROWEST {
            text.extend(list(&lines, width));
        } else {
            text.extend(Table { lanes: &self.lanes, column }.rows(&lines));
        }
        text.extend(self.summary(quiet));
        text.into_iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    fn titles(&self) -> Vec<String> {
        self.accounts.iter().filter_map(|account| account.lines.first().cloned()).collect()
    }

    /// What the reader must know before believing the rest.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.missed > 0) {
            let messages = if lane.missed == 1 { "message" } else { "messages" };
            remarks.push(format!("… {} {messages} missing on node {}", lane.missed, lane.node));
        }
        let error = self.lanes.iter().map(|lane| lane.error).max().unwrap_or(0);
        if error > 0 {
            remarks.push(format!("the clocks of the nodes agree within {} ms", names::milliseconds(error)));
        }
        let wrong = self.steps.iter().filter(|step| step.clock).count();
        if wrong > 0 {
            remarks.push(format!("(clock): so it seems to arrive before it left, by more than that ({wrong} times)"));
        }
        remarks
    }

    fn summary(&self, quiet: Quiet) -> Vec<String> {
        let mut summary = Vec::from([String::new()]);
        for account in &self.accounts {
            let (title, rest) = account.lines.split_at(account.lines.len().min(1));
            if self.accounts.len() > 1 && !rest.is_empty() {
                summary.extend(title.iter().cloned());
                summary.extend(rest.iter().map(|line| format!("  {line}")));
            } else {
                summary.extend(rest.iter().cloned());
            }
        }
        let critical = self.accounts.iter().any(|account| !account.path.is_empty());
        summary.extend(critical.then(|| "• on the critical path".to_owned()));
        summary.extend((self.untold > 0).then(|| format!("not summed up: {} more writes and reads", self.untold)));
        summary.extend(quiet.line());
        if summary.len() == 1 { Vec::new() } else { summary }
    }
}

/// A column for each node.
struct Table<'a> {
    lanes: &'a [Lane],
    column: usize,
}

impl Table<'_> {
    fn rows(&self, lines: &[Line]) -> Vec<String> {
        let head = self.lanes.iter().map(|lane| fit(&title(lane), self.column)).collect::<Vec<_>>().join(" │ ");
        let rule = vec!["─".repeat(self.column + 2); self.lanes.len()].join("┼");
        let mut rows = vec![
            format!("{:>TIME$} │ {head} │ network  queue   work", "ms"),
            format!("{}┼{rule}┼{}", "─".repeat(TIME + 1), "─".repeat(TIMES)),
        ];
        let long = lines
            .iter()
            .all(|line| line.from.node != line.to.node || within(line, true).chars().count() <= self.column);
        rows.extend(lines.iter().map(|line| self.row(line, long)));
        rows
    }

    fn row(&self, line: &Line, long: bool) -> String {
        let place = |node: u64| self.lanes.iter().position(|lane| lane.node == node);
        let cells = match (place(line.from.node), place(line.to.node)) {
            (Some(from), Some(to)) if from < to => self.rightwards(line, from, to),
            (Some(from), Some(to)) if to < from => self.leftwards(line, from, to),
            (Some(from), Some(_)) => {
                let text = within(line, long);
                self.at(from, if text.chars().count() > self.column { &line.word } else { &text })
            }
            (Some(at), None) => self.at(at, &format!("{} → node {}", line.word, line.to.node)),
            (None, at) => self.at(at.unwrap_or(0), &format!("node {} → {}", line.from.node, line.word)),
        };
        let times = [(line.network, 8), (Some(line.queue), 7), (line.work, 7)]
            .map(|(time, width)| format!("{:>width$}", time.map_or(String::new(), shown)));
        format!("{} {cells}{}{}", time(line, TIME), times.concat().trim_end(), line.remark)
    }

    /// Nothing but this in one column.
    fn at(&self, place: usize, text: &str) -> String {
        let cell = |column: usize| fit(if column == place { text } else { "" }, self.column);
        (0..self.lanes.len()).fold("│".to_owned(), |row, column| row + " " + &cell(column) + " │")
    }

    fn rightwards(&self, line: &Line, from: usize, to: usize) -> String {
        let mut row = "│".to_owned();
        for column in 0..self.lanes.len() {
            row += &if column == from {
                let word = fit_end(&line.word, self.column.saturating_sub(2));
                format!(" {}", rule(&format!("{word} "), self.column))
            } else if from < column && column < to {
                "─".repeat(self.column + 1)
            } else if column == to {
                format!("─{}", fit(&format!("▶ {}", line.to.actor), self.column))
            } else {
                format!(" {}", fit("", self.column))
            };
            row += if from <= column && column < to { "─┼" } else { " │" };
        }
        row
    }

    fn leftwards(&self, line: &Line, from: usize, to: usize) -> String {
        let mut row = "│".to_owned();
        for column in 0..self.lanes.len() {
            row += &if column == to {
                let actor = fit_end(&line.to.actor, self.column.saturating_sub(3));
                format!(" {}", rule(&format!("{actor} ◀"), self.column))
            } else if to < column && column < from {
                "─".repeat(self.column + 1)
            } else if column == from {
                format!("─{}", fit(&format!("─ {}", line.word), self.column))
            } else {
                format!(" {}", fit("", self.column))
            };
            row += if to <= column && column < from { "─┼" } else { " │" };
        }
        row
    }
}

/// When it was sent, and whether the time of the whole went this way.
fn time(line: &Line, width: usize) -> String {
    let at = names::milliseconds(line.at);
    let width = width.saturating_sub(1);
    format!("{}{at:>width$}", if line.critical { '•' } else { ' ' })
}

fn title(lane: &Lane) -> String {
    let leads = if lane.leads { " · leads" } else { "" };
    format!("node {}{leads}", lane.node)
}

/// A message between actors of one node.
fn within(line: &Line, long: bool) -> String {
    if matches!(&*line.word, "Start" | "Stop") {
        // It is its own doing, or its supervisor's.
        format!("{} {}", line.word, line.to.actor)
    } else if long {
        format!("{} → {}  {}", line.from.actor, line.to.actor, line.word)
    } else {
        format!("{} → {}", line.word, line.to.actor)
    }
}

/// A time that would show as nothing is left out.
fn shown(nanoseconds: i64) -> String {
    if nanoseconds < 5_000 { String::new() } else { names::milliseconds(nanoseconds) }
}

/// Cut or filled up to so many characters.
fn fit(text: &str, width: usize) -> String {
    let text = fit_end(text, width);
    let blank = width.saturating_sub(text.chars().count());
    text + &" ".repeat(blank)
}

/// Cut to so many characters.
fn fit_end(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + if width == 0 { "" } else { "…" }
}

/// Filled up to so many characters with a line.
fn rule(text: &str, width: usize) -> String {
    let text = fit_end(text, width);
    let blank = width.saturating_sub(text.chars().count());
    text + &"─".repeat(blank)
}

/// One line a message: `node 1 ▸ consensus → log store  Persist 5@3`.
fn list(lines: &[Line], width: usize) -> Vec<String> {
    let ways: Vec<_> = lines.iter().map(way).collect();
    let longest = |lengths: &mut dyn Iterator<Item = usize>, most: usize| lengths.max().unwrap_or(0).min(most);
    let way_width = longest(&mut ways.iter().map(|way| way.chars().count()), width / 2 + 4);
    let word_width = longest(&mut lines.iter().map(|line| line.word.chars().count()), width / 3);
    let row = |(line, way): (&Line, &String)| {
        let start = format!("{}  {}  {}", time(line, 9), fit(way, way_width), fit(&line.word, word_width));
        let named = [("network", line.network), ("queue", Some(line.queue)), ("work", line.work)];
        let times = named
            .into_iter()
            .filter_map(|(name, time)| Some((name, shown(time?))).filter(|(_, time)| !time.is_empty()));
        let mut row = start;
        // Of the times those go first that there is no room for; what is out of the ordinary is always said.
        for (name, time) in times {
            let more = format!("  {name} {time}");
            if row.chars().count() + more.chars().count() + line.remark.chars().count() <= width {
                row += &more;
            }
        }
        format!("{}{}", row.trim_end(), line.remark)
    };
    lines.iter().zip(&ways).map(row).collect()
}

fn way(line: &Line) -> String {
    let Line { from, to, .. } = line;
    if matches!(&*line.word, "Start" | "Stop") {
        format!("node {} ▸ {}", to.node, to.actor)
    } else if from.node == to.node {
        format!("node {} ▸ {} → {}", from.node, from.actor, to.actor)
    } else {
        format!("node {} ▸ {} → node {}", from.node, from.actor, to.node)
    }
}
