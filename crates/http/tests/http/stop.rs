use crate::support::{LONG, SHORT, Server, config, edge, head, rest, wide};
use axum::Router;
use axum::routing::get;
use portolan_http::{Drained, HttpError, ListenerConfig, bind};
use std::future::pending;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn an_address_in_use_is_said_clearly() {
    let first = bind(&config(wide(), None)).await.unwrap();
    let taken = first.local_addrs()[0];
    let second = ListenerConfig { name: "vplus".into(), addresses: vec![taken], ..config(wide(), None) };
    let error = bind(&second).await.unwrap_err();
    assert!(matches!(error, HttpError::Bind { .. }));
    let text = error.to_string();
    for word in ["vplus", &taken.to_string(), "already in use", "another address"] {
        assert!(text.contains(word), "{text}");
    }
    let none = ListenerConfig { addresses: vec![], ..second };
    assert!(matches!(bind(&none).await, Err(HttpError::NoAddress { .. })));
}

#[tokio::test]
async fn several_addresses_are_served_and_both_families() {
    let mut both = config(wide(), None);
    both.addresses = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
    if TcpStream::connect("[::1]:9").await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
        both.addresses.push("[::1]:0".parse().unwrap());
    }
    let bound = bind(&both).await.unwrap();
    let addresses = bound.local_addrs();
    assert_eq!(addresses.len(), both.addresses.len());
    let _server = Server::serve(bound, Router::new().route("/", get(|| async { "" })), LONG);
    for address in addresses {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"), "{address}");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_closes_the_rest() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (e, g) = (Arc::clone(&entered), Arc::clone(&go));
    let slow = move || {
        let (entered, go) = (Arc::clone(&e), Arc::clone(&g));
        async move {
            entered.notify_one();
            go.notified().await;
            "finished"
        }
    };
    let router = Router::new().route("/slow", get(slow)).route("/", get(|| async { "" }));
    let server = Server::start(wide(), None, edge().wrap(router)).await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(REQUEST).await.unwrap();
    head(&mut idle).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    entered.notified().await;

    server.shutdown.cancel();
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut silent).await, "");
    go.notify_one();
    let answer = rest(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("finished"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(server.running.await.unwrap(), Drained { cut: 0 });
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn the_grace_has_an_end() {
    let entered = Arc::new(Notify::new());
    let e = Arc::clone(&entered);
    let stuck = move || {
        let entered = Arc::clone(&e);
        async move {
            entered.notify_one();
            pending::<()>().await;
        }
    };
    let router = edge().timeout(None).wrap(Router::new().route("/", get(stuck)));
    let server = Server::serve(bind(&config(wide(), None)).await.unwrap(), router, SHORT);
    let mut client = server.connect().await;
    client.write_all(REQUEST).await.unwrap();
    entered.notified().await;
    server.shutdown.cancel();
    let drained = tokio::time::timeout(LONG, server.running).await.unwrap().unwrap();
    assert_eq!(drained, Drained { cut: 1 });
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn dropping_a_server_cuts_everything() {
    let server = Server::start(wide(), None, edge().wrap(Router::new().route("/", get(|| async { "" })))).await;
    let mut client = server.connect().await;
    client.write_all(REQUEST).await.unwrap();
    head(&mut client).await;
    server.running.abort();
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_wildcard_has_a_usable_url() {
    let mut any = config(wide(), None);
    any.addresses = vec!["0.0.0.0:0".parse().unwrap()];
    let bound = bind(&any).await.unwrap();
    assert_eq!(bound.url(), format!("http://127.0.0.1:{}", bound.local_addrs()[0].port()));
}
