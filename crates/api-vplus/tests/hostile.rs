//! Input that no client sends: nothing panics, every answer is JSON in the dialect's form and of a status that the
//! document lists, and whatever is refused has changed nothing.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod random;
mod transcript;
mod world;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use portolan::model::Scope;
use portolan::model::describe::Describe;
use portolan::storage::{Kind, RawQuery};
use portolan::tasks::TaskQuery;
use portolan_api_vplus::shape_fault;
use portolan_http::{Edge, Fault};
use portolan_testkit::clock::SeededIds;
use random::Random;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use tower::ServiceExt;
use transcript::ready;
use world::World;

#[tokio::test(start_paused = true)]
async fn bodies() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let before = digest(&world).await;
    let posts =
        ["/api/tasks/export", "/api/tasks/restore-and-import", "/api/tasks/inventory-sync", "/api/tasks/verify"];
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{}1{}", "{\"protectedEntities\":".repeat(200), "}".repeat(200));
    let twice = b"{\"protectedEntities\":7,\"protectedEntities\":[\"x\"],\"backup\":\"x\",\"hypervisorManagers\":[1]}";
    for path in posts {
        for body in [
            &b""[..],
            b" ",
            b"null",
            b"7",
            b"\"text\"",
            b"[]",
            b"{",
            b"{\"a\":1}x",
            b"\xff\xfe",
            b"{\"a\":\"\xc3\x28\"}",
            b"\xef\xbb\xbf{}",
            b"{\"priority\":1e400}",
            deep.as_bytes(),
            nested.as_bytes(),
            twice,
            b"{\"hypervisorManagers\":[null],\"protectedEntities\":[null],\"backup\":[null]}",
            b"{\"hypervisorManagers\":{},\"protectedEntities\":{},\"backup\":{}}",
            b"{\"hypervisorManagers\":[\"\\ud800\"]}",
            b"{\"hypervisorManagers\":[\"\\u0000\"],\"backup\":\"\\u0000\"}",
        ] {
            let request = talk.request("POST", path).body(Body::from(body.to_vec())).unwrap();
            let answer = talk.exchange(request).await;
            assert_eq!(answer.status, 400, "{path} {}", String::from_utf8_lossy(&body[..body.len().min(60)]));
            assert!(answer.text.len() < 600, "no echo of what was sent");
        }
    }
    let vm = world.vm("web01").await.id;
    for (field, bad) in [
        ("priority", json!(-1)),
        ("priority", json!(u64::MAX)),
        ("priority", json!("NaN")),
        ("priority", json!("inf")),
        ("priority", json!(1e18)),
        ("priority", json!([50])),
        ("priority", json!("101")),
        ("retryCount", json!(-1)),
        ("retryCount", json!(1_000_000)),
        ("windowStart", json!("soon")),
        ("windowStart", json!(i64::MAX)),
        ("windowEnd", json!(i64::MIN)),
        ("windowEnd", json!({})),
        ("backupType", json!("full")),
        ("backupType", json!({ "name": 7 })),
        ("backupType", json!("SYNCHRONIZATION")),
        ("backupDestination", json!(7)),
        ("backupDestination", json!({ "guid": "x" })),
        ("rules", json!("x")),
        ("rules", json!([{ "ruleBackupDestinations": 5 }])),
        ("rules", json!([{ "backupDestinations": ["x"] }])),
    ] {
        let mut body = json!({ "protectedEntities": [vm] });
        body[field] = bad.clone();
        assert_eq!(talk.status("POST", "/api/tasks/export", &body.to_string()).await, 400, "{field}: {bad}");
    }
    assert_eq!(digest(&world).await, before);
}

#[tokio::test(start_paused = true)]
async fn names() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id;
    let export = talk.post("/api/tasks/export", json!({ "protectedEntities": [vm] })).await;
    world.wait(export[0]["workflowExecution"]["guid"].as_str().unwrap().parse().unwrap()).await;
    let backup = export[0]["backup"]["guid"].clone();
    world.stop().await;
    for (name, status) in [
        ("ü".repeat(255), 200),
        ("ü".repeat(256), 400),
        (" ".into(), 400),
        ("a\nb".into(), 400),
        ("\0".into(), 400),
        (String::new(), 200),
    ] {
        let body = json!({ "backup": backup, "restoredPeName": name }).to_string();
        assert_eq!(talk.status("POST", "/api/tasks/restore-and-import", &body).await, status, "{name:?}");
    }
    for (text, status) in [("ü".repeat(4096), 204), ("ü".repeat(4097), 400), (String::new(), 204)] {
        let path = format!("/api/backups/{}/description", backup.as_str().unwrap());
        assert_eq!(talk.status("PUT", &path, &json!({ "value": text }).to_string()).await, status);
    }
}

