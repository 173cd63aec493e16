//! The vPlus API in a test's words.

use crate::until;
use portolan_http::client::{Answer, Client};
use serde_json::{Value, json};

/// The password of `admin` on every site.
pub const PASSWORD: &str = "correct horse battery";

/// The type of a task that synchronises the inventory.
const SYNC: &str = "INDEX";

/// A session of the vPlus API.
#[derive(Clone)]
pub struct Api {
    /// The client behind it.
    pub client: Client,
}

/// The tasks of one request, once all of them have ended.
#[derive(Debug)]
pub struct Chain {
    /// Its id.
    pub id: String,
    /// The tasks, oldest first.
    pub tasks: Vec<Value>,
}

impl Chain {
    /// Fails unless every task has succeeded, and there is exactly one of each of these types. A sync of the
    /// inventory may follow.
    pub fn assert_finished(&self, types: &[&str]) {
        let mut found: Vec<&str> = self.tasks.iter().map(|t| text(&t["type"]["name"])).filter(|t| *t != SYNC).collect();
        let mut wanted = types.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{:#?}", self.tasks);
        for task in &self.tasks {
            assert_eq!(task["state"]["name"], "FINISHED", "{task:#}");
        }
    }

    /// The first task that failed.
    pub fn failure(&self) -> &Value {
        let failed = self.tasks.iter().find(|t| t["state"]["name"] == "FAILED");
        failed.unwrap_or_else(|| panic!("nothing failed: {:#?}", self.tasks))
    }
}

/// The text of a JSON string; empty for anything else.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Api {
    /// Logs in.
    pub async fn login(client: Client, login: &str, password: &str) -> Self {
        let answer = client.post("/session/login", &json!({ "login": login, "password": password })).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self { client }
    }

    /// A list or an object; the request must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(path).await.unwrap();
        assert!(answer.status.is_success(), "GET {path}: {} {}", answer.status, answer.text());
        answer.json().unwrap()
    }

    /// A request that must succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(path, body).await.unwrap();
        assert!(answer.status.is_success(), "POST {path}: {} {}", answer.status, answer.text());
        answer.json().unwrap()
    }

    /// A request that must fail with this status, in the dialect's own form.
    pub async fn refused(&self, path: &str, body: &Value, status: u16) -> Value {
        assert_error(&self.client.post(path, body).await.unwrap(), status)
    }

    /// Synchronises the inventory and waits for it.
    pub async fn sync(&self) {
        let tasks = self.post("/tasks/inventory-sync", &json!({})).await;
        for task in tasks.as_array().unwrap() {
            let task = self.ended(text(&task["guid"])).await;
            assert_eq!(task["state"]["name"], "FINISHED", "{task:#}");
        }
    }

    /// A task, once it has ended.
    pub async fn ended(&self, guid: &str) -> Value {
        until("a task to end", async || {
            let task = self.get(&format!("/tasks/{guid}")).await;
            ["FINISHED", "FAILED", "CANCELLED"].contains(&text(&task["state"]["name"])).then_some(task)
        })
        .await
    }

    /// The machine of this name, which must be listed once.
    pub async fn vm(&self, name: &str) -> Value {
        let vms = self.get("/virtual-machines").await;
        let mut found = vms.as_array().unwrap().iter().filter(|vm| vm["name"] == name);
        let vm = found.next().unwrap_or_else(|| panic!("there is no machine {name}: {vms:#}")).clone();
        assert!(found.next().is_none(), "there are several machines {name}: {vms:#}");
        vm
    }

    /// Asks for a backup; gives the EXPORT task.
    pub async fn export(&self, vm: &Value, kind: &str) -> Value {
        let body = json!({ "protectedEntities": [{ "guid": vm["guid"] }], "backupType": { "name": kind } });
        let tasks = self.post("/tasks/export", &body).await;
        assert_eq!(tasks.as_array().map(Vec::len), Some(1), "{tasks:#}");
        tasks[0].clone()
    }

    /// Asks for a restore to a new machine; gives the RESTORE task.
    pub async fn restore(&self, backup: &Value, name: &str) -> Value {
        let body = json!({ "backup": { "guid": backup["guid"] }, "restoredPeName": name });
        self.post("/tasks/restore-and-import", &body).await
    }

    /// The tasks of a task's chain, as they are now, oldest first.
    pub async fn tasks_of(&self, task: &Value) -> Vec<Value> {
        let chain = text(&task["workflowExecution"]["guid"]);
        let mut tasks = self.get(&format!("/tasks?workflow-execution={chain}")).await;
        let mut tasks = std::mem::take(tasks.as_array_mut().unwrap());
        tasks.sort_by_key(|t| (t["creationTime"].as_i64(), text(&t["guid"]).to_owned()));
        tasks
    }

    /// The chain of a task, once it has ended: the last link has, or one has failed.
    pub async fn chain(&self, task: &Value, links: usize) -> Chain {
        let id = text(&task["workflowExecution"]["guid"]).to_owned();
        let tasks = until("a chain to end", async || {
            let tasks = self.tasks_of(task).await;
            let state = |t: &Value| text(&t["state"]["name"]).to_owned();
            let over = tasks.iter().all(|t| ["FINISHED", "FAILED", "CANCELLED"].contains(&state(t).as_str()));
            let failed = tasks.iter().any(|t| state(t) != "FINISHED");
            let found = tasks.iter().filter(|t| t["type"]["name"] != SYNC).count();
            (over && (failed || found >= links)).then_some(tasks)
        })
        .await;
        Chain { id, tasks }
    }

    /// Backs a machine up and waits for it; gives the backup.
    pub async fn back_up(&self, vm: &Value, kind: &str) -> Value {
        let task = self.export(vm, kind).await;
        self.chain(&task, 2).await.assert_finished(&["EXPORT", "STORE"]);
        let backup = self.get(&format!("/backups/{}", text(&task["backup"]["guid"]))).await;
        assert_eq!(backup["status"]["name"], "SUCCESS", "{backup:#}");
        backup
    }

    /// Restores a backup to a new machine and waits for it.
    pub async fn restored(&self, backup: &Value, name: &str) {
        let task = self.restore(backup, name).await;
        self.chain(&task, 2).await.assert_finished(&["RESTORE", "IMPORT"]);
    }

    /// Reads a backup back; gives the ended task.
    pub async fn verify(&self, backup: &Value) -> Value {
        let task = self.post("/tasks/verify", &json!({ "backup": { "guid": backup["guid"] } })).await;
        self.ended(text(&task["guid"])).await
    }

    /// The backups of a machine, newest first.
    pub async fn backups(&self, vm: &Value) -> Vec<Value> {
        let mut list = self.get(&format!("/backups?protected-entity={}", text(&vm["guid"]))).await;
        std::mem::take(list.as_array_mut().unwrap())
    }
}

/// Fails unless the answer has this status and the dialect's form of an error; gives the error.
pub fn assert_error(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert!(answer.header("content-type").is_some_and(|t| t.starts_with("application/json")), "{:?}", answer.headers);
    let error: Value = answer.json().unwrap();
    assert_eq!(error["status"], status, "{error}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
    assert!(error["code"].as_str().is_some_and(|c| !c.is_empty()), "{error}");
    error
}
