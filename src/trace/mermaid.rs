//! A sequence as a Mermaid `sequenceDiagram`: a box a node, a participant an actor.

use std::collections::BTreeMap;

use super::{
    Sequence,
    lines::{self, End, Line},
    names,
};

impl Sequence {
    /// As a Mermaid sequence diagram, as it stands in Markdown between ` ```mermaid ` and ` ``` `.
    pub fn mermaid(&self) -> String {
        let (lines, quiet) = lines::lines(self);
        let participants = Participants::of(&lines);
        let mut diagram = vec!["sequenceDiagram".to_owned()];
        for (node, actors) in &participants.0 {
            let leads = self.lanes.iter().any(|lane| lane.node == *node && lane.leads);
            diagram.push(format!("    box transparent node {node}{}", if leads { ", leads" } else { "" }));
            for (actor, place) in actors {
                diagram.push(format!("        participant n{node}a{place} as {}", escaped(actor)));
            }
            diagram.push("    end".to_owned());
        }
        for line in &lines {
            let (from, to) = (participants.id(&line.from), participants.id(&line.to));
            let arrow = if line.remark.is_empty() { "->>" } else { "-x" };
            diagram.push(format!("    {from}{arrow}{to}: {}", escaped(&label(line))));
        }
        let anywhere = participants.0.iter().find_map(|(node, actors)| Some((node, actors.values().next()?)));
        if let Some((node, place)) = anywhere {
            let told = self.accounts.iter().flat_map(|account| &account.lines).cloned().chain(quiet.line());
            diagram.extend(told.map(|line| format!("    Note over n{node}a{place}: {}", escaped(&line))));
        }
        diagram.join("\n") + "\n"
    }
}

/// Which actors of which node there are, and the number of each.
struct Participants(BTreeMap<u64, BTreeMap<String, usize>>);

impl Participants {
    fn of(lines: &[Line]) -> Self {
        let mut participants = BTreeMap::<u64, BTreeMap<String, usize>>::new();
        for end in lines.iter().flat_map(|line| [&line.from, &line.to]) {
            participants.entry(end.node).or_default().insert(end.actor.clone(), 0);
        }
        for actors in participants.values_mut() {
            actors.values_mut().enumerate().for_each(|(number, place)| *place = number + 1);
        }
        Participants(participants)
    }

    fn id(&self, end: &End) -> String {
        let place = self.0.get(&end.node).and_then(|actors| actors.get(&end.actor)).copied().unwrap_or(0);
        format!("n{}a{place}", end.node)
    }
}

/// `Persist 5@3 (2.25 ms)`: the time from its sending to the end of its handling.
fn label(line: &Line) -> String {
    let took = line.network.unwrap_or(0) + line.queue + line.work.unwrap_or(0);
    let took = if took < 5_000 { String::new() } else { format!(" ({} ms)", names::milliseconds(took)) };
    format!("{}{took}{}", line.word, line.remark)
}

/// Without what ends a statement or begins an entity or a tag.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '#' | ';' | '<' | '>' | '&' | '"' | '%' | '{' | '}' | '`' => escaped += &format!("#{};", u32::from(letter)),
            other => escaped.push(other),
        }
    }
    escaped
}
