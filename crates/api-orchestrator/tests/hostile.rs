//! Input that no client sends: nothing panics, every answer is in the dialect's form, whatever is refused has changed
//! nothing.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod world;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use portolan::driver::{CloudCall, CloudNode};
use portolan_api_orchestrator::shape_fault;
use portolan_http::{Edge, Fault};
use portolan_testkit::clock::SeededIds;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use world::{Talk, World, ask, with};

const START: &str = "/api/v1/vm/start/fake_driver";

fn start(name: &str) -> Value {
    json!({ "name": name, "image": "1", "size": "1" })
}

#[tokio::test(start_paused = true)]
async fn bodies() {
    let world = World::new().await;
    let talk = world.talk();
    let before = talk.get("/api/v1/nodes").await.text;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let metadata = format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200));
    for path in ["/vm/start", "/vm/stop", "/vm/action/assign", "/vm/action/release"] {
        let method = if path == "/vm/start" { "POST" } else { "PUT" };
        for body in [
            &b" "[..],
            b"null",
            b"7",
            b"-0",
            b"1e400",
            b"\"text\"",
            b"[]",
            b"{",
            b"{\"a\":1}x",
            b"\xff\xfe",
            b"{\"a\":\"\xc3\x28\"}",
            b"\xef\xbb\xbf{}",
            b"{\"name\":NaN}",
            b"{\"name\":-Infinity}",
            b"{\"name\":\"\\ud800\"}",
            b"{\"node\":{\"node\":1}}",
            b"{\"user\":[\"\\u0000\"]}",
            b"{\"\":\"\"}",
            deep.as_bytes(),
            metadata.as_bytes(),
        ] {
            let answer = talk.send(ask(method, &format!("/api/v1{path}"), body.to_vec())).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(answer.status, 400, "{path} {shown}: {}", answer.text);
            assert!(answer.text.len() < 1000, "no long echo of what was sent");
        }
    }
    assert_eq!(talk.get("/api/v1/nodes").await.text, before);
}