#[tokio::test(start_paused = true)]
async fn paths_queries_and_headers() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id;
    for (method, path, status) in [
        ("GET", "/api/virtual-machines/%FF".to_owned(), 404),
        ("GET", "/api/virtual-machines/%00".into(), 404),
        ("GET", "/api/tasks/%C3%28/".into(), 404),
        ("DELETE", "/api/tasks/%FF".into(), 404),
        ("GET", format!("/api/virtual-machines/{}", "x".repeat(10_000)), 404),
        ("GET", "/api/virtual-machines/..%2F..%2Fetc%2Fpasswd".into(), 404),
        ("GET", format!("/api/virtual-machines/{}/", vm.to_string().to_uppercase()), 200),
        ("GET", format!("/api/virtual-machines/%7B{vm}%7D"), 200),
        ("GET", "/api/%76irtual-machines".into(), 404),
        ("GET", "/api//tasks".into(), 404),
        ("GET", "/api/tasks//".into(), 404),
        ("GET", "/api".into(), 404),
        ("GET", "/api/".into(), 404),
        ("GET", "/".into(), 404),
        ("GET", "/API/tasks".into(), 404),
        ("PATCH", "/api/tasks".into(), 405),
        ("TRACE", "/api/tasks".into(), 405),
        ("BREW", "/api/tasks".into(), 405),
        ("POST", "/api/mailing-lists".into(), 405),
        ("GET", "/api/tasks/export".into(), 405),
        ("GET", "/api/tasks?size=1.5".into(), 400),
        ("GET", "/api/tasks?size=99999999999999999999999".into(), 400),
        ("GET", "/api/tasks?size=18446744073709551615&page=18446744073709551615".into(), 200),
        ("GET", "/api/tasks?size=1&size=x".into(), 200),
        ("GET", "/api/tasks?&&==&%FF=%FF&filter=%FF%00%27".into(), 200),
        ("GET", "/api/tasks?node=00000000-0000-0000-0000-000000000001".into(), 404),
        ("GET", "/api/tasks?mounted-backup-assigned=00000000-0000-0000-0000-000000000001".into(), 200),
        ("GET", "/api/backups?from=-9223372036854775808&to=9223372036854775807".into(), 200),
        ("GET", "/api/backups?from=1763000000000.0".into(), 200),
        ("GET", "/api/backups?from=1e400".into(), 400),
        ("GET", "/api/backups?min-size=-5".into(), 200),
        ("GET", "/api/backups?status=SUCCESS&status=".into(), 200),
        ("GET", "/api/backups?status=success".into(), 400),
        ("GET", format!("/api/backups?protected-entity={vm}&protected-entity=x"), 200),
        ("GET", "/api/virtual-machine-disks".into(), 400),
        ("GET", "/api/virtual-machines?tenantid=%FF".into(), 200),
        ("GET", "/api/virtual-machines?uuid=%00".into(), 200),
        ("GET", format!("/api/tasks?type={}", "N".repeat(5000)), 400),
    ] {
        let answer = talk.exchange(talk.request(method, &path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{method} {} {}", &path[..path.len().min(80)], answer.text);
        assert!(status < 400 || answer.text.len() < 600, "no echo of what was sent");
        if answer.status == 405 {
            assert!(answer.headers.contains_key("allow"), "{method} {path}");
        }
    }
    for path in ["/api/tasks", "/api/session", "/api/no-such-thing", "/api/virtual-machines/x"] {
        let answer = talk.exchange(talk.request("HEAD", path).body(Body::empty()).unwrap()).await;
        let same = talk.exchange(talk.request("GET", path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status, answer.text.as_str()), (same.status, ""), "{path}");
    }
    let good = talk.request("GET", "/api/session").body(Body::empty()).unwrap();
    let good = good.headers()["cookie"].clone();
    for (cookie, status) in [
        (&b"JSESSIONID=\xff\xfe"[..], 401),
        (b"JSESSIONID=", 401),
        (b"=;;=", 401),
        (b"JSESSIONID=%00", 401),
        (b"JSESSIONID=../../x; JSESSIONID=y", 401),
    ] {
        let request = Request::builder().uri("/api/session").header("cookie", cookie).body(Body::empty()).unwrap();
        assert_eq!(talk.exchange(request).await.status, status);
    }
    let long = format!("JSESSIONID={}; {}", "x".repeat(5000), good.to_str().unwrap());
    let request = Request::builder().uri("/api/session").header("cookie", long).body(Body::empty()).unwrap();
    assert_eq!(talk.exchange(request).await.status, 204, "the live one of several counts");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_too_long_or_stop() {
    let (_world, mut talk) = ready().await;
    talk.login().await;
    let long = talk.request("POST", "/api/tasks/export").body(Body::from(vec![b' '; (2 << 20) + 1])).unwrap();
    assert_eq!(talk.exchange(long).await.status, 413);
    let pieces = in_pieces(vec![Bytes::from(vec![b' '; 1 << 20]); 3], false);
    let streamed = talk.request("POST", "/api/tasks/export").body(pieces).unwrap();
    assert_eq!(talk.exchange(streamed).await.status, 413);
    let stopped = in_pieces(vec![Bytes::from_static(b"{\"a\":")], true);
    let stopped = talk.request("POST", "/api/tasks/export").body(stopped).unwrap();
    assert_eq!(talk.exchange(stopped).await.status, 408);
    assert_eq!(talk.quiet_get("/api/tasks").await, json!([]));
}

/// Pieces of a body, and then its end, or nothing for ever.
fn in_pieces(pieces: Vec<Bytes>, stops: bool) -> Body {
    let pieces = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
    if stops { Body::from_stream(pieces.chain(stream::pending())) } else { Body::from_stream(pieces) }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_transport_are_told_in_the_dialects_form() {
    for (fault, status, code) in [
        (Fault::BodyTooLarge { limit: 1 }, 413, "BODY_TOO_LARGE"),
        (Fault::BodyStalled, 408, "BODY_STALLED"),
        (Fault::TimedOut, 503, "TIMED_OUT"),
        (Fault::Failed, 500, "INTERNAL"),
    ] {
        let router = Router::new().route("/", get(move || async move { fault }));
        let router = Edge::new("vplus", Arc::new(SeededIds::new(1))).faults(shape_fault).wrap(router);
        let answer = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)));
    }
}

