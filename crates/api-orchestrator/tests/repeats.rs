//! Requests with an `Idempotency-Key`: carried out once, answered the same, each with its own cookie.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod world;

use async_trait::async_trait;
use axum::extract::Request;
use portolan::access;
use portolan_api_orchestrator::{router_once, senders};
use portolan_http::idempotency::{Begun, Hold, KeyedRequest, PortError, Replays};
use portolan_http::{Edge, Idempotency, Peer};
use portolan_model::RequestKey;
use portolan_testkit::clock::SeededIds;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use world::{Talk, World, options, with};

/// Kept answers as the server wires them.
struct Kept(access::Replays);

struct Held(access::ReplayHold);

#[async_trait]
impl Replays for Kept {
    async fn begin(&self, request: &KeyedRequest<'_>) -> Result<Begun, PortError> {
        let parts = [request.method.as_bytes(), request.target.as_bytes(), request.body];
        let KeyedRequest { dialect, sender, key, .. } = *request;
        Ok(match self.0.begin(&access::Asked { dialect, sender, key, parts: &parts }).await? {
            access::Begun::Fresh(hold) => Begun::Fresh(Box::new(Held(hold))),
            access::Begun::Answered(answer) => Begun::Replay(answer.to_vec()),
            access::Begun::InFlight => Begun::InFlight,
            access::Begun::Mismatch => Begun::Mismatch,
        })
    }
}

#[async_trait]
impl Hold for Held {
    fn request(&self) -> RequestKey {
        self.0.request()
    }

    fn lasts(&self) -> Duration {
        self.0.lasts()
    }

    async fn extend(&self) -> Result<bool, PortError> {
        Ok(self.0.extend().await?)
    }

    async fn complete(&self, answer: &[u8]) -> Result<bool, PortError> {
        Ok(self.0.complete(answer).await?)
    }

    async fn release(&self) -> Result<(), PortError> {
        Ok(self.0.release().await?)
    }
}

fn talk(world: &World) -> Talk {
    let portolan = &world.portolan;
    let replays = Arc::new(Kept(portolan.access.replays.clone()));
    let once = Idempotency::new("orchestrator", replays, senders(Arc::clone(portolan), options()));
    let edge = options().edge(Edge::new("orchestrator", Arc::new(SeededIds::new(3))));
    Talk(edge.wrap(router_once(Arc::clone(portolan), options(), once)))
}

fn start(from: &str, headers: &[(&str, &str)], name: &str) -> Request {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let body = json!({ "name": name, "image": "1", "size": "1" }).to_string();
    let mut request = with("POST", "/api/v1/vm/start", &headers, body);
    let address = format!("{from}:4000").parse().unwrap();
    request.extensions_mut().insert(Peer { address, local: "127.0.0.1:5050".parse().unwrap(), tls: false });
    request
}

#[tokio::test(start_paused = true)]
async fn a_repeated_start_makes_one_node() {
    let world = World::new().await;
    let talk = talk(&world);
    let key = [("idempotency-key", "k1")];
    let first = talk.send(start("10.0.0.1", &key, "x")).await;
    assert_eq!((first.status, &first.json()["nodes"]["id"]), (200, &json!("3")));
    let other_program = [("idempotency-key", "k1"), ("user-agent", "other")];
    let again = talk.send(start("10.0.0.1", &other_program, "x")).await;
    assert_eq!((again.status, &again.text), (200, &first.text));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers.get_all("set-cookie").iter().count(), 1);
    assert_ne!(again.cookie().unwrap().split('.').next(), first.cookie().unwrap().split('.').next());
    // Another request under the key, and what is no key, are told in the dialect's form.
    let another = talk.send(start("10.0.0.1", &key, "y")).await;
    assert_eq!((another.status, another.cookie()), (422, None));
    assert_eq!(talk.send(start("10.0.0.1", &[("idempotency-key", "a b")], "x")).await.status, 400);
    // Another sender's key is another key; without one each start is a node.
    assert_eq!(talk.send(start("10.0.0.2", &key, "x")).await.json()["nodes"]["id"], "4");
    let token = talk.post("/api/v1/auth", json!({ "username": "admin", "password": "correct horse" })).await.json();
    let account = [("idempotency-key", "k1"), ("x-auth-token", token["token"].as_str().unwrap())];
    for _ in 0..2 {
        assert_eq!(talk.send(start("10.0.0.1", &account, "x")).await.json()["nodes"]["id"], "5");
    }
    assert_eq!(
        talk.send(start("10.0.0.1", &[("idempotency-key", "k1"), ("x-auth-token", "wrong")], "x")).await.status,
        403
    );
    assert_eq!(talk.send(start("10.0.0.1", &[], "x")).await.json()["nodes"]["id"], "6");
}

/// What is refused for whom it is meant for is refused before anything is kept; what was wrong stays wrong.
#[tokio::test(start_paused = true)]
async fn refusals() {
    let world = World::new().await;
    let talk = talk(&world);
    let foreign = [("idempotency-key", "k"), ("origin", "http://evil.example")];
    assert_eq!(talk.send(start("10.0.0.1", &foreign, "x")).await.status, 403);
    assert_eq!(talk.send(start("10.0.0.1", &[("idempotency-key", "k")], "x")).await.status, 200);
    let page = [("idempotency-key", "k2"), ("x-requested-with", "XMLHttpRequest")];
    let first = talk.send(start("10.0.0.1", &page, "a\nb")).await;
    let again = talk.send(start("10.0.0.1", &page, "a\nb")).await;
    assert!(first.status == 400 && first.text == again.text && !first.text.contains('\n'));
    // Every login is a session of its own.
    let login = || {
        let headers = [("idempotency-key", "k3"), ("content-type", "application/json")];
        with("POST", "/api/v1/auth", &headers, r#"{"username":"admin","password":"correct horse"}"#)
    };
    assert_ne!(talk.send(login()).await.json()["token"], talk.send(login()).await.json()["token"]);
}
