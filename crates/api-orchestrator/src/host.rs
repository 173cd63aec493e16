//! Which names this server answers to: a page that points its own name at this address gets nothing (section 3.4).

use axum::http::{HeaderMap, Method, Uri, header};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The hosts that a request may be meant for. Ports are not looked at.
#[derive(Debug, Clone)]
pub struct HostCheck(Option<Arc<Names>>);

#[derive(Debug)]
struct Names {
    names: BTreeSet<String>,
    /// Listens everywhere: any address in figures is one of ours, or of whoever forwards to us.
    any_address: bool,
}

impl HostCheck {
    /// Every host.
    pub fn any() -> Self {
        Self(None)
    }

    /// `localhost`, the addresses that the listener has, and these names; a name `*` stands for every host. Where an
    /// address is the unspecified one, every host that is an address in figures.
    pub fn new<S: AsRef<str>>(addresses: &[SocketAddr], names: &[S]) -> Self {
        if names.iter().any(|name| name.as_ref() == "*") {
            return Self::any();
        }
        let mut all: BTreeSet<String> = names.iter().map(|name| plain(name.as_ref())).collect();
        all.insert("localhost".to_owned());
        all.extend(addresses.iter().map(|address| address.ip().to_string()));
        let any_address = addresses.iter().any(|address| address.ip().is_unspecified());
        Self(Some(Arc::new(Names { names: all, any_address })))
    }

    /// Whether a request is meant for this server. One that does not say so comes from no browser.
    pub(crate) fn allows(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let Some(allowed) = &self.0 else { return true };
        match host_of(uri, headers) {
            Host::Unsaid => true,
            Host::Unclear => false,
            Host::Named(host) => {
                let name = plain(host);
                allowed.names.contains(&name) || allowed.any_address && name.parse::<IpAddr>().is_ok()
            }
        }
    }
}

/// Whether a page of another origin sends a request that may change something.
pub(crate) fn is_foreign_write(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, host_of(uri, headers)) {
        (Some((_, authority)), Host::Named(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

enum Host<'a> {
    /// With its port, as sent.
    Named(&'a str),
    Unsaid,
    Unclear,
}

fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Host<'a> {
    if let Some(authority) = uri.authority() {
        return Host::Named(authority.as_str());
    }
    let mut given = headers.get_all(header::HOST).iter();
    match (given.next(), given.next()) {
        (None, _) => Host::Unsaid,
        (Some(host), None) => host.to_str().map_or(Host::Unclear, Host::Named),
        _ => Host::Unclear,
    }
}

/// A host without its port, in lower case; an IPv6 address without its brackets and in its usual form.
fn plain(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |ip| ip.to_string());
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.to_string();
    }
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(&*host, |h| h.0);
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn allows(check: &HostCheck, host: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
        check.allows(&Uri::from_static("/"), &headers)
    }

    #[test]
    fn own_names_pass_and_others_do_not() {
        let check =
            HostCheck::new(&["127.0.0.1:5050".parse().unwrap(), "[::1]:5050".parse().unwrap()], &["Cloud.Example"]);
        for host in
            ["localhost", "LOCALHOST:5050", "127.0.0.1", "127.0.0.1:1", "[::1]:5050", "[0:0::1]", "cloud.example.:80"]
        {
            assert!(allows(&check, host), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil", "", "[", "[::2]", ":5050", "a b"]
        {
            assert!(!allows(&check, host), "{host}");
        }
        assert!(allows(&HostCheck::any(), "evil.example"));
        assert!(allows(&HostCheck::new(&[], &["*"]), "evil.example"));
        let everywhere = HostCheck::new::<&str>(&["0.0.0.0:5050".parse().unwrap()], &[]);
        assert!(allows(&everywhere, "10.0.0.1:5050") && allows(&everywhere, "[fe80::1]"));
        assert!(!allows(&everywhere, "evil.example"));
    }

    #[test]
    fn what_is_unsaid_passes_and_what_is_unclear_does_not() {
        let check = HostCheck::new::<&str>(&[], &[]);
        let root = Uri::from_static("/");
        assert!(check.allows(&root, &HeaderMap::new()));
        let mut twice = HeaderMap::new();
        twice.append(header::HOST, HeaderValue::from_static("localhost"));
        twice.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(!check.allows(&root, &twice));
        let bytes = HeaderMap::from_iter([(header::HOST, HeaderValue::from_bytes(b"\xff").unwrap())]);
        assert!(!check.allows(&root, &bytes));
        assert!(!check.allows(&Uri::from_static("http://evil.example/"), &HeaderMap::new()));
    }

    #[test]
    fn pages_of_other_origins_cannot_write() {
        let ask = |method: Method, origin: &str| {
            let headers = HeaderMap::from_iter([
                (header::HOST, HeaderValue::from_static("localhost:5050")),
                (header::ORIGIN, HeaderValue::from_str(origin).unwrap()),
            ]);
            is_foreign_write(&method, &Uri::from_static("/"), &headers)
        };
        assert!(!ask(Method::PUT, "http://LocalHost:5050"));
        assert!(!ask(Method::GET, "http://evil.example"));
        for origin in ["http://evil.example", "null", "http://localhost", "", "http://localhost:50500"] {
            assert!(ask(Method::PUT, origin), "{origin}");
        }
        assert!(!is_foreign_write(&Method::PUT, &Uri::from_static("/"), &HeaderMap::new()));
    }
}