#[tokio::test(start_paused = true)]
async fn names_and_metadata_of_any_kind() {
    let world = World::new().await;
    let talk = world.talk();
    for (name, status) in [
        ("\u{fc}\u{20ac}\u{1f600}".repeat(85), 200),
        ("\u{1f600}".repeat(256), 400),
        ("a\nb".into(), 400),
        (" ".into(), 400),
    ] {
        let answer = talk.post(START, start(&name)).await;
        assert_eq!(answer.status, status, "{name:?} {}", answer.text);
    }
    for metadata in [
        json!({}),
        json!({ "": "" }),
        json!({ "a": { "b": [null, true, 1.5, -0.0, 1e300, u64::MAX, i64::MIN, "\u{0}", "\u{1f600}"] } }),
        (0..100).fold(json!({}), |inner, _| json!({ "deeper": inner })),
        Value::Object((0..5000).map(|n| (format!("k{n}"), json!("v"))).collect()),
    ] {
        let mut body = start("x");
        body["metadata"] = metadata;
        assert_eq!(talk.post(START, body).await.status, 200);
    }
    let text = r#"{"name":"x","image":"9","image":"1","size":"1","metadata":{"n":123456789012345678901234567890}}"#;
    assert_eq!(talk.post(START, text).await.status, 200, "the last of several counts");
    let long = "n".repeat(100_000);
    let unknown = talk.put("/api/v1/vm/stop", json!({ "node": long })).await;
    assert_eq!(unknown.message(), "no useful node id here");
    let wrong = talk.put("/api/v1/vm/stop", json!({ "bogus": long })).await;
    assert!(wrong.status == 400 && wrong.text.len() < 5000, "{}", wrong.text.len());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_too_long_or_stop() {
    let world = World::new().await;
    let talk = world.talk();
    let mut body = start("x");
    body["metadata"] = json!({ "a": "x".repeat(10 << 20) });
    let whole = talk.post(START, &body).await;
    assert_eq!((whole.status, whole.message().as_str()), (413, "The request body is too large."));
    assert_eq!(whole.json()["status_short_message"], "Request Entity Too Large");
    assert!(whole.cookie().is_some() && !whole.headers.contains_key("connection"), "it was read to its end");
    let pieces = vec![Bytes::from(vec![b' '; 1 << 20]); 3];
    assert_eq!(talk.send(ask("PUT", "/api/v1/vm/stop", in_pieces(pieces, false))).await.status, 413);
    let far = vec![Bytes::from(vec![b' '; 1 << 20]); 17];
    let far = talk.send(ask("PUT", "/api/v1/vm/stop", in_pieces(far, false))).await;
    assert!(far.status == 413 && far.cookie().is_none(), "what the transport says carries no cookie");
    let stopped = in_pieces(vec![Bytes::from_static(b"{\"node\":")], true);
    let stopped = talk.send(ask("PUT", "/api/v1/vm/stop", stopped)).await;
    assert!(stopped.status == 408 && stopped.cookie().is_none());
    // Just short enough.
    body["metadata"] = json!({ "a": "x".repeat(1_000_000) });
    assert_eq!(talk.post(START, &body).await.status, 200);
}

/// Pieces of a body, and then its end, or nothing for ever.
fn in_pieces(pieces: Vec<Bytes>, stops: bool) -> Body {
    let pieces = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
    if stops { Body::from_stream(pieces.chain(stream::pending())) } else { Body::from_stream(pieces) }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_transport_are_told_in_the_dialects_form() {
    for (fault, status) in [
        (Fault::BodyTooLarge { limit: 1 }, 413),
        (Fault::BodyStalled, 408),
        (Fault::TimedOut, 503),
        (Fault::Failed, 500),
    ] {
        let router = Router::new().route("/", get(move || async move { fault }));
        let talk = Talk(Edge::new("orchestrator", Arc::new(SeededIds::new(1))).faults(shape_fault).wrap(router));
        let answer = talk.send(Request::get("/").body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status, answer.message().as_str()), (status, fault.message()));
        assert!(answer.cookie().is_none());
    }
}

/// A call that hangs is given up, whatever it was for, in the dialect's words; and the next one is answered.
#[tokio::test(start_paused = true)]
async fn a_cloud_that_hangs() {
    const CLOUD: &str = "Cloud not valid or wrong path";
    let world = World::new().await;
    let talk = world.talk();
    let held = world.fake.hold_before(CloudCall::ListNodes, 1);
    let answer = talk.get("/api/v1/nodes").await;
    assert_eq!((answer.status, answer.message().as_str()), (500, CLOUD));
    assert_eq!(talk.get("/api/v1/nodes").await.status, 200);
    held.release();
    for call in [CloudCall::ListImages, CloudCall::ListSizes] {
        let held = world.fake.hold_before(call, 1);
        let answer = talk.post(START, start("x")).await;
        assert_eq!((answer.status, answer.message()), (500, format!("Something went wrong {CLOUD}")));
        held.release();
    }
    let held = world.fake.hold_before(CloudCall::ListNodes, 1);
    let answer = talk.put("/api/v1/vm/stop", json!({ "node": "1" })).await;
    assert_eq!((answer.status, answer.message().as_str()), (500, CLOUD));
    held.release();
    assert_eq!(talk.get("/api/v1/nodes").await.json()["nodes"].as_array().unwrap().len(), 2, "nothing was done");
}

/// Many starts side by side: as many nodes, each told once.
#[tokio::test(start_paused = true)]
async fn starts_side_by_side() {
    let world = World::new().await;
    let talk = world.talk();
    let starts = (0..200).map(|n| {
        let talk = talk.clone();
        async move { talk.post(START, start(&format!("node-{}", n % 3))).await }
    });
    let answers: Vec<_> = stream::iter(starts).buffer_unordered(200).collect().await;
    let mut ids: Vec<u64> =
        answers.iter().map(|a| a.json()["nodes"]["id"].as_str().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (3..203).collect::<Vec<u64>>());
    assert_eq!(talk.get("/api/v1/nodes").await.json()["nodes"].as_array().unwrap().len(), 202);
}

/// A small generator of requests, the same from run to run.
struct Random(u64);

const WORDS: &[&str] = &[
    "",
    "1",
    "2",
    "3",
    "dummy-1",
    "fake_driver",
    "default",
    "real",
    "nobody",
    "True",
    "null",
    "x",
    "\u{fc}\u{20ac}\u{1f600}",
    "a\nb",
    "\u{0}",
    "' OR 1=1 --",
    "{}",
    "%",
    "node",
    "admin",
    "correct horse",
    "../..",
    "%FF",
];
const FIELDS: &[&str] = &[
    "name",
    "image",
    "size",
    "keyname",
    "metadata",
    "node",
    "hostname",
    "user",
    "vm_type",
    "emulate",
    "auth_token",
    "username",
    "password",
    "bogus",
    "\u{fc}",
];
const PATHS: &[&str] = &[
    "/",
    "/cloud",
    "/nodes",
    "/images",
    "/sizes",
    "/flavors",
    "/tenants",
    "/vm/start",
    "/vm/stop",
    "/vm/status",
    "/vm/action/assign",
    "/vm/action/release",
    "/vm/action/x",
    "/auth",
    "/auth/login",
    "/auth/logout",
    "/test/start",
    "/test/7/kill",
    "/fw/open",
    "/fw/close",
    "/x",
    "/vm",
    "/vm/x",
];
const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_of<'a>(&mut self, many: &[&'a str]) -> &'a str {
        many[usize::try_from(self.next() % many.len() as u64).unwrap()]
    }

    fn json(&mut self, depth: u32) -> Value {
        match self.next() % if depth == 0 { 4 } else { 8 } {
            0 => Value::Null,
            1 => json!(self.next().is_multiple_of(2)),
            2 => [json!(self.next()), json!(0), json!(-0.5), json!(1e300)][usize::try_from(self.next() % 4).unwrap()]
                .clone(),
            3 => json!(self.one_of(WORDS)),
            4 => (0..self.next() % 3).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let fields = (0..self.next() % 5).map(|_| {
                    let value =
                        if self.next().is_multiple_of(2) { json!(self.one_of(WORDS)) } else { self.json(depth - 1) };
                    (self.one_of(FIELDS).to_owned(), value)
                });
                Value::Object(fields.collect())
            }
        }
    }

    fn encoded(&mut self) -> String {
        let mut text = String::new();
        for byte in self.one_of(WORDS).bytes() {
            write!(text, "%{byte:02X}").unwrap();
        }
        text
    }
}

