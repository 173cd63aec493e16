//! What the demo asks of the vPlus API, as any client would.

use crate::error::{Failure, OrFail};
use indicatif::ProgressBar;
use portolan_http::HttpError;
use portolan_http::client::{Client, Trust};
use portolan_model::Secret;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a task is asked how far it is.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a task may take; something is wrong with the machine after that.
const PATIENCE: Duration = Duration::from_secs(900);

/// A client that is logged in.
pub(super) struct Api(Client);

/// What a chain of a backup came to, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) read: u64,
    pub(super) changed: u64,
    pub(super) stored: u64,
    pub(super) deduplicated: u64,
    /// How long a running machine's file systems stood still; nothing where they were not frozen.
    pub(super) frozen_ms: Option<u64>,
}

/// A backup that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) backup: String,
    task: String,
    chain: String,
}

impl Api {
    /// Logs in.
    pub(super) async fn login(url: &str, certificate: String, login: &str, password: &Secret) -> Result<Self, Failure> {
        let client = Client::new(&format!("{url}/api"), Trust::Certificate(certificate));
        let client = client.or_fail(|| "the API cannot be spoken to".into())?;
        let body = json!({ "login": login, "password": password.reveal() });
        let api = Self(client);
        api.post("/session/login", &body).await?;
        Ok(api)
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.0.get_json(path).await.or_fail(|| format!("GET /api{path} failed"))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer: Result<Value, HttpError> = self.0.post_json(path, body).await;
        answer.or_fail(|| format!("POST /api{path} failed"))
    }

