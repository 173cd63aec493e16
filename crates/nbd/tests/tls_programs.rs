//! TLS with others: the client with QEMU's server, and the server with the clients of QEMU and libnbd.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{MIB, QemuNbd, patchy, run, succeed, succeed_beside, text};
use portolan_block::{BlockSource, MemorySource};
use portolan_nbd::{
    Address, ClientOptions, ClientTls, Connection, Export, NbdError, NbdSource, Server, ServerOptions, SourceDevice,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::path::Path;
use std::sync::Arc;

/// An authority, and a certificate for each side: GnuTLS, which the others use, takes none that vouches for itself.
struct Authority {
    certificate: rcgen::Certificate,
    server: Leaf,
    client: Leaf,
}

struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Leaf {
    fn new(issuer: &Issuer<'_, KeyPair>, usage: ExtendedKeyUsagePurpose) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        // QEMU asks for both, though these keys encipher none.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        Self { certificate: params.signed_by(&key, issuer).unwrap(), key }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let server = Leaf::new(&issuer, ExtendedKeyUsagePurpose::ServerAuth);
        let client = Leaf::new(&issuer, ExtendedKeyUsagePurpose::ClientAuth);
        Self { certificate, server, client }
    }

    /// The files by the names that QEMU and libnbd look for.
    fn files(&self, directory: &Path) {
        std::fs::write(directory.join("ca-cert.pem"), self.certificate.pem()).unwrap();
        for (name, leaf) in [("server", &self.server), ("client", &self.client)] {
            std::fs::write(directory.join(format!("{name}-cert.pem")), leaf.certificate.pem()).unwrap();
            std::fs::write(directory.join(format!("{name}-key.pem")), leaf.key.serialize_pem()).unwrap();
        }
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    /// Wants clients to have a certificate of this authority, too.
    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_client_cert_verifier(verifier.build().unwrap());
        Arc::new(config.with_single_cert(self.server.chain(), self.server.key()).unwrap())
    }

    fn client_options(&self, with_certificate: bool) -> ClientOptions {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(self.roots());
        let config = if with_certificate {
            config.with_client_auth_cert(self.client.chain(), self.client.key()).unwrap()
        } else {
            config.with_no_client_auth()
        };
        let tls = ClientTls { config: Arc::new(config), server_name: Some("localhost".into()) };
        ClientOptions { tls: Some(tls), ..ClientOptions::default() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_serves_our_client_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.files(directory.path());
    let (disk, raw) = (patchy(21, 6 * MIB), directory.path().join("disk.raw"));
    std::fs::write(&raw, &disk).unwrap();
    let object = format!("tls-creds-x509,id=tls0,endpoint=server,verify-peer=yes,dir={}", text(directory.path()));
    let words = ["-r", "-f", "raw", "-x", "disk", "--object", &object, "--tls-creds", "tls0"];
    let qemu = QemuNbd::start(directory.path(), &raw, &words);
    let plain = Address::unix(&qemu.socket, "disk");
    let secure = plain.clone().with_tls();

    let source = NbdSource::connect(&secure, &authority.client_options(true), 2).await.unwrap();
    assert!(source.connection().info().structured);
    assert!(source.read_at(0, disk.len()).await.unwrap() == disk);
    let extents = source.extents(0..source.size()).await.unwrap();
    assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), disk.len() as u64);
    // Without TLS, without a certificate, and with one of somebody else: nobody is let in.
    let bare = Connection::connect(&plain, &ClientOptions::default()).await;
    assert!(matches!(bare, Err(NbdError::Tls(_))), "{bare:?}");
    for options in [authority.client_options(false), Authority::new().client_options(true)] {
        assert!(Connection::connect(&secure, &options).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_server_serves_other_clients_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.files(directory.path());
    let disk = patchy(22, 5 * MIB + 512);
    let tls = Some(authority.server_config());
    let server = Server::new(ServerOptions { tls, ..ServerOptions::default() });
    server.add(Export::new("disk", Arc::new(SourceDevice::new(Arc::new(MemorySource::new(disk.clone())))))).unwrap();
    let port = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap().port();
    let out = directory.path().join("out");

    let certificates = format!("tls-certificates={}", text(directory.path()));
    let uri = format!("nbds://localhost:{port}/disk?{certificates}");
    let info = succeed_beside("nbdinfo", &[&uri]).await;
    let size = format!("export-size: {}", disk.len());
    assert!(info.contains("with TLS") && info.contains(&size), "{info}");
    succeed_beside("nbdcopy", &[&uri, text(&out)]).await;
    assert!(std::fs::read(&out).unwrap() == disk);

    let object = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", text(directory.path()));
    let image = format!("driver=nbd,host=localhost,port={port},export=disk,tls-creds=tls0");
    let words = ["convert", "--object", &object, "--image-opts", "-O", "raw", &image, text(&out)];
    std::fs::remove_file(&out).unwrap();
    succeed_beside("qemu-img", &words).await;
    assert!(std::fs::read(&out).unwrap() == disk);

    // Nobody is let in without TLS, or who takes the server for another one.
    let plain = format!("nbd://localhost:{port}/disk");
    let stranger = tempfile::tempdir().unwrap();
    Authority::new().files(stranger.path());
    let other = format!("nbds://localhost:{port}/disk?tls-certificates={}", text(stranger.path()));
    for uri in [plain, other] {
        let refused = tokio::task::spawn_blocking(move || run("nbdinfo", &[&uri])).await.unwrap();
        assert!(!refused.status.success(), "{refused:?}");
    }
    // It is reached as before.
    succeed("nbdinfo", &["--size", &uri]);
}
