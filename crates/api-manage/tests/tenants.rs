//! A caller who is bound to a tenant sees that tenant's things and what all share, and changes the former only.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use axum::http::StatusCode;
use portolan::access::NewToken;
use serde_json::{Value, json};
use world::World;

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_show_the_tenant_alone() {
    let world = World::new().await;
    world.root("POST /tenants", json!({ "name": "red" })).await;
    world.root("POST /accounts", json!({ "login": "rita", "role": "VIEWER", "tenant": "red" })).await;
    world.root("POST /platforms", json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab" } })).await;
    let seen = async |call| world.ask("bea", call, Value::Null).await.1;
    assert_eq!(names(&seen("GET /accounts").await, "login"), ["bea", "ben"]);
    assert_eq!(names(&seen("GET /tenants").await, "name"), ["blue"]);
    assert_eq!(names(&seen("GET /tokens").await, "account"), ["bea", "ben"]);
    assert_eq!(names(&seen("GET /platforms").await, "name"), ["lab"]);
    assert_eq!(seen("GET /tasks").await["total"], 0, "the listing of a platform is no tenant's");
    let status = seen("GET /status").await;
    let running: u64 = status["tasks"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(running, 0);
    for call in [
        "GET /accounts/rita",
        "DELETE /accounts/root",
        "PATCH /accounts/root",
        "POST /accounts/rita/password",
        "GET /tenants/red",
    ] {
        let (status, answer) = world.ask("bea", call, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{call}: {answer}");
    }
    let made = world.ask("bea", "POST /accounts", json!({ "login": "bob", "role": "OPERATOR" })).await.1;
    assert_eq!(made["tenant"], world.blue.to_string());
    let elsewhere = json!({ "login": "x", "role": "VIEWER", "tenant": "red" });
    assert_eq!(world.ask("bea", "POST /accounts", elsewhere).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_bound_token_of_an_unbound_account_stays_within() {
    let mut world = World::new().await;
    let new = NewToken {
        name: "narrow".into(),
        account: Some("root".into()),
        tenant: Some(world.blue),
        ..NewToken::default()
    };
    let (_, secret) = world.portolan.access.tokens.create(&world::me(), new).await.unwrap();
    world.tokens.insert("narrow", secret);
    let who = world.ask("narrow", "GET /whoami", Value::Null).await.1;
    assert_eq!((&who["tenant"], &who["role"]), (&json!(world.blue.to_string()), &json!("ADMINISTRATOR")));
    assert_eq!(who["account"]["tenant"], Value::Null);
    assert_eq!(names(&world.ask("narrow", "GET /accounts", Value::Null).await.1, "login"), ["bea", "ben"]);
    for (call, body) in [
        ("POST /tenants", json!({ "name": "green" })),
        ("POST /platforms", json!({ "name": "x", "driver": "fake", "settings": { "root": "x" } })),
    ] {
        assert_eq!(world.ask("narrow", call, body).await.0, StatusCode::FORBIDDEN, "{call}");
    }
    let wider = world.ask("narrow", "POST /tokens", json!({ "name": "wider" })).await.1;
    assert_eq!(wider["tenant"], world.blue.to_string());
    assert_eq!(world.ask("narrow", "DELETE /accounts/vera", Value::Null).await.0, StatusCode::NOT_FOUND);
}
