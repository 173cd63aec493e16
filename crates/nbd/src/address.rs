//! Where an export is: NBD URIs.

use crate::error::NbdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port of NBD, where an address names none.
const DEFAULT_PORT: u16 = 10809;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host name or address, and a port.
    Tcp {
        /// Host name or IP address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// An export of a server: `nbd://host:port/export`, `nbd+unix:///export?socket=path`, with `nbds` instead of `nbd`
/// where TLS is required.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// Whether TLS is required.
    pub tls: bool,
    /// The export's name; empty for the server's default.
    pub export: String,
}

impl Address {
    /// An export behind a Unix socket, without TLS.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self { endpoint: Endpoint::Unix(path.into()), tls: false, export: export.into() }
    }

    /// An export behind a TCP port, without TLS.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self { endpoint: Endpoint::Tcp { host: host.into(), port }, tls: false, export: export.into() }
    }

    /// The same address with TLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = escape(self.export.as_bytes());
        match &self.endpoint {
            Endpoint::Unix(path) => write!(f, "{scheme}+unix:///{export}?socket={}", escape(path_bytes(path))),
            Endpoint::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "{scheme}://{host}")?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
        }
    }
}

impl FromStr for Address {
    type Err = NbdError;

    /// Fails with [`NbdError::Address`] on what is not an NBD URI.
    fn from_str(text: &str) -> Result<Self, NbdError> {
        let bad = || NbdError::Address(text.chars().take(200).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (tls, unix) = match scheme {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(bad()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = String::from_utf8(unescape(export).ok_or_else(bad)?).map_err(|_| bad())?;
        if export.len() > crate::wire::MAX_STRING {
            return Err(bad());
        }
        let endpoint = if unix {
            let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket=")).ok_or_else(bad)?;
            let socket = unescape(socket).filter(|path| !path.is_empty() && !path.contains(&0)).ok_or_else(bad)?;
            if !authority.is_empty() {
                return Err(bad());
            }
            Endpoint::Unix(bytes_path(socket))
        } else {
            tcp(authority).ok_or_else(bad)?
        };
        Ok(Self { endpoint, tls, export })
    }
}

fn tcp(authority: &str) -> Option<Endpoint> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => DEFAULT_PORT,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

fn bytes_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_and_written() {
        for text in [
            "nbd://localhost/",
            "nbd://example.org:9999/disk%201",
            "nbds://[::1]:10810/a/b",
            "nbd+unix:///?socket=/run/a%20b.sock",
            "nbds+unix:///vda?socket=/tmp/x",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("nbd://h".parse::<Address>().unwrap(), Address::tcp("h", 10809, ""));
        assert_eq!("nbds+unix:///e?a=b&socket=s".parse::<Address>().unwrap(), Address::unix("s", "e").with_tls());
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in ["", "nbd:", "http://x/", "nbd://", "nbd://h:99999/", "nbd://[::1/", "nbd://h/%4", "nbd://h/%zz"] {
            assert!(matches!(text.parse::<Address>(), Err(NbdError::Address(_))), "{text}");
        }
        for text in ["nbd+unix:///x", "nbd+unix:///x?socket=", "nbd+unix://h/x?socket=y", "nbd://h/%ff", "nbd://a b/"] {
            assert!(matches!(text.parse::<Address>(), Err(NbdError::Address(_))), "{text}");
        }
    }
}
