//! A server on port 0, and clients that misbehave.

use axum::Router;
use portolan_http::client::{Client, Trust};
use portolan_http::{BoundListener, Drained, Edge, Limits, ListenerConfig, TlsIdentityHandle, bind};
use portolan_model::{Clock, IdSource, Timestamp};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longer than anything here takes: what is still open then stays open for ever.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// What a test waits for on purpose.
pub(crate) const SHORT: Duration = Duration::from_millis(150);

/// 2026-11-21T00:00:00Z, always.
#[derive(Debug)]
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000)
    }
}

#[derive(Debug, Default)]
pub(crate) struct CountedIds(AtomicU64);

impl IdSource for CountedIds {
    fn uuid(&self) -> Uuid {
        Uuid::from_u64_pair(7, self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

pub(crate) fn edge() -> Edge {
    Edge::new("test", Arc::new(CountedIds::default()))
}

/// Limits so wide that only the one under test is met.
pub(crate) fn wide() -> Limits {
    Limits {
        first_byte: LONG * 3,
        tls_handshake: LONG * 3,
        header_read: LONG * 3,
        write_stall: LONG * 3,
        ..Limits::default()
    }
}

pub(crate) fn config(limits: Limits, tls: Option<TlsIdentityHandle>) -> ListenerConfig {
    ListenerConfig { name: "test".into(), addresses: vec![([127, 0, 0, 1], 0).into()], tls, limits }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<Drained>,
}

impl Server {
    pub(crate) async fn start(limits: Limits, tls: Option<TlsIdentityHandle>, router: Router) -> Self {
        Self::serve(bind(&config(limits, tls)).await.unwrap(), router, LONG)
    }

    pub(crate) fn serve(bound: BoundListener, router: Router, grace: Duration) -> Self {
        let (address, url, shutdown) = (bound.local_addrs()[0], bound.url(), CancellationToken::new());
        let running = tokio::spawn(bound.serve(router, shutdown.clone(), grace));
        Self { address, url, shutdown, running }
    }

    /// A plain connection.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends raw bytes and gives everything up to the close of the connection.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, Trust::Plain).unwrap()
    }
}

/// Reads up to the close; a reset counts as a close.
pub(crate) async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut piece = [0; 8192];
        while let Ok(n @ 1..) = stream.read(&mut piece).await {
            all.extend_from_slice(&piece[..n]);
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("the server keeps the connection open");
    String::from_utf8(all).unwrap()
}

/// Reads one answer without a body and leaves the connection open.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !all.ends_with(b"\r\n\r\n") {
            all.push(stream.read_u8().await.expect("an answer"));
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("an answer in time");
    String::from_utf8(all).unwrap()
}
