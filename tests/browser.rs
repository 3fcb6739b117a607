//! The page in a real browser: headless Chromium over ChromeDriver, against three nodes of this process.
//!
//! Without them each test says so, loudly, and passes; with `CI_BROWSER=required` it fails.
#![cfg(feature = "server")]

#[path = "browser/cluster.rs"]
mod cluster;
#[path = "browser/driver.rs"]
mod driver;

use fantoccini::key::Key;
use ractor_raft::{http::Kind, node::Crash};
use tokio::time::{Instant, timeout};

use cluster::{HOSTILE, PATIENCE, Three};
use driver::Browser;

/// Who leads, as the page's ring says; "" if nobody.
const LEADER: &str = "const lead = document.querySelectorAll('.node[data-role=leader]');
                      return lead.length === 1 ? lead[0].getAttribute('data-node') : ''";

/// Whom the page asked for anything.
const ASKED: &str = "return performance.getEntriesByType('resource').map(entry => entry.name)
                     .filter(name => !name.startsWith('data:')).map(name => new URL(name).origin)";

/// Runs one test with a browser, and looks at what the browser complained about in the end.
async fn with_page(test: impl AsyncFnOnce(&mut Three, &Browser)) {
    let Some(browser) = Browser::start().await else { return };
    let mut three = Three::start().await;
    browser.go(&three.page.url()).await;
    timeout(4 * PATIENCE, test(&mut three, &browser)).await.expect("it ends");
    assert_eq!(browser.complaints().await, [""; 0], "errors and violations of the policy");
    let asked = browser.eval(ASKED).await;
    let own = three.page.url();
    for origin in asked.as_array().expect("a list") {
        assert_eq!(origin.as_str(), Some(own.trim_end_matches('/')), "nothing is asked of anyone else");
    }
    browser.end().await;
    three.end().await;
}

/// Fails when: the page shows other nodes than there are, another leader, or draws nothing of their logs.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_shown_with_their_leader_and_logs() {
    with_page(async |three, browser| {
        let leader = three.leader().await;
        browser.wait("return document.querySelectorAll('.node').length", "3").await;
        browser.wait(LEADER, &leader.to_string()).await;
        browser.wait("return document.querySelectorAll('.logrow').length", "3").await;
        browser.wait("return document.querySelectorAll('.cell.a').length >= 3", "true").await;
        browser.wait("return document.querySelectorAll('.node:not(.gone)').length", "3").await;
        let said = browser.text("#say").await;
        assert!(said.contains(&format!("Node {leader} leads 3 nodes")), "{said}");
    })
    .await;
}

/// Fails when: a new leader is on the page later than two election timeouts after the nodes know it, or the one that is gone
/// still looks alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_is_on_the_page_within_two_election_timeouts() {
    with_page(async |three, browser| {
        let old = three.leader().await;
        browser.wait(LEADER, &old.to_string()).await;
        browser.click("[data-fault=kill]").await;
        let new = three.leader_but(old).await;
        let known = Instant::now();
        browser.wait(LEADER, &new.to_string()).await;
        let shown = known.elapsed();
        assert!(shown <= 2 * three.election_timeout(), "the page showed it after {shown:?}");
        let gone = format!("return document.querySelector('[data-node=\"{old}\"]').classList.contains('gone')");
        browser.wait(&gone, "true").await;
        browser.press("4").await;
        let line = format!(
            "return [...document.querySelectorAll('#list li')].some(li => li.textContent.includes('Node {new} won'))"
        );
        browser.wait(&line, "true").await;
    })
    .await;
}

/// Fails when: who voted for whom is not on the page, of an election before it was opened or of one that it sees; or what
/// happened first does not come last.
#[tokio::test(flavor = "multi_thread")]
async fn the_votes_of_each_election_are_on_the_timeline() {
    with_page(async |three, browser| {
        let old = three.leader().await;
        browser.press("4").await;
        let votes = |leader: u64| {
            let won = format!(": node {leader} asked and leads after ");
            format!(
                "return [...document.querySelectorAll('#list li[data-kind=election]')]
                 .findIndex(li => li.textContent.includes('{won}') && li.textContent.includes(' voted for it')) >= 0"
            )
        };
        browser.wait(&votes(old), "true").await;
        browser.click("[data-fault=kill]").await;
        let new = three.leader_but(old).await;
        browser.wait(&votes(new), "true").await;
        let times = "const all = [...document.querySelectorAll('#list time')].map(time => time.dateTime);
                     return all.join() === [...all].sort().reverse().join()";
        assert_eq!(browser.eval(times).await, true, "the newest first");
    })
    .await;
}

