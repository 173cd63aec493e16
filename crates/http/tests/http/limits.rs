use crate::support::{LONG, SHORT, Server, edge, head, rest, wide};
use crate::tls::{identity, tls_connect};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use futures_util::StreamExt;
use portolan_http::{Fault, FaultContext, Limits};
use std::future::pending;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

fn hello() -> Router {
    edge().wrap(Router::new().route("/", get(|| async { "" })))
}

#[tokio::test]
async fn a_silent_client_is_dropped_in_plain() {
    let server = Server::start(Limits { first_byte: SHORT, ..wide() }, None, hello()).await;
    assert_eq!(rest(&mut server.connect().await).await, "");
}

#[tokio::test]
async fn a_silent_client_is_dropped_before_within_and_after_the_tls_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let tls = identity(dir.path());
    let limits = Limits { first_byte: SHORT, tls_handshake: SHORT, ..wide() };
    let server = Server::start(limits, Some(tls.clone()), hello()).await;
    assert_eq!(rest(&mut server.connect().await).await, "");
    let mut within = server.connect().await;
    within.write_all(&[22, 3, 1]).await.unwrap();
    assert_eq!(rest(&mut within).await, "");

    // The handshake itself may need longer than SHORT on a busy machine.
    let server = Server::start(Limits { first_byte: SHORT, ..wide() }, Some(tls.clone()), hello()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut after = tls_connect(server.address, &tls.pem(), version).await.unwrap();
        assert_eq!(rest(&mut after).await, "");
    }
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_dropped() {
    let server = Server::start(Limits { header_read: SHORT, ..wide() }, None, hello()).await;
    let answer = server.raw("GET / HTTP/1.1\r\nhost: x\r\nslow").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    // One request is answered, then the kept connection is closed without another word.
    let answer = server.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let limits = Limits { header_bytes: 8192, header_fields: 10, ..wide() };
    let server = Server::start(limits, None, hello()).await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(10));
    let endless = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(100_000));
    for request in [long, many, endless] {
        let answer = server.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let fits = format!("GET / HTTP/1.1\r\nconnection: close\r\nx: {}\r\n\r\n", "y".repeat(8000));
    assert!(server.raw(&fits).await.starts_with("HTTP/1.1 200"));
}

/// Teapots in place of the usual statuses, to see that the dialect is asked.
fn teapots(fault: Fault, at: &FaultContext) -> axum::response::Response {
    let text = format!("{} {} {:?}", at.method, at.path, fault.status().as_u16());
    axum::response::IntoResponse::into_response((StatusCode::IM_A_TEAPOT, text))
}