/// Random bodies and queries at every route, from a fixed seed.
#[tokio::test(start_paused = true)]
async fn random_requests_never_fail_the_server() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id.to_string();
    let export = talk.post("/api/tasks/export", json!({ "protectedEntities": [vm] })).await;
    world.wait(export[0]["workflowExecution"]["guid"].as_str().unwrap().parse().unwrap()).await;
    world.stop().await;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let known = [
        vm.clone(),
        text(&export[0]["guid"]),
        text(&export[0]["backup"]["guid"]),
        text(&export[0]["backupDestination"]["guid"]),
        text(&export[0]["workflowExecution"]["guid"]),
        text(&export[0]["hypervisorManager"]["guid"]),
        text(&export[0]["hypervisor"]["guid"]),
    ];
    let document = serde_json::to_value(portolan_api_vplus::document()).unwrap();
    let mut random = Random { state: 0x5eed, known: known.to_vec() };
    let mut seen = digest(&world).await;
    let mut refused = 0;
    for round in 0..60 {
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                // These two are about the session that the others need.
                if path == "/session/logout" || path == "/session/login" && round > 5 {
                    continue;
                }
                let method = method.to_uppercase();
                let query = if random.one_of(3) == 0 { String::new() } else { random.query() };
                let target = format!("/api{}{query}", path.replace("{guid}", &random.guid()));
                let body = if method == "GET" { String::new() } else { random.json(4).to_string() };
                let request = talk.request(&method, &target).body(Body::from(body.clone())).unwrap();
                let answer = talk.exchange(request).await;
                let listed = operation["responses"].get(answer.status.to_string()).is_some();
                assert!(listed && answer.status < 500, "{method} {target} {body}: {} {}", answer.status, answer.text);
                let now = digest(&world).await;
                if answer.status >= 400 || method == "GET" {
                    refused += 1;
                    assert!(now == seen, "{method} {target} {body} changed something: {}", answer.text);
                }
                seen = now;
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

/// Each route answers the methods that the document lists for it, and no other.
#[tokio::test(start_paused = true)]
async fn the_document_lists_every_method() {
    let (_world, mut talk) = ready().await;
    let document = serde_json::to_value(portolan_api_vplus::document()).unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch"] {
            let target = format!("/api{}", path.replace("{guid}", "00000000-0000-0000-0000-000000000001"));
            let status = talk.status(&method.to_uppercase(), &target, "").await;
            match item.get(method) {
                Some(operation) => {
                    assert!(status == 401 || path == "/session/login" && status == 400, "{method} {path}: {status}");
                    assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}: no name of its own");
                }
                // `/tasks/export` is no task, but the path of one looks like it.
                None => assert!(matches!(status, 405 | 401), "{method} {path}: {status}"),
            }
        }
    }
}

/// Everything that is stored but sessions and accounts, which remember logins.
async fn digest(world: &World) -> String {
    let storage = world.portolan.storage();
    let mut digest = String::new();
    for kind in Kind::ALL.iter().filter(|k| !matches!(k, Kind::Session | Kind::Account)) {
        let query = RawQuery {
            kind: *kind,
            filter: Default::default(),
            sort: Default::default(),
            page: Default::default(),
            count: false,
        };
        for row in storage.list(Scope::All, &query).await.unwrap().rows {
            writeln!(digest, "{kind} {} {}", row.id, row.version).unwrap();
        }
    }
    for task in storage.query(Scope::All, &TaskQuery::default()).await.unwrap().tasks {
        writeln!(digest, "{} {} {}", task.new.id, task.state.name(), task.cancel_requested).unwrap();
    }
    digest
}
