//! The browser, by its driver.

use std::{process::Stdio, sync::Mutex, time::Duration};

use fantoccini::{Client, ClientBuilder, Locator, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::cluster::PATIENCE;

/// Between two looks at the page.
const GLANCE: Duration = Duration::from_millis(20);

/// What a browser needs that runs as root, without a screen and without the Internet.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one window.
pub struct Browser {
    client: Client,
    forgiven: Mutex<Vec<String>>,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// `None`, and a loud line: there is no browser on this machine, and none is required.
    pub async fn start() -> Option<Self> {
        let is_required = std::env::var("CI_BROWSER").is_ok_and(|wanted| wanted == "required");
        match Browser::begin().await {
            Ok(browser) => Some(browser),
            Err(why) if is_required => panic!("CI_BROWSER=required, and there is no browser: {why}"),
            Err(why) => {
                eprintln!("\n!!! SKIPPED, the page was not tested: there is no browser ({why}).");
                eprintln!(
                    "!!! Install chromium and chromedriver (Debian: apt-get install chromium chromium-driver).\n"
                );
                None
            }
        }
    }

    async fn begin() -> Result<Self, String> {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut driver = driver.spawn().map_err(|error| format!("chromedriver: {error}"))?;
        let stdout = driver.stdout.take().expect("it was asked for");
        let port = timeout(PATIENCE, port(stdout)).await.map_err(|_| "chromedriver does not say its port")?;
        let port = port.ok_or("chromedriver did not start")?;
        let profile = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut flags: Vec<_> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({ "goog:chromeOptions": { "args": flags }, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(wanted) = wanted else { unreachable!("it is written as one") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connected = builder.capabilities(wanted).connect(&format!("http://127.0.0.1:{port}")).await;
        let client = connected.map_err(|error| format!("chromium: {error}"))?;
        client.set_window_size(1280, 860).await.map_err(|error| error.to_string())?;
        Ok(Browser { client, forgiven: Mutex::default(), _driver: driver, _profile: profile })
    }

    pub async fn go(&self, url: &str) {
        self.client.goto(url).await.expect("the page is there");
    }

    pub async fn eval(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Until `script` says so.
    pub async fn wait(&self, script: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = match self.eval(script).await {
                Value::String(text) => text,
                other => other.to_string(),
            };
            if seen == wanted {
                return;
            }
            if Instant::now() > deadline {
                panic!("{script}: {seen:?}, and not {wanted:?}; the page: {}", self.text("body").await);
            }
            sleep(GLANCE).await;
        }
    }

    pub async fn text(&self, selector: &str) -> String {
        let found = self.client.find(Locator::Css(selector)).await.expect("it is on the page");
        found.text().await.expect("it has a text")
    }

    pub async fn click(&self, selector: &str) {
        let wait = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(selector));
        wait.await.expect("it is on the page").click().await.expect("it can be clicked");
    }

    /// Presses a key wherever the focus is.
    pub async fn press(&self, key: &str) {
        let focused = self.client.active_element().await.expect("something has the focus");
        focused.send_keys(key).await.expect("it takes keys");
    }

    pub async fn press_on(&self, selector: &str, key: &str) {
        self.eval(&format!("document.querySelector('{selector}').focus()")).await;
        self.press(key).await;
    }

    /// Makes the page this narrow; a window cannot be.
    pub async fn narrow(&self, width: u32) {
        let size = json!({ "width": width, "height": 740, "deviceScaleFactor": 1, "mobile": true });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size });
        self.client.issue_cmd(Raw { path: "goog/cdp/execute", body: command }).await.expect("the driver knows it");
    }

    /// What contains this is no complaint: the test was the cause.
    pub async fn forgive(&self, text: &str) {
        self.forgiven.lock().expect("nobody panics with it").push(text.to_owned());
    }

    /// What the browser wrote on its console: errors, warnings, violations of the policy.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(Raw { path: "se/log", body: json!({ "type": "browser" }) }).await;
        let log = log.expect("the driver has a log");
        let lines =
            log.as_array().expect("a list").iter().map(|line| line["message"].as_str().unwrap_or("?").to_owned());
        let forgiven = self.forgiven.lock().expect("nobody panics with it");
        lines.filter(|line| !forgiven.iter().any(|text| line.contains(text))).collect()
    }

    pub async fn end(self) {
        self.client.close().await.expect("it closes");
    }
}

/// The driver's own words.
async fn port(stdout: tokio::process::ChildStdout) -> Option<u16> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.ok()? {
        if let Some((_, port)) = line.rsplit_once("on port ")
            && line.contains("success")
        {
            // It must be able to go on writing.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return port.trim_end_matches('.').parse().ok();
        }
    }
    None
}

/// What ChromeDriver knows beyond the standard.
#[derive(Debug)]
struct Raw {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Raw {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
