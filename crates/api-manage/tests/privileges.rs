//! Who may do what: every operation, as every role, and without any credentials.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use world::World;

/// The roles that may: `a`dministrator, `o`perator, `v`iewer, and of a tenant the a`d`ministrator and vie`w`er.
/// Bodies are good; what is named is not there, or stays as it is.
fn matrix(world: &World, task: &str) -> Vec<(&'static str, String, Value, &'static str)> {
    let blue = world.blue.to_string();
    let none = || Value::Null;
    let nobody = "00000000-0000-0000-0000-000000000000";
    let row = |operation, path: &str, body, roles| (operation, path.to_owned(), body, roles);
    let platform = json!({ "name": "again", "driver": "fake", "settings": { "root": "again" } });
    let destination = json!({ "name": "again", "kind": "memory", "settings": { "bucket": "again" } });
    vec![
        row("GET /drivers", "/drivers", none(), "aovdw"),
        row("GET /platforms", "/platforms", none(), "aovdw"),
        row("POST /platforms", "/platforms", platform.clone(), "a"),
        row("POST /platforms/test", "/platforms/test", platform, "a"),
        row("GET /platforms/{platform}", "/platforms/lab", none(), "aovdw"),
        row("DELETE /platforms/{platform}", "/platforms/nope", none(), "a"),
        row("POST /platforms/{platform}/test", "/platforms/lab/test", none(), "a"),
        row("POST /platforms/{platform}/sync", "/platforms/lab/sync", none(), "aod"),
        row("GET /destination-kinds", "/destination-kinds", none(), "aovdw"),
        row("GET /destinations", "/destinations", none(), "aovdw"),
        row("POST /destinations", "/destinations", destination, "a"),
        row("GET /destinations/{destination}", "/destinations/vault", none(), "aovdw"),
        row("DELETE /destinations/{destination}", "/destinations/nope", none(), "a"),
        row("POST /destinations/{destination}/test", "/destinations/vault/test", none(), "a"),
        row("PUT /destinations/{destination}/default", "/destinations/vault/default", none(), "a"),
        row("POST /destinations/{destination}/recovery-key", "/destinations/nope/recovery-key", json!({}), "a"),
        row("GET /machines", "/machines", none(), "aovdw"),
        row("GET /machines/{machine}", "/machines/nope", none(), "aovdw"),
        row("POST /machines/{machine}/power", "/machines/nope/power", json!({ "action": "start" }), "aod"),
        row("POST /machines/{machine}/clone", "/machines/nope/clone", json!({ "name": "x" }), "aod"),
        row("POST /machines/{machine}/move", "/machines/nope/move", json!({ "datastore": "x" }), "aod"),
        row("POST /machines/{machine}/backup", "/machines/nope/backup", none(), "aod"),
        row("GET /machines/{machine}/snapshots", "/machines/nope/snapshots", none(), "aovdw"),
        row("POST /machines/{machine}/snapshots", "/machines/nope/snapshots", json!({ "name": "x" }), "aod"),
        row("DELETE /machines/{machine}/snapshots/{snapshot}", "/machines/nope/snapshots/x", none(), "aod"),
        row("POST /machines/{machine}/snapshots/{snapshot}/revert", "/machines/nope/snapshots/x/revert", none(), "aod"),
        row("GET /backups", "/backups", none(), "aovdw"),
        row("GET /backups/{backup}", &format!("/backups/{nobody}"), none(), "aovdw"),
        row("POST /backups/{backup}/restore", &format!("/backups/{nobody}/restore"), none(), "aod"),
        row("POST /backups/{backup}/instant-restore", &format!("/backups/{nobody}/instant-restore"), none(), "aod"),
        row("POST /backups/{backup}/trial", &format!("/backups/{nobody}/trial"), none(), "aod"),
        row("GET /whoami", "/whoami", none(), "aovdw"),
        row("GET /accounts", "/accounts", none(), "ad"),
        row("POST /accounts", "/accounts", json!({ "login": "vera", "role": "VIEWER" }), "ad"),
        row("GET /accounts/{account}", "/accounts/nobody", none(), "ad"),
        row("PATCH /accounts/{account}", "/accounts/nobody", json!({ "enabled": false }), "ad"),
        row("DELETE /accounts/{account}", "/accounts/nobody", none(), "ad"),
        row("POST /accounts/{account}/password", "/accounts/nobody/password", none(), "ad"),
        row("GET /tokens", "/tokens", none(), "aovdw"),
        row("POST /tokens", "/tokens", json!({ "name": "n", "account": "nobody" }), "ad"),
        // Whose it is not, and who does not manage access, does not find it.
        row("GET /tokens/{token}", "/tokens/test", none(), "aovdw"),
        row("DELETE /tokens/{token}", &format!("/tokens/{nobody}"), none(), "aovdw"),
        row("GET /tenants", "/tenants", none(), "aovdw"),
        row("POST /tenants", "/tenants", json!({ "name": "blue" }), "a"),
        row("GET /tenants/{tenant}", &format!("/tenants/{blue}"), none(), "aovdw"),
        row("PATCH /tenants/{tenant}", "/tenants/blue", json!({ "name": "blue" }), "a"),
        row("DELETE /tenants/{tenant}", "/tenants/blue", none(), "a"),
        row("GET /tasks", "/tasks", none(), "aovdw"),
        row("GET /tasks/{task}", &format!("/tasks/{task}"), none(), "aovdw"),
        row("POST /tasks/{task}/cancel", &format!("/tasks/{nobody}/cancel"), none(), "aod"),
        row("POST /tasks/{task}/retry", &format!("/tasks/{nobody}/retry"), none(), "aod"),
        row("POST /tasks/{task}/abandon", &format!("/tasks/{nobody}/abandon"), none(), "aod"),
        row("GET /tasks/drain", "/tasks/drain", none(), "aovdw"),
        row("PUT /tasks/drain", "/tasks/drain", json!({ "draining": false }), "ao"),
        row("GET /audit", "/audit", none(), "ad"),
        row("GET /status", "/status", none(), "aovdw"),
    ]
}

