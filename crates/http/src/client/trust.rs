//! Whom the client believes.

use crate::error::HttpError;
use crate::tls::{Fingerprint, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;

/// Whom the client believes to be the server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Nobody is checked: plain HTTP.
    Plain,
    /// The holder of this very certificate, whatever its names and dates.
    Fingerprint(Fingerprint),
    /// The holder of one of these certificates (PEM), whatever its names and dates, or of one that they issued for
    /// the server's name.
    Certificate(String),
}

impl Trust {
    /// The same trust as a TLS configuration. [`Trust::Plain`] trusts nobody.
    pub(super) fn config(self) -> Result<Arc<ClientConfig>, HttpError> {
        let provider = provider();
        let (pins, issuers) = match self {
            Self::Plain => (Vec::new(), None),
            Self::Fingerprint(pin) => (vec![pin], None),
            Self::Certificate(pem) => {
                let certs = parse(&pem)?;
                (certs.iter().map(|c| Fingerprint::of(c)).collect(), issuers(&certs, &provider))
            }
        };
        let verifier = Pinned { pins, issuers, provider: Arc::clone(&provider) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(|source| HttpError::Tls { cert: PathBuf::from("(client)"), source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn parse(pem: &str) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let bad = |reason: String| HttpError::BadPem { what: "trusted certificate", path: PathBuf::from("(pem)"), reason };
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certs = certs.map_err(|error| bad(error.to_string()))?;
    if certs.is_empty() { Err(bad("it has no CERTIFICATE section in PEM form".into())) } else { Ok(certs) }
}

/// What the certificates have issued; none when they cannot issue, which leaves the pins.
fn issuers(certs: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certs.iter().cloned());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().ok()
}

/// Accepts pinned certificates by themselves. The usual verifier cannot: it refuses a self-signed certificate with
/// the CA flag, which is what common tools make. That the server holds the key is proven by its signature either way.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Fingerprint>,
    issuers: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.contains(&Fingerprint::of(leaf)) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issuers {
            Some(issuers) => issuers.verify_server_cert(leaf, chain, name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
