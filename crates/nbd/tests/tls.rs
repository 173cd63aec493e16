//! TLS between the client and the server of this crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Fixture, MIB, patchy};
use portolan_block::{BlockSource, MemorySource};
use portolan_nbd::{
    Address, ClientOptions, ClientTls, Connection, Export, NbdError, NbdSource, Server, ServerOptions, SourceDevice,
    list_exports,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_required_on_both_sides() {
    let server_side = Identity::new();
    let (config, client) = (server_side.server(None), server_side.client(None));
    let server = Server::new(ServerOptions { tls: Some(config), ..ServerOptions::default() });
    let disk = patchy(3, 2 * MIB);
    server.add(Export::new("disk", Arc::new(SourceDevice::new(Arc::new(MemorySource::new(disk.clone())))))).unwrap();
    let bound = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let plain = Address::tcp("127.0.0.1", bound.port(), "disk");
    let secure = plain.clone().with_tls();
    let tls = |config| ClientTls { config, server_name: Some("localhost".into()) };
    let options = ClientOptions { tls: Some(tls(client)), ..ClientOptions::default() };

    let secured = NbdSource::connect(&secure, &options, 2).await.unwrap();
    assert!(secured.read_at(0, disk.len()).await.unwrap() == disk);
    assert_eq!(list_exports(&secure, &options).await.unwrap().len(), 1);
    let without = ClientOptions::default();
    assert!(matches!(list_exports(&plain, &without).await, Err(NbdError::Tls(_))));
    assert!(matches!(Connection::connect(&plain, &without).await, Err(NbdError::Tls(_))));
    assert!(matches!(Connection::connect(&secure, &without).await, Err(NbdError::Tls(_))));
    // Somebody else's certificate.
    let stranger = ClientOptions { tls: Some(tls(Identity::new().client(None))), ..ClientOptions::default() };
    assert!(matches!(Connection::connect(&secure, &stranger).await, Err(NbdError::Tls(_))));

    // A server without TLS is not talked to by who wants it.
    let fixture = Fixture::new(Arc::new(SourceDevice::new(Arc::new(MemorySource::new(disk))))).await;
    for address in [fixture.address(), fixture.address().with_tls()] {
        assert!(matches!(Connection::connect(&address, &options).await, Err(NbdError::Tls(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_can_be_asked_for_certificates() {
    let (server_side, client_side) = (Identity::new(), Identity::new());
    let tls = Some(server_side.server(Some(&client_side)));
    let server = Server::new(ServerOptions { tls, ..ServerOptions::default() });
    server.add(Export::new("disk", Arc::new(SourceDevice::new(Arc::new(MemorySource::new(vec![5; 512])))))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    server.listen_unix(&socket).await.unwrap();
    let connect = async |certificate: Option<&Identity>| {
        let tls = ClientTls { config: server_side.client(certificate), server_name: None };
        let options = ClientOptions { tls: Some(tls), ..ClientOptions::default() };
        Connection::connect(&Address::unix(&socket, "disk"), &options).await
    };
    assert_eq!(connect(Some(&client_side)).await.unwrap().read(0, 1).await.unwrap()[0], 5);
    // In TLS 1.3 a client learns only afterwards that it was not let in.
    assert!(connect(None).await.is_err());
    assert!(connect(Some(&Identity::new())).await.is_err());
}

/// A certificate that vouches for itself.
struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).unwrap()
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    /// A server with this certificate, which wants clients to have one that `clients` vouches for.
    fn server(&self, clients: Option<&Identity>) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider.clone());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        Arc::new(config.with_single_cert(vec![self.certificate.clone()], self.key()).unwrap())
    }

    /// A client that trusts a server with this certificate, and has one of its own or none.
    fn client(&self, own: Option<&Identity>) -> Arc<rustls::ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(self.roots());
        Arc::new(match own {
            None => config.with_no_client_auth(),
            Some(own) => config.with_client_auth_cert(vec![own.certificate.clone()], own.key()).unwrap(),
        })
    }
}
