//! A small HTTP(S) client for one server: what the command line, the demo and end-to-end tests speak with.

mod connect;
mod cookies;
mod trust;

pub use trust::Trust;

use crate::auth::{basic_header, bearer_header};
use crate::error::HttpError;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::{Bytes, BytesMut};
use connect::{Connector, Sender};
use cookies::Jar;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use portolan_model::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Connections kept for the next request.
const KEPT: usize = 8;

/// A client of one server. Clones share connections and cookies; requests may run at the same time.
///
/// Nothing is retried but a request that a kept connection lost before the server can have seen it, and reads.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    longest: usize,
}

struct Shared {
    connector: Connector,
    idle: Mutex<Vec<Sender>>,
    jar: Mutex<Jar>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// A client of `base_url`, `https://host:port/prefix` or `http://…`; paths of requests are put behind it. Nothing
    /// is connected yet. Answers may be 64 MiB long and take 60 s, connecting 10 s.
    ///
    /// # Errors
    /// [`HttpError::BaseUrl`] when the URL is none, or when its scheme and `trust` do not go together: an encrypted
    /// connection without trust would be worth nothing. [`HttpError::BadPem`] for a trusted certificate that is none.
    pub fn new(base_url: &str, trust: Trust) -> Result<Self, HttpError> {
        let refuse = |reason| HttpError::BaseUrl { url: base_url.to_owned(), reason };
        let uri: Uri = base_url.parse().map_err(|_| refuse("it is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse("it must begin with https:// or http://")),
        };
        let Some(authority) = uri.authority().filter(|a| !a.as_str().contains('@')) else {
            return Err(refuse("it must name a host, and no user"));
        };
        let tls = match (https, trust) {
            (false, Trust::Plain) => None,
            (true, Trust::Plain) => return Err(refuse("an https server needs a trusted certificate or fingerprint")),
            (false, _) => return Err(refuse("a certificate can be trusted with https only")),
            (true, trust) => Some(trust.config()?),
        };
        let connector = Connector::new(authority, tls).ok_or_else(|| refuse("its host name is malformed"))?;
        let shared = Shared { connector, idle: Mutex::default(), jar: Mutex::default() };
        Ok(Self {
            shared: Arc::new(shared),
            prefix: uri.path().trim_end_matches('/').into(),
            authorization: None,
            timeout: Duration::from_secs(60),
            longest: 64 << 20,
        })
    }

    /// The same client with another patience for each request, from sending to the end of the answer; for downloads,
    /// between two pieces.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The same client with another bound on the length of answers, in bytes. Downloads are not bounded.
    #[must_use]
    pub fn longest_answer(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// The same client, sending `Authorization: Basic`.
    #[must_use]
    pub fn basic(mut self, name: &str, password: &Secret) -> Self {
        self.authorization = Some(basic_header(name, password));
        self
    }

    /// The same client, sending `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(mut self, token: &Secret) -> Self {
        self.authorization = Some(bearer_header(token));
        self
    }

    /// The value of a cookie that the server set.
    pub fn cookie(&self, name: &str) -> Option<String> {
        lock(&self.shared.jar).get(name).map(str::to_owned)
    }

    /// Forgets all cookies.
    pub fn forget_cookies(&self) {
        *lock(&self.shared.jar) = Jar::default();
    }

    /// `GET`. Any status is an answer; see [`Answer::ok`].
    ///
    /// # Errors
    /// As [`Client::send`]. So do the other methods, and [`HttpError::Json`] when a body cannot be written.
    pub async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<Answer, HttpError> {
        self.send_json(Method::POST, path, body).await
    }

    /// `PUT` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<Answer, HttpError> {
        self.send_json(Method::PUT, path, body).await
    }

