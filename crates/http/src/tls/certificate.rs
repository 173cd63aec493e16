//! A loaded certificate with its key, and what is worth showing of it.

use super::{files, provider, x509};
use crate::error::HttpError;
use portolan_model::Timestamp;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The SHA-256 of a certificate's DER form. Prints as `AB:CD:…`; reads with or without colons, in either case, with or
/// without a leading `sha256:`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER form.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// Of the first certificate of a PEM text, if there is one.
    pub fn of_pem(pem: &str) -> Option<Self> {
        CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| Self::of(&der))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let colon = if n == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        let refuse = || HttpError::Fingerprint(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits: Vec<u8> = lower.strip_prefix("sha256:").unwrap_or(&lower).bytes().filter(|b| *b != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return Err(refuse());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = pair.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(refuse)?;
        }
        Ok(Self(bytes))
    }
}

/// How a certificate stands to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// In its time, with more than 30 days left, or of unknown end.
    Valid,
    /// Ends within 30 days.
    EndsSoon,
    /// Has ended: clients that check will refuse it.
    Expired,
}

/// About a certificate in use.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    /// The certificate file.
    pub cert: PathBuf,
    /// The private key file.
    pub key: PathBuf,
    /// The leaf's fingerprint.
    pub fingerprint: Fingerprint,
    /// When the leaf ends; none when its date cannot be read.
    pub not_after: Option<Timestamp>,
    /// Whether the files are the ones made on first start.
    pub made: bool,
}

impl CertificateInfo {
    /// How it stands at `now`.
    pub fn validity(&self, now: Timestamp) -> Validity {
        const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
        match self.not_after {
            Some(end) if end < now => Validity::Expired,
            Some(end) if end < now + SOON => Validity::EndsSoon,
            _ => Validity::Valid,
        }
    }

    pub(super) fn warn(&self, now: Timestamp) {
        let cert = self.cert.display();
        let end = self.not_after.map(|at| at.to_rfc3339()).unwrap_or_default();
        match self.validity(now) {
            Validity::Valid => {}
            Validity::EndsSoon => tracing::warn!(%cert, not_after = %end, "the certificate ends soon"),
            Validity::Expired => tracing::warn!(%cert, not_after = %end, "the certificate has expired"),
        }
        if files::others_can_read(&self.key) {
            tracing::warn!(key = %self.key.display(), "others can read the private key; chmod it to 0600");
        }
    }
}

/// A certificate ready to serve with.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) info: CertificateInfo,
    pub(super) pem: String,
}

impl Loaded {
    /// Reads both files and checks that they belong together.
    pub(super) fn read(cert: &Path, key: &Path, made: bool) -> Result<Self, HttpError> {
        let cert_bytes = files::read("certificate", cert)?;
        let key_bytes = KeyBytes(files::read("private key", key)?);
        let chain = CertificateDer::pem_slice_iter(&cert_bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad("certificate", cert, pem_reason(&error)))?;
        let Some(leaf) = chain.first() else {
            return Err(bad("certificate", cert, "it has no CERTIFICATE section in PEM form".into()));
        };
        let fingerprint = Fingerprint::of(leaf);
        let not_after = x509::not_after(leaf);
        let secret = PrivateKeyDer::from_pem_slice(&key_bytes.0).map_err(|error| match error {
            PemError::NoItemsFound if contains(&key_bytes.0, b"ENCRYPTED") => {
                bad("private key", key, "it is protected by a passphrase; store it without one".into())
            }
            PemError::NoItemsFound => bad("private key", key, "it has no PRIVATE KEY section in PEM form".into()),
            // The text of other errors may quote the key.
            _ => bad("private key", key, "its PEM form is damaged".into()),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(|source| HttpError::Tls { cert: cert.to_owned(), source })?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|source| match source {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    HttpError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() }
                }
                source => HttpError::Tls { cert: cert.to_owned(), source },
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let info = CertificateInfo { cert: cert.to_owned(), key: key.to_owned(), fingerprint, not_after, made };
        Ok(Self { config: Arc::new(config), info, pem: String::from_utf8_lossy(&cert_bytes).into_owned() })
    }
}

/// Key bytes that do not stay behind in memory.
struct KeyBytes(Vec<u8>);

impl Drop for KeyBytes {
    fn drop(&mut self) {
        self.0.fill(0);
    }
}

fn bad(what: &'static str, path: &Path, reason: String) -> HttpError {
    HttpError::BadPem { what, path: path.to_owned(), reason }
}

fn pem_reason(error: &PemError) -> String {
    match error {
        PemError::NoItemsFound => "it has no section in PEM form".into(),
        other => other.to_string(),
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_read_what_they_print() {
        let print = Fingerprint::of(b"certificate");
        let text = print.to_string();
        assert_eq!(text.len(), 95);
        for form in [text.clone(), text.to_lowercase(), text.replace(':', ""), format!("SHA256:{text}")] {
            assert_eq!(form.parse::<Fingerprint>().unwrap(), print, "{form}");
        }
        for bad in ["", "AB", "zz", &text[3..], &text.replace(':', "é"), &"+1".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