/// Fails when: a restart is not counted on the page, or its cause is not told.
#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_actor_is_seen_to_come_back() {
    with_page(async |three, browser| {
        let leader = three.leader().await;
        browser.press("2").await;
        let actor =
            format!("document.querySelector('[data-tree=\"{leader}\"] [data-actor=\"consensus/election timer\"]')");
        browser.wait(&format!("return !!{actor}"), "true").await;
        assert!(three.node(leader).crash("consensus/election timer", Crash::Panic));
        browser.wait(&format!("return {actor}.dataset.restarts"), "1").await;
        browser.wait(&format!("return {actor}.nextElementSibling.textContent.includes('told to crash')"), "true").await;
        browser.press("4").await;
        browser.wait("return !!document.querySelector('#list li[data-kind=restart]')", "true").await;
    })
    .await;
}

/// Fails when: a name or a line is put into the page as HTML.
#[tokio::test(flavor = "multi_thread")]
async fn what_looks_like_html_is_shown_as_text() {
    with_page(async |three, browser| {
        three.page.note(Kind::Note, HOSTILE);
        browser.press("4").await;
        let told =
            "return [...document.querySelectorAll('#list li')].some(li => li.textContent.includes('<img src=x'))";
        browser.wait(told, "true").await;
        browser.press("2").await;
        let above =
            "return [...document.querySelectorAll('.tree .above')].some(row => row.textContent.includes('<img src=x'))";
        browser.wait(above, "true").await;
        assert_eq!(browser.eval("return document.images.length").await, 0);
        assert_eq!(browser.eval("return typeof window.struck").await, "undefined");
    })
    .await;
}

/// Fails when: a key does not change the pane, a tab does not say that it is chosen, or Escape leaves the details open.
#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything() {
    with_page(async |_, browser| {
        browser.wait("return document.querySelectorAll('.node').length", "3").await;
        let shown =
            "return [...document.querySelectorAll('[role=tabpanel]')].filter(p => !p.hidden).map(p => p.id).join()";
        let chosen = "return document.querySelector('[role=tab][aria-selected=true]').id";
        for (key, pane) in [("2", "actors"), ("3", "flow"), ("4", "timeline"), ("1", "cluster")] {
            browser.press(key).await;
            browser.wait(shown, &format!("p-{pane}")).await;
            browser.wait(chosen, &format!("t-{pane}")).await;
        }
        let arrow = |key: Key| char::from(key).to_string();
        browser.press_on("#t-cluster", &arrow(Key::Right)).await;
        browser.wait(shown, "p-actors").await;
        browser.press_on("#t-actors", &arrow(Key::Left)).await;
        browser.wait(shown, "p-cluster").await;
        browser.press_on(".node", &arrow(Key::Enter)).await;
        browser.wait("return document.querySelector('#side').hidden", "false").await;
        browser.press(&arrow(Key::Escape)).await;
        browser.wait("return document.querySelector('#side').hidden", "true").await;
        browser.wait("return document.activeElement.classList.contains('node')", "true").await;
    })
    .await;
}

/// Fails when: a write is not drawn, its arrow tells nothing, or the whole of its way cannot be had from all nodes.
#[tokio::test(flavor = "multi_thread")]
async fn one_write_is_followed_through_all_nodes() {
    with_page(async |three, browser| {
        browser.press("3").await;
        browser.click("#one").await;
        let shown = "return document.querySelectorAll('.story .arrow').length > 12";
        let deadline = Instant::now() + PATIENCE;
        while browser.eval(shown).await != true {
            assert!(Instant::now() < deadline, "no write was drawn");
            three.write().await;
        }
        let nodes = "return new Set([...document.querySelectorAll('.arrow')].map(a => a.classList[1])).size";
        assert_eq!(browser.eval(nodes).await, 3, "arrows in the colours of three nodes");
        let apply = "const arrow = [...document.querySelectorAll('.arrow')].find(a => a.querySelector('text:last-of-type').textContent === 'Apply');
                     arrow.dispatchEvent(new MouseEvent('click', { bubbles: true })); return true";
        browser.eval(apply).await;
        let details = browser.text("#side").await;
        for word in ["Apply", "waited", "handled in", "term", "entry", "trace"] {
            assert!(details.contains(word), "{word}: {details}");
        }
    })
    .await;
}

/// Fails when: a page whose node is gone looks as if it were live, or does not come back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_said_and_found_again() {
    with_page(async |three, browser| {
        browser.wait("return document.querySelectorAll('.node').length", "3").await;
        three.stop_page().await;
        browser.wait("return document.querySelector('#banner').hidden", "false").await;
        three.start_page().await;
        browser.wait("return document.querySelector('#banner').hidden", "true").await;
        browser.wait("return document.querySelectorAll('.node:not(.gone)').length", "3").await;
        browser.forgive("Failed to load resource").await;
    })
    .await;
}

/// Fails when: something sticks out of the narrowest screen.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wider_than_a_narrow_screen() {
    with_page(async |_, browser| {
        browser.wait("return document.querySelectorAll('.node').length", "3").await;
        browser.narrow(360).await;
        for key in ["1", "2", "3", "4"] {
            browser.press(key).await;
            assert_eq!(browser.eval("return document.documentElement.scrollWidth <= innerWidth").await, true, "{key}");
        }
    })
    .await;
}
