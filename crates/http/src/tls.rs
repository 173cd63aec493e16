//! Certificates: made on first start, loaded, and exchanged while serving.

mod certificate;
mod files;
mod x509;

pub use certificate::{CertificateInfo, Fingerprint, Validity};
pub use files::host_name;

use crate::error::HttpError;
use certificate::Loaded;
use portolan_model::Clock;
use rustls::crypto::CryptoProvider;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// The certificate and key that listeners show, shared by everyone who holds a clone.
///
/// Its functions read and write small files in place; call them at a start, a signal or from a blocking thread.
#[derive(Clone)]
pub struct TlsIdentityHandle(Arc<Identity>);

struct Identity {
    cert: PathBuf,
    key: PathBuf,
    made: bool,
    clock: Arc<dyn Clock>,
    current: RwLock<Arc<Loaded>>,
}

impl TlsIdentityHandle {
    /// Loads `tls.crt` and `tls.key` of a directory, making them first when they are not there: self-signed ECDSA
    /// P-256, valid for ten years, for localhost, 127.0.0.1, ::1, this machine's name and `names` (host names or
    /// addresses). The directory is made 0700 and the key 0600; both are on disk before this returns.
    ///
    /// # Errors
    /// Files that cannot be written, read or used together. A complete pair is never overwritten, whatever is wrong
    /// with it: an operator may have put it there. Half a pair is what a crash leaves, and is made anew.
    pub fn self_signed(dir: &Path, names: &[String], clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        let (cert, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        if !(cert.exists() && key.exists()) {
            files::make(dir, &cert, &key, names, clock.now())?;
        }
        Self::open(cert, key, true, clock)
    }

    /// Loads a certificate chain (leaf first) and its private key from PEM files. Warns in the log about a key that
    /// others can read and a certificate that has expired or soon will.
    ///
    /// # Errors
    /// A missing or unreadable file, a file without the right PEM section, a key that does not belong to the leaf.
    pub fn from_files(cert: &Path, key: &Path, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        Self::open(cert.to_owned(), key.to_owned(), false, clock)
    }

    fn open(cert: PathBuf, key: PathBuf, made: bool, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        let loaded = Loaded::read(&cert, &key, made)?;
        loaded.info.warn(clock.now());
        Ok(Self(Arc::new(Identity { cert, key, made, clock, current: RwLock::new(Arc::new(loaded)) })))
    }

    /// Reads the files again. New connections see the new certificate, also clients that would have resumed an old
    /// session; open connections go on undisturbed.
    ///
    /// # Errors
    /// As [`TlsIdentityHandle::from_files`]; the certificate in use stays.
    pub fn reload(&self) -> Result<CertificateInfo, HttpError> {
        let identity = &self.0;
        let loaded = Loaded::read(&identity.cert, &identity.key, identity.made)?;
        loaded.info.warn(identity.clock.now());
        let info = loaded.info.clone();
        *identity.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        tracing::info!(cert = %identity.cert.display(), fingerprint = %info.fingerprint, "certificate loaded");
        Ok(info)
    }

    /// About the certificate in use.
    pub fn info(&self) -> CertificateInfo {
        self.current().info.clone()
    }

    /// The certificate chain in use as PEM, for clients that shall trust it.
    pub fn pem(&self) -> String {
        self.current().pem.clone()
    }

    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.current().config)
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TlsIdentityHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentityHandle").field("cert", &self.0.cert).field("key", &self.0.key).finish()
    }
}

/// The one cryptography provider, named explicitly so that nothing depends on a process-wide default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
