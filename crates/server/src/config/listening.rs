//! Listeners: addresses and TLS, the same for each.

use super::error::ConfigError;
use super::reader::Reader;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Where it listens; nowhere when it is off.
    pub addresses: Vec<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Certificate chain and private key; a self-signed certificate is made without them.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Further names of this host in the self-signed certificate.
    pub names: Vec<String>,
}

impl Listening {
    /// The listener of that name. Certificate and key need each other.
    pub(super) fn read(read: &Reader<'_>, name: &str) -> Result<Self, ConfigError> {
        let at = |key: &str| format!("listeners.{name}.{key}");
        let certificate = match (read.path(&at("cert"))?, read.path(&at("key"))?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (cert, _) => {
                let (there, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                return Err(ConfigError::Missing {
                    key: at(missing),
                    reason: format!("{} is of no use without it", at(there)),
                });
            }
        };
        Ok(Self {
            addresses: read.addresses(&format!("listeners.{name}")),
            tls: read.flag(&at("tls")),
            certificate,
            names: read.list(&at("names")),
        })
    }
}
