//! What no client should send: every answer is the API's own error, and nothing changes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use axum::http::StatusCode;
use portolan::model::Scope;
use portolan::model::query::Filter;
use portolan::storage::Kind;
use portolan_http::auth::bearer_header;
use serde_json::{Value, json};
use world::World;

/// Every operation that takes a body, with a good one.
fn bodies() -> Vec<(&'static str, Value)> {
    vec![
        ("POST /platforms", json!({ "name": "x", "driver": "fake", "settings": { "root": "x" } })),
        ("POST /platforms/test", json!({ "name": "x", "driver": "fake", "settings": { "root": "x" } })),
        ("POST /destinations", json!({ "name": "x", "kind": "memory", "settings": { "bucket": "x" } })),
        ("POST /accounts", json!({ "login": "x", "role": "VIEWER", "password": "long enough" })),
        ("PATCH /accounts/vera", json!({ "role": "VIEWER", "enabled": true, "time_zone": "UTC" })),
        ("POST /accounts/vera/password", json!({ "new": "long enough", "revoke_tokens": false })),
        ("POST /tokens", json!({ "name": "x", "role": "VIEWER", "expires": "2030-01-01T00:00:00Z" })),
        ("POST /tenants", json!({ "name": "x", "external_id": "y" })),
        ("PATCH /tenants/blue", json!({ "name": "blue", "external_id": "os-blue" })),
        ("PUT /tasks/drain", json!({ "draining": true })),
        ("POST /tasks/00000000-0000-0000-0000-000000000000/abandon", json!({ "reason": "x" })),
        ("POST /machines/web/power", json!({ "action": "shutdown", "within_seconds": 60 })),
        ("POST /machines/web/clone", json!({ "name": "x", "datastore": "d" })),
        ("POST /machines/web/move", json!({ "datastore": "d" })),
        ("POST /machines/web/backup", json!({ "type": "FULL", "destination": "vault" })),
        ("POST /machines/web/snapshots", json!({ "name": "x", "memory": false })),
        (
            "POST /backups/00000000-0000-0000-0000-000000000000/restore",
            json!({ "name": "x", "platform": "lab", "overwrite": true, "power_off": false }),
        ),
        (
            "POST /backups/00000000-0000-0000-0000-000000000000/instant-restore",
            json!({ "name": "x", "datastore": "d" }),
        ),
        ("POST /backups/00000000-0000-0000-0000-000000000000/trial", json!({ "console": "x", "within_seconds": 60 })),
    ]
}

async fn counts(world: &World) -> Vec<u64> {
    let mut counts = Vec::new();
    for kind in [Kind::Platform, Kind::Destination, Kind::Account, Kind::ApiToken, Kind::Tenant, Kind::Secured] {
        counts.push(world.portolan.storage().count(Scope::All, kind, &Filter::All).await.unwrap());
    }
    counts
}

/// Sends as `root`; the answer must be an error in the API's form.
async fn refused(world: &World, call: &str, headers: &[(&str, &str)], body: String) -> (StatusCode, String) {
    let header = bearer_header(&world.tokens["root"]);
    let mut all = vec![("authorization", header.to_str().unwrap())];
    all.extend(headers);
    let (status, _, text) = world.send(call, &all, body).await;
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{call}: {text}"));
    let code = answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{call}: {status} {text}"));
    assert!((400..500).contains(&status.as_u16()), "{call}: {status} {text}");
    assert!(text.len() < 2000, "{call}: an answer does not repeat what was sent");
    (status, code.to_owned())
}

