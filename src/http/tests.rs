//! The server as a client sees it that is no browser.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt, join_all},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    hub::{BEHIND, Hub},
    *,
};
use crate::{
    flow::Filter,
    kv::{Command, Kv},
    node::Node,
    rpc::Grpc,
    storage::MemoryStorage,
    transport::InProcess,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a request with these headers is answered: status line and headers, and the body.
async fn ask(address: SocketAddr, request: &str, headers: &[(&str, &str)]) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(written(address, request, headers).as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_lowercase(), body.to_owned())
}

fn written(address: SocketAddr, request: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{request} HTTP/1.1\r\nConnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "Host") {
        text += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// An open page that is read line by line.
async fn events(address: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(written(address, "GET /events", &[]).as_bytes()).await.expect("it reads");
    BufReader::new(stream)
}

/// The data of the next event with this name.
async fn next(page: &mut BufReader<TcpStream>, name: &str) -> Value {
    let wanted = format!("event: {name}\n");
    let mut line = String::new();
    loop {
        line.clear();
        let read = timeout(PATIENCE, page.read_line(&mut line)).await.expect("in time").expect("it goes on");
        assert!(read > 0, "the stream ended before {name}");
        if line == wanted {
            line.clear();
            page.read_line(&mut line).await.expect("it goes on");
            let data = line.strip_prefix("data: ").expect("one line of data follows");
            return serde_json::from_str(data).expect("it is JSON");
        }
    }
}

/// One node alone, which leads itself.
async fn node() -> Node<Kv> {
    let builder = Node::builder(1, Kv::default).cluster([(1, "one")]).storage(MemoryStorage::new());
    let node = builder.transport(InProcess::new()).spawn().await.expect("it starts");
    until(|| node.status().leader.is_some() && node.status().applied_index > 0).await;
    node
}

async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn nobody(options: Options) -> Server {
    serve_view(View::default, bind("127.0.0.1:0").await.expect("a port is free"), options)
}

/// Fails when: an inline script could run without the nonce, two answers share one, the page may be framed, or a type guessed.
#[tokio::test]
async fn the_page_runs_its_own_script_and_nothing_else() {
    let server = nobody(Options::default()).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let (head, body) = ask(server.address(), "GET /", &[]).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
        for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
            assert!(policy.contains(rule), "{rule}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(head.contains("x-content-type-options: nosniff") && head.contains("referrer-policy: no-referrer"));
        let nonce =
            policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce");
        assert!(nonce.len() >= 32 && body.contains(&format!("<script nonce=\"{nonce}\">")), "{policy}");
        assert_eq!(body.matches("<script").count(), body.matches(nonce).count() - 1, "one for the style");
        nonces.push(nonce.to_owned());
    }
    assert_ne!(nonces[0], nonces[1]);
}

/// Fails when: the page grows beyond its bound, asks anyone else for anything, or could take text for HTML.
#[test]
fn the_page_is_small_and_sufficient_to_itself() {
    assert!(PAGE.len() < 100 << 10, "{} bytes", PAGE.len());
    let outside: Vec<_> = PAGE.match_indices("://").map(|(at, _)| &PAGE[at - 5..PAGE.len().min(at + 20)]).collect();
    assert!(outside.iter().all(|address| address.contains("www.w3.org")), "{outside:?}");
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        " style=\"",
        " onclick=\"",
    ] {
        assert!(!PAGE.contains(word), "{word}");
    }
}

/// Fails when: a name that leads here from elsewhere is answered, or one of this machine's own is not.
#[tokio::test]
async fn on_loopback_only_its_own_names_are_answered() {
    let server = nobody(Options::default()).await;
    for path in ["/", "/events", "/livez", "/trace?id=1", "/nowhere"] {
        for host in ["raft.example", "127.0.0.1.raft.example:80", "10.0.0.1", ""] {
            let (head, body) = ask(server.address(), &format!("GET {path}"), &[("Host", host)]).await;
            assert!(head.starts_with("http/1.1 421"), "{path} of {host:?}: {head}");
            assert!(!body.contains("<script"), "{body}");
        }
    }
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.9:1", "[::1]:7080"] {
        let (head, _) = ask(server.address(), "GET /livez", &[("Host", host)]).await;
        assert!(head.starts_with("http/1.1 200"), "{host}: {head}");
    }
}

