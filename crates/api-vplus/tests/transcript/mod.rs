//! Conversations with the router, written down so that they are the same from run to run.

use crate::world::World;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use portolan_api_vplus::{COOKIE, VplusOptions, router, shape_fault};
use portolan_http::Edge;
use portolan_testkit::clock::SeededIds;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tower::ServiceExt;

/// Answer headers that are part of the contract.
const HEADERS: [&str; 3] = ["content-type", "x-total-count", "retry-after"];
/// Fields that hold a duration, or a size that depends on how well data packs.
const VOLATILE: [&str; 12] = [
    "queuedExportTime", "exportTime", "queuedStoreTime", "storeTime", "taskDurationTime", "queuedRestoreTime",
    "restoreTime", "queuedImportTime", "importTime", "effectiveBackupSize", "stored_bytes", "read_bytes",
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
        let options = VplusOptions::new(true, &["https://engine.example".to_owned()]).unwrap();
        let routes = router(Arc::clone(&world.portolan), options);
        let router = Edge::new("vplus", Arc::new(SeededIds::new(3))).faults(shape_fault).wrap(routes);
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
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "portolan.example:8181");
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        if let Some(origin) = &self.origin {
            request = request.header(header::ORIGIN, origin);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        for value in response.headers().get_all(header::SET_COOKIE) {
            let value = value.to_str().unwrap();
            let token = value.strip_prefix(&format!("{COOKIE}=")).unwrap().split(';').next().unwrap();
            assert!(value.contains("HttpOnly") && value.contains("Secure") && value.contains("SameSite=None"));
            self.cookie = (!token.is_empty()).then(|| token.to_owned());
        }
        let status = response.status().as_u16();
        let headers = HEADERS
            .iter()
            .filter_map(|name| Some((*name, response.headers().get(*name)?.to_str().unwrap().to_owned())))
            .collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, headers, String::from_utf8(bytes.to_vec()).unwrap())
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

/// `2026-11-21 01:00:04`
fn is_date(text: &str) -> bool {
    text.bytes().zip(b"0000-00-00 00:00:00").all(|(c, p)| if *p == b'0' { c.is_ascii_digit() } else { c == *p })
}
