//! The Grafana dashboard draws what there is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Exposition, cluster, of};

const DASHBOARD: &str = include_str!("../../dashboards/raftkv.json");

/// What Prometheus adds to each series.
const ADDED: [&str; 2] = ["instance", "job"];
/// Words of PromQL that are used, besides the names of metrics and labels.
const WORDS: [&str; 13] = [
    "sum",
    "max",
    "min",
    "count",
    "by",
    "rate",
    "increase",
    "histogram_quantile",
    "min_over_time",
    "topk",
    "vector",
    "or",
    "on",
];

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("it is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("there are panels");
    let within = panels.iter().flat_map(|panel| panel["panels"].as_array().into_iter().flatten());
    panels.iter().chain(within).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {value}"))
}

/// Every expression, with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let of_panel = |panel: &Value| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let title = text(panel, "title").to_owned();
        targets.into_iter().map(move |target| (title.clone(), text(&target, "expr").to_owned()))
    };
    panels(dashboard).into_iter().flat_map(of_panel).collect()
}

/// Fails when: the dashboard names a metric or a label that the text does not have, or an expression is not well formed.
#[tokio::test(start_paused = true)]
async fn it_uses_only_what_exists() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let exposition = of(&cluster, leader);
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 20);
    for (panel, expression) in &expressions {
        if let Err(wrong) = check(expression, &exposition) {
            panic!("{panel}: {wrong} in {expression}");
        }
    }
    // It draws most of what there is.
    let drawn = |family: &str| expressions.iter().any(|(_, expression)| expression.contains(family));
    let missing: Vec<_> = exposition.families.keys().filter(|family| !drawn(family)).collect();
    assert!(missing.len() <= 3, "these are not drawn: {missing:?}");
    let query = &dashboard["templating"]["list"][1]["definition"];
    assert_eq!(query, "label_values(raft_term, instance)");
}

/// Fails when: the README suggests an alert on what there is not.
#[tokio::test(start_paused = true)]
async fn the_suggested_alerts_use_only_what_exists() {
    let cluster = cluster().await;
    let exposition = of(&cluster, cluster.leader().await);
    let lines = include_str!("../../README.md").lines().filter(|line| line.starts_with('|'));
    let quoted = lines.filter_map(|line| line.split('`').nth(1)).filter(|quoted| quoted.contains("raft_"));
    let alerts: Vec<_> = quoted.collect();
    assert!(alerts.len() >= 5, "{alerts:?}");
    for alert in alerts {
        if let Err(wrong) = check(alert, &exposition) {
            panic!("{wrong} in {alert}");
        }
    }
}

/// Fails when: the check below lets a wrong expression pass.
#[tokio::test(start_paused = true)]
async fn a_wrong_expression_is_found() {
    let cluster = cluster().await;
    let exposition = of(&cluster, cluster.leader().await);
    check("sum by (actor) (rate(raft_actor_restarts_total{actor=~\"a|b\"}[5m])) > 0", &exposition)
        .expect("it is right");
    for wrong in [
        "raft_terms",
        "sum by (peer) (raft_term)",
        "raft_term{peer=\"1\"}",
        "sum(raft_term",
        "sum(raft_term]",
        "raft_term{instance=~\"$instance}",
        "rates(raft_leader_changes_total[5m])",
        "rate(raft_leader_changes[5m])",
        "",
    ] {
        assert!(check(wrong, &exposition).is_err(), "{wrong} passed");
    }
}

/// Whether brackets and quotes close, and every name is one of PromQL's, of a metric, or of a label that the expression's
/// metrics have.
fn check(expression: &str, exposition: &Exposition) -> Result<(), String> {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sample in &exposition.samples {
        labels.entry(&sample.name).or_default().extend(sample.labels.keys().map(String::as_str));
    }
    let names = names(expression)?;
    let metrics: Vec<_> = names.iter().filter(|name| name.starts_with("raft_")).collect();
    if metrics.is_empty() {
        return Err("no metric".to_owned());
    }
    for metric in &metrics {
        labels.get(&metric[..]).ok_or_else(|| format!("there is no {metric}"))?;
    }
    for name in names.iter().filter(|name| !name.starts_with("raft_") && !WORDS.contains(&&name[..])) {
        let of_all = metrics.iter().all(|metric| labels[&metric[..]].contains(&name[..]));
        if !of_all && !ADDED.contains(&&name[..]) {
            return Err(format!("{name} is no label of {metrics:?}, and no word of PromQL that is known here"));
        }
    }
    Ok(())
}

/// The names in it, without what stands in quotes, variables and durations.
fn names(expression: &str) -> Result<Vec<String>, String> {
    let (mut open, mut names) = (Vec::new(), Vec::new());
    let mut characters = expression.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '(' => open.push(')'),
            '{' => open.push('}'),
            '[' => open.push(']'),
            ')' | '}' | ']' if open.pop() != Some(character) => return Err(format!("a {character} closes nothing")),
            '"' => {
                characters.by_ref().find(|next| *next == '"').ok_or("a quote does not close")?;
            }
            _ if character.is_ascii_alphanumeric() || matches!(character, '_' | '$') => {
                let mut name = character.to_string();
                while let Some(next) =
                    characters.next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '_' | '.'))
                {
                    name.push(next);
                }
                if character.is_ascii_alphabetic() {
                    names.push(name);
                }
            }
            _ => {}
        }
    }
    if open.is_empty() { Ok(names) } else { Err("a bracket does not close".to_owned()) }
}

/// Fails when: Grafana would not take it as it is, or a panel says nothing to somebody who has never seen Raft.
#[test]
fn it_is_a_dashboard() {
    let dashboard = dashboard();
    assert_eq!(dashboard["schemaVersion"], 39);
    assert_eq!(dashboard["id"], Value::Null, "Grafana gives it one");
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have the same id");
    let rows = panels.iter().filter(|panel| panel["type"] == "row").map(|row| text(row, "title"));
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows, ["Is it healthy?", "Who lags, and why", "Where the time goes", "Actors"]);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = text(panel, "title");
        assert!(text(panel, "description").len() > 30, "{title} does not say what it shows");
        assert!(matches!(text(panel, "type"), "stat" | "timeseries" | "state-timeline"), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("it draws something");
        let references: BTreeSet<_> = targets.iter().map(|target| text(target, "refId")).collect();
        assert_eq!(references.len(), targets.len(), "{title}: two queries have the same letter");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(text(target, "expr").contains("{instance=~\"$instance\"}"), "{title} ignores the chosen nodes");
        }
    }
    nothing_overlaps(&panels);
    let variables = dashboard["templating"]["list"].as_array().expect("there are variables");
    let variables: Vec<_> = variables.iter().map(|variable| (text(variable, "name"), text(variable, "type"))).collect();
    assert_eq!(variables, [("datasource", "datasource"), ("instance", "query")]);
}

fn nothing_overlaps(panels: &[&Value]) {
    let mut taken = BTreeMap::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{} is wider than the page", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                let other = taken.insert((x, y), &panel["title"]);
                assert_eq!(other, None, "{} covers it", panel["title"]);
            }
        }
    }
}