/// Fails when: an event is not one event with one line of JSON, or text is not the same text on the other side.
#[tokio::test]
async fn events_are_json_and_text_stays_text() {
    let server = nobody(Options::default()).await;
    let text = "</script><b>\"x\"\\\n\r\u{2028}\ndata: {}\n\nevent: hello\n";
    server.note(Kind::Note, text);
    let mut page = events(server.address()).await;
    let hello = next(&mut page, "hello").await;
    assert_eq!(hello["timeline"][0]["text"], text);
    server.note(Kind::Fault, text);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the second line is not told");
        let frame = next(&mut page, "frame").await;
        if let Some(line) = frame["timeline"].get(0) {
            assert_eq!((line["text"].as_str(), line["kind"].as_str()), (Some(text), Some("fault")));
            return;
        }
    }
}

/// Fails when: the node, its tree or its messages are not told.
#[tokio::test]
async fn a_page_is_told_of_the_node_its_tree_and_its_messages() {
    let node = node().await;
    let listener = bind("127.0.0.1:0").await.expect("a port is free");
    let server = serve(node.as_ref().clone(), listener, Options::default());
    let mut page = events(server.address()).await;
    assert_eq!(next(&mut page, "hello").await["serving"], 1);
    let (mut leads, mut tree, mut messages) = (false, false, false);
    let deadline = Instant::now() + PATIENCE;
    while !(leads && tree && messages) {
        assert!(Instant::now() < deadline, "leader {leads}, tree {tree}, messages {messages}");
        let frame = next(&mut page, "frame").await;
        leads |= frame["nodes"][0]["role"] == "leader";
        tree |= frame["trees"]["1"]["actors"]
            .as_array()
            .is_some_and(|actors| actors.iter().any(|a| a["path"] == "consensus"));
        messages |=
            frame["flow"].as_array().is_some_and(|flow| flow.iter().any(|m| m["to"] == "consensus" && m["node"] == 1));
    }
    node.shutdown().await.expect("in order");
}

/// Three nodes with gRPC between them, the leader first.
async fn three() -> Vec<Node<Kv>> {
    let ports: Vec<_> = (1..=3).map(|id| (id, std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))).collect();
    let address = |port: &std::net::TcpListener| port.local_addr().expect("it is open").to_string();
    let members: Vec<_> = ports.iter().map(|(id, port)| (*id, address(port))).collect();
    let mut nodes = Vec::new();
    for (id, port) in ports {
        let builder = Node::builder(id, Kv::default).cluster(members.clone()).storage(MemoryStorage::new());
        nodes.push(builder.transport(Grpc::with_listener(port)).spawn().await.expect("it starts"));
    }
    let leads = |node: &Node<Kv>| node.status().leader == Some(node.status().id);
    until(|| nodes.iter().any(leads)).await;
    nodes.sort_by_key(|node| !leads(node));
    nodes
}

/// Fails when: only what was recorded under the call's own trace is told, so that of a write that went with others the way to
/// the disks and to the other nodes is missing; or a node is left out.
#[tokio::test]
async fn a_write_that_went_with_others_is_told_whole() {
    let nodes = three().await;
    let leader = &nodes[0];
    let server = serve(leader.as_ref().clone(), bind("127.0.0.1:0").await.expect("a port is free"), Options::default());
    let writes = (0..24).map(|key| leader.propose(Command::put(format!("key {key}"), "value")));
    assert!(join_all(writes).await.iter().all(Result::is_ok), "it leads");
    let last = leader.status().commit_index;
    until(|| nodes.iter().all(|node| node.status().applied_index >= last)).await;

    let proposals = leader.flow().events(&Filter::of_message("Propose"));
    assert_eq!(proposals.len(), 24);
    for proposal in proposals {
        let (_, body) = ask(server.address(), &format!("GET /trace?id={:x}", proposal.trace), &[]).await;
        let messages: Vec<Value> = serde_json::from_str(&body).expect("it is JSON");
        for node in 1..=3 {
            for name in ["Persist", "Apply"] {
                let is_there = messages.iter().any(|m| m["node"] == node && m["name"] == name);
                assert!(is_there, "{name} of node {node} is not in {body}");
            }
        }
        assert_eq!(messages[0]["sent"], 0.0, "{body}");
    }
    for node in nodes {
        node.shutdown().await.expect("in order");
    }
}

