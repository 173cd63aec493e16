use crate::support::{Server, StoppedClock, edge, rest, wide};
use axum::Router;
use axum::routing::get;
use portolan_http::client::{Client, Trust};
use portolan_http::{Fingerprint, HttpError, TlsIdentityHandle, Validity};
use portolan_model::{Clock, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) fn identity(dir: &Path) -> TlsIdentityHandle {
    TlsIdentityHandle::self_signed(dir, &["portolan.example".into()], Arc::new(StoppedClock)).unwrap()
}

/// A client that knows one protocol version and checks names and dates as usual.
pub(crate) async fn tls_connect(
    address: SocketAddr,
    pem: &str,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_connect_as(address, pem, version, "localhost").await
}

async fn tls_connect_as(
    address: SocketAddr,
    pem: &str,
    version: &'static SupportedProtocolVersion,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
}

fn hello() -> Router {
    edge().wrap(Router::new().route("/", get(|| async { "hello" })))
}

#[tokio::test]
async fn both_protocol_versions_and_all_names_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let tls = identity(dir.path());
    let server = Server::start(wide(), Some(tls.clone()), hello()).await;
    assert!(server.url.starts_with("https://127.0.0.1:"));
    for (version, number) in [
        (&rustls::version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        for name in ["localhost", "127.0.0.1", "::1", "portolan.example"] {
            let stream = tls_connect_as(server.address, &tls.pem(), version, name).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(number));
        }
        assert!(tls_connect_as(server.address, &tls.pem(), version, "other.example").await.is_err());
    }
}

#[tokio::test]
async fn the_client_believes_whom_it_is_told_to() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tls, stranger) = (identity(dir.path()), identity(other.path()));
    let server = Server::start(wide(), Some(tls.clone()), hello()).await;
    let print = tls.info().fingerprint;
    assert_eq!(Fingerprint::of_pem(&tls.pem()), Some(print));
    for trust in [Trust::Fingerprint(print), Trust::Certificate(tls.pem())] {
        assert_eq!(Client::new(&server.url, trust).unwrap().get("/").await.unwrap().text(), "hello");
    }
    for trust in [Trust::Fingerprint(stranger.info().fingerprint), Trust::Certificate(stranger.pem())] {
        let error = Client::new(&server.url, trust).unwrap().get("/").await.unwrap_err();
        assert!(matches!(error, HttpError::Handshake { .. }), "{error:?}");
    }
    assert!(matches!(Client::new(&server.url, Trust::Plain), Err(HttpError::BaseUrl { .. })));
    assert!(matches!(Client::new("http://x", Trust::Fingerprint(print)), Err(HttpError::BaseUrl { .. })));
    assert!(matches!(Client::new(&server.url, Trust::Certificate(String::new())), Err(HttpError::BadPem { .. })));
}

#[tokio::test]
async fn certificates_made_by_others_are_trusted_by_pin_and_by_issuer() {
    // An issuer, a server certificate of it, and a self-signed one with the CA flag, as common tools make them.
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    fs::write(&cert, leaf.pem()).unwrap();
    fs::write(&key, leaf_key.serialize_pem()).unwrap();
    let tls = TlsIdentityHandle::from_files(&cert, &key, Arc::new(StoppedClock)).unwrap();
    let server = Server::start(wide(), Some(tls.clone()), hello()).await;
    let client = Client::new(&server.url, Trust::Certificate(ca_pem)).unwrap();
    assert_eq!(client.get("/").await.unwrap().text(), "hello");

    let own_key = rcgen::KeyPair::generate().unwrap();
    let mut own = rcgen::CertificateParams::new(vec!["elsewhere".into()]).unwrap();
    own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    fs::write(&cert, own.self_signed(&own_key).unwrap().pem()).unwrap();
    fs::write(&key, own_key.serialize_pem()).unwrap();
    tls.reload().unwrap();
    let client = Client::new(&server.url, Trust::Certificate(tls.pem())).unwrap();
    assert_eq!(client.get("/").await.unwrap().text(), "hello");
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_and_a_bad_file_keeps_the_old() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tls, next) = (identity(dir.path()), identity(other.path()));
    let (old, new) = (tls.info().fingerprint, next.info().fingerprint);
    let server = Server::start(wide(), Some(tls.clone()), hello()).await;
    let before = Client::new(&server.url, Trust::Fingerprint(old)).unwrap();
    before.get("/").await.unwrap();

    fs::copy(other.path().join("tls.crt"), dir.path().join("tls.crt")).unwrap();
    assert!(matches!(tls.reload(), Err(HttpError::KeyMismatch { .. })));
    assert_eq!(tls.info().fingerprint, old);
    Client::new(&server.url, Trust::Fingerprint(old)).unwrap().get("/").await.unwrap();

    fs::copy(other.path().join("tls.key"), dir.path().join("tls.key")).unwrap();
    assert_eq!(tls.reload().unwrap().fingerprint, new);
    Client::new(&server.url, Trust::Fingerprint(new)).unwrap().get("/").await.unwrap();
    assert!(Client::new(&server.url, Trust::Fingerprint(old)).unwrap().get("/").await.is_err());
    // The connection from before lives on.
    assert_eq!(before.get("/").await.unwrap().text(), "hello");
}

