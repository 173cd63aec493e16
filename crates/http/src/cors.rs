//! Cross-origin rules for dialects whose clients run in foreign pages.

use crate::error::HttpError;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which pages may call, and what they may see. Credentials are allowed, therefore origins are named one by one and
/// echoed, never `*`.
#[derive(Clone, Debug)]
pub struct Cors(Arc<Rules>);

#[derive(Clone, Debug)]
struct Rules {
    origins: BTreeSet<String>,
    methods: HeaderValue,
    allow: HeaderValue,
    expose: HeaderValue,
}

/// How a request's `Origin` stands to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginVerdict {
    /// No `Origin`: not a browser's cross-site call.
    None,
    /// The page comes from this very host.
    Same,
    /// The page's origin is configured.
    Allowed,
    /// Any other page. A dialect whose cookie travels cross-site should refuse its writes.
    Foreign,
}

/// No page of another origin.
impl Default for Cors {
    fn default() -> Self {
        let none = HeaderValue::from_static("");
        let methods = HeaderValue::from_static(Self::METHODS);
        Self(Arc::new(Rules { origins: BTreeSet::new(), methods, allow: none.clone(), expose: none }))
    }
}

impl Cors {
    /// Methods that pages may use.
    const METHODS: &str = "GET, POST, PUT, DELETE";

    /// Rules for `origins` such as `https://engine.example.org`, with the header names that a page may send and read.
    ///
    /// # Errors
    /// [`HttpError::Origin`] for anything but `scheme://host[:port]`, and for header names that are none.
    pub fn new<S: AsRef<str>>(origins: &[S], allow: &[&str], expose: &[&str]) -> Result<Self, HttpError> {
        let origins = origins.iter().map(|o| normalise(o.as_ref())).collect::<Result<_, _>>()?;
        let list = |names: &[&str]| {
            let text = names.join(", ");
            HeaderValue::from_str(&text).map_err(|_| HttpError::Origin { origin: text, reason: "bad header name" })
        };
        let methods = HeaderValue::from_static(Self::METHODS);
        Ok(Self(Arc::new(Rules { origins, methods, allow: list(allow)?, expose: list(expose)? })))
    }

    /// Judges a request by its `Origin` and `Host`.
    pub fn verdict(&self, headers: &HeaderMap) -> OriginVerdict {
        let Some(origin) = headers.get(header::ORIGIN) else { return OriginVerdict::None };
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return OriginVerdict::Foreign };
        if self.0.origins.contains(&origin) {
            return OriginVerdict::Allowed;
        }
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).map(str::to_ascii_lowercase);
        match (origin.split_once("://"), host) {
            (Some((_, authority)), Some(host)) if authority == host => OriginVerdict::Same,
            _ => OriginVerdict::Foreign,
        }
    }

    /// Puts the rules around a router: every `OPTIONS` is answered here, without a session, and answers to allowed
    /// pages carry what the browser wants to see. [`Edge::cors`](crate::Edge::cors) does the same for its faults too.
    pub fn wrap(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), run))
    }

    /// The answer to an `OPTIONS` request, none to another.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if method != Method::OPTIONS {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let rules = &self.0;
        let out = response.headers_mut();
        out.insert(header::ALLOW, rules.methods.clone());
        if self.verdict(headers) == OriginVerdict::Allowed {
            out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, rules.methods.clone());
            out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, rules.allow.clone());
            out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        Some(response)
    }

    /// The page to echo, when it may read the answer.
    pub(crate) fn echo(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        (self.verdict(headers) == OriginVerdict::Allowed).then(|| headers.get(header::ORIGIN).cloned()).flatten()
    }

    /// Marks an answer. `Vary` goes on every one, so that no cache serves one page's answer to another.
    pub(crate) fn mark(&self, echo: Option<HeaderValue>, response: &mut Response) {
        let out = response.headers_mut();
        out.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = echo {
            out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            out.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            if !self.0.expose.is_empty() {
                out.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.0.expose.clone());
            }
        }
    }
}

async fn run(State(cors): State<Cors>, request: Request, next: Next) -> Response {
    let echo = cors.echo(request.headers());
    let mut response = match cors.preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => next.run(request).await,
    };
    cors.mark(echo, &mut response);
    response
}

/// `scheme://host[:port]` in lower case without a default port, as browsers send it.
fn normalise(text: &str) -> Result<String, HttpError> {
    let refuse = |reason| HttpError::Origin { origin: text.to_owned(), reason };
    if text.contains('*') {
        return Err(refuse("with credentials, origins must be named one by one"));
    }
    let uri: Uri = text.parse().map_err(|_| refuse("not scheme://host[:port]"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refuse("not scheme://host[:port]"));
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(refuse("an origin has no path, query or user"));
    }
    let authority = authority.as_str().to_ascii_lowercase();
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(refuse("only http and https pages have origins")),
    };
    Ok(format!("{scheme}://{}", authority.strip_suffix(default).unwrap_or(&authority)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn origins_are_named_one_by_one() {
        let good = Cors::new(&["https://Engine.example:443/", "http://10.0.0.1:8080"], &["content-type"], &[]).unwrap();
        assert_eq!(good.verdict(&headers(&[("origin", "https://engine.example")])), OriginVerdict::Allowed);
        assert_eq!(good.verdict(&headers(&[("origin", "http://10.0.0.1:8080")])), OriginVerdict::Allowed);
        for bad in ["*", "https://*.example", "null", "engine.example", "https://a/b", "ftp://a", "https://u@a", ""] {
            assert!(Cors::new(&[bad], &[], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn strangers_get_nothing_to_read() {
        let cors = Cors::new(&["https://a.example"], &[], &["X-Total-Count"]).unwrap();
        for origin in ["null", "https://a.example.evil", "https://xa.example", "http://a.example"] {
            let asked: HeaderMap = [(header::ORIGIN, HeaderValue::from_static(origin))].into_iter().collect();
            assert_eq!(cors.verdict(&asked), OriginVerdict::Foreign, "{origin}");
            assert_eq!(cors.echo(&asked), None);
        }
        let own = headers(&[("origin", "https://portolan:8181"), ("host", "Portolan:8181")]);
        assert_eq!(cors.verdict(&own), OriginVerdict::Same);
        assert_eq!(cors.verdict(&HeaderMap::new()), OriginVerdict::None);
    }
}