/// Random requests at every path. The only answers of 500 are those that the dialect has for clouds and nodes.
#[tokio::test(start_paused = true)]
async fn random_requests_never_fail_the_server() {
    let world = World::new().await;
    let talk = world.talk();
    let mut random = Random(0x5eed);
    let mut seen = nodes(&world).await;
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..4000 {
        let mut path = format!("/api/v1{}", random.one_of(PATHS));
        if random.next().is_multiple_of(2) {
            path = format!("{path}/{}", random.encoded());
        }
        if random.next().is_multiple_of(4) {
            path = format!("{path}?auth_token={}&{}", random.encoded(), random.encoded());
        }
        let method =
            if random.next().is_multiple_of(2) { random.one_of(METHODS) } else { random.one_of(&["POST", "PUT"]) };
        let body =
            if random.next().is_multiple_of(8) { random.one_of(WORDS).to_owned() } else { random.json(3).to_string() };
        let kind = random.one_of(&["application/json", "application/json", "text/plain"]);
        let (token, cookie) = (random.one_of(WORDS), random.encoded());
        let mut headers = vec![("content-type", kind)];
        if random.next().is_multiple_of(16) && token.bytes().all(|b| b.is_ascii_graphic()) {
            headers.push(("x-auth-token", token));
        }
        if random.next().is_multiple_of(16) {
            headers.push(("cookie", &cookie));
        }
        let answer = talk.send(with(method, &path, &headers, body.clone())).await;
        let what = format!("{method} {path} {body}: {} {}", answer.status, answer.text);
        *statuses.entry(answer.status).or_default() += 1;
        assert!([200, 302, 400, 403, 404, 500, 501, 503].contains(&answer.status), "{what}");
        if answer.status == 500 && method != "HEAD" {
            let message = answer.message();
            assert!(
                message == "Cloud not valid or wrong path" || message.starts_with("Something went wrong "),
                "{what}"
            );
        }
        assert!(answer.cookie().is_some(), "{what}");
        let now = nodes(&world).await;
        if answer.status >= 400 || !matches!(method, "POST" | "PUT") {
            assert_eq!(now, seen, "{what}");
        }
        seen = now;
    }
    for status in [200, 302, 400, 403, 404, 500, 501] {
        assert!(statuses.contains_key(&status), "{statuses:?}");
    }
}

/// The nodes of both clouds.
async fn nodes(world: &World) -> Vec<Arc<CloudNode>> {
    use portolan::driver::CloudDriverExt;
    let mut all = world.fake.nodes().await.unwrap();
    all.extend(world.real.nodes().await.unwrap());
    all
}

/// What is served is what is committed: `cargo xtask openapi` writes the file, and so does this test where
/// `UPDATE_OPENAPI` is set.
#[test]
fn the_committed_document_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi/orchestrator.json");
    let generated = portolan_api_orchestrator::document().to_pretty_json().unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, format!("{generated}\n")).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed.trim_end() == generated.trim_end(),
        "run `cargo xtask openapi` and commit docs/openapi/orchestrator.json"
    );
}
