//! Who is served what: tokens, logins, the cookie, tenants, hosts.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod world;

use axum::http::header;
use portolan::access::NewToken;
use portolan::model::{Privilege, Role};
use portolan_api_orchestrator::OrchestratorOptions;
use portolan_http::auth::basic_header;
use portolan_model::Secret;
use serde_json::json;
use std::time::Duration;
use world::{Talk, World, ask, me, options, with};

const REAL: &str = "/api/v1/nodes/real";

async fn login(talk: &Talk, username: &str, password: &str) -> (String, String) {
    let answer = talk.post("/api/v1/auth", json!({ "username": username, "password": password })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!((&body["status"], &body["status_code"]), (&json!("ok"), &json!(200)));
    (body["token"].as_str().unwrap().to_owned(), answer.cookie().unwrap())
}

async fn status(talk: &Talk, path: &str, headers: &[(&str, &str)]) -> u16 {
    talk.send(with("GET", path, headers, "")).await.status
}

#[tokio::test(start_paused = true)]
async fn logins() {
    let world = World::new().await;
    let talk = world.talk();
    for (body, expected) in [
        (r#"{"username":"admin","password":"wrong"}"#, 403),
        (r#"{"username":"nobody","password":"correct horse"}"#, 403),
        (r#"{"username":"admin"}"#, 403),
        (r#"{"username":5,"password":[]}"#, 403),
        ("[]", 403),
        ("null", 403),
        ("", 400),
        ("{", 400),
    ] {
        let answer = talk.post("/api/v1/auth", body).await;
        assert_eq!(answer.status, expected, "{body}");
        assert_eq!(answer.message(), if expected == 403 { "Forbidden" } else { "Malformed JSON stream" });
    }
    let (one, _) = login(&talk, "admin", "correct horse").await;
    let (two, _) = login(&talk, "admin", "correct horse").await;
    assert_ne!(one, two, "one more token with every login");
    for token in [&one, &two] {
        assert_eq!(status(&talk, REAL, &[("x-auth-token", token)]).await, 200);
    }
    assert!(talk.get("/api/v1/auth/login").await.text.contains("/api/v1/auth"));
    assert_eq!(talk.post("/api/v1/auth/login", r#"{"username":"admin","password":"correct horse"}"#).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn every_way_to_say_who_asks() {
    let world = World::new().await;
    let talk = world.talk();
    let (token, cookie) = login(&talk, "admin", "correct horse").await;
    let (bearer, cookie) = (format!("Bearer {token}"), format!("session={cookie}"));
    let basic = |password: &str| basic_header("admin", &Secret::new(password)).to_str().unwrap().to_owned();
    let (good, bad) = (basic("correct horse"), basic("wrong"));
    for (headers, expected) in [
        (vec![("x-auth-token", token.as_str())], 200),
        (vec![("authorization", &bearer)], 200),
        (vec![("authorization", &good)], 200),
        (vec![("cookie", &cookie)], 200),
        (vec![], 403),
        (vec![("x-auth-token", "wrong")], 403),
        (vec![("x-auth-token", "")], 403),
        (vec![("authorization", "Bearer wrong")], 403),
        (vec![("authorization", &bad)], 403),
        (vec![("authorization", "Digest x")], 403),
        (vec![("cookie", "session=wrong")], 403),
    ] {
        assert_eq!(status(&talk, REAL, &headers).await, expected, "{headers:?}");
    }
    // What is wrong is wrong everywhere, but for a cookie, which clients do not choose.
    for (headers, expected) in [
        (vec![("x-auth-token", "wrong")], 403),
        (vec![("authorization", &bad)], 403),
        (vec![("x-auth-token", "")], 200),
        (vec![("cookie", "session=wrong")], 200),
    ] {
        assert_eq!(status(&talk, "/api/v1/nodes", &headers).await, expected, "{headers:?}");
    }
    // The body's counts before the query's, and that before the header's.
    let body = |token: &str| json!({ "auth_token": token }).to_string();
    for (query, header, body, expected) in [
        (token.as_str(), "wrong", String::new(), 200),
        ("wrong", token.as_str(), String::new(), 403),
        ("wrong", "wrong", body(&token), 200),
        (&token, &token, body("wrong"), 403),
        (&token, &token, json!({ "auth_token": 5 }).to_string(), 403),
        ("", &token, body(""), 200),
    ] {
        let headers = [("x-auth-token", header), ("content-type", "application/json")];
        let request = with("GET", &format!("{REAL}?auth_token={query}"), &headers, body.clone());
        assert_eq!(talk.send(request).await.status, expected, "{query} {header} {body}");
    }
    // In a body that is checked it is no wrong key.
    let start = json!({ "name": "x", "image": "1", "size": "1", "auth_token": token });
    assert_eq!(talk.post("/api/v1/vm/start/real", start).await.status, 200);
    let stop = json!({ "node": "3", "bogus": 1, "auth_token": token });
    let refused = talk.put("/api/v1/vm/stop/real", stop).await.message();
    assert!(refused.ends_with("wrong keys u'bogus' in {u'bogus': 1, u'node': u'3'}"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn tokens_for_programs() {
    let world = World::new().await;
    let talk = world.talk();
    let new = NewToken { name: "ci".into(), account: Some("admin".into()), ..NewToken::default() };
    let (_, token) = world.portolan.access.tokens.create(&me(), new).await.unwrap();
    assert_eq!(status(&talk, REAL, &[("x-auth-token", token.reveal())]).await, 200);
    assert_eq!(status(&talk, REAL, &[("authorization", &format!("Bearer {}", token.reveal()))]).await, 200);
}

#[tokio::test(start_paused = true)]
async fn the_cookie_holds_the_session() {
    let world = World::new().await;
    let talk = world.talk();
    let (token, cookie) = login(&talk, "admin", "correct horse").await;
    let sent = format!("session={cookie}");
    // An answer hands the session on.
    let answer = talk.send(with("GET", "/api/v1/nope", &[("cookie", &sent)], "")).await;
    let handed = format!("session={}", answer.cookie().unwrap());
    assert_eq!(status(&talk, REAL, &[("cookie", &handed)]).await, 200);
    let out = talk.send(with("GET", "/api/v1/auth/logout", &[("cookie", &handed)], "")).await;
    assert_eq!((out.status, out.headers[header::LOCATION].to_str().unwrap()), (302, "/"));
    for cookie in [sent, handed, format!("session={}", out.cookie().unwrap())] {
        assert_eq!(status(&talk, REAL, &[("cookie", &cookie)]).await, 403);
        assert_eq!(status(&talk, "/api/v1/nodes", &[("cookie", &cookie)]).await, 200);
    }
    assert_eq!(status(&talk, REAL, &[("x-auth-token", &token)]).await, 403);
    // Sessions end by themselves, too.
    let (token, _) = login(&talk, "admin", "correct horse").await;
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    assert_eq!(status(&talk, REAL, &[("x-auth-token", &token)]).await, 403);
}

#[tokio::test(start_paused = true)]
async fn what_is_open() {
    let world = World::new().await;
    let start = json!({ "name": "x", "image": "1", "size": "1" });
    let open = OrchestratorOptions { open: true, ..options() };
    let required = OrchestratorOptions { auth_required: true, ..options() };
    for (options, dummy, real, other) in [(options(), 200, 403, 200), (open, 200, 200, 200), (required, 403, 403, 403)]
    {
        let talk = world.talk_with(options);
        for list in ["nodes", "images", "sizes", "vm/status"] {
            assert_eq!(talk.get(&format!("/api/v1/{list}/fake_driver")).await.status, dummy);
            assert_eq!(talk.get(&format!("/api/v1/{list}/real")).await.status, real);
        }
        assert_eq!(talk.post("/api/v1/vm/start/fake_driver", &start).await.status, dummy);
        assert_eq!(talk.post("/api/v1/vm/start/real", &start).await.status, real);
        assert_eq!(talk.put("/api/v1/vm/stop/fake_driver", json!({ "node": "3" })).await.status, dummy);
        assert_eq!(talk.put("/api/v1/vm/stop/real", json!({ "node": "3" })).await.status, real);
        for path in ["cloud", "tenants"] {
            assert_eq!(talk.get(&format!("/api/v1/{path}")).await.status, other);
        }
        assert_eq!(talk.put("/api/v1/vm/action/assign", json!({ "emulate": true })).await.status, other);
        assert_eq!(talk.get("/api/v1/").await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn the_protected_probe() {
    let world = World::new().await;
    let talk = world.talk();
    let (token, _) = login(&talk, "admin", "correct horse").await;
    for path in ["/api/v1/test/start", "/api/v1/test/5/kill"] {
        let asked = |token: &str| with("PUT", path, &[("x-auth-token", token)], "");
        let passed = talk.send(asked(&token)).await;
        assert_eq!(passed.json(), json!({ "authenticated": "yes", "status": "ok", "test": "passed" }));
        assert_eq!(talk.send(asked("wrong")).await.status, 403);
        assert_eq!(talk.put(path, "{}").await.status, 403);
        assert_eq!(talk.put(path, json!({ "auth_token": token })).await.status, 200);
        // A body that says it is JSON and is none.
        let empty = with("PUT", path, &[("x-auth-token", &token), ("content-type", "application/json")], "");
        assert_eq!(talk.send(empty).await.status, 400);
    }
    let nobody = OrchestratorOptions { default_cloud: Some("nobody".into()), ..options() };
    let asked = with("PUT", "/api/v1/test/start", &[("x-auth-token", &token)], "");
    assert_eq!(world.talk_with(nobody).send(asked).await.status, 500);
}

#[tokio::test(start_paused = true)]
async fn roles_and_tenants() {
    let world = World::new().await;
    let talk = world.talk();
    let tenants = &world.portolan.access.tenants;
    let (one, two) = (
        tenants.create(&me(), "one", "ext-1").await.unwrap().value.id,
        tenants.create(&me(), "two", "ext-2").await.unwrap().value.id,
    );
    world.account("one", "battery staple", Role::Operator, Some(one)).await;
    world.account("two", "battery staple", Role::Operator, Some(two)).await;
    world.account("viewer", "battery staple", Role::Viewer, None).await;
    assert!(!Role::Viewer.grants(Privilege::InventoryWrite));
    let (first, second, viewer) = (
        login(&talk, "one", "battery staple").await.0,
        login(&talk, "two", "battery staple").await.0,
        login(&talk, "viewer", "battery staple").await.0,
    );
    let send = async |token: &str, method: &str, path: &str, body: serde_json::Value| {
        let headers = [("x-auth-token", token), ("content-type", "application/json")];
        let body = if method == "GET" { String::new() } else { body.to_string() };
        talk.send(with(method, &format!("/api/v1{path}"), &headers, body)).await
    };
    let names = async |token: &str| -> Vec<String> {
        let nodes = send(token, "GET", "/nodes/real", json!({})).await.json();
        nodes["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect()
    };
    let start = json!({ "name": "x", "image": "1", "size": "1" });
    // A viewer looks and does nothing.
    assert_eq!(names(&viewer).await, ["dummy-1", "dummy-2"]);
    assert_eq!(send(&viewer, "POST", "/vm/start/real", start.clone()).await.status, 403);
    assert_eq!(send(&viewer, "PUT", "/vm/stop/real", json!({ "node": "1" })).await.status, 403);
    let assign = |node: &str| json!({ "node": node, "user": "u", "vm_type": "t" });
    assert_eq!(send(&viewer, "PUT", "/vm/action/assign/real", assign("1")).await.status, 403);
    // A tenant sees, stops and assigns its own.
    assert_eq!(names(&first).await, Vec::<String>::new());
    assert_eq!(send(&first, "POST", "/vm/start/real", start.clone()).await.json()["nodes"]["id"], "3");
    assert_eq!(send(&second, "POST", "/vm/start/real", start).await.json()["nodes"]["id"], "4");
    assert_eq!((names(&first).await, names(&second).await), (vec!["dummy-3".into()], vec!["dummy-4".to_owned()]));
    for node in ["1", "4"] {
        let stop = send(&first, "PUT", "/vm/stop/real", json!({ "node": node })).await;
        assert_eq!((stop.status, stop.message().as_str()), (400, "no useful node id here"), "{node}");
        let assign = send(&first, "PUT", "/vm/action/assign/real", assign(node)).await;
        assert_eq!((assign.status, assign.message().as_str()), (400, "Node not found"), "{node}");
    }
    let held = send(&first, "GET", "/vm/status/real", json!({})).await.json();
    assert_eq!(held["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(send(&first, "PUT", "/vm/stop/real", json!({ "node": "3" })).await.status, 200);
    assert_eq!(names(&second).await, ["dummy-4"]);
}

#[tokio::test(start_paused = true)]
async fn hosts_and_origins() {
    let world = World::new().await;
    let talk = world.talk();
    let mut evil = ask("GET", "/api/v1/nodes", "");
    evil.headers_mut().insert(header::HOST, "evil.example:5050".parse().unwrap());
    let answer = talk.send(evil).await;
    assert_eq!((answer.status, answer.message().as_str()), (403, "Forbidden"));
    let foreign = [("origin", "http://evil.example"), ("content-type", "application/json")];
    assert_eq!(talk.send(with("PUT", "/api/v1/vm/stop", &foreign, r#"{"node":"1"}"#)).await.status, 403);
    assert_eq!(talk.send(with("GET", "/api/v1/nodes", &foreign, "")).await.status, 200);
    let own = [("origin", "http://localhost:5050"), ("content-type", "application/json")];
    assert_eq!(talk.send(with("PUT", "/api/v1/vm/stop", &own, r#"{"node":"1"}"#)).await.status, 200);
}