/// Fails when: what happened before the first page was opened is not told, or without who voted for whom, or with a time of
/// which nobody can say when that is; or it is told again to the page after the last was closed.
#[tokio::test]
async fn a_page_begins_with_what_the_recorders_still_hold() {
    let nodes = three().await;
    let leader = nodes[0].status();
    let server =
        serve(nodes[0].as_ref().clone(), bind("127.0.0.1:0").await.expect("a port is free"), Options::default());
    let opened = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_millis() as u64;
    let mut page = events(server.address()).await;
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        assert!(Instant::now() < deadline, "no election is told");
        let frame = next(&mut page, "frame").await;
        let lines = frame["timeline"].as_array().cloned().unwrap_or_default();
        if let Some(line) = lines.into_iter().find(|line| line["kind"] == "election") {
            break line;
        }
    };
    let text = line["text"].as_str().expect("a text");
    let won = format!("Election of term {}: node {} asked and leads after ", leader.term, leader.id);
    assert!(text.starts_with(&won) && text.contains(" voted for it"), "{text}");
    assert!(!text.contains("after 0.00 ms"), "an election takes time: {text}");
    let at = line["at"].as_u64().expect("a number");
    assert!((opened - 60_000..=opened).contains(&at), "{at} beside {opened}");
    for _ in 0..15 {
        let frame = next(&mut page, "frame").await;
        assert!(frame["timeline"].get(0).is_none(), "it is told once: {frame}");
    }
    for node in nodes {
        node.shutdown().await.expect("in order");
    }
}

/// Fails when: the collector runs without a page, or goes on after the last.
#[tokio::test]
async fn nobody_looking_costs_nothing() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let view = move || {
        counted.fetch_add(1, Relaxed);
        View::default()
    };
    let server = serve_view(view, bind("127.0.0.1:0").await.expect("a port is free"), Options::default());
    ask(server.address(), "GET /livez", &[]).await;
    assert!(looks.load(Relaxed) <= 1, "it was introduced, and no more");
    let mut page = events(server.address()).await;
    next(&mut page, "frame").await;
    assert_eq!(server.pages(), 1);
    until(|| looks.load(Relaxed) > 2).await;
    drop(page);
    until(|| server.pages() == 0).await;
    tokio::time::pause();
    // Longer than it lingers.
    sleep(Duration::from_secs(5)).await;
    let before = looks.load(Relaxed);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(looks.load(Relaxed), before);
}

/// Fails when: a page that does not read is waited for, is not told what it missed, or begins with what it has just missed.
#[tokio::test]
async fn a_slow_page_misses_frames_and_is_told() {
    let hub = Arc::new(Hub::new(1));
    let mut page = Box::pin(hub.open().expect("there is room"));
    let first = page.next().await.expect("it goes on");
    assert!(first.starts_with(b"event: hello\n"));
    assert!(page.next().await.expect("it goes on").starts_with(b"retry: "));
    let frames = BEHIND + 7;
    for number in 0..frames {
        hub.tell(format!("frame {number}").into());
    }
    let told = page.next().await.expect("it goes on");
    let told = String::from_utf8(told.to_vec()).expect("text");
    assert_eq!(told, "event: lag\ndata: {\"missed\":7}\n\n");
    assert_eq!(page.next().await.expect("it goes on"), first, "it is told anew what is");
    hub.tell("now".into());
    assert_eq!(page.next().await.expect("it goes on"), "now");
}

/// Fails when: more pages are let in, one that has gone is counted still, or whoever is refused is not told why.
#[tokio::test]
async fn pages_beyond_the_limit_are_refused_until_one_goes() {
    let server = nobody(Options { max_pages: 2, ..Options::default() }).await;
    let mut pages = Vec::new();
    for _ in 0..2 {
        let mut page = events(server.address()).await;
        next(&mut page, "hello").await;
        pages.push(page);
    }
    let (head, why) = ask(server.address(), "GET /events", &[]).await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
    assert!(why.contains("2 pages are open"), "{why}");
    pages.pop();
    until(|| server.pages() == 1).await;
    next(&mut events(server.address()).await, "hello").await;
}

/// Fails when: a node that cannot serve says that it is ready, one that can does not, or the reason is not told.
#[tokio::test]
async fn readiness_follows_the_node_and_says_why() {
    let node = node().await;
    let listener = bind("127.0.0.1:0").await.expect("a port is free");
    let server = serve(node.as_ref().clone(), listener, Options::default());
    let (head, body) = ask(server.address(), "GET /readyz", &[]).await;
    assert!(head.starts_with("http/1.1 200") && body == "ready\n", "{head}: {body}");
    node.shutdown().await.expect("in order");

    let lonely = Node::builder(1, Kv::default).cluster([(1, "one"), (2, "two"), (3, "three")]);
    let lonely = lonely.storage(MemoryStorage::new()).transport(InProcess::new()).spawn().await.expect("it starts");
    let listener = bind("127.0.0.1:0").await.expect("a port is free");
    let server = serve(lonely.as_ref().clone(), listener, Options::default());
    let (head, body) = ask(server.address(), "GET /readyz", &[]).await;
    assert!(head.starts_with("http/1.1 503") && body.contains("knows no leader"), "{head}: {body}");
    assert!(ask(server.address(), "GET /livez", &[]).await.0.starts_with("http/1.1 200"));
    lonely.shutdown().await.expect("in order");
}

