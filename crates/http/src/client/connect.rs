//! Connections of the client.

use crate::error::HttpError;
use axum::http::HeaderValue;
use axum::http::uri::Authority;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Sends requests over one connection; dropping it closes the connection.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Time for connecting and for the TLS handshake, each.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes connections to one server.
pub(super) struct Connector {
    host: String,
    port: u16,
    host_header: HeaderValue,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connector {
    /// None when the host is no name or address.
    pub(super) fn new(authority: &Authority, tls: Option<Arc<ClientConfig>>) -> Option<Self> {
        let host = authority.host();
        // IPv6 addresses stand in brackets in a URL, and nowhere else.
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).to_owned();
        let name = ServerName::try_from(host.clone()).ok()?;
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let host_header = HeaderValue::from_str(authority.as_str()).ok()?;
        Some(Self { host, port, host_header, tls: tls.map(|config| (config, name)) })
    }

    pub(super) fn host_header(&self) -> HeaderValue {
        self.host_header.clone()
    }

    /// Host and port, for messages.
    pub(super) fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) async fn connect(&self) -> Result<Sender, HttpError> {
        let late = |what| HttpError::TimedOut { target: self.target(), what };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(PATIENCE, connecting).await.map_err(|_| late("accept a connection"))?;
        let stream = stream.map_err(|source| HttpError::Connect { target: self.target(), source })?;
        // Requests are written in one go; failure costs nothing but a delay.
        let _ = stream.set_nodelay(true);
        let Some((config, name)) = &self.tls else { return self.speak(stream).await };
        let shaking = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
        let stream = timeout(PATIENCE, shaking).await.map_err(|_| late("finish the tls handshake"))?;
        self.speak(stream.map_err(|source| HttpError::Handshake { target: self.target(), source })?).await
    }

    async fn speak<S>(&self, stream: S) -> Result<Sender, HttpError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| HttpError::Exchange { target: self.target(), source })?;
        // Ends by itself when the sender is dropped or the server closes; its errors reach the sender too.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "client connection ended");
            }
        });
        Ok(sender)
    }
}