#[tokio::test(start_paused = true)]
async fn bodies_of_every_wrong_shape_are_refused() {
    let world = World::new().await;
    let before = counts(&world).await;
    for (call, good) in bodies() {
        let mut bad: Vec<String> =
            ["null", "[]", "1", "\"x\"", "{", "{}x", "\u{0}", "{\"a\":"].map(str::to_owned).into();
        bad.push("[".repeat(100_000));
        let fields: Vec<String> = good.as_object().unwrap().keys().cloned().collect();
        for field in &fields {
            for wrong in [json!(1.5), json!([1]), json!({ "a": { "b": 1 } }), json!([[["x"]]])] {
                let mut body = good.clone();
                body[field] = wrong;
                bad.push(body.to_string());
            }
        }
        let mut unknown = good.clone();
        unknown["surprise"] = json!(1);
        bad.push(unknown.to_string());
        let doubled = good.to_string().replacen('{', &format!("{{\"{}\":{},", fields[0], good[&fields[0]]), 1);
        bad.push(doubled);
        for body in bad {
            let (status, _) = refused(&world, call, &[], body.clone()).await;
            let short: String = body.chars().take(80).collect();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{call} {short}");
        }
        let (status, code) = refused(&world, call, &[("content-type", "text/plain")], good.to_string()).await;
        assert_eq!((status, code.as_str()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"));
        let (status, code) = refused(&world, call, &[], " ".repeat((2 << 20) + 1)).await;
        assert_eq!((status, code.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"));
    }
    assert_eq!(counts(&world).await, before);
}

#[tokio::test(start_paused = true)]
async fn texts_that_no_name_can_be_are_refused() {
    let world = World::new().await;
    let before = counts(&world).await;
    let long = "x".repeat(256);
    for name in ["", " ", "a\nb", "a\u{0}b", long.as_str()] {
        for (call, field) in [("POST /platforms", "name"), ("POST /destinations", "name"), ("POST /accounts", "login")]
            .into_iter()
            .chain([("POST /tokens", "name"), ("POST /tenants", "name"), ("PATCH /tenants/blue", "name")])
        {
            let mut body = bodies().into_iter().find(|row| row.0 == call).unwrap().1;
            body[field] = json!(name);
            assert_eq!(
                refused(&world, call, &[], body.to_string()).await.0,
                StatusCode::BAD_REQUEST,
                "{call} {name:?}"
            );
        }
    }
    for (call, body) in [
        ("POST /accounts", json!({ "login": "y", "role": "GOD", "password": "long enough" })),
        ("POST /accounts", json!({ "login": "y", "role": "VIEWER", "password": "short" })),
        ("POST /accounts", json!({ "login": "y", "role": "VIEWER", "time_zone": "Mars/Base" })),
        ("POST /tokens", json!({ "name": "y", "expires": "tomorrow" })),
        ("POST /tokens", json!({ "name": "y", "expires": "2001-01-01T00:00:00Z" })),
        ("POST /platforms", json!({ "name": "y", "driver": "fake", "settings": { "root": "a", "Root": "b" } })),
        ("POST /platforms", json!({ "name": "y", "driver": "fake", "settings": { "root": "" } })),
        (
            "POST /platforms",
            json!({ "name": "y", "driver": "fake", "settings": { "root": "a" }, "secrets": { "root": "b" } }),
        ),
        ("POST /destinations", json!({ "name": "y", "kind": "memory", "settings": {}, "recovery_key": "x" })),
        ("POST /machines/web/power", json!({ "action": "explode" })),
        ("POST /machines/web/power", json!({ "action": "start", "within_seconds": 5 })),
        ("POST /machines/web/backup", json!({ "type": "HALF" })),
        ("POST /machines/web/snapshots", json!({ "name": "a\nb" })),
    ] {
        assert_eq!(refused(&world, call, &[], body.to_string()).await.0, StatusCode::BAD_REQUEST, "{call} {body}");
    }
    assert_eq!(counts(&world).await, before);
    // What people call things is theirs.
    for name in ["Zoë's ☂", "名前", "../../etc/passwd", "%2e%2e", "a'; DROP TABLE platform; --"] {
        let made = world.root("POST /tenants", json!({ "name": name })).await;
        assert_eq!(made["name"], name);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_parameters_paths_and_methods_are_named_as_such() {
    let world = World::new().await;
    for call in [
        "GET /platforms?surprise=1",
        "GET /platforms?limit=1&limit=2",
        "GET /platforms?limit=0",
        "GET /platforms?limit=1001",
        "GET /platforms?limit=-1",
        "GET /platforms?limit=many",
        "GET /platforms?offset=99999999999999999999",
        "GET /platforms?offset=9999999999999",
        "GET /tasks?state=asleep",
        "GET /tasks?chain=x",
        "GET /tasks?vm=%00",
        "GET /audit?subject=x",
        "GET /audit?from=yesterday",
        "GET /audit?before=x",
        "GET /audit?offset=1",
        "GET /audit?limit=1001",
        "GET /whoami?x=1",
        "GET /status?verbose",
        "DELETE /platforms/x?force=maybe",
        "DELETE /accounts/vera?force=true",
        "POST /tokens?x=1",
    ] {
        assert_eq!(refused(&world, call, &[], String::new()).await.0, StatusCode::BAD_REQUEST, "{call}");
    }
    let long = format!("GET /platforms/{}", "x".repeat(5000));
    for call in
        ["GET /nope", "GET /platforms/x/y/z", "GET /platforms/a%00b", "GET /tasks/1", "GET /accounts/%FF", &long]
    {
        assert_eq!(refused(&world, call, &[], String::new()).await.0, StatusCode::NOT_FOUND, "{call}");
    }
    for call in ["PUT /platforms", "POST /whoami", "DELETE /tasks", "PATCH /tokens/x", "TRACE /status"] {
        assert_eq!(refused(&world, call, &[], String::new()).await.0, StatusCode::METHOD_NOT_ALLOWED, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_other_origins_do_not_use_a_browsers_password() {
    let world = World::new().await;
    let foreign = [("origin", "https://evil.example"), ("host", "portolan:9180")];
    let (status, code) = refused(&world, "GET /whoami", &foreign, String::new()).await;
    assert_eq!((status, code.as_str()), (StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED"));
    let header = bearer_header(&world.tokens["root"]);
    let own =
        [("origin", "http://portolan:9180"), ("host", "portolan:9180"), ("authorization", header.to_str().unwrap())];
    assert_eq!(world.send("GET /whoami", &own, String::new()).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn secrets_go_in_and_do_not_come_out() {
    let world = World::new().await;
    let lab = json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab", "token": world::TOKEN } });
    let mut seen = world.root("POST /platforms", lab.clone()).await.to_string();
    for body in [json!({ "name": "lab", "driver": "fake", "settings": { "tok": world::TOKEN } }), lab] {
        seen += &world.ask("root", "POST /platforms", body).await.1.to_string();
    }
    for call in ["GET /platforms", "GET /platforms/lab", "POST /platforms/lab/test", "GET /tasks", "GET /status"] {
        seen += &world.root(call, Value::Null).await.to_string();
    }
    assert!(!seen.contains(world::TOKEN) && !seen.contains("argon2"), "{seen}");
}