/// Fails when: the figures are not the node's, or their type is not told.
#[tokio::test]
async fn the_figures_of_the_node_are_there_for_prometheus() {
    let node = node().await;
    let listener = bind("127.0.0.1:0").await.expect("a port is free");
    let server = serve(node.as_ref().clone(), listener, Options::default());
    let (head, body) = ask(server.address(), "GET /metrics", &[]).await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(body.contains("raft_is_leader 1"), "{body}");
    node.shutdown().await.expect("in order");
}

/// Fails when: the server outlives its node, or keeps its port.
#[tokio::test]
async fn it_ends_with_its_node() {
    let node = node().await;
    let listener = bind("127.0.0.1:0").await.expect("a port is free");
    let mut server = serve(node.as_ref().clone(), listener, Options::default());
    let mut page = events(server.address()).await;
    next(&mut page, "hello").await;
    node.shutdown().await.expect("in order");
    timeout(PATIENCE, server.stopped()).await.expect("it ends");
    assert!(TcpStream::connect(server.address()).await.is_err());
}

/// A fault that does nothing, and counts.
struct Counted(Arc<AtomicUsize>);

impl Faults for Counted {
    fn offered(&self) -> Vec<Fault> {
        vec![Fault { name: "kill", label: "", hint: "" }]
    }

    fn inject(&self, order: Order) -> BoxFuture<'static, Result<String, String>> {
        self.0.fetch_add(1, Relaxed);
        async move { order.node.map(|node| format!("node {node}")).ok_or_else(|| "which node?".to_owned()) }.boxed()
    }
}

/// Fails when: a page of another site can break something, or one of this site cannot; or a server without faults has them.
#[tokio::test]
async fn faults_are_injected_from_the_own_page_alone() {
    let count = Arc::new(AtomicUsize::new(0));
    let faults: Arc<dyn Faults> = Arc::new(Counted(count.clone()));
    let server = nobody(Options { faults: Some(faults), ..Options::default() }).await;
    let (address, own) = (server.address(), format!("http://{}", server.address()));
    let marked = ("x-raftkv-demo", "1");
    let refused: [&[(&str, &str)]; 6] = [
        &[],
        &[("Origin", &own)],
        &[marked, ("Origin", "http://raft.example")],
        &[marked, ("Origin", "null")],
        &[marked, ("Origin", &own), ("Sec-Fetch-Site", "cross-site")],
        &[marked, ("Origin", &own), ("Sec-Fetch-Site", "same-site")],
    ];
    for headers in refused {
        let (head, _) = ask(address, "POST /demo/kill", headers).await;
        assert!(head.starts_with("http/1.1 403"), "{headers:?}: {head}");
    }
    assert!(ask(address, "GET /demo/kill", &[marked]).await.0.starts_with("http/1.1 405"));
    assert!(ask(address, "POST /demo/other", &[marked]).await.0.starts_with("http/1.1 404"));
    assert_eq!(count.load(Relaxed), 0);
    let (head, why) =
        ask(address, "POST /demo/kill", &[marked, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).await;
    assert!(head.starts_with("http/1.1 409") && why == "which node?\n", "{head}: {why}");
    assert_eq!(count.load(Relaxed), 1);

    let server = nobody(Options::default()).await;
    assert!(ask(server.address(), "POST /demo/kill", &[marked]).await.0.starts_with("http/1.1 404"));
}

/// Fails when: an address that cannot be had is not named, with the cause.
#[tokio::test]
async fn a_port_that_cannot_be_had_is_named() {
    let taken = bind("127.0.0.1:0").await.expect("a port is free");
    let address = taken.address().to_string();
    let Err(error) = bind(&address).await else { panic!("it was had twice") };
    assert!(error.to_string().contains(&address) && error.to_string().contains("in use"), "{error}");
    assert!(bind("nobody.invalid:1").await.is_err());
}
