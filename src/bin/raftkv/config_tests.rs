use clap::Parser;
use proptest::{collection::vec, prelude::*};

use super::*;

fn settings(line: &str, environment: &[(&str, &str)]) -> Result<Settings, Failure> {
    let args = Args::try_parse_from(line.split_whitespace()).expect("the test types what clap knows");
    let variable =
        |name: &str| environment.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned());
    Settings::read(&args, variable)
}

fn serve(line: &str, environment: &[(&str, &str)]) -> Result<ServeSettings, Failure> {
    settings(line, environment)?.serve()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary directory is there");
    std::fs::write(file.path(), text).expect("it can be written");
    file
}

const SERVE: &str = "raftkv serve --id 1 --data d --listen 127.0.0.1:7001 --cluster 1=127.0.0.1:7001,2=127.0.0.1:7002";

// Fails when: the sources are read in any other order.
#[test]
fn flags_win_over_environment_over_file() {
    let file = file("timeout = '1s'\nendpoints = ['a:1', 'b:2']\noutput = 'json'");
    let line = format!("raftkv status --config {} --timeout 3s", file.path().display());
    let settings = settings(&line, &[("RAFTKV_TIMEOUT", "2s"), ("RAFTKV_ENDPOINTS", "c:3")]).expect("all is right");
    let client = settings.client().expect("all is right");
    assert_eq!(client.timeout, Duration::from_secs(3));
    assert_eq!(client.endpoints, ["c:3"]);
    assert_eq!(settings.json(), Ok(true));
}

// Fails when: the page's address is not read from a source, or what is no address gets through.
#[test]
fn the_page_has_an_address_or_there_is_none() {
    let http = |line: &str, environment: &[(&str, &str)]| settings(line, environment)?.http();
    assert_eq!(http(SERVE, &[]), Ok(None));
    assert_eq!(http(&format!("{SERVE} --http 127.0.0.1:7080"), &[]), Ok(Some("127.0.0.1:7080".to_owned())));
    assert_eq!(http("raftkv demo --http [::1]:0", &[("RAFTKV_HTTP", "x:1")]), Ok(Some("[::1]:0".to_owned())));
    assert_eq!(http(SERVE, &[("RAFTKV_HTTP", "x:1")]), Ok(Some("x:1".to_owned())));
    let wrong = http(&format!("{SERVE} --http 7080"), &[]).expect_err("there is no host");
    assert_eq!((wrong.code.map(|code| code.0), wrong.exit), (Some(20), exit::USAGE));
    assert!(wrong.fix.contains("127.0.0.1:7080") && wrong.why.contains("--http"), "{wrong}");
}

