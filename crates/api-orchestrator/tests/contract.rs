//! Every row of the dialect's tables: what is answered to what is wrong, to which method, to whom.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod world;

use axum::http::header;
use portolan::driver::{Capability, CloudCall, CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, HeldCalls};
use portolan_api_orchestrator::OrchestratorOptions;
use serde_json::{Value, json};
use world::{Talk, World, ask, options, with};

const PREFIX: &str = "Some key doesn't validate the schema - ";
const CLOUD: &str = "Cloud not valid or wrong path";

/// Sends a request, and says how it is answered: the status, and the message or the body.
async fn said(talk: &Talk, method: &str, path: &str, body: &str) -> (u16, String) {
    let answer = talk.send(ask(method, &format!("/api/v1{path}"), body.to_owned())).await;
    let text = if answer.status >= 400 { answer.message() } else { answer.text };
    (answer.status, text)
}

#[tokio::test(start_paused = true)]
async fn bodies_of_starts_and_stops() {
    let world = World::new().await;
    let talk = world.talk();
    let before = talk.get("/api/v1/nodes").await.text;
    for (method, path, body, status, message) in [
        ("POST", "/vm/start", "", 400, "Malformed JSON stream"),
        ("POST", "/vm/start", "name=x", 400, "Malformed JSON stream"),
        ("PUT", "/vm/stop", "{", 400, "Malformed JSON stream"),
        ("POST", "/vm/start", "{}", 400, "missed keys set(['image', 'name', 'size'])"),
        ("POST", "/vm/start", r#"{"name":"x"}"#, 400, "missed keys set(['image', 'size'])"),
        (
            "POST",
            "/vm/start",
            r#"{"name":"x","image":"1","size":"1","bogus":1}"#,
            400,
            "wrong keys u'bogus' in {u'bogus': 1, u'image': u'1', u'name': u'x', u'size': u'1'}",
        ),
        ("POST", "/vm/start", r#"{"name":5,"image":"1","size":"1"}"#, 400, "5 should be instance of <type 'unicode'>"),
        ("POST", "/vm/start", r#"{"name":"","image":"1","size":"1"}"#, 400, "len(u'') should evaluate to True"),
        ("POST", "/vm/start", "[]", 400, "[] should be instance of <type 'dict'>"),
        ("POST", "/vm/start", "null", 400, "None should be instance of <type 'dict'>"),
        (
            "POST",
            "/vm/start",
            r#"{"name":"x","image":"1","size":"1","metadata":"x"}"#,
            400,
            "u'x' should be instance of <type 'dict'>",
        ),
        (
            "POST",
            "/vm/start",
            r#"{"name":"x","image":"9","size":"1"}"#,
            500,
            "Something went wrong no useful image id here",
        ),
        (
            "POST",
            "/vm/start",
            r#"{"name":"x","image":"1","size":"9"}"#,
            500,
            "Something went wrong no useful size id here",
        ),
        (
            "POST",
            "/vm/start/nobody",
            r#"{"name":"x","image":"1","size":"1"}"#,
            500,
            "Something went wrong Cloud not valid or wrong path",
        ),
        ("PUT", "/vm/stop", "{}", 400, "no valid node id nor hostname here"),
        ("PUT", "/vm/stop", r#"{"node":"zzz"}"#, 400, "no useful node id here"),
        ("PUT", "/vm/stop", r#"{"hostname":"zzz"}"#, 400, "no useful node id here"),
        ("PUT", "/vm/stop", r#"{"node":1}"#, 400, "1 should be instance of <type 'unicode'>"),
        ("PUT", "/vm/stop", r#"{"name":"dummy-1"}"#, 400, "wrong keys u'name' in {u'name': u'dummy-1'}"),
        ("PUT", "/vm/stop/nobody", r#"{"node":"1"}"#, 500, CLOUD),
        ("PUT", "/vm/stop", "", 500, CLOUD),
    ] {
        let schema = message.starts_with("Malformed") || status == 500 || message.starts_with("no ");
        let message = if schema { message.to_owned() } else { format!("{PREFIX}{message}") };
        assert_eq!(said(&talk, method, path, body).await, (status, message), "{method} {path} {body}");
    }
    let plain = with("POST", "/api/v1/vm/start", &[], r#"{"name":"x","image":"1","size":"1"}"#);
    let plain = talk.send(plain).await;
    assert_eq!(
        (plain.status, plain.message().as_str()),
        (500, "Something went wrong 'NoneType' object has no attribute 'get'")
    );
    assert_eq!(talk.get("/api/v1/nodes").await.text, before, "what is refused changes nothing");
}

#[tokio::test(start_paused = true)]
async fn one_view_starts_and_stops() {
    let world = World::new().await;
    let talk = world.talk();
    let start =
        json!({ "name": "x", "image": "1", "size": "1", "keyname": "k", "metadata": { "a": [1, { "b": null }] } });
    let node = talk.post("/api/v1/vm/stop", &start).await.json()["nodes"].clone();
    assert_eq!((&node["id"], &node["name"], &node["state"]), (&json!("3"), &json!("dummy-3"), &json!(0)));
    assert_eq!(said(&talk, "PUT", "/vm/start", r#"{"hostname":"dummy-3"}"#).await.0, 200);
    // The first node that has this id or that name.
    let stop = talk.put("/api/v1/vm/stop", json!({ "node": "zzz", "hostname": "dummy-1" })).await;
    assert_eq!(stop.json(), json!({ "result": "Node 1 deleted", "status": "ok" }));
    // Ids come again: a node is told apart all the same.
    assert_eq!(talk.post("/api/v1/vm/start", &start).await.json()["nodes"]["id"], "2");
    assert_eq!(talk.get("/api/v1/nodes").await.json()["nodes"].as_array().unwrap().len(), 2);
    // A body need not say that it is JSON where nothing is made.
    let plain = with("PUT", "/api/v1/vm/stop", &[], r#"{"node":"2"}"#);
    assert_eq!(talk.send(plain).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn clouds_that_fail() {
    let world = World::new().await;
    let talk = world.talk();
    let start = r#"{"name":"x","image":"1","size":"1"}"#;
    for kind in [
        CloudErrorKind::Auth,
        CloudErrorKind::Denied,
        CloudErrorKind::NotFound,
        CloudErrorKind::Conflict,
        CloudErrorKind::Quota,
        CloudErrorKind::RateLimited,
        CloudErrorKind::Malformed,
        CloudErrorKind::Unreachable,
        CloudErrorKind::Invalid,
    ] {
        world.fake.fail_always(None, CloudError::new(kind, "the provider's own words"));
        for path in ["/nodes", "/images", "/sizes", "/flavors/fake_driver"] {
            assert_eq!(said(&talk, "GET", path, "").await, (500, CLOUD.into()), "{kind:?} {path}");
        }
        assert_eq!(said(&talk, "POST", "/vm/start", start).await, (500, format!("Something went wrong {CLOUD}")));
        assert_eq!(said(&talk, "PUT", "/vm/stop", r#"{"node":"1"}"#).await, (500, CLOUD.into()));
        world.fake.clear();
    }
    world.fake.fail_always(None, CloudError::unsupported("not here"));
    for path in ["/nodes", "/images", "/sizes"] {
        assert_eq!(said(&talk, "GET", path, "").await, (400, "Cloud not valid".into()), "{path}");
    }
    assert_eq!(said(&talk, "POST", "/vm/start", start).await, (500, "Something went wrong Cloud not valid".into()));
    world.fake.clear();
    assert!(CloudCall::ALL.iter().any(|call| call.needs() == Some(Capability::Images)));
    assert_eq!(talk.get("/api/v1/nodes").await.status, 200, "and all is well again");
}

/// A create that the cloud refuses for good, and a cloud that hangs.
#[tokio::test(start_paused = true)]
async fn starts_that_come_to_nothing_or_take_long() {
    let world = World::new().await;
    let talk = world.talk();
    let start = r#"{"name":"x","image":"1","size":"1"}"#;
    world.fake.fail_before(CloudCall::CreateNode, 1, CloudError::new(CloudErrorKind::Quota, "no room"));
    assert_eq!(said(&talk, "POST", "/vm/start", start).await, (500, format!("Something went wrong {CLOUD}")));

    // Each attempt is given up after a while, and the next one hangs, too.
    let hang = |call| (1..=5).map(|nth| world.fake.hold_before(call, nth)).collect::<Vec<_>>();
    let held = hang(CloudCall::CreateNode);
    let (status, message) = said(&talk, "POST", "/vm/start", start).await;
    assert!(status == 500 && message.starts_with("Something went wrong the work is not done yet"), "{message}");
    world.fake.clear();
    held.into_iter().for_each(HeldCalls::release);
    // The same request again gets the node that the first one began, and the next one another.
    assert_eq!(talk.post("/api/v1/vm/start", start).await.json()["nodes"]["id"], "3");
    assert_eq!(talk.post("/api/v1/vm/start", start).await.json()["nodes"]["id"], "4");
    assert_eq!(talk.get("/api/v1/nodes").await.json()["nodes"].as_array().unwrap().len(), 4);

    let held = hang(CloudCall::DestroyNode);
    let (status, message) = said(&talk, "PUT", "/vm/stop", r#"{"node":"4"}"#).await;
    assert!(status == 500 && message.starts_with("the work is not done yet"), "{message}");
    world.fake.clear();
    held.into_iter().for_each(HeldCalls::release);
    assert_eq!(said(&talk, "PUT", "/vm/stop", r#"{"node":"4"}"#).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn assignments() {
    let world = World::new().await;
    let talk = world.talk();
    for (path, body, status, message) in [
        ("/vm/action/assign", "{}", 400, format!("{PREFIX}missed keys set(['user', 'vm_type'])")),
        ("/vm/action/assign", r#"{"user":"u","vm_type":"t"}"#, 400, "Node not found".into()),
        ("/vm/action/assign", r#"{"user":"u","vm_type":"t","node":"zzz"}"#, 400, "Node not found".into()),
        ("/vm/action/assign", r#"{"user":"u","vm_type":"t","hostname":"zzz"}"#, 400, "Node not found".into()),
        ("/vm/action/assign", r#"{"emulate":0}"#, 400, format!("{PREFIX}0 should be instance of <type 'bool'>")),
        ("/vm/action/assign", "{", 400, "Malformed JSON stream".into()),
        ("/vm/action/assign", "", 400, "Malformed JSON stream".into()),
        ("/vm/action/assign/nobody", r#"{"user":"u","vm_type":"t","node":"1"}"#, 500, CLOUD.into()),
        ("/vm/action/release", "{}", 400, "Node not found".into()),
        ("/vm/action/release", r#"{"node":"zzz"}"#, 400, "Node not found".into()),
        ("/vm/action/release", r#"{"hostname":"zzz"}"#, 400, "Node not found".into()),
        ("/vm/action/release", "[]", 400, format!("{PREFIX}[] should be instance of <type 'dict'>")),
        ("/vm/action/release/nobody", r#"{"node":"1"}"#, 500, CLOUD.into()),
        ("/vm/action/other", r#"{"emulate":true}"#, 501, "Not implemented".into()),
        ("/vm/action/other/fake_driver", "{", 501, "Not implemented".into()),
    ] {
        assert_eq!(said(&talk, "PUT", path, body).await, (status, message), "{path} {body}");
    }
    // Emulation looks at nothing else.
    for path in ["assign", "release", "assign/nobody", "release/nobody", "assign/real"] {
        for emulate in [json!(true), json!("False"), json!("x"), json!(1)] {
            let body = json!({ "emulate": emulate, "any": ["thing"] });
            let answer = talk.put(&format!("/api/v1/vm/action/{path}"), body).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, include_str!("golden/emulated.json")));
        }
    }
    // Free at first, then held, then gone.
    let free = |id: i64, node: &str| {
        json!({ "cloud": "fake_driver", "hostname": format!("dummy-{node}"), "id": id, "id_vm": node, "recipe": "",
            "recipe_id": null, "status": 1, "status_desc": "FREE", "user": "" })
    };
    assert_eq!(talk.get("/api/v1/vm/status").await.json()["nodes"], json!([free(1, "1"), free(2, "2")]));
    let wish = json!({ "node": "2", "user": "j\u{fc}rgen", "vm_type": "galaxy", "emulate": false });
    let assigned = talk.put("/api/v1/vm/action/assign", &wish).await;
    assert_eq!(assigned.json(), json!({ "id": 2, "id_vm": "2", "result": "Node 2 assigned", "status": "ok" }));
    let again = talk.put("/api/v1/vm/action/assign", &wish).await;
    assert_eq!((again.status, again.message().as_str()), (400, "Node 2 is already assigned"));
    let status = talk.get("/api/v1/vm/status/fake_driver").await;
    assert!(status.text.contains("\"user\": \"j\\u00fcrgen\""), "{}", status.text);
    let held = &status.json()["nodes"][1];
    assert_eq!(
        (&held["status"], &held["status_desc"], &held["recipe"]),
        (&json!(2), &json!("ASSIGNED"), &json!("galaxy"))
    );
    let released = talk.put("/api/v1/vm/action/release", json!({ "hostname": "dummy-2" })).await.json();
    assert_eq!((&released["id"], &released["id_vm"], &released["status"]), (&json!(2), &json!("2"), &json!("ok")));
    assert!(released["result"].as_str().unwrap().ends_with(" and deleted"), "{released}");
    assert_eq!(talk.get("/api/v1/nodes").await.json()["nodes"].as_array().unwrap().len(), 1);
    talk.put("/api/v1/vm/stop", json!({ "node": "1" })).await;
    assert_eq!(talk.get("/api/v1/vm/status").await.text, include_str!("golden/no_assignments.json"));
}

/// A wish for a node, by what is given of it.
fn assign(node: Value) -> Value {
    let mut wish = json!({ "user": "u", "vm_type": "t" });
    wish.as_object_mut().unwrap().extend(node.as_object().unwrap().clone());
    wish
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_named_twice() {
    let world = World::new().await;
    let talk = world.talk();
    let put =
        async |what: &str, body: &Value| said(&talk, "PUT", &format!("/vm/action/{what}"), &body.to_string()).await;
    // By its name where that is given.
    let (status, text) = put("assign", &assign(json!({ "node": "1", "hostname": "dummy-2" }))).await;
    assert_eq!((status, text.as_str()), (200, include_str!("golden/assigned.json")));
    assert_eq!(talk.get("/api/v1/vm/status").await.text, include_str!("golden/assignments.json"));
    // A release destroys: of two different nodes neither.
    let not_found = (400, "Node not found".to_owned());
    assert_eq!(put("release", &json!({ "node": "1", "hostname": "dummy-2" })).await, not_found);
    assert_eq!(put("release", &json!({ "node": "1" })).await, (400, "Node 1 is not assigned".into()));
    let (status, text) = put("release", &json!({ "node": "2", "hostname": "dummy-2" })).await;
    assert_eq!((status, text.as_str()), (200, include_str!("golden/released.json")));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_is_given_back() {
    let world = World::new().await;
    let talk = world.talk();
    let put =
        async |what: &str, body: &Value| said(&talk, "PUT", &format!("/vm/action/{what}"), &body.to_string()).await;
    assert_eq!(put("assign", &assign(json!({ "node": "1" }))).await.0, 200);
    let gone = world.fake.nodes().await.unwrap()[0].reference();
    world.fake.destroy_node(&gone).await.unwrap();
    assert_eq!(put("release", &json!({ "node": "1" })).await, (400, "no useful node id here".into()));
    assert_eq!(put("release", &json!({ "node": "1" })).await, (400, "Node not found".into()));
    assert_eq!(talk.get("/api/v1/vm/status").await.json()["nodes"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn assignments_while_the_cloud_is_away() {
    let world = World::new().await;
    let talk = world.talk();
    let put =
        async |what: &str, body: &Value| said(&talk, "PUT", &format!("/vm/action/{what}"), &body.to_string()).await;
    let away = || world.fake.fail_always(None, CloudError::new(CloudErrorKind::Unreachable, "gone fishing"));
    away();
    // Nothing is known yet.
    assert_eq!(talk.get("/api/v1/vm/status").await.text, include_str!("golden/no_assignments.json"));
    for field in ["node", "hostname"] {
        let wish = assign(json!({ field: "1" }));
        assert_eq!(put("assign", &wish).await, (400, "Node not found".into()));
        assert_eq!(put("release", &json!({ field: "1" })).await, (400, "Node not found".into()));
    }
    world.fake.clear();
    let before = talk.get("/api/v1/vm/status").await.text;
    away();
    assert_eq!(talk.get("/api/v1/vm/status").await.text, before);
    assert_eq!(put("assign", &assign(json!({ "node": "2" }))).await.0, 200);
    assert_eq!(put("assign", &assign(json!({ "node": "2" }))).await.1, "Node 2 is already assigned");
    world.fake.clear();
    assert_eq!(talk.get("/api/v1/vm/status").await.text, include_str!("golden/assignments.json"));
}

#[tokio::test(start_paused = true)]
async fn paths_and_methods() {
    let world = World::new().await;
    let talk = world.talk();
    const NO: &str = "Not implemented";
    const DEV: &str = "Dev";
    const UNRECOGNIZED: &str = "Unrecognized action found";
    const NOT_FOUND: &str = "Page not found";
    for (method, path, status, text) in [
        ("GET", "/", 200, "Hello World!"),
        ("POST", "/", 501, NO),
        ("GET", "/api/v1/nope", 400, UNRECOGNIZED),
        ("GET", "/api/v1/nope/fake_driver", 400, UNRECOGNIZED),
        ("GET", "/api/v1/vm", 400, UNRECOGNIZED),
        ("GET", "/api/v1/vm/nope", 400, UNRECOGNIZED),
        ("GET", "/api/v1/vm/action", 400, UNRECOGNIZED),
        ("GET", "/api/v1/cloud/x", 400, UNRECOGNIZED),
        ("GET", "/api/v1/fw", 400, UNRECOGNIZED),
        ("GET", "/api/v1/fw/x", 400, UNRECOGNIZED),
        ("GET", "/api/v1/test", 400, UNRECOGNIZED),
        ("GET", "/api/v1/test/5", 400, UNRECOGNIZED),
        ("GET", "/api/v1/auth/x", 400, UNRECOGNIZED),
        ("POST", "/api/v1/nope", 501, NO),
        ("DELETE", "/api/v1/nodes/fake_driver", 501, NO),
        ("OPTIONS", "/api/v1/nodes", 501, NO),
        ("PATCH", "/api/v1/vm/start", 501, NO),
        ("DELETE", "/api/v1/vm/stop/fake_driver", 501, NO),
        ("POST", "/api/v1/vm/action/assign", 501, NO),
        ("POST", "/api/v1/vm/status", 501, NO),
        ("PUT", "/api/v1/", 501, NO),
        ("PUT", "/api/v1/auth", 501, NO),
        ("PUT", "/api/v1/cloud", 501, NO),
        ("TRACE", "/api/v1/nodes", 501, NO),
        ("BREW", "/api/v1/nodes", 501, NO),
        ("GET", "/api/v1/vm/start", 200, DEV),
        ("GET", "/api/v1/vm/stop/x", 200, DEV),
        ("GET", "/api/v1/vm/action/assign", 200, DEV),
        ("GET", "/api/v1/vm/action/x/y", 200, DEV),
        ("GET", "/api/v1/auth", 200, DEV),
        ("GET", "/api/v1/test/start", 200, DEV),
        ("GET", "/api/v1/test/5/kill", 200, DEV),
        ("POST", "/api/v1/test/5/kill", 501, NO),
        ("PUT", "/api/v1/test/x/kill", 404, NOT_FOUND),
        ("GET", "/api/v1/test/x/kill", 404, NOT_FOUND),
        ("POST", "/api/v1/test/x/kill", 404, NOT_FOUND),
        ("GET", "/api/v1/fw/open", 501, NO),
        ("PUT", "/api/v1/fw/open", 501, NO),
        ("POST", "/api/v1/fw/close", 501, NO),
        ("DELETE", "/api/v1/fw/close", 501, NO),
        ("GET", "/api/v2/", 200, DEV),
        ("POST", "/api/v2/", 501, NO),
        ("GET", "/api/v2/cloud", 400, UNRECOGNIZED),
        ("GET", "/api/v2/vm/start", 400, UNRECOGNIZED),
        ("POST", "/api/v2/vm/start", 501, NO),
        ("GET", "/api/v2/vm/start/x", 404, NOT_FOUND),
        ("GET", "/api/v1/nodes/fake_driver/", 404, NOT_FOUND),
        ("GET", "/api/v1/nodes/a/b", 404, NOT_FOUND),
        ("GET", "/api/v1//nodes", 404, NOT_FOUND),
        ("GET", "/api/v3/", 404, NOT_FOUND),
        ("GET", "/api", 404, NOT_FOUND),
        ("DELETE", "/nope", 404, NOT_FOUND),
        ("GET", "/static/docs/nope", 404, NOT_FOUND),
        ("GET", "/api/v1/nodes/fake_driver.json", 500, CLOUD),
        ("GET", "/api/v1/nodes/%FF", 500, CLOUD),
        ("GET", "/api/v1/nodes/%00", 500, CLOUD),
        ("GET", "/api/v1/nodes/%E2%82%AC", 500, CLOUD),
    ] {
        let answer = talk.send(ask(method, path, "")).await;
        let said = if answer.status >= 400 { answer.message() } else { answer.text.clone() };
        assert_eq!((answer.status, said.as_str()), (status, text), "{method} {path}");
        assert!(answer.cookie().is_some(), "{method} {path}");
        if status == 200 {
            assert_eq!(answer.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        }
    }
    for (path, to) in [("/api/v1", "/api/v1/"), ("/api/v2?a=b", "/api/v2/?a=b")] {
        let answer = talk.get(path).await;
        assert_eq!((answer.status, answer.headers[header::LOCATION].to_str().unwrap()), (301, to));
        assert!(answer.cookie().is_some());
    }
    for path in ["/api/v1/nodes", "/api/v1/vm/start", "/api/v1/nope", "/api/v1/nodes/", "/", "/api/v1/nodes/nobody"] {
        let (head, get) = (talk.send(ask("HEAD", path, "")).await, talk.get(path).await);
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.headers.get(header::CONTENT_LENGTH), get.headers.get(header::CONTENT_LENGTH), "{path}");
    }
    assert!(talk.get("/static/docs/").await.text.contains("openapi.json"));
    let document = talk.get("/static/docs/openapi.json").await.json();
    assert_eq!(document, serde_json::to_value(portolan_api_orchestrator::document()).unwrap());
    for (body, status) in [("{\"any\":1}", 200), ("", 400), ("{", 400)] {
        assert_eq!(talk.post("/api/v1/", body).await.status, status);
    }
}

#[tokio::test(start_paused = true)]
async fn the_clouds_that_are_served() {
    let world = World::new().await;
    let cloud = |name: &str| json!({ "host": "127.0.0.1", "name": name, "type": "dummy" });
    let listed = async |options: OrchestratorOptions| -> Value {
        world.talk_with(options).get("/api/v1/cloud").await.json()["served_cloud"].clone()
    };
    assert_eq!(listed(options()).await, json!([cloud("default"), cloud("fake_driver")]));
    let open = || OrchestratorOptions { open: true, ..options() };
    assert_eq!(listed(open()).await, json!([cloud("default"), cloud("fake_driver"), cloud("real")]));
    let none = OrchestratorOptions { default_cloud: None, ..open() };
    assert_eq!(listed(none.clone()).await, json!([cloud("fake_driver"), cloud("real")]));
    assert_eq!(world.talk_with(none.clone()).get("/api/v1/nodes").await.status, 500);
    // A platform of that very name is what `default` means, unless the options say otherwise.
    world.register("default", "dummy", world.real.clone()).await;
    assert_eq!(listed(none.clone()).await, json!([cloud("default"), cloud("fake_driver"), cloud("real")]));
    assert_eq!(world.talk_with(none).get("/api/v1/nodes/default").await.status, 200);
    let real = OrchestratorOptions { default_cloud: Some("real".into()), ..options() };
    assert_eq!(listed(real.clone()).await, json!([cloud("fake_driver")]));
    assert_eq!(world.talk_with(real).get("/api/v1/nodes").await.status, 403);
}