#[test]
fn a_first_start_makes_files_and_the_next_one_finds_them() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/tls");
    let first = identity(&dir).info();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&first.key), mode(&first.cert), mode(&dir)), (0o600, 0o644, 0o700));
    assert_eq!(identity(&dir).info().fingerprint, first.fingerprint);
    let end = first.not_after.unwrap();
    assert_eq!(end.to_rfc3339(), "2036-11-18T00:00:00.000Z");
    let now = StoppedClock.now();
    assert_eq!(first.validity(now), Validity::Valid);
    assert_eq!(first.validity(end - Duration::from_secs(86_400)), Validity::EndsSoon);
    assert_eq!(first.validity(end + Duration::from_secs(1)), Validity::Expired);

    // Died between the two files, with a half-written one beside: both are made anew, and belong together.
    fs::remove_file(&first.cert).unwrap();
    fs::write(dir.join("tls.new"), "half").unwrap();
    let second = identity(&dir).info();
    assert_ne!(second.fingerprint, first.fingerprint);
    assert_eq!(mode(&second.key), 0o600);
    fs::remove_file(&second.key).unwrap();
    identity(&dir);
    assert!(!dir.join("tls.new").exists());
}

#[derive(Debug)]
struct Extreme(Timestamp);

impl Clock for Extreme {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[test]
fn no_clock_makes_it_panic() {
    for now in [Timestamp::MIN, Timestamp::MAX, Timestamp::from_micros(0)] {
        let dir = tempfile::tempdir().unwrap();
        TlsIdentityHandle::self_signed(dir.path(), &[], Arc::new(Extreme(now))).unwrap();
    }
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = identity(dir.path()).info();
    let load = |cert: &Path, key: &Path| {
        let error = TlsIdentityHandle::from_files(cert, key, Arc::new(StoppedClock)).unwrap_err();
        error.to_string()
    };
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let missing = dir.path().join("nowhere.pem");
    assert!(load(&missing, &good.key).contains("certificate") && load(&missing, &good.key).contains("nowhere.pem"));
    assert!(load(&good.cert, &missing).contains("private key"));
    let empty = file("empty.pem", "");
    assert!(load(&empty, &good.key).contains("no CERTIFICATE section"));
    assert!(load(&good.cert, &empty).contains("no PRIVATE KEY section"));
    assert!(load(&good.key, &good.key).contains("no CERTIFICATE section"));
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(load(&good.cert, &file("locked.pem", locked)).contains("passphrase"));
    let damaged = "-----BEGIN PRIVATE KEY-----\n!secret!\n-----END PRIVATE KEY-----\n";
    let text = load(&good.cert, &file("damaged.pem", damaged));
    assert!(text.contains("damaged") && !text.contains("secret"), "{text}");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(load(&file("nonsense.pem", nonsense), &good.key).contains("nonsense.pem"));
    let other = tempfile::tempdir().unwrap();
    let text = load(&good.cert, &identity(other.path()).info().key);
    assert!(text.contains("does not belong"), "{text}");
}

#[tokio::test]
async fn plain_http_on_an_encrypted_port_gets_an_explanation() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(wide(), Some(identity(dir.path())), hello()).await;
    let answer = server.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("HTTPS"), "{answer}");
    let mut nonsense = server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut nonsense, &[0xff; 64]).await.unwrap();
    rest(&mut nonsense).await;
}
