//! Conversations with the router, written down so that they are the same from run to run.

// Each test file uses a part of it.
#![allow(dead_code)]

mod kept;

use crate::world::{World, content, me};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use kept::Kept;
use portolan::access::NewAccount;
use portolan::model::{Role, TenantId};
use portolan_api_vplus::{COOKIE, VplusOptions, router, senders, shape_fault};
use portolan_http::{Edge, Idempotency};
use portolan_testkit::clock::SeededIds;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tower::ServiceExt;

/// Answer headers that are part of the contract.
const HEADERS: [&str; 3] = ["content-type", "x-total-count", "retry-after"];
/// Fields that hold a duration, or a size that depends on how well data packs.
const VOLATILE: [&str; 13] = [
    "totalDedupUsedSpace",
    "queuedExportTime",
    "exportTime",
    "queuedStoreTime",
    "storeTime",
    "taskDurationTime",
    "queuedRestoreTime",
    "restoreTime",
    "queuedImportTime",
    "importTime",
    "effectiveBackupSize",
    "stored_bytes",
    "read_bytes",
];

pub(crate) struct Conversation {
    router: Router,
    cookie: Option<String>,
    written: String,
    guids: BTreeMap<String, usize>,
    pub(crate) origin: Option<String>,
}

impl Conversation {
    pub(crate) fn with(world: &World) -> Self {
        Self::over(world, false)
    }

    /// With a process that never gets to keep an answer.
    pub(crate) fn dying_before_the_answer(world: &World) -> Self {
        Self::over(world, true)
    }

    fn over(world: &World, dies: bool) -> Self {
        let options = VplusOptions::new(true, &["https://engine.example".to_owned()]).unwrap();
        let edge = Edge::new("vplus", Arc::new(SeededIds::new(3))).faults(shape_fault).cors(options.cors.clone());
        let kept = Kept { replays: world.portolan.access.replays.clone(), dies };
        let senders = senders(Arc::clone(&world.portolan), options.clone());
        let once = Idempotency::new("vplus", Arc::new(kept), senders);
        let router = edge.wrap(once.wrap(router(Arc::clone(&world.portolan), options)));
        Self { router, cookie: None, written: String::new(), guids: BTreeMap::new(), origin: None }
    }

    pub(crate) async fn login(&mut self) {
        self.login_as("portal", "correct horse").await;
    }

    pub(crate) async fn login_as(&mut self, login: &str, password: &str) {
        self.cookie = None;
        let body = json!({ "login": login, "password": password }).to_string();
        assert_eq!(self.status("POST", "/api/session/login", &body).await, 200);
    }

    pub(crate) async fn get(&mut self, path: &str) -> Value {
        self.raw("GET", path, "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: Value) -> Value {
        self.raw("POST", path, &body.to_string()).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: Value) -> Value {
        self.raw("PUT", path, &body.to_string()).await
    }

    /// Sends a request and writes it down with its answer.
    pub(crate) async fn raw(&mut self, method: &str, path: &str, body: &str) -> Value {
        let (status, headers, answer) = self.send(method, path, body).await;
        let request = match serde_json::from_str::<Value>(body) {
            Ok(value) => self.steady(&value),
            Err(_) => body.to_owned(),
        };
        let path = self.words(path);
        writeln!(self.written, "> {method} {path}").unwrap();
        if !request.is_empty() {
            writeln!(self.written, "{request}").unwrap();
        }
        writeln!(self.written, "< {status}").unwrap();
        for (name, value) in headers {
            writeln!(self.written, "{name}: {value}").unwrap();
        }
        let value: Value = serde_json::from_str(&answer).unwrap_or(Value::String(answer.clone()));
        if !answer.is_empty() {
            let steady = self.steady(&value);
            writeln!(self.written, "{steady}").unwrap();
        }
        self.written.push('\n');
        value
    }

    /// Sends a request and writes nothing down.
    pub(crate) async fn quiet_get(&mut self, path: &str) -> Value {
        let (_, _, answer) = self.send("GET", path, "").await;
        serde_json::from_str(&answer).unwrap()
    }

    /// Talks without writing anything down.
    pub(crate) async fn quietly(&mut self, talk: impl AsyncFnOnce(&mut Self)) {
        let written = self.written.clone();
        talk(self).await;
        self.written = written;
    }

    pub(crate) async fn status(&mut self, method: &str, path: &str, body: &str) -> u16 {
        self.send(method, path, body).await.0
    }

    pub(crate) fn text(&self) -> &str {
        &self.written
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<(&'static str, String)>, String) {
        let answer = self.exchange(self.request(method, path).body(Body::from(body.to_owned())).unwrap()).await;
        let headers = HEADERS
            .iter()
            .filter_map(|name| Some((*name, answer.headers.get(*name)?.to_str().unwrap().to_owned())))
            .collect();
        (answer.status, headers, answer.text)
    }

    /// A request with the session's cookie, to be given a body.
    pub(crate) fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "portolan.example:8181");
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        if let Some(origin) = &self.origin {
            request = request.header(header::ORIGIN, origin);
        }
        request
    }

