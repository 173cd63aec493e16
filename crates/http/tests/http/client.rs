use crate::support::{SHORT, Server, edge, wide};
use axum::extract::{Json, Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use futures_util::StreamExt;
use portolan_http::auth::{CookieOptions, Credentials, cookies, credentials, set_cookie};
use portolan_http::client::{Client, Trust};
use portolan_http::{HttpError, JsonBody, Limits};
use portolan_model::Secret;
use serde_json::{Value, json};
use std::future::pending;
use std::time::Duration;

fn api() -> Router {
    let echo = |request: Request| async move {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(request.into_body(), 1000).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        JsonBody::new(&json!({"method": method, "path": path, "host": host, "body": body})).into_response()
    };
    let login = || async {
        let options = CookieOptions { path: "/", secure: false, same_site: None, max_age: None };
        let gone = CookieOptions { max_age: Some(Duration::ZERO), ..options };
        AppendHeaders([
            (header::SET_COOKIE, set_cookie("SID", "abc", options).unwrap()),
            (header::SET_COOKIE, set_cookie("old", "x", gone).unwrap()),
        ])
    };
    let who = |headers: HeaderMap| async move {
        let sid = cookies(&headers, "SID").next().unwrap_or("none").to_owned();
        match credentials(&headers) {
            Ok(Credentials::Basic { name, password }) => format!("{sid} basic {name} {}", password.reveal()),
            Ok(Credentials::Bearer(token)) => format!("{sid} bearer {}", token.reveal()),
            other => format!("{sid} {other:?}"),
        }
    };
    let bytes = |Path(n): Path<usize>| async move {
        let pieces = futures_util::stream::iter(0..n).map(|_| Ok::<_, std::io::Error>(vec![7u8; 1000]));
        Body::from_stream(pieces)
    };
    let router = Router::new()
        .route("/api/echo", get(echo).post(echo).put(echo).delete(echo))
        .route("/api/login", post(login))
        .route("/api/who", get(who))
        .route("/api/bytes/{n}", get(bytes))
        .route("/api/stuck", get(pending::<()>))
        .route("/api/sum", post(|Json(all): Json<Vec<i64>>| async move { Json(all.iter().sum::<i64>()) }))
        .route("/api/no", get(|| async { (StatusCode::CONFLICT, "because") }));
    edge().wrap(router)
}

fn client(server: &Server) -> Client {
    Client::new(&format!("{}/api/", server.url), Trust::Plain).unwrap()
}

#[tokio::test]
async fn requests_go_round() {
    let server = Server::start(wide(), None, api()).await;
    let client = client(&server);
    let got: Value = client.get_json("/echo?a=b%20c").await.unwrap();
    let host = server.address.to_string();
    assert_eq!(got, json!({"method": "GET", "path": "/api/echo?a=b%20c", "host": host, "body": null}));
    let put: Value = client.put_json("echo", &json!({"x": [1, 2]})).await.unwrap();
    assert_eq!((&put["method"], &put["body"]), (&json!("PUT"), &json!({"x": [1, 2]})));
    assert_eq!(client.post_json::<_, i64>("/sum", &[1, 2, 3]).await.unwrap(), 6);
    assert_eq!(client.delete("/echo").await.unwrap().json::<Value>().unwrap()["method"], "DELETE");

    let error = client.get_json::<Value>("/no").await.unwrap_err();
    let HttpError::Status { status, body } = &error else { panic!("{error:?}") };
    assert_eq!((*status, body.as_str()), (StatusCode::CONFLICT, "because"));
    assert_eq!(client.get("/no").await.unwrap().status, StatusCode::CONFLICT);
    assert!(matches!(client.get_json::<i64>("/echo").await, Err(HttpError::Json(_))));
    assert!(matches!(client.get("/a b").await, Err(HttpError::Request(_))));
}

#[tokio::test]
async fn sessions_and_credentials_travel_along() {
    let server = Server::start(wide(), None, api()).await;
    let client = client(&server);
    assert_eq!(client.get("/who").await.unwrap().text(), "none Ok(None)");
    client.post("/login", &()).await.unwrap();
    assert_eq!(client.cookie("SID").as_deref(), Some("abc"));
    assert_eq!(client.cookie("old"), None);
    let basic = client.clone().basic("admin", &Secret::new("p:w"));
    assert_eq!(basic.get("/who").await.unwrap().text(), "abc basic admin p:w");
    let bearer = client.clone().bearer(&Secret::new("tok"));
    assert_eq!(bearer.get("/who").await.unwrap().text(), "abc bearer tok");
    client.forget_cookies();
    assert_eq!(client.get("/who").await.unwrap().text(), "none Ok(None)");
    assert!(!format!("{bearer:?}").contains("tok"));
}

#[tokio::test]
async fn many_requests_at_once_share_a_client() {
    let server = Server::start(Limits { connections: 4, ..wide() }, None, api()).await;
    let client = client(&server);
    // More requests than connections: kept ones are used again, none is stuck for ever.
    let all = futures_util::stream::iter(0..100).map(|n| {
        let client = client.clone();
        async move { client.post_json::<_, i64>("/sum", &[n, 1]).await.unwrap() - n }
    });
    assert_eq!(all.buffer_unordered(4).fold(0, |sum, n| async move { sum + n }).await, 100);
}

#[tokio::test]
async fn a_connection_lost_between_requests_is_replaced() {
    let server = Server::start(Limits { header_read: SHORT, ..wide() }, None, api()).await;
    let (kept, address) = (client(&server), server.address);
    kept.get("/who").await.unwrap();
    server.shutdown.cancel();
    server.running.await.unwrap();
    assert!(matches!(kept.get("/who").await, Err(HttpError::Connect { .. })));
    let mut again = crate::support::config(wide(), None);
    again.addresses = vec![address];
    let server = Server::serve(portolan_http::bind(&again).await.unwrap(), api(), SHORT);
    assert_eq!(kept.post_json::<_, i64>("/sum", &[4]).await.unwrap(), 4);
    drop(server);
}

#[tokio::test]
async fn answers_are_bounded_in_time_and_length() {
    let server = Server::start(wide(), None, api()).await;
    let client = client(&server);
    let error = client.clone().timeout(SHORT).get("/stuck").await.unwrap_err();
    assert!(matches!(error, HttpError::TimedOut { .. }), "{error:?}");
    let short = client.clone().longest_answer(5000);
    assert_eq!(short.get("/bytes/5").await.unwrap().body.len(), 5000);
    assert!(matches!(short.get("/bytes/6").await, Err(HttpError::TooLong { limit: 5000 })));

    let mut sink = Vec::new();
    let (_, written) = short.download("/bytes/300", &mut sink).await.unwrap();
    assert_eq!((written, sink.len()), (300_000, 300_000));
    assert!(sink.iter().all(|byte| *byte == 7));
    let mut sink = Vec::new();
    assert!(matches!(short.download("/no", &mut sink).await, Err(HttpError::Status { .. })));
    assert!(sink.is_empty());
}

#[test]
fn addresses_that_make_no_sense_are_refused() {
    for url in ["", "127.0.0.1:80", "ftp://x", "http://", "http://u:p@x", "/api", "http://exa mple"] {
        assert!(matches!(Client::new(url, Trust::Plain), Err(HttpError::BaseUrl { .. })), "{url}");
    }
    Client::new("http://[::1]:8080/x", Trust::Plain).unwrap();
}
