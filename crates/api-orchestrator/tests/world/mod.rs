//! What stands behind the dialect in its tests: a whole Portolan in memory over dummy clouds that fail on cue.

// Each test file uses a part of it.
#![allow(dead_code)]

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use portolan::Portolan;
use portolan::access::{MasterKey, NewAccount, Vault};
use portolan::driver::{CloudDriver, DummyCloud, Faults, MemoryDriverState, Timed};
use portolan::inventory::NewPlatform;
use portolan::model::*;
use portolan::storage::MemoryStorage;
use portolan_api_orchestrator::{HostCheck, OrchestratorOptions, router};
use portolan_http::Edge;
use portolan_testkit::clock::{SeededIds, TokioClock};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const COOKIE_KEY: [u8; 32] = [7; 32];

pub(crate) struct World {
    pub(crate) portolan: Arc<Portolan>,
    /// The cloud `fake_driver`, which is the default one and open.
    pub(crate) fake: Arc<Faults>,
    /// The cloud `real`, which stands for a real one.
    pub(crate) real: Arc<Faults>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn me() -> Caller {
    Caller::system()
}

pub(crate) fn options() -> OrchestratorOptions {
    let hosts = HostCheck::new::<&str>(&["127.0.0.1:5050".parse().unwrap()], &[]);
    OrchestratorOptions { default_cloud: Some("fake_driver".into()), ..OrchestratorOptions::new(hosts, COOKIE_KEY) }
}

impl World {
    /// Both clouds, the account `admin`, and a running engine.
    pub(crate) async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::at(Timestamp::from_millis(1_795_219_200_000)));
        let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(7));
        let vault = Vault::unchecked(MasterKey::generate(&*ids));
        let portolan = Portolan::builder(Arc::new(MemoryStorage::new()), vault)
            .clock(Arc::clone(&clock))
            .ids(Arc::clone(&ids))
            .build()
            .unwrap();
        let cloud = || Faults::new(Arc::new(DummyCloud::new(Arc::new(MemoryDriverState::default()), Arc::clone(&ids))));
        let world = Self { portolan: Arc::new(portolan), fake: cloud(), real: cloud(), stop: CancellationToken::new() };
        world.register("fake_driver", "dummy", world.fake.clone()).await;
        world.register("real", "openstack", world.real.clone()).await;
        world.account("admin", "correct horse", Role::Administrator, None).await;
        let engine = world.portolan.engine("node-1").build();
        let stop = world.stop.clone();
        tokio::spawn(async move { engine.run(stop).await });
        world
    }

    pub(crate) async fn register(&self, name: &str, driver: &str, cloud: Arc<dyn CloudDriver>) {
        let new = NewPlatform {
            name: Name::new(name).unwrap(),
            driver: driver.into(),
            url: format!("memory:{name}"),
            settings: Default::default(),
            declared: false,
        };
        // As the server has it: no call takes for ever.
        let cloud = Arc::new(Timed::new(cloud, Duration::from_secs(20)));
        self.portolan.inventory.register_cloud(&me(), new, |_| cloud).await.unwrap();
    }

    pub(crate) async fn account(&self, login: &str, password: &str, role: Role, tenant: Option<TenantId>) {
        let password = Secret::new(password);
        let new = NewAccount { login: login.into(), password, role, tenant, time_zone: None };
        self.portolan.access.accounts.create(&me(), new).await.unwrap();
    }

    pub(crate) fn talk(&self) -> Talk {
        self.talk_with(options())
    }

    pub(crate) fn talk_with(&self, options: OrchestratorOptions) -> Talk {
        let edge = options.edge(Edge::new("orchestrator", Arc::new(SeededIds::new(3))));
        Talk(edge.wrap(router(Arc::clone(&self.portolan), options)))
    }
}

/// The router, surrounded as in the server.
#[derive(Clone)]
pub(crate) struct Talk(pub(crate) Router);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The value of the session cookie.
    pub(crate) fn cookie(&self) -> Option<String> {
        let set = self.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(set.strip_prefix("session=").unwrap().split(';').next().unwrap().to_owned())
    }
}

/// A request as HTTPie sends it.
pub(crate) fn ask(method: &str, path: &str, body: impl Into<Body>) -> Request {
    with(method, path, &[("content-type", "application/json; charset=utf-8")], body)
}

pub(crate) fn with(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost:5050");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

impl Talk {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(ask("GET", path, "")).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Answer {
        self.send(ask("POST", path, body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: impl ToString) -> Answer {
        self.send(ask("PUT", path, body.to_string())).await
    }

    /// Sends anything, and checks what holds for every answer.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        let head = request.method() == "HEAD";
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let answer = Answer { status, headers, text };
        if let Some(set) = answer.headers.get(header::SET_COOKIE) {
            assert!(set.to_str().unwrap().ends_with("; HttpOnly; Path=/"), "{what}: {set:?}");
        }
        if head {
            assert_eq!(answer.text, "", "{what}");
            return answer;
        }
        if let Some(length) = answer.headers.get(header::CONTENT_LENGTH) {
            assert_eq!(*length, answer.text.len().to_string(), "{what}");
        }
        assert_ne!(status, 405, "{what}");
        if status >= 400 {
            assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json", "{what}");
            assert!(answer.text.is_ascii(), "{what}: {}", answer.text);
            let body = answer.json();
            assert_eq!(body["status"], "error", "{what}");
            assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {body}");
            if status == 404 {
                assert_eq!(body.as_object().unwrap().len(), 2, "{what}: {body}");
            } else {
                assert_eq!(body["status_code"], status, "{what}");
                assert!(body["status_short_message"].is_string() && body["status_long_message"].is_string(), "{what}");
            }
        }
        answer
    }
}