const ROLES: [(char, &str); 5] = [('a', "root"), ('o', "olga"), ('v', "vera"), ('d', "bea"), ('w', "ben")];

async fn world() -> (World, String) {
    let world = World::new().await;
    world.root("POST /platforms", json!({ "name": "lab", "driver": "fake", "settings": { "root": "lab" } })).await;
    world.root("POST /destinations", json!({ "name": "vault", "kind": "memory", "settings": { "bucket": "b" } })).await;
    let tasks = world.root("GET /tasks", Value::Null).await;
    let task = tasks["items"][0]["id"].as_str().unwrap().to_owned();
    (world, task)
}

#[tokio::test(start_paused = true)]
async fn every_operation_asks_for_its_privilege() {
    let (world, task) = world().await;
    for (operation, path, body, may) in matrix(&world, &task) {
        let method = operation.split(' ').next().unwrap();
        for (role, login) in ROLES {
            let (status, answer) = world.ask(login, &format!("{method} {path}"), body.clone()).await;
            let refused = status == StatusCode::FORBIDDEN;
            assert_eq!(!refused, may.contains(role), "{operation} as {login}: {status} {answer}");
            assert!(status.as_u16() < 500 && status != StatusCode::UNAUTHORIZED, "{operation} as {login}: {answer}");
            if refused {
                assert_eq!(answer["error"]["code"], "FORBIDDEN");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_matrix_has_every_operation() {
    let (world, task) = world().await;
    let rows: BTreeSet<String> = matrix(&world, &task).into_iter().map(|row| row.0.to_owned()).collect();
    let mut documented = BTreeSet::new();
    for (path, item) in portolan_api_manage::document().paths.paths {
        let methods = [
            ("GET", item.get.is_some()),
            ("PUT", item.put.is_some()),
            ("POST", item.post.is_some()),
            ("PATCH", item.patch.is_some()),
            ("DELETE", item.delete.is_some()),
        ];
        documented.extend(methods.into_iter().filter(|m| m.1).map(|m| format!("{} {path}", m.0)));
    }
    assert_eq!(rows, documented);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_to_whoever_proves_nothing() {
    let (world, task) = world().await;
    for (operation, path, body, _) in matrix(&world, &task) {
        let method = operation.split(' ').next().unwrap();
        for header in [
            None,
            Some("Bearer ptl_0000000000000000000000000000000000000000000"),
            Some("Bearer x"),
            Some("Basic cm9vdDp3cm9uZw=="),
            Some("Basic !"),
            Some("Digest x"),
        ] {
            let headers: Vec<_> = header.map(|value| ("authorization", value)).into_iter().collect();
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let (status, headers, text) = world.send(&format!("{method} {path}"), &headers, body).await;
            if status == StatusCode::TOO_MANY_REQUESTS {
                // Failed logins are slowed down; tokens are not guessed.
                assert!(header.is_some_and(|h| h.starts_with("Basic")));
                continue;
            }
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{operation} with {header:?}: {text}");
            assert!(headers["www-authenticate"].to_str().unwrap().contains("Basic realm"));
            assert!(text.contains("\"UNAUTHORIZED\""));
        }
    }
    // Those who wait are let in again.
    world.pass(std::time::Duration::from_secs(3600)).await;
    assert_eq!(world.with_password("root", world::PASSWORD, "GET /whoami").await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn settings_are_shown_to_those_who_may_register() {
    let (world, _) = world().await;
    for (login, shown) in [("root", json!({ "root": "lab" })), ("olga", json!({})), ("ben", json!({}))] {
        let (_, platform) = world.ask(login, "GET /platforms/lab", Value::Null).await;
        assert_eq!(platform["settings"], shown, "{login}");
    }
}