fn bodies() -> Router {
    let stream = |body: Body| async move {
        let mut seen = 0;
        let mut frames = body.into_data_stream();
        while let Some(frame) = frames.next().await {
            seen += frame.map_err(|_| StatusCode::BAD_REQUEST)?.len();
        }
        Ok::<_, StatusCode>(seen.to_string())
    };
    let router = Router::new()
        .route("/whole", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/stream", post(stream))
        .nest("/nested", Router::new().route("/large/{id}", post(|body: Bytes| async move { body.len().to_string() })));
    edge().body_limit(1000).body_limit_for("/nested/large/{id}", 3_000_000).faults(teapots).wrap(router)
}

#[tokio::test]
async fn oversized_bodies_are_refused_in_the_dialects_shape() {
    let server = Server::start(wide(), None, bodies()).await;
    for path in ["/whole", "/stream"] {
        for (length, fits) in [(0, true), (1000, true), (1001, false), (2_000_000, false)] {
            let body = "x".repeat(length);
            let head = format!("POST {path}?q HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
            let known = format!("{head}content-length: {length}\r\n\r\n{body}");
            let end = if length == 0 { "" } else { "\r\n0\r\n\r\n" };
            let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}{end}");
            let mut requests = vec![known];
            // A client that goes on writing into a closed connection may lose the answer; only small ones are sure.
            if (1..=1001).contains(&length) {
                requests.push(chunked);
            }
            for request in requests {
                let answer = server.raw(&request).await;
                if fits {
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    assert!(answer.ends_with(&format!("\r\n{length}")), "{answer}");
                } else {
                    assert!(answer.starts_with("HTTP/1.1 418"), "{path} {length}: {answer}");
                    assert!(answer.contains("connection: close"), "{answer}");
                    assert!(answer.ends_with(&format!("POST {path}?q 413")), "{answer}");
                }
            }
        }
    }
    let large = "x".repeat(2_500_000);
    let client = server.client();
    let (post, none) = (axum::http::Method::POST, axum::http::HeaderMap::new());
    assert_eq!(client.send(post, "/nested/large/7", none, large.into()).await.unwrap().text(), "2500000");
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_not_waited_for() {
    let router = Router::new().route("/", post(|_: Bytes| async { "" }));
    let server = Server::start(wide(), None, edge().body_stall(SHORT).timeout(None).wrap(router)).await;
    let answer = server.raw("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("connection: close") && answer.contains("\"message\""), "{answer}");
}

#[tokio::test]
async fn a_handler_out_of_time_is_dropped_and_answered_for() {
    let (dropped, mut was_dropped) = mpsc::unbounded_channel();
    let slow = move || {
        let dropped = OnDrop(dropped.clone());
        async move {
            let _dropped = dropped;
            pending::<()>().await;
        }
    };
    let router = Router::new().route("/slow/{x}", get(slow)).route("/other", get(|| async { "fine" }));
    let edge = edge().timeout(None).timeout_for("/slow/{x}", Some(SHORT));
    let server = Server::start(wide(), None, edge.wrap(router)).await;
    let answer = server.client().get("/slow/1").await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::timeout(LONG, was_dropped.recv()).await.unwrap();
    assert_eq!(server.client().get("/other").await.unwrap().text(), "fine");
}

/// Tells when it is dropped.
struct OnDrop(mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_dropped_in_plain_and_tls() {
    let dir = tempfile::tempdir().unwrap();
    let tls = identity(dir.path());
    for tls in [None, Some(tls)] {
        let (dropped, mut was_dropped) = mpsc::unbounded_channel();
        let endless = move || {
            let guard = OnDrop(dropped.clone());
            async move {
                let piece = move |_| {
                    let _alive = &guard;
                    Ok::<_, std::io::Error>(Bytes::from(vec![0; 65536]))
                };
                Body::from_stream(futures_util::stream::repeat(()).map(piece))
            }
        };
        let router = edge().wrap(Router::new().route("/", get(endless)));
        let server = Server::start(Limits { write_stall: SHORT, ..wide() }, tls.clone(), router).await;
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        // Both stay open, unread, until the end of the round.
        let (mut plain, mut encrypted) = (None, None);
        match &tls {
            None => plain.insert(server.connect().await).write_all(request).await.unwrap(),
            Some(tls) => {
                let stream = tls_connect(server.address, &tls.pem(), &rustls::version::TLS13).await.unwrap();
                let stream = encrypted.insert(stream);
                stream.write_all(request).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
        tokio::time::timeout(LONG, was_dropped.recv()).await.expect("the answer is still being written");
    }
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_their_turn() {
    let server = Server::start(Limits { connections: 1, ..wide() }, None, hello()).await;
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = server.connect().await;
    first.write_all(request).await.unwrap();
    head(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(request).await.unwrap();
    // The first is served again while the second waits.
    first.write_all(request).await.unwrap();
    head(&mut first).await;
    let mut byte = [0];
    let early = tokio::time::timeout(SHORT, second.peek(&mut byte)).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(head(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn senseless_limits_are_refused() {
    let zero = std::time::Duration::ZERO;
    for limits in [
        Limits { connections: 0, ..wide() },
        Limits { header_bytes: 100, ..wide() },
        Limits { header_fields: 0, ..wide() },
        Limits { write_stall: zero, ..wide() },
    ] {
        let error = portolan_http::bind(&crate::support::config(limits, None)).await.unwrap_err();
        assert!(error.to_string().contains("listener test"), "{error}");
    }
}