#[test]
fn without_settings_there_are_defaults() {
    let client = settings("raftkv status", &[]).and_then(|settings| settings.client()).expect("there are defaults");
    assert_eq!(client.endpoints, ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
    assert_eq!(client.timeout, Duration::from_secs(5));
}

#[test]
fn a_comma_at_the_end_does_no_harm() {
    let endpoints = |value: &str| settings("raftkv status", &[("RAFTKV_ENDPOINTS", value)])?.client();
    assert_eq!(endpoints("a:1,b:2,").map(|client| client.endpoints), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
    assert_eq!(endpoints(",").expect_err("it names none").exit, exit::USAGE);
    assert_eq!(serve(&format!("{SERVE},"), &[]).map(|serve| serve.cluster.len()), Ok(2));
}

#[test]
fn a_whole_server_may_stand_in_the_file() {
    let file = file(
        "id = 2\ndata = 'd'\nlisten = '0.0.0.0:7002'\nheartbeat_ms = 20\ncluster_name = 'bank'\nelection_timeout_ms = '60-120'\n\
         [cluster]\n1 = 'one:7001'\n2 = 'two:7002'\n[peer]\n1 = 'proxy:1'",
    );
    let serve = serve(&format!("raftkv serve --config {}", file.path().display()), &[]).expect("all is right");
    assert_eq!((serve.id, serve.listen.as_str()), (2, "0.0.0.0:7002"));
    assert_eq!((serve.cluster[&1].as_str(), serve.cluster_name.as_deref()), ("one:7001", Some("bank")));
    assert_eq!(serve.peers[&1], "proxy:1");
    assert_eq!(serve.config.heartbeat_interval, Duration::from_millis(20));
    assert_eq!(serve.config.election_timeout_max, Duration::from_millis(120));
}

/// R020 names the key and where it came from.
#[test]
fn a_value_that_will_not_do_is_named_with_its_source() {
    let unknown = file("endpoint = 'a:1'");
    let path = unknown.path().display().to_string();
    let cases = [
        (format!("{SERVE} --heartbeat-ms fast"), vec![], "heartbeat_ms", "the flag --heartbeat-ms"),
        (SERVE.to_owned(), vec![("RAFTKV_MAX_ENTRY_BYTES", "-1")], "max_entry_bytes", "RAFTKV_MAX_ENTRY_BYTES"),
        (format!("{SERVE} --config {path}"), vec![], "endpoint", path.as_str()),
        (format!("{SERVE} --config /nowhere.toml"), vec![], "/nowhere.toml", "No such file"),
        (
            format!("{SERVE} --election-timeout-ms 50-60"),
            vec![],
            "election_timeout_ms",
            "the flag --election-timeout-ms",
        ),
        (format!("{SERVE} --heartbeat-ms 200"), vec![], "election_timeout_ms", "default"),
        (format!("{SERVE} --advertise 127.0.0.1:9"), vec![], "advertise", "the flag --advertise"),
        (format!("{SERVE} --peer 9=127.0.0.1:7009"), vec![], "peer", "the flag --peer"),
        (SERVE.to_owned(), vec![("RAFTKV_CLUSTER_NAME", "")], "cluster_name", "RAFTKV_CLUSTER_NAME"),
        (SERVE.to_owned(), vec![("RAFTKV_PEER", "2=a:1,9=b:1")], "peer", "RAFTKV_PEER"),
        ("raftkv serve --data d".to_owned(), vec![], "id", "RAFTKV_ID"),
    ];
    for (line, environment, what, why) in cases {
        let failure = serve(&line, &environment).expect_err(&line);
        assert_eq!((failure.code.map(|code| code.0), failure.exit), (Some(20), exit::USAGE), "{failure}");
        assert!(failure.what.contains(what) && failure.why.contains(why) && !failure.fix.is_empty(), "{failure}");
        let library_names = ["heartbeat_interval", "election_timeout_min", "election_timeout_max"];
        assert!(!library_names.iter().any(|name| failure.to_string().contains(name)), "{failure}");
    }
}

#[test]
fn a_server_without_a_cluster_has_nothing_to_bootstrap() {
    let alone = serve("raftkv serve --id 1 --data d --listen 127.0.0.1:7001", &[]).expect_err("no cluster");
    let stranger = serve(&SERVE.replace("--id 1", "--id 9"), &[]).expect_err("not a member");
    for failure in [alone, stranger] {
        assert_eq!(failure.code.map(|code| code.0), Some(3), "{failure}");
        assert!(failure.fix.contains("127.0.0.1:7001"), "{failure}");
    }
}

#[test]
fn an_address_that_nobody_can_dial_is_refused() {
    for own in ["0.0.0.0:7001", "[::]:7001", "127.0.0.1:0"] {
        let failure = serve(&SERVE.replace("1=127.0.0.1:7001", &format!("1={own}")), &[]).expect_err(own);
        assert_eq!(failure.code.map(|code| code.0), Some(12), "{failure}");
        assert!(failure.what.contains(own), "{failure}");
        assert_eq!(failure.why.contains("port 0"), own.ends_with(":0"), "{failure}");
    }
    let failure = serve(&format!("{SERVE} --advertise 0.0.0.0:7001"), &[]).expect_err("unroutable");
    assert_eq!(failure.code.map(|code| code.0), Some(12), "{failure}");
}

#[test]
fn members_and_times_are_read_strictly() {
    for cluster in ["1", "x=a:1", "0=a:1", "1=a", "1=a:1,1=b:2", "1=a:1,2=a:1", "", "1=a:99999", "1=:7001"] {
        let line = format!("raftkv serve --id 1 --data d --listen a:1 --cluster {cluster:?}").replace('"', "");
        let failure = match Args::try_parse_from(line.split(' ')) {
            Ok(args) => Settings::read(&args, |_| None).and_then(|settings| settings.serve()).err(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(failure.and_then(|failure| failure.code).map(|code| code.0), Some(20), "{cluster}");
    }
    for (time, expected) in [
        ("5", Some(5000)),
        ("5s", Some(5000)),
        ("250ms", Some(250)),
        ("1m", Some(60_000)),
        ("0", None),
        ("5h", None),
        ("s", None),
    ] {
        let read = settings(&format!("raftkv status --timeout {time}"), &[]).and_then(|settings| settings.client());
        assert_eq!(read.ok().map(|client| client.timeout.as_millis()), expected, "{time}");
    }
}

/// Lines of a configuration file that are right, nearly right, and wrong.
fn lines() -> impl Strategy<Value = String> {
    let known: Vec<_> =
        ["id", "data", "listen", "timeout", "endpoints", "cluster", "peer", "heartbeat_ms", "election_timeout_ms"]
            .into();
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        "[a-z0-9:=,.-]{0,20}".prop_map(|text| format!("'{text}'")),
        vec("[a-z0-9:]{0,8}", 0..4).prop_map(|texts| format!("{texts:?}")),
        "\\PC{0,12}",
    ];
    prop_oneof![
        (prop::sample::select(known), value).prop_map(|(key, value)| format!("{key} = {value}")),
        "\\[(cluster|peer)\\]",
        "\\PC{0,30}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Fails when: a value of another type or a number out of bounds is a panic; or a refusal names nothing.
    #[test]
    fn whatever_stands_in_a_file_is_settings_or_a_refusal(lines in vec(lines(), 0..8), bytes in vec(any::<u8>(), 0..40)) {
        for content in [lines.join("\n").into_bytes(), bytes] {
            let file = file("");
            std::fs::write(file.path(), content).expect("it can be written");
            let found = settings(&format!("raftkv serve --config {}", file.path().display()), &[]);
            let serve = found.as_ref().map_err(Clone::clone).and_then(Settings::serve);
            let client = found.and_then(|settings| settings.client().map(|_| ()));
            for failure in [serve.map(|_| ()), client].into_iter().filter_map(Result::err) {
                prop_assert!(failure.what.len() > 5, "{:?}", failure);
            }
        }
    }
}
