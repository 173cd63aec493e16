//! The wire, word for word: a day of an operator, request by request. The answers are in `snapshots/`; ids stand there
//! as numbers in the order in which they came up, and what is told once as `(told once)`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;
use world::World;

/// Asks, and writes down what was asked and answered.
struct Scribe<'w> {
    world: &'w World,
    book: String,
    ids: Vec<String>,
}

/// What is told once. Everything else that a field of these names holds is an id, or nothing.
const TOLD: [&str; 3] = ["password", "recovery_key", "token"];

impl<'w> Scribe<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, book: String::new(), ids: Vec::new() }
    }

    /// The text with every id in it as its number.
    fn numbered(&mut self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(first) = rest.chars().next() {
            match rest.get(..36).filter(|id| id.is_ascii() && uuid::Uuid::try_parse(id).is_ok()) {
                Some(id) => {
                    if !self.ids.iter().any(|known| known == id) {
                        self.ids.push(id.to_owned());
                    }
                    let number = self.ids.iter().position(|known| known == id).unwrap();
                    write!(out, "<{number}>").unwrap();
                    rest = &rest[36..];
                }
                None => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        out
    }

    fn written(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.numbered(text)),
            Value::Array(items) => items.iter().map(|item| self.written(item)).collect(),
            Value::Object(fields) => {
                let one = |(name, value): (&String, &Value)| {
                    let told = value.as_str().is_some_and(|text| uuid::Uuid::try_parse(text).is_err());
                    let secret = TOLD.contains(&name.as_str()) && told;
                    (name.clone(), if secret { "(told once)".into() } else { self.written(value) })
                };
                Value::Object(fields.iter().map(one).collect())
            }
            other => other.clone(),
        }
    }

    async fn ask(&mut self, login: &str, call: &str, body: Value) -> Value {
        let (status, answer) = self.world.ask(login, call, body.clone()).await;
        let call = self.numbered(call);
        writeln!(self.book, "{login}: {call}").unwrap();
        if !body.is_null() {
            writeln!(self.book, "{body}").unwrap();
        }
        writeln!(self.book, "→ {}", status.as_u16()).unwrap();
        if !answer.is_null() {
            let written = self.written(&answer);
            writeln!(self.book, "{}", serde_json::to_string_pretty(&written).unwrap()).unwrap();
        }
        self.book.push('\n');
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn platforms_and_destinations() {
    let world = World::new().await;
    world.factories.hypervisor("lab").add_vm("web", &[("disk", vec![1; 4096])]);
    let mut scribe = Scribe::new(&world);
    let lab =
        json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab" }, "secrets": { "token": world::TOKEN } });
    scribe.ask("root", "GET /drivers", Value::Null).await;
    scribe.ask("root", "POST /platforms/test", lab.clone()).await;
    let wrong = json!({ "driver": "fake", "settings": { "root": "lab", "token": "wrong" } });
    scribe.ask("root", "POST /platforms/test", wrong.clone()).await;
    scribe
        .ask("root", "POST /platforms", json!({ "name": "x", "driver": "fake", "settings": wrong["settings"] }))
        .await;
    scribe.ask("root", "POST /platforms", lab.clone()).await;
    scribe.ask("root", "POST /platforms", lab).await;
    scribe.ask("root", "POST /platforms/LAB/test", Value::Null).await;
    scribe.ask("root", "POST /platforms/lab/sync", Value::Null).await;
    world.start();
    world.pass(Duration::from_secs(10)).await;
    scribe.ask("root", "GET /platforms", Value::Null).await;
    scribe.ask("root", "DELETE /platforms/lab", Value::Null).await;
    scribe.ask("root", "GET /destination-kinds", Value::Null).await;
    let vault = json!({ "name": "vault", "kind": "memory", "settings": { "bucket": "b" }, "description": "first" });
    scribe.ask("root", "POST /destinations", vault).await;
    scribe.ask("root", "POST /destinations", json!({ "name": "b", "kind": "memory", "settings": {} })).await;
    scribe.ask("root", "POST /destinations/vault/test", Value::Null).await;
    let second = json!({ "name": "second", "kind": "memory", "settings": { "bucket": "c" } });
    scribe.ask("root", "POST /destinations", second).await;
    scribe.ask("root", "PUT /destinations/second/default", Value::Null).await;
    scribe.ask("root", "POST /destinations/second/recovery-key", json!({ "replace": true })).await;
    scribe.ask("root", "POST /destinations/second/recovery-key", json!({ "replaces": true })).await;
    scribe.ask("root", "POST /destinations/third/recovery-key", json!({})).await;
    scribe.ask("root", "GET /destinations?limit=1&offset=1", Value::Null).await;
    scribe.ask("root", "DELETE /destinations/second", Value::Null).await;
    scribe.ask("root", "DELETE /destinations/vault", Value::Null).await;
    scribe.ask("root", "GET /status", Value::Null).await;
    scribe.ask("root", "DELETE /platforms/lab?force=true", Value::Null).await;
    scribe.ask("root", "GET /platforms/lab", Value::Null).await;
    insta::assert_snapshot!(scribe.book);
}

#[tokio::test(start_paused = true)]
async fn accounts_tokens_and_tenants() {
    let world = World::new().await;
    let mut scribe = Scribe::new(&world);
    scribe.ask("root", "GET /whoami", Value::Null).await;
    scribe.ask("root", "POST /tenants", json!({ "name": "red", "external_id": "os-red" })).await;
    scribe.ask("root", "PATCH /tenants/RED", json!({ "name": "crimson" })).await;
    scribe.ask("root", "GET /tenants?limit=5", Value::Null).await;
    scribe.ask("root", "DELETE /tenants/blue", Value::Null).await;
    scribe.ask("root", "POST /accounts", json!({ "login": "kim", "role": "operator", "tenant": "crimson" })).await;
    let given = json!({ "login": "lee", "role": "VIEWER", "password": "a long one", "time_zone": "Europe/Berlin" });
    scribe.ask("root", "POST /accounts", given).await;
    scribe.ask("root", "POST /accounts", json!({ "login": "KIM", "role": "VIEWER" })).await;
    scribe.ask("root", "PATCH /accounts/lee", json!({ "enabled": false })).await;
    scribe.ask("root", "PATCH /accounts/root", json!({ "role": "VIEWER" })).await;
    scribe.ask("root", "POST /accounts/kim/password", json!({})).await;
    scribe.ask("vera", "POST /accounts/vera/password", json!({ "new": "another one" })).await;
    scribe.ask("vera", "POST /accounts/vera/password", json!({ "current": "wrong", "new": "another one" })).await;
    scribe.ask("vera", "POST /accounts/vera/password", json!({ "current": "correct horse", "new": "short" })).await;
    let change = json!({ "current": "correct horse", "new": "another one" });
    scribe.ask("vera", "POST /accounts/vera/password", change).await;
    let token = json!({ "name": "ci", "account": "kim", "role": "viewer", "expires": "2027-01-31T12:00:00+01:00" });
    scribe.ask("root", "POST /tokens", token).await;
    scribe.ask("root", "POST /tokens", json!({ "name": "ci", "account": "kim", "role": "administrator" })).await;
    scribe.ask("root", "GET /tokens/ci", Value::Null).await;
    scribe.ask("root", "DELETE /tokens/ci", Value::Null).await;
    scribe.ask("root", "DELETE /tokens/ci", Value::Null).await;
    scribe.ask("root", "DELETE /accounts/kim", Value::Null).await;
    scribe.ask("root", "DELETE /tenants/crimson", Value::Null).await;
    scribe.ask("root", "GET /accounts?limit=2&offset=1", Value::Null).await;
    insta::assert_snapshot!(scribe.book);
}

#[tokio::test(start_paused = true)]
async fn machines_and_backups() {
    let world = World::new().await;
    world.factories.hypervisor("lab").add_vm("web", &[("disk", vec![1; 4096])]);
    let lab = json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab" } });
    world.root("POST /platforms", lab).await;
    world.root("POST /destinations", json!({ "name": "vault", "kind": "memory", "settings": { "bucket": "b" } })).await;
    world.start();
    world.pass(Duration::from_secs(10)).await;
    let mut scribe = Scribe::new(&world);
    let settled = async || world.pass(Duration::from_secs(60)).await;
    scribe.ask("root", "GET /machines?platform=lab", Value::Null).await;
    scribe.ask("ben", "GET /machines", Value::Null).await;
    scribe.ask("root", "POST /machines/web/power", json!({ "action": "start" })).await;
    settled().await;
    scribe.ask("root", "GET /machines/web", Value::Null).await;
    let made = scribe.ask("root", "POST /machines/web/snapshots", json!({ "name": "before", "memory": true })).await;
    settled().await;
    scribe.ask("root", &format!("GET /tasks/{}", made["id"].as_str().unwrap()), Value::Null).await;
    let there = scribe.ask("root", "GET /machines/web/snapshots", Value::Null).await;
    let snapshot = format!("/machines/web/snapshots/{}", there["items"][0]["id"].as_str().unwrap());
    scribe.ask("root", &format!("POST {snapshot}/revert"), Value::Null).await;
    settled().await;
    scribe.ask("root", &format!("DELETE {snapshot}"), Value::Null).await;
    settled().await;
    scribe.ask("root", "POST /machines/web/clone", json!({ "name": "web-2" })).await;
    settled().await;
    scribe.ask("root", "POST /machines/web/backup", json!({ "type": "full" })).await;
    settled().await;
    let list = world.root("GET /backups?machine=web", Value::Null).await;
    let backup = format!("/backups/{}", list["items"][0]["id"].as_str().unwrap());
    scribe.ask("root", &format!("POST {backup}/trial"), json!({ "within_seconds": 60 })).await;
    settled().await;
    scribe.ask("root", &format!("GET {backup}"), Value::Null).await;
    scribe.ask("root", &format!("POST {backup}/restore"), json!({ "overwrite": true, "power_off": true })).await;
    settled().await;
    scribe.ask("root", &format!("POST {backup}/instant-restore"), json!({ "name": "web-3" })).await;
    settled().await;
    let failed = scribe.ask("root", "GET /tasks?state=failed", Value::Null).await;
    assert_eq!(failed["total"], 0);
    let names = world.root("GET /machines", Value::Null).await;
    let names: Vec<&str> = names["items"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "web-2", "web-3"]);
    scribe.ask("root", "POST /machines/nope/power", json!({ "action": "off" })).await;
    scribe.ask("root", "POST /machines/web/clone", json!({ "name": "web-2" })).await;
    scribe.ask("root", "GET /backups?limit=1", Value::Null).await;
    insta::assert_snapshot!(scribe.book);
}