    /// Sends a request beside others, and tells the status alone.
    pub(crate) async fn plain(&self, request: Request<Body>) -> u16 {
        self.router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    /// Sends anything, and checks what holds for every answer: errors are JSON with a message, nothing is `null`.
    pub(crate) async fn exchange(&mut self, request: Request<Body>) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        let silent = request.method() == "HEAD" || request.method() == "OPTIONS";
        let response = self.router.clone().oneshot(request).await.unwrap();
        for value in response.headers().get_all(header::SET_COOKIE) {
            let value = value.to_str().unwrap();
            let token = value.strip_prefix(&format!("{COOKIE}=")).unwrap().split(';').next().unwrap();
            assert!(value.contains("HttpOnly") && value.contains("Secure") && value.contains("SameSite=None"));
            assert!(value.contains("Path=/"));
            self.cookie = (!token.is_empty()).then(|| token.to_owned());
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let value: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        if !silent {
            if text.is_empty() {
                assert_eq!(status, 204, "{what}");
            } else {
                assert_eq!(headers["content-type"], "application/json", "{what}");
                assert!(!holds_null(&value), "{what} answers null: {text}");
            }
            if status >= 400 {
                assert!(value["message"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {text}");
                assert!(value["code"].is_string() && value["status"] == status, "{what}: {text}");
            }
        }
        Answer { status, headers, text, value }
    }

    /// The value, with what differs from run to run replaced by words.
    fn steady(&mut self, value: &Value) -> String {
        let value = self.replace(value, "");
        serde_json::to_string_pretty(&value).unwrap()
    }

    fn replace(&mut self, value: &Value, field: &str) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|v| self.replace(v, field)).collect(),
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), self.replace(v, k))).collect(),
            Value::Number(n) if n.as_i64().is_some_and(|n| n > 1_000_000_000_000) => json!("<moment>"),
            Value::Number(_) if VOLATILE.contains(&field) => json!("<volatile>"),
            Value::Number(_) | Value::Bool(_) | Value::Null => value.clone(),
            Value::String(text) => json!(self.words(text)),
        }
    }

    /// The text, with every guid replaced by a number in the order of appearance, and dates by a word.
    fn words(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(guid) = rest.get(..36).filter(|g| g.as_bytes()[8] == b'-' && uuid::Uuid::parse_str(g).is_ok()) {
                let next = self.guids.len() + 1;
                let number = *self.guids.entry(guid.to_owned()).or_insert(next);
                write!(out, "<guid-{number}>").unwrap();
                rest = &rest[36..];
            } else if rest.get(..19).is_some_and(is_date) {
                out.push_str("<date>");
                rest = &rest[19..];
            } else {
                let c = rest.chars().next().unwrap();
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        out
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) value: Value,
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(holds_null),
        Value::Object(fields) => fields.values().any(holds_null),
        _ => false,
    }
}

/// A world with two machines, an account `portal`, and a running engine.
pub(crate) async fn ready() -> (World, Conversation) {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1)), ("disk2", content(2))]);
    world.fake.add_vm("db01", &[("disk1", content(3))]);
    account(&world, "portal", "correct horse", Role::Administrator, None).await;
    world.start();
    let conversation = Conversation::with(&world);
    (world, conversation)
}

pub(crate) async fn account(world: &World, login: &str, password: &str, role: Role, tenant: Option<TenantId>) {
    let new = NewAccount {
        login: login.into(),
        password: portolan::model::Secret::new(password),
        role,
        tenant,
        time_zone: None,
    };
    world.portolan.access.accounts.create(&me(), new).await.unwrap();
}

/// `2026-11-21 01:00:04`
fn is_date(text: &str) -> bool {
    text.bytes().zip(b"0000-00-00 00:00:00").all(|(c, p)| if *p == b'0' { c.is_ascii_digit() } else { c == *p })
}
