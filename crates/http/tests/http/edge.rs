use crate::support::{LONG, Server, edge, head, rest, wide};
use axum::extract::{ConnectInfo, Extension};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Router, body::Bytes};
use futures_util::StreamExt;
use portolan_http::{Cors, Fault, FaultContext, HttpMetrics, Peer, RequestId};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn every_request_has_an_id_and_a_peer() {
    let who = |Extension(id): Extension<RequestId>,
               Extension(peer): Extension<Peer>,
               ConnectInfo(address): ConnectInfo<SocketAddr>| async move {
        assert_eq!(peer.address, address);
        format!("{id} {} {}", peer.address.ip(), peer.tls)
    };
    let server = Server::start(wide(), None, edge().nosniff().wrap(Router::new().route("/", get(who)))).await;
    let client = server.client();
    let asking = |id: &'static [u8]| {
        let id = (HeaderName::from_static("x-request-id"), HeaderValue::from_bytes(id).unwrap());
        client.send(Method::GET, "/", HeaderMap::from_iter([id]), Bytes::new())
    };
    let own = asking(b"client-1.a_b").await.unwrap();
    assert_eq!(own.header("x-request-id"), Some("client-1.a_b"));
    assert_eq!(own.text(), "client-1.a_b 127.0.0.1 false");
    assert_eq!(own.header("x-content-type-options"), Some("nosniff"));
    for bad in [&b"a b"[..], b"", b"\xff", b"x;drop", &[b'x'; 65]] {
        let made = asking(bad).await.unwrap();
        let id = made.header("x-request-id").unwrap().to_owned();
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
        assert!(made.text().starts_with(&id));
    }
    // Errors carry one too.
    assert!(client.get("/nowhere").await.unwrap().header("x-request-id").is_some());
}

#[tokio::test]
async fn the_absolute_form_is_routed_and_not_shown() {
    let router = Router::new().nest("/api", Router::new().route("/x", get(|| async { "routed" })));
    let router = router.route(
        "/panic",
        get(|| async {
            if true {
                panic!("no")
            }
        }),
    );
    let shape = |_: Fault, at: &FaultContext| at.path.clone().into_response();
    let server = Server::start(wide(), None, edge().faults(shape).wrap(router)).await;
    let end = "HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let answer = server.raw(&format!("GET https://host:8443/api/x?a=1 {end}")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("routed"), "{answer}");
    let answer = server.raw(&format!("GET https://host:8443/panic?a=1 {end}")).await;
    assert!(answer.ends_with("\r\n/panic?a=1"), "{answer}");
    // No Host, the older protocol, and the asterisk form harm nobody.
    assert!(server.raw("GET /api/x HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
    assert!(server.raw(&format!("OPTIONS * {end}")).await.starts_with("HTTP/1.1 404"));
    assert!(server.raw("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_server_goes_on() {
    let router = Router::new()
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("internal: {}", "secret")
                }
            }),
        )
        .route("/fault", get(|| async { Fault::Failed }))
        .route("/", get(|| async { "fine" }));
    let shape = |fault: Fault, at: &FaultContext| {
        if at.path == "/panic?again" {
            panic!("the shape too");
        }
        (fault.status(), format!("shaped {}", at.request_id)).into_response()
    };
    let server = Server::start(wide(), None, edge().faults(shape).wrap(router)).await;
    let client = server.client();
    for path in ["/panic", "/fault"] {
        let answer = client.get(path).await.unwrap();
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.text(), format!("shaped {}", answer.header("x-request-id").unwrap()));
    }
    let answer = client.get("/panic?again").await.unwrap();
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.text().contains("message") && !answer.text().contains("secret"));
    assert_eq!(client.get("/").await.unwrap().text(), "fine");
}

#[derive(Default)]
struct Recorded(Mutex<Vec<String>>, Notify);

impl HttpMetrics for Recorded {
    fn request(&self, listener: &str, method: &str, route: &str, status: u16, seconds: f64) {
        assert!((0.0..60.0).contains(&seconds));
        self.0.lock().unwrap().push(format!("{listener} {method} {route} {status}"));
        self.1.notify_one();
    }
}

