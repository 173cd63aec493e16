//! What stands behind the API in its tests: a whole Portolan in memory, with accounts of every role.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../../portolan/tests/world/factories.rs"]
mod factories;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
pub(crate) use factories::Factories;
#[allow(unused_imports)]
pub(crate) use factories::TOKEN;
use http_body_util::BodyExt;
use portolan::Portolan;
use portolan::access::{AccessOptions, MasterKey, NewAccount, NewToken, PasswordCost, Vault};
use portolan::model::*;
use portolan::storage::MemoryStorage;
use portolan_api_manage::{ManageOptions, router, shape_fault};
use portolan_http::Edge;
use portolan_http::auth::{basic_header, bearer_header};
use portolan_testkit::clock::SeededIds;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct World {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) factories: Factories,
    pub(crate) router: Router,
    /// An API token of each account, by its login.
    pub(crate) tokens: BTreeMap<&'static str, Secret>,
    pub(crate) blue: TenantId,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug)]
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000) + self.0.elapsed()
    }
}

pub(crate) fn me() -> Caller {
    Caller::system()
}

impl World {
    /// The tenant `blue`; the accounts `root`, `olga` (operator), `vera` (viewer), and of the tenant `bea`
    /// (administrator) and `ben` (viewer).
    pub(crate) async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
        let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(7));
        let cost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };
        let factories = Factories::default();
        let vault = Vault::unchecked(MasterKey::from_bytes([5; 32]));
        let portolan = Portolan::builder(Arc::new(MemoryStorage::new()), vault)
            .clock(clock)
            .ids(ids.clone())
            .access(AccessOptions { cost, ..AccessOptions::default() })
            .driver_factory(Arc::new(factories.clone()))
            .destination_factory(Arc::new(factories.clone()))
            .build()
            .unwrap();
        let portolan = Arc::new(portolan);
        let blue = portolan.access.tenants.create(&me(), "blue", "os-blue").await.unwrap().id;
        let mut tokens = BTreeMap::new();
        for (login, role, tenant) in [
            ("root", Role::Administrator, None),
            ("olga", Role::Operator, None),
            ("vera", Role::Viewer, None),
            ("bea", Role::Administrator, Some(blue)),
            ("ben", Role::Viewer, Some(blue)),
        ] {
            let password = Secret::new(PASSWORD);
            let new = NewAccount { login: login.into(), password, role, tenant, time_zone: None };
            portolan.access.accounts.create(&me(), new).await.unwrap();
            let new = NewToken { name: "test".into(), account: Some(login.into()), ..NewToken::default() };
            tokens.insert(login, portolan.access.tokens.create(&me(), new).await.unwrap().1);
        }
        let options = ManageOptions { version: "1.2.3".into(), node: "node-1".into(), started: portolan.now() };
        let router = Edge::new("management", ids).faults(shape_fault).wrap(router(portolan.clone(), options));
        Self { portolan, factories, router, tokens, blue, stop: CancellationToken::new() }
    }

    /// Starts an engine; it stops with the world.
    pub(crate) fn start(&self) {
        let engine = self.portolan.engine("node-1").build();
        self.portolan.operates(engine.drain_switch());
        let stop = self.stop.clone();
        tokio::spawn(async move { engine.run(stop).await });
    }

    /// Lets an engine work.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Asks as the holder of an account's token.
    pub(crate) async fn ask(&self, login: &str, call: &str, body: Value) -> (StatusCode, Value) {
        let header = bearer_header(&self.tokens[login]);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, text) = self.send(call, &[("authorization", header.to_str().unwrap())], body).await;
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    /// Asks as `root`, and fails unless the answer is a success.
    pub(crate) async fn root(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.ask("root", call, body).await;
        assert!(status.is_success(), "{call}: {status} {answer}");
        answer
    }

    /// Asks with a login and a password.
    pub(crate) async fn with_password(&self, login: &str, password: &str, call: &str) -> StatusCode {
        let header = basic_header(login, &Secret::new(password));
        self.send(call, &[("authorization", header.to_str().unwrap())], String::new()).await.0
    }

    /// A request as it is: `call` is `GET /platforms`.
    pub(crate) async fn send(
        &self,
        call: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (StatusCode, axum::http::HeaderMap, String) {
        let (method, path) = call.split_once(' ').unwrap();
        let path = if path.starts_with("/manage/") { path.to_owned() } else { format!("/manage/v1{path}") };
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path);
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !typed {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }
}