    /// The elements of a list.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        match self.get(path).await? {
            Value::Array(items) => Ok(items),
            other => Err(Failure::new(format!("GET /api{path} did not answer a list: {other}"))),
        }
    }

    /// Has every platform listed, and waits for it.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        let tasks = self.post("/tasks/inventory-sync", &json!({})).await?;
        for task in tasks.as_array().into_iter().flatten() {
            self.finished(&text(task, "/guid")?, &ProgressBar::hidden()).await?;
        }
        Ok(())
    }

    /// Asks for a backup of each machine, in their order.
    pub(super) async fn export(&self, machines: &[String], kind: &str, to: &str) -> Result<Vec<Asked>, Failure> {
        let entities: Vec<Value> = machines.iter().map(|guid| json!({ "guid": guid })).collect();
        let body = json!({
            "protectedEntities": entities,
            "backupType": kind,
            "backupDestination": { "guid": to },
        });
        let tasks = self.post("/tasks/export", &body).await?;
        let asked = tasks.as_array().into_iter().flatten().map(|task| {
            Ok(Asked {
                backup: text(task, "/backup/guid")?,
                task: text(task, "/guid")?,
                chain: text(task, "/workflowExecution/guid")?,
            })
        });
        asked.collect()
    }

    /// Waits until the backups are stored, and says what each came to.
    pub(super) async fn stored(&self, asked: &[Asked], bar: &ProgressBar) -> Result<Vec<Figures>, Failure> {
        let waiting = async {
            loop {
                let (mut open, mut done, mut total) = (0, 0, 0);
                for one in asked {
                    let backup = self.get(&format!("/backups/{}", one.backup)).await?;
                    match backup.pointer("/status/name").and_then(Value::as_str) {
                        Some("SUCCESS") => {}
                        Some("FAILED" | "PARTIAL_SUCCESS") => {
                            let why = backup.pointer("/statusInfo").and_then(Value::as_str).unwrap_or_default();
                            return Err(Failure::new(format!("the backup {} failed: {why}", one.backup)));
                        }
                        _ => open += 1,
                    }
                    let task = self.get(&format!("/tasks/{}", one.task)).await?;
                    let number = |at: &str| task.pointer(at).and_then(Value::as_u64).unwrap_or(0);
                    let whole = number("/totalObjectCount");
                    total += whole;
                    done += if number("/progress") == 100 { whole } else { number("/processedObjectCount") };
                }
                bar.set_length(total.max(1));
                bar.set_position(done);
                if open == 0 {
                    return Ok(());
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently(waiting).await?;
        let mut out = Vec::new();
        for one in asked {
            let links = self.list(&format!("/tasks?workflow-execution={}", one.chain)).await?;
            let export = links.iter().find(|t| t.pointer("/type/name").and_then(Value::as_str) == Some("EXPORT"));
            let figure = |at: &str| export.and_then(|t| t.pointer(at)).and_then(Value::as_u64).unwrap_or(0);
            out.push(Figures {
                read: figure("/result/read_bytes"),
                changed: figure("/result/changed_bytes"),
                stored: figure("/result/stored_bytes"),
                deduplicated: figure("/result/deduplicated_bytes"),
                frozen_ms: export.and_then(|t| t.pointer("/result/frozen_ms")).and_then(Value::as_u64),
            });
        }
        Ok(out)
    }

    /// Has every byte of a backup read back and checked; how many were read.
    pub(super) async fn verify(&self, backup: &str, bar: &ProgressBar) -> Result<u64, Failure> {
        let body = json!({ "backup": { "guid": backup }, "depth": "DATA" });
        let task = self.post("/tasks/verify", &body).await?;
        let task = self.finished(&text(&task, "/guid")?, bar).await?;
        Ok(task.pointer("/result/read_bytes").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Asks for a new machine made of a backup; its chain.
    pub(super) async fn restore(&self, backup: &str, name: &str) -> Result<String, Failure> {
        let body = json!({ "backup": { "guid": backup }, "restoredPeName": name });
        let task = self.post("/tasks/restore-and-import", &body).await?;
        text(&task, "/workflowExecution/guid")
    }

    /// Waits until a restore's chain is through, the listing that shows the machine included.
    pub(super) async fn restored(&self, chain: &str, bar: &ProgressBar) -> Result<(), Failure> {
        let waiting = async {
            loop {
                let links = self.list(&format!("/tasks?workflow-execution={chain}")).await?;
                for link in &links {
                    if ended_badly(link) {
                        return Err(failure(link));
                    }
                    let kind = link.pointer("/type/name").and_then(Value::as_str);
                    if kind == Some("RESTORE") {
                        show(link, bar);
                    }
                }
                let through = links.iter().any(|link| {
                    let word = |at: &str| link.pointer(at).and_then(Value::as_str);
                    word("/type/name") == Some("INDEX") && word("/state/name") == Some("FINISHED")
                });
                if through {
                    return Ok(());
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently(waiting).await
    }

    /// Waits for the end of a task.
    async fn finished(&self, guid: &str, bar: &ProgressBar) -> Result<Value, Failure> {
        let waiting = async {
            loop {
                let task = self.get(&format!("/tasks/{guid}")).await?;
                if ended_badly(&task) {
                    return Err(failure(&task));
                }
                show(&task, bar);
                if task.pointer("/state/name").and_then(Value::as_str) == Some("FINISHED") {
                    return Ok(task);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently(waiting).await
    }
}

async fn patiently<T>(waiting: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let outcome = tokio::time::timeout(PATIENCE, waiting).await;
    outcome.unwrap_or_else(|_| Err(Failure::new("it takes too long").hint("see the log with --log-level info")))
}

fn show(task: &Value, bar: &ProgressBar) {
    let number = |at: &str| task.pointer(at).and_then(Value::as_u64);
    if let (Some(done), Some(total)) = (number("/processedObjectCount"), number("/totalObjectCount")) {
        bar.set_length(total);
        bar.set_position(done);
    }
}

fn ended_badly(task: &Value) -> bool {
    matches!(task.pointer("/state/name").and_then(Value::as_str), Some("FAILED" | "CANCELLED"))
}

fn failure(task: &Value) -> Failure {
    let word = |at: &str| task.pointer(at).and_then(Value::as_str).unwrap_or_default();
    Failure::new(format!("the task {} failed: {}", word("/type/name"), word("/statusInfo")))
}

/// A text of an answer.
pub(super) fn text(value: &Value, at: &str) -> Result<String, Failure> {
    let found = value.pointer(at).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Failure::new(format!("the API's answer has no {at}: {value}")))
}