    /// `DELETE` without a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::DELETE, path, HeaderMap::new(), Bytes::new()).await
    }

    /// `GET`, and the body of a 2xx answer as JSON.
    ///
    /// # Errors
    /// As [`Client::get`], [`HttpError::Status`] for any other status, [`HttpError::Json`] for another shape.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.get(path).await?.ok()?.json()
    }

    /// `POST` JSON, and the body of a 2xx answer as JSON.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn post_json<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, HttpError> {
        self.post(path, body).await?.ok()?.json()
    }

    /// `PUT` JSON, and the body of a 2xx answer as JSON.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn put_json<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, HttpError> {
        self.put(path, body).await?.ok()?.json()
    }

    async fn send_json<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Answer, HttpError> {
        let body = serde_json::to_vec(body).map_err(HttpError::Json)?;
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(method, path, HeaderMap::from_iter([json]), body.into()).await
    }

    /// Any request. Cookies, `Host`, `Accept: application/json` and the client's authorisation are added unless
    /// `headers` has them.
    ///
    /// # Errors
    /// [`HttpError::Connect`], [`HttpError::Handshake`], [`HttpError::Exchange`], [`HttpError::TimedOut`] when there
    /// is no answer, [`HttpError::TooLong`] when there is too much of one, [`HttpError::Request`] for a path or header
    /// that cannot be sent.
    pub async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, HttpError> {
        let exchange = async {
            let (head, mut incoming, sender) = self.exchange(&method, path, &headers, &body).await?;
            let mut body = BytesMut::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|source| self.broke_off(source))?;
                let Some(data) = frame.data_ref() else { continue };
                if body.len() + data.len() > self.longest {
                    return Err(HttpError::TooLong { limit: self.longest });
                }
                body.extend_from_slice(data);
            }
            self.keep(sender);
            Ok(Answer { status: head.status, headers: head.headers, body: body.freeze() })
        };
        timeout(self.timeout, exchange).await.unwrap_or_else(|_| Err(self.timed_out("answer")))
    }

    /// `GET` of any length straight into `sink`. A status other than 2xx is [`HttpError::Status`] and writes nothing.
    /// Gives the header and the number of bytes written.
    ///
    /// # Errors
    /// As [`Client::send`], and [`HttpError::Sink`] when `sink` fails.
    pub async fn download<W>(&self, path: &str, sink: &mut W) -> Result<(HeaderMap, u64), HttpError>
    where
        W: AsyncWrite + Unpin + Send + ?Sized,
    {
        let (none, empty) = (HeaderMap::new(), Bytes::new());
        let start = self.exchange(&Method::GET, path, &none, &empty);
        let start = timeout(self.timeout, start).await.unwrap_or_else(|_| Err(self.timed_out("answer")));
        let (head, mut incoming, sender) = start?;
        let (mut written, mut complaint) = (0, BytesMut::new());
        loop {
            let frame = timeout(self.timeout, incoming.frame()).await.map_err(|_| self.timed_out("send on"))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|source| self.broke_off(source))?;
            let Some(data) = frame.data_ref() else { continue };
            if head.status.is_success() {
                sink.write_all(data).await.map_err(HttpError::Sink)?;
                written += data.len() as u64;
            } else if complaint.len() < EXCERPT {
                complaint.extend_from_slice(data);
            }
        }
        self.keep(sender);
        if !head.status.is_success() {
            return Err(HttpError::Status { status: head.status, body: excerpt(&complaint) });
        }
        sink.flush().await.map_err(HttpError::Sink)?;
        Ok((head.headers, written))
    }

    /// Sends a request and waits for the head of the answer.
    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(axum::http::response::Parts, Incoming, Sender), HttpError> {
        loop {
            let request = self.request(method, path, headers, body)?;
            let kept = lock(&self.shared.idle).pop();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.shared.connector.connect().await?,
            };
            if sender.ready().await.is_err() && !fresh {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, incoming) = response.into_parts();
                    lock(&self.shared.jar).take(&head.headers);
                    return Ok((head, incoming, sender));
                }
                // The server closed a kept connection while we picked it. When the request comes back it was never
                // sent; a read may be sent again in any case.
                Err(error) if !fresh && (error.message().is_some() || *method == Method::GET) => {}
                Err(error) => return Err(self.broke_off(error.into_error())),
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
        let target = format!("{}{slash}{path}", self.prefix);
        let target = if target.is_empty() { "/" } else { target.as_str() };
        let mut request =
            Request::builder().method(method).uri(target).body(Full::new(body.clone())).map_err(HttpError::Request)?;
        let out = request.headers_mut();
        *out = headers.clone();
        let cookies = lock(&self.shared.jar).header();
        let host = Some(self.shared.connector.host_header());
        let defaults: [(HeaderName, Option<HeaderValue>); 4] = [
            (header::HOST, host),
            (header::ACCEPT, Some(HeaderValue::from_static("application/json"))),
            (header::AUTHORIZATION, self.authorization.clone()),
            (header::COOKIE, cookies),
        ];
        for (name, value) in defaults {
            if let Some(value) = value {
                out.entry(name).or_insert(value);
            }
        }
        Ok(request)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = lock(&self.shared.idle);
        if !sender.is_closed() && idle.len() < KEPT {
            idle.push(sender);
        }
    }

    fn broke_off(&self, source: hyper::Error) -> HttpError {
        HttpError::Exchange { target: self.shared.connector.target(), source }
    }

    fn timed_out(&self, what: &'static str) -> HttpError {
        HttpError::TimedOut { target: self.shared.connector.target(), what }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.shared.connector.target();
        f.debug_struct("Client").field("target", &target).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Answer {
    /// The answer when its status is 2xx.
    ///
    /// # Errors
    /// [`HttpError::Status`] with the beginning of the body otherwise.
    pub fn ok(self) -> Result<Self, HttpError> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(HttpError::Status { status: self.status, body: excerpt(&self.body) })
    }

    /// The body as JSON, whatever the status.
    ///
    /// # Errors
    /// [`HttpError::Json`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(HttpError::Json)
    }

    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Bytes of a body that an error quotes.
const EXCERPT: usize = 2000;

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
