//! What an operator registers through the management API of a running server, and what is left of it after a restart.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};
use portolan_e2e::{Disk, PASSWORD, Site, until};
use portolan_http::client::Client;
use portolan_model::Secret;
use serde_json::{Value, json};

/// The management API as `admin`, by password.
fn admin(client: Client) -> Client {
    client.basic("admin", &Secret::new(PASSWORD))
}

async fn get(client: &Client, path: &str) -> Value {
    client.get(&format!("/manage/v1{path}")).await.unwrap().ok().unwrap().json().unwrap()
}

async fn post(client: &Client, path: &str, body: &Value) -> Value {
    client.post(&format!("/manage/v1{path}"), body).await.unwrap().ok().unwrap().json().unwrap()
}

/// The status and the code of an answer that is an error.
async fn refused(client: &Client, path: &str, body: &Value) -> (u16, String) {
    let answer = client.post(&format!("/manage/v1{path}"), body).await.unwrap();
    let error: Value = answer.json().unwrap();
    (answer.status.as_u16(), error["error"]["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn platforms_destinations_and_tokens_outlive_a_restart_and_a_kill() {
    let mut site = Site::new();
    // Nothing but what an operator registers.
    site.unset("platform.lab.driver");
    site.unset("platform.lab.root");
    let disk = Disk::sample(1, 4);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let ops = admin(server.management());
    let lab = json!({ "name": "lab", "driver": "images", "settings": { "root": site.root() } });
    let report = post(&ops, "/platforms/test", &lab).await;
    assert_eq!((&report["ok"], &report["found"]["vms"]), (&json!(true), &json!(1)), "{report:#}");
    let added = post(&ops, "/platforms", &lab).await;
    assert_eq!((&added["connected"], &added["kind"]), (&json!(true), &json!("hypervisor")), "{added:#}");
    assert_eq!(refused(&ops, "/platforms", &lab).await, (409, "CONFLICT".into()));
    let relative = json!({ "name": "x", "driver": "images", "settings": { "root": "vms" } });
    assert_eq!(refused(&ops, "/platforms", &relative).await, (400, "VALIDATION_FAILED".into()));
    let place = site.dir().join("second");
    let second = json!({ "name": "second", "kind": "local", "settings": { "path": place }, "default": true });
    let second = post(&ops, "/destinations", &second).await;
    assert_eq!((&second["default"], &second["path"]), (&json!(true), &json!(place)), "{second:#}");
    let key = site.dir().join("second.key");
    std::fs::write(&key, second["recovery_key"].as_str().unwrap()).unwrap();
    // Asked for twice under one key, as a client does whose connection broke: made once, and told again.
    let ask = async || {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_static("ci-token-1"));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = json!({ "name": "ci", "role": "VIEWER" }).to_string().into();
        let answer = ops.send(Method::POST, "/manage/v1/tokens", headers, body).await.unwrap().ok().unwrap();
        answer.json::<Value>().unwrap()
    };
    let token = ask().await;
    assert_eq!(ask().await, token);
    assert_eq!(get(&ops, "/tokens").await["total"], 1);
    let token = Secret::new(token["token"].as_str().unwrap());

    // A backup of a machine of the one to the other, without a restart.
    let api = server.api(&site).await;
    let vm = until("the machine to be listed", async || {
        let found = api.get("/virtual-machines").await;
        found.as_array().unwrap().iter().find(|vm| vm["name"] == "web").cloned()
    })
    .await;
    api.back_up(&vm, "FULL").await;
    let shown = get(&ops, "/destinations/second").await;
    assert!(shown["used_bytes"].as_u64().unwrap() > 0, "{shown:#}");
    server.kill();

    let server = site.start().await;
    let viewer = server.management().bearer(&token);
    let platform = get(&viewer, "/platforms/lab").await;
    assert_eq!((&platform["connected"], &platform["id"]), (&json!(true), &added["id"]), "{platform:#}");
    let destination = get(&viewer, "/destinations/second").await;
    assert_eq!((&destination["connected"], &destination["default"]), (&json!(true), &json!(true)));
    assert_eq!(get(&viewer, "/status").await["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(refused(&viewer, "/platforms", &lab).await, (403, "FORBIDDEN".into()));
    let api = server.api(&site).await;
    api.back_up(&vm, "INCREMENTAL").await;
    // In use, then forgotten; what lies there stays, and its recovery key reads it.
    let ops = admin(server.management());
    let status = async |path: &str| ops.delete(&format!("/manage/v1{path}")).await.unwrap().status.as_u16();
    assert_eq!(status("/platforms/lab").await, 409);
    assert_eq!(status("/platforms/lab?force=true").await, 204);
    assert_eq!(status("/destinations/second?force=true").await, 409, "it is the default");
    ops.put("/manage/v1/destinations/local/default", &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(status("/destinations/second").await, 409);
    assert_eq!(status("/destinations/second?force=true").await, 204);
    assert_eq!(status("/destinations/local?force=true").await, 409, "it stands in the configuration");
    let audit = get(&ops, "/audit?names=platform.,destination.&actor=admin").await;
    let names: Vec<&str> = audit["items"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    let expected =
        ["destination.removed", "destination.made_default", "platform.removed", "destination.added", "platform.added"];
    assert_eq!(names, expected, "{audit:#}");
    server.stop().await;
    let (place, key) = (place.display().to_string(), key.display().to_string());
    let listed = site.run(&["repo", "list", "--repository", &place, "--recovery-key-file", &key]);
    assert!(listed.code == Some(0) && listed.out.contains("web"), "{listed:?}");
}
