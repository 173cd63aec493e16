//! The server as a child process.

use crate::api::Api;
use crate::site::{Said, Site};
use crate::{PATIENCE, until};
use portolan_http::client::{Client, Trust};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running server. Killed when it is dropped.
pub struct Server {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    out: PathBuf,
    /// Where health is answered, and the vPlus API: known once it is ready.
    health: String,
    url: String,
    /// Where the Orchestrator API answers; empty when it is off.
    orchestrator: String,
}

impl Server {
    pub(crate) fn spawn(site: &Site, mut command: Command) -> Self {
        let (log, out) = (site.dir().join("server.log"), site.dir().join("server.out"));
        // What this start prints is read for addresses; what earlier ones complained of stays.
        let complaints = File::options().create(true).append(true).open(&log).unwrap();
        command.stdout(File::create(&out).unwrap()).stderr(complaints).stdin(Stdio::null());
        let child = command.spawn().expect("the binary can be started");
        Self {
            child,
            data: site.data(),
            log,
            out,
            health: String::new(),
            url: String::new(),
            orchestrator: String::new(),
        }
    }

    /// Waits until the server says that it is ready.
    pub(crate) async fn ready(mut self) -> Self {
        let (url, health) = until("the server to be ready", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended ({status}): {}{}", self.printed(), self.log());
            }
            let text = self.printed();
            let (url, health) = (announced(&text, "vPlus API")?, announced(&text, "management")?);
            let client = Client::new(&health, Trust::Plain).unwrap().timeout(Duration::from_secs(5));
            client.get("/readyz").await.ok().filter(|answer| answer.status.is_success())?;
            Some((url, health))
        })
        .await;
        (self.url, self.health) = (url, health);
        self.orchestrator = announced(&self.printed(), "Orchestrator").unwrap_or_default();
        self
    }

    /// The server's process, also where another program runs it.
    pub fn pid(&self) -> u32 {
        let noted = std::fs::read_to_string(self.data.join("lock")).ok().and_then(|text| text.trim().parse().ok());
        noted.unwrap_or_else(|| self.child.id())
    }

    /// What it has written to standard error so far, in this start and those before.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has written to standard output since this start.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Where the vPlus API answers: `https://127.0.0.1:…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address and port of the vPlus API.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("https://")
    }

    /// A client of the Orchestrator API, with no credentials.
    pub fn orchestrator(&self) -> Client {
        Client::new(&format!("{}/api/v1", self.orchestrator), Trust::Plain).unwrap()
    }

    /// Where the management API answers: `http://127.0.0.1:…`.
    pub fn health(&self) -> &str {
        &self.health
    }

    /// A client of the management listener.
    pub fn management(&self) -> Client {
        Client::new(&self.health, Trust::Plain).unwrap()
    }

    /// A client of the vPlus API that trusts the server's certificate and has not logged in.
    pub fn stranger(&self, site: &Site) -> Client {
        let data = self.data.display().to_string();
        let Said { code, out, err } = site.run(&["cert", "show", "--pem", "--data-dir", &data]);
        assert_eq!(code, Some(0), "{err}");
        Client::new(&format!("{}/api", self.url), Trust::Certificate(out)).unwrap()
    }

    /// The vPlus API as `admin`.
    pub async fn api(&self, site: &Site) -> Api {
        Api::login(self.stranger(site), "admin", crate::PASSWORD).await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "waited too long for the server to end: {}", self.log());
            // As in `until`.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it gracefully.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "the server ended with {status}: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that the server's announcement gives under a label, `http://host:port`.
fn announced(text: &str, label: &str) -> Option<String> {
    // A line counts once it is whole.
    let whole = &text[..text.rfind('\n')? + 1];
    let rest = whole.lines().find_map(|line| line.trim_start().strip_prefix(label))?.trim_start();
    let scheme = rest.find("://")? + 3;
    let end = rest[scheme..].find('/').map_or(rest.len(), |end| scheme + end);
    Some(rest[..end].to_owned())
}
