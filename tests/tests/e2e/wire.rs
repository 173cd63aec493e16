//! Bad input over the real listener: each gets the dialect's own error and changes nothing, and the server goes on.

use portolan_e2e::{Site, assert_error};
use portolan_http::client::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn raw_body(client: &Client, path: &str, body: &'static [u8]) -> portolan_http::client::Answer {
    let headers = [("content-type".parse().unwrap(), "application/json".parse().unwrap())].into_iter().collect();
    client.send("POST".parse().unwrap(), path, headers, bytes::Bytes::from_static(body)).await.unwrap()
}

#[tokio::test]
async fn bad_requests_get_the_dialects_own_errors() {
    let site = Site::new();
    site.machine("web", &[("root.raw", &portolan_e2e::Disk::sample(1, 1))]);
    let server = site.start().await;
    let stranger = server.stranger(&site);

    // Nobody is let in without a session, nor with a wrong password.
    assert_error(&stranger.get("/virtual-machines").await.unwrap(), 401);
    assert_error(&stranger.get("/session").await.unwrap(), 401);
    let wrong = json!({ "login": "admin", "password": "wrong" });
    let error = assert_error(&stranger.post("/session/login", &wrong).await.unwrap(), 401);
    let nobody = json!({ "login": "nobody", "password": "wrong" });
    let other = assert_error(&stranger.post("/session/login", &nobody).await.unwrap(), 401);
    assert_eq!(error, other, "an answer must not tell which logins there are");

    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;

    for broken in [&b"{\"protectedEntities\": ["[..], b"", b"\xff\xfe", b"nonsense", b"{\"a\":1} {}"] {
        assert_error(&raw_body(&api.client, "/tasks/export", broken).await, 400);
    }
    let deep: &'static [u8] = Box::leak("[".repeat(100_000).into_bytes().into_boxed_slice());
    assert_error(&raw_body(&api.client, "/tasks/export", deep).await, 400);

    for (path, body) in [
        ("/tasks/export", json!([])),
        ("/tasks/export", json!({})),
        ("/tasks/export", json!({ "protectedEntities": [] })),
        ("/tasks/export", json!({ "protectedEntities": "all" })),
        ("/tasks/export", json!({ "protectedEntities": [{ "guid": 7 }] })),
        ("/tasks/export", json!({ "protectedEntities": [{ "guid": "not-a-guid" }] })),
        ("/tasks/export", json!({ "protectedEntities": [vm], "backupType": "HALF" })),
        ("/tasks/export", json!({ "protectedEntities": [vm], "priority": 101 })),
        ("/tasks/export", json!({ "protectedEntities": [vm], "priority": -1 })),
        ("/tasks/export", json!({ "protectedEntities": [vm], "priority": { "a": 1 } })),
        ("/tasks/restore-and-import", json!({})),
        ("/tasks/restore-and-import", json!({ "backup": { "guid": [] } })),
        ("/tasks/verify", json!({})),
        ("/session/login", json!({ "login": "admin" })),
        ("/session/login", json!({ "login": ["admin"], "password": {} })),
    ] {
        let answer = api.client.post(path, &body).await.unwrap();
        let error = assert_error(&answer, 400);
        assert!(!error["message"].as_str().unwrap().contains("::"), "no names of code: {error}");
    }

    // A guid that names nothing.
    let ghost = "0193e3a0-0000-7000-8000-000000000000";
    for path in [
        format!("/virtual-machines/{ghost}"),
        format!("/tasks/{ghost}"),
        format!("/backups/{ghost}"),
        format!("/hypervisors/{ghost}"),
        "/virtual-machines/not-a-guid".into(),
        "/nothing/of/the/kind".into(),
    ] {
        assert_error(&api.client.get(&path).await.unwrap(), 404);
    }
    api.refused("/tasks/export", &json!({ "protectedEntities": [{ "guid": ghost }] }), 404).await;
    api.refused("/tasks/restore-and-import", &json!({ "backup": { "guid": ghost } }), 404).await;
    // One that is there and one that is not: nothing is done.
    api.refused("/tasks/export", &json!({ "protectedEntities": [vm, { "guid": ghost }] }), 404).await;
    assert_error(&api.client.put("/virtual-machines", &json!({})).await.unwrap(), 405);

    assert_eq!(api.backups(&vm).await, Vec::<Value>::new());
    let tasks = api.get("/tasks?type=EXPORT").await;
    assert_eq!(tasks, json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let site = Site::empty();
    let server = site.start().await;
    let api = server.api(&site).await;
    let long = vec![b' '; 64 << 20];
    let headers = [("content-type".parse().unwrap(), "application/json".parse().unwrap())].into_iter().collect();
    // The server may stop reading and close before all is sent: then there is no answer, which is as good.
    if let Ok(answer) = api.client.send("POST".parse().unwrap(), "/tasks/export", headers, long.into()).await {
        assert_error(&answer, 413);
    }
    api.get("/session/user").await;
    server.stop().await;
}

#[tokio::test]
async fn silent_and_foreign_clients_are_dropped_and_others_served() {
    let site = Site::empty();
    let server = site.start().await;
    let address = server.address();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut foreign = TcpStream::connect(address).await.unwrap();
    foreign.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut noise = TcpStream::connect(address).await.unwrap();
    noise.write_all(&portolan_testkit::repository::noise(9, 4096)).await.unwrap();

    server.api(&site).await.get("/session/user").await;
    let mut rest = Vec::new();
    let _ = foreign.read_to_end(&mut rest).await;
    let _ = noise.read_to_end(&mut rest).await;
    for mut connection in silent {
        // Ends without a byte for us to wait for.
        let end = tokio::time::timeout(portolan_e2e::PATIENCE, connection.read(&mut [0; 64])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "a silent client was kept");
    }
    server.api(&site).await.get("/session/user").await;
    server.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_logout() {
    let mut site = Site::empty();
    let server = site.start().await;
    let api = server.api(&site).await;
    let other = server.api(&site).await;
    let gone = api.client.post("/session/logout", &json!({})).await.unwrap();
    assert_eq!(gone.status, 204);
    assert_error(&api.client.get("/session/user").await.unwrap(), 401);
    other.get("/session/user").await;
    site.set("listeners.vplus.addresses", server.address());
    server.stop().await;

    // Sessions outlive the process that opened them.
    let server = site.start().await;
    other.get("/session/user").await;
    server.stop().await;
}

#[tokio::test]
async fn health_and_metrics_are_answered_without_a_login() {
    let site = Site::empty();
    let server = site.start().await;
    let management = server.management();
    for path in ["/healthz", "/readyz", "/openapi/vplus.json"] {
        assert_eq!(management.get(path).await.unwrap().status, 200, "{path}");
    }
    let metrics = management.get("/metrics").await.unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("# TYPE"), "{}", metrics.text());
    assert_eq!(management.get("/nothing").await.unwrap().status, 404);
    server.stop().await;
}