#[tokio::test]
async fn metrics_name_routes_and_never_what_clients_invent() {
    let metrics = Arc::new(Recorded::default());
    let (entered, mut has_entered) = mpsc::unbounded_channel();
    let wait = move || {
        let entered = entered.clone();
        async move {
            let _ = entered.send(());
            std::future::pending::<()>().await;
        }
    };
    let inner = Router::new().route("/vms/{id}", get(|| async { "" })).route("/wait", get(wait));
    let router = edge().metrics(Some(metrics.clone())).wrap(Router::new().nest("/api", inner));
    let server = Server::start(wide(), None, router).await;
    let client = server.client();
    client.get("/api/vms/7?x=y").await.unwrap();
    client.get("/made/up").await.unwrap();
    let odd = Method::from_bytes(b"BREW").unwrap();
    client.send(odd, "/api/vms/7", HeaderMap::new(), Bytes::new()).await.unwrap();
    let expected = ["test GET /api/vms/{id} 200", "test GET unmatched 404", "test OTHER /api/vms/{id} 405"];
    assert_eq!(*metrics.0.lock().unwrap(), expected);

    // A client that leaves is counted as well.
    let mut leaving = server.connect().await;
    leaving.write_all(b"GET /api/wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    has_entered.recv().await.unwrap();
    drop(leaving);
    let counted = async {
        while metrics.0.lock().unwrap().len() < 4 {
            metrics.1.notified().await;
        }
    };
    tokio::time::timeout(LONG, counted).await.expect("the left request is counted");
    assert_eq!(metrics.0.lock().unwrap()[3], "test GET /api/wait 499");
}

#[tokio::test]
async fn pages_are_answered_by_their_origin() {
    let cors = Cors::new(
        &["https://engine.example"],
        &["content-type", "x-csrftoken", "3rd-party", "3rd-party-project"],
        &["X-Total-Count", "Content-Disposition"],
    )
    .unwrap();
    let refuse = || async { StatusCode::UNAUTHORIZED };
    let inner = Router::new().route("/api/vms", post(refuse).get(refuse)).route("/bytes", post(|_: Bytes| async {}));
    for router in [edge().cors(cors.clone()).body_limit(3).wrap(inner.clone()), cors.wrap(inner)] {
        let server = Server::start(wide(), None, router).await;
        let client = server.client();
        let ask = |method, path: &'static str, origin: Option<&'static str>| {
            let origin = origin.map(|o| (header::ORIGIN, HeaderValue::from_static(o)));
            client.send(method, path, origin.into_iter().collect(), Bytes::new())
        };
        // The preflight needs no session, on known and unknown paths.
        for path in ["/api/vms", "/api/unknown"] {
            let answer = ask(Method::OPTIONS, path, Some("https://engine.example")).await.unwrap();
            assert_eq!(answer.status, StatusCode::NO_CONTENT);
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://engine.example"));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE"));
            assert!(answer.header("access-control-allow-headers").unwrap().contains("3rd-party-project"));
        }
        let answer = ask(Method::GET, "/api/vms", Some("https://engine.example")).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.header("access-control-expose-headers"), Some("X-Total-Count, Content-Disposition"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        for origin in [None, Some("https://evil.example"), Some("null")] {
            for method in [Method::OPTIONS, Method::GET] {
                let answer = ask(method, "/api/vms", origin).await.unwrap();
                assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{origin:?}");
                assert_eq!(answer.header("vary"), Some("Origin"));
            }
        }
    }
    // The transport's own errors can be read by the page too.
    let inner = Router::new().route("/bytes", post(|_: Bytes| async {}));
    let cors = Cors::new(&["https://engine.example"], &[], &[]).unwrap();
    let server = Server::start(wide(), None, edge().cors(cors).body_limit(3).wrap(inner)).await;
    let origin = (header::ORIGIN, HeaderValue::from_static("https://engine.example"));
    let client = server.client();
    let answer = client.send(Method::POST, "/bytes", HeaderMap::from_iter([origin]), "long".into()).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://engine.example"));
}

#[tokio::test]
async fn a_panic_while_streaming_costs_one_connection() {
    let broken = || async {
        let stream = futures_util::stream::iter(0..3).map(|n| {
            assert!(n < 2, "broken stream");
            Ok::<_, std::io::Error>(Bytes::from_static(b"piece"))
        });
        axum::body::Body::from_stream(stream)
    };
    let router = Router::new().route("/broken", get(broken)).route("/", get(|| async { "" }));
    let server = Server::start(wide(), None, edge().wrap(router)).await;
    let answer = server.raw("GET /broken HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "a broken answer must not look complete: {answer}");
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    server.shutdown.cancel();
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(server.running.await.unwrap().cut, 0);
}
