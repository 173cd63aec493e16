//! What the demo asks of the Orchestrator API, as any client would.

use super::{PLATFORM, text};
use crate::error::{Failure, OrFail};
use crate::server::Server;
use portolan_http::client::{Client, Trust};
use portolan_model::Secret;
use serde_json::{Value, json};
use std::time::Duration;

/// A start or a stop waits in the server; its client waits a little longer.
const LIMIT: Duration = Duration::from_secs(70);

/// A client that shows its login with every request.
pub(super) struct Nodes(Client);

impl Nodes {
    pub(super) fn new(server: &Server, password: &Secret) -> Result<Self, Failure> {
        let url = server.orchestrator.as_ref().ok_or_else(|| Failure::new("the Orchestrator API is not served"))?;
        let trust = match server.certificate("orchestrator") {
            Some(tls) => Trust::Certificate(tls.pem()),
            None => Trust::Plain,
        };
        let client = Client::new(&format!("{url}/api/v1"), trust);
        let client = client.or_fail(|| "the Orchestrator API cannot be spoken to".into())?;
        Ok(Self(client.timeout(LIMIT).basic("admin", password)))
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
