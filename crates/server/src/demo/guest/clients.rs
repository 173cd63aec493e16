//! What the demo asks of the Orchestrator API, and of the one for operators, as any client would.

use super::{PLATFORM, text};
use crate::error::{Failure, OrFail};
use crate::server::Server;
use portolan_http::client::{Client, Trust};
use portolan_model::Secret;
use serde_json::{Value, json};
use std::time::Duration;

/// A start or a stop waits in the server; its client waits a little longer.
const LIMIT: Duration = Duration::from_secs(70);

/// How often a task is asked how far it is.
const PAUSE: Duration = Duration::from_millis(100);

/// The Orchestrator API.
pub(super) struct Nodes(Client);

impl Nodes {
    pub(super) fn new(server: &Server, password: &Secret) -> Result<Self, Failure> {
        client(server, "orchestrator", server.orchestrator.as_deref(), "/api/v1", password).map(Self)
    }

    /// Starts a node that runs this script when it boots; its id.
    pub(super) async fn start(&self, name: &str, image: &str, script: &str) -> Result<String, Failure> {
        let metadata = json!({ "user_data": script });
        let wish = json!({ "name": name, "image": image, "size": "tiny", "metadata": metadata });
        let answer: Result<Value, _> = self.0.post_json(&format!("/vm/start/{PLATFORM}"), &wish).await;
        text(&answer.or_fail(|| "the guest could not be started".into())?, "/nodes/id")
    }

    /// Destroys a node.
    pub(super) async fn stop(&self, id: &str) -> Result<(), Failure> {
        let body = json!({ "node": id });
        let answer: Result<Value, _> = self.0.put_json(&format!("/vm/stop/{PLATFORM}"), &body).await;
        answer.or_fail(|| "the guest could not be destroyed".into()).map(drop)
    }
}

/// The management API.
pub(super) struct Operators(Client);

impl Operators {
    pub(super) fn new(server: &Server, password: &Secret) -> Result<Self, Failure> {
        client(server, "management", server.management.as_deref(), "/manage/v1", password).map(Self)
    }

    /// Turns a machine on; waits until it is.
    pub(super) async fn turn_on(&self, machine: &str) -> Result<(), Failure> {
        let failed = || "the restored guest cannot be turned on".to_owned();
        let path = format!("/machines/{machine}/power");
        let begun: Result<Value, _> = self.0.post_json(&path, &json!({ "action": "start" })).await;
        let task = format!("/tasks/{}", text(&begun.or_fail(failed)?, "/id")?);
        let turning = async {
            loop {
                let now: Value = self.0.get_json(&task).await.or_fail(failed)?;
                match text(&now, "/state")?.as_str() {
                    "SUCCEEDED" => return Ok(()),
                    "FAILED" | "STUCK" | "CANCELLED" | "EXPIRED" => {
                        return Err(Failure::new(failed()).because(text(&now, "/error")?));
                    }
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        let turned = tokio::time::timeout(LIMIT, turning).await;
        turned.unwrap_or_else(|_| Err(Failure::new(failed()).because("it takes too long")))
    }
}

/// A client of a listener that shows its login with every request.
fn client(
    server: &Server,
    listener: &str,
    url: Option<&str>,
    base: &str,
    password: &Secret,
) -> Result<Client, Failure> {
    let url = url.ok_or_else(|| Failure::new(format!("the listener '{listener}' is off")))?;
    let trust = match server.certificate(listener) {
        Some(tls) => Trust::Certificate(tls.pem()),
        None => Trust::Plain,
    };
    let client = Client::new(&format!("{url}{base}"), trust);
    let client = client.or_fail(|| format!("the listener '{listener}' cannot be spoken to"))?;
    Ok(client.timeout(LIMIT).basic("admin", password))
}
