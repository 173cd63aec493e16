//! The published examples, byte for byte: same requests, same statuses, same lengths, same bodies.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod world;

use axum::http::header;
use world::{Answer, Talk, World, ask, with};

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("golden/", $name, ".json"))
    };
}

fn is(answer: &Answer, status: u16, length: usize, body: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (status, body));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[header::CONTENT_LENGTH], length.to_string());
    assert!(answer.cookie().is_some_and(|value| value.split('.').count() == 3));
}

/// As curl asks.
async fn curl(talk: &Talk, method: &str, path: &str, body: &'static str) -> Answer {
    talk.send(with(method, path, &[("content-type", "application/json"), ("user-agent", "curl/7.22.0")], body)).await
}

#[tokio::test(start_paused = true)]
async fn status() {
    let talk = World::new().await.talk_keeping();
    for (path, length, body) in [
        ("nodes", 683, golden!("nodes")),
        ("images", 422, golden!("images")),
        ("sizes", 738, golden!("sizes")),
        ("flavors", 738, golden!("sizes")),
    ] {
        is(&talk.1.get(&format!("/api/v1/{path}/fake_driver")).await, 200, length, body);
        is(&curl(&talk.1, "GET", &format!("/api/v1/{path}/fake_driver"), "").await, 200, length, body);
        is(&talk.1.get(&format!("/api/v1/{path}/wrong_driver")).await, 500, 199, golden!("wrong_driver"));
        is(&curl(&talk.1, "GET", &format!("/api/v1/{path}/wrong_driver"), "").await, 500, 199, golden!("wrong_driver"));
        // What the examples do not show: the default cloud, and the next version.
        for path in
            [format!("/api/v1/{path}"), format!("/api/v1/{path}/default"), format!("/api/v2/{path}/fake_driver")]
        {
            is(&talk.1.get(&path).await, 200, length, body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn start_and_stop() {
    let (_world, talk) = World::new().await.talk_keeping();
    let request = r#"{"image": "1", "name": "cloud_test", "size": "1"}"#;
    assert_eq!(request.len(), 49);
    is(&talk.post("/api/v1/vm/start/fake_driver", request).await, 200, 322, golden!("start_3"));
    let request = r#"{ "name": "cloud_test", "image": "1" , "size" : "1" }"#;
    is(&curl(&talk, "POST", "/api/v1/vm/start/fake_driver", request).await, 200, 322, golden!("start_4"));
    let request = r#"{"node": "3"}"#;
    assert_eq!(request.len(), 13);
    is(&talk.put("/api/v1/vm/stop/fake_driver", request).await, 200, 50, golden!("stop_3"));
    is(&curl(&talk, "PUT", "/api/v1/vm/stop/fake_driver", r#"{ "node": "4" }"#).await, 200, 50, golden!("stop_4"));
    is(&talk.get("/api/v1/nodes/fake_driver").await, 200, 683, golden!("nodes"));
}

#[tokio::test(start_paused = true)]
async fn assign_and_release() {
    let (_world, talk) = World::new().await.talk_keeping();
    let request = r#"{"emulate": "True", "node": "fake_id", "user": "fake_user", "vm_type": "app_name"}"#;
    assert_eq!(request.len(), 82);
    is(&talk.put("/api/v1/vm/action/assign/fake_driver", request).await, 200, 95, golden!("emulated"));
    is(&curl(&talk, "PUT", "/api/v1/vm/action/assign/fake_driver", request).await, 200, 95, golden!("emulated"));
    let request = r#"{"emulate": "True", "node": "fake_id"}"#;
    assert_eq!(request.len(), 38);
    is(&talk.put("/api/v1/vm/action/release/fake_driver", request).await, 200, 95, golden!("emulated"));
    is(&curl(&talk, "PUT", "/api/v1/vm/action/release/fake_driver", request).await, 200, 95, golden!("emulated"));
}

/// What the original says beside its examples.
#[tokio::test(start_paused = true)]
async fn beside_the_examples() {
    let (_world, talk) = World::new().await.talk_keeping();
    is(&talk.get("/api/v1/").await, 200, 20, golden!("home"));
    is(&talk.get("/api/v1/nodes/").await, 404, 54, golden!("not_found"));
    is(&talk.post("/api/v1/nodes", "{}").await, 501, 189, golden!("not_implemented"));
    is(&talk.get("/api/v1/tenants").await, 200, 185, golden!("tenants_default"));
    is(&talk.get("/api/v1/tenants/default").await, 200, 185, golden!("tenants_default"));
    is(&talk.get("/api/v1/tenants/nobody").await, 200, 47, golden!("tenants_other"));
    is(&talk.get("/api/v1/vm/status/nobody").await, 200, 35, golden!("no_assignments"));
    is(&talk.get("/api/v1/nodes/real").await, 403, 187, golden!("forbidden"));
    let page = with("GET", "/api/v1/images/fake_driver", &[("x-requested-with", "XMLHttpRequest")], "");
    is(&talk.send(page).await, 200, 310, golden!("images_one_line"));
    let page = with("GET", "/api/v1/nodes/nobody", &[("x-requested-with", "XMLHttpRequest")], "");
    let error = talk.send(page).await;
    assert!(error.status == 500 && !error.text.contains('\n') && error.text.contains("\", \"status\": \"error\""));
}

/// Each answer carries the cookie, also when the client sent it back; it is the same for the same client.
#[tokio::test(start_paused = true)]
async fn the_cookie_is_the_clients() {
    let (_world, talk) = World::new().await.talk_keeping();
    let first = talk.get("/api/v1/").await.cookie().unwrap();
    let again = with("GET", "/api/v1/nope", &[("cookie", &format!("session={first}"))], "");
    assert_eq!(talk.send(again).await.cookie().unwrap().split('.').next(), first.split('.').next());
    let other = talk.send(with("GET", "/api/v1/", &[("user-agent", "other")], "")).await;
    assert_ne!(other.cookie().unwrap().split('.').next(), first.split('.').next());
    assert!(talk.send(ask("GET", "/api/v1", "")).await.cookie().is_some());
}

impl World {
    /// The world, which must live as long as its engine is needed, with its router.
    fn talk_keeping(self) -> (Self, Talk) {
        let talk = self.talk();
        (self, talk)
    }
}
