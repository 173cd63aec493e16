//! One connection, from its first byte to its close.

use crate::io::GuardedIo;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::tls::TlsIdentityHandle;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) tls: Option<TlsIdentityHandle>,
    pub(crate) limits: Limits,
    pub(crate) router: Router,
    /// Finish what is in flight, start nothing new.
    pub(crate) shutdown: CancellationToken,
    /// Stop now.
    pub(crate) kill: CancellationToken,
}

/// Serves one accepted connection to its end. Never fails: what a client does wrong is its own end only.
pub(crate) async fn handle(stream: TcpStream, address: SocketAddr, local: SocketAddr, shared: Arc<Shared>) {
    // Answers are written in one go; waiting for more would only add delay. Failure costs nothing but that delay.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &shared.tls else {
        return serve(stream, Peer { address, local, tls: false }, &shared).await;
    };
    let handshake = async {
        let first = first_byte(&stream, &shared.limits).await?;
        if first.is_ascii_alphabetic() {
            answer_in_clear(stream, &shared.limits).await;
            return None;
        }
        let accepting = TlsAcceptor::from(tls.server_config()).accept(stream);
        match timeout(shared.limits.tls_handshake, accepting).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(listener = %shared.name, peer = %address, %error, "tls handshake failed");
                None
            }
            Err(_) => None,
        }
    };
    // No request has been made yet, so a stop loses nothing.
    let stream = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => return,
        stream = handshake => stream,
    };
    if let Some(stream) = stream {
        serve(stream, Peer { address, local, tls: true }, &shared).await;
    }
}

/// Waits for the first byte and leaves it in place.
async fn first_byte(stream: &TcpStream, limits: &Limits) -> Option<u8> {
    let mut first = [0];
    match timeout(limits.first_byte, stream.peek(&mut first)).await {
        Ok(Ok(1)) => Some(first[0]),
        _ => None,
    }
}

/// Tells a client that speaks plain HTTP to an encrypted listener what is the matter. A TLS record never begins with a
/// letter, an HTTP request always does.
async fn answer_in_clear(mut stream: TcpStream, limits: &Limits) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 40\r\n\
        connection: close\r\n\r\nThis port speaks HTTPS, not plain HTTP.\n";
    let exchange = async {
        // Reading first keeps the close from resetting the connection before the answer is read.
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    };
    let _ = timeout(limits.first_byte, exchange).await;
}

async fn serve<S>(stream: S, peer: Peer, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let io = TokioIo::new(GuardedIo::new(stream, limits.first_byte, limits.write_stall));
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.address));
        request.extensions_mut().insert(peer);
        shared.router.clone().call(request)
    });
    // The plain HTTP/1 builder and no other: the one that sniffs the version waits for ever for a silent client.
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(64 * 1024));
    if limits.header_fields != DEFAULT_FIELDS {
        // Naming a number moves the header table to the heap, which costs a few percent.
        builder.max_headers(limits.header_fields);
    }
    let mut connection = pin!(builder.serve_connection(io, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shared.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(listener = %shared.name, peer = %peer.address, %error, "connection ended early");
    }
}

/// What the protocol library allows when nothing is said.
const DEFAULT_FIELDS: usize = 100;