#[tokio::test(start_paused = true)]
async fn tasks() {
    let world = World::new().await;
    let mut scribe = Scribe::new(&world);
    let lab = json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab" } });
    world.root("POST /platforms", lab).await;
    let list = scribe.ask("root", "GET /tasks?platform=lab&kind=inventory-sync,export", Value::Null).await;
    let task = list["items"][0]["id"].as_str().unwrap().to_owned();
    scribe.ask("root", &format!("GET /tasks/{task}"), Value::Null).await;
    scribe.ask("root", &format!("POST /tasks/{task}/cancel"), Value::Null).await;
    scribe.ask("root", &format!("POST /tasks/{task}/cancel"), Value::Null).await;
    scribe.ask("root", "GET /tasks?state=ready,running", Value::Null).await;
    scribe.ask("root", "GET /tasks/x", Value::Null).await;
    scribe.ask("root", &format!("POST /tasks/{task}/abandon"), json!({ "reason": "no use" })).await;
    scribe.ask("olga", &format!("POST /tasks/{task}/retry"), Value::Null).await;
    scribe.ask("root", "PUT /tasks/drain", json!({ "draining": true })).await;
    world.start();
    scribe.ask("root", "PUT /tasks/drain", json!({ "draining": true })).await;
    world.pass(Duration::from_secs(60)).await;
    scribe.ask("root", "GET /tasks/drain", Value::Null).await;
    scribe.ask("root", "GET /tasks?state=succeeded", Value::Null).await;
    scribe.ask("root", "PUT /tasks/drain", json!({ "draining": false })).await;
    world.pass(Duration::from_secs(60)).await;
    scribe.ask("root", "GET /tasks?state=succeeded&limit=1", Value::Null).await;
    scribe.ask("root", "GET /audit?names=task.,tasks.&limit=3", Value::Null).await;
    scribe.ask("root", "GET /audit?actor=olga", Value::Null).await;
    scribe.ask("bea", "GET /audit?names=token.", Value::Null).await;
    insta::assert_snapshot!(scribe.book);
}
