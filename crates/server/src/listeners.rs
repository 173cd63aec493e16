//! The listeners of a configuration: all taken before anything is made, each with a certificate of its own or none.

use crate::config::{Config, Listening};
use crate::core::system;
use crate::data_dir::DataDir;
use crate::error::Failure;
use portolan_http::{BoundListener, HttpError, Limits, ListenerConfig, TlsIdentityHandle, bind};
use portolan_model::{Clock, IdSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The certificates of listeners that speak TLS, by the listeners' names.
pub(crate) type Identities = Vec<(&'static str, TlsIdentityHandle)>;

/// Listeners that hold their addresses.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    bound: Vec<(&'static str, BoundListener)>,
    /// Their certificates.
    pub(crate) identities: Identities,
}

impl Listeners {
    /// Where one answers; nothing when it is off.
    pub(crate) fn url(&self, name: &str) -> Option<String> {
        self.bound.iter().find(|(n, _)| *n == name).map(|(_, bound)| bound.url())
    }

    /// Takes one out, to serve it.
    pub(crate) fn remove(&mut self, name: &str) -> Option<BoundListener> {
        let at = self.bound.iter().position(|(n, _)| *n == name)?;
        Some(self.bound.remove(at).1)
    }
}

/// Takes addresses and data directory, in the order in which a failure leaves the least behind.
///
/// # Errors
/// When an address or the directory is taken, or a certificate cannot be used.
pub(crate) async fn take(config: &Config) -> Result<(DataDir, Arc<dyn IdSource>, Listeners), Failure> {
    let there = DataDir::take_existing(&config.data_dir)?;
    if config.listeners().iter().all(|(_, listening)| listening.addresses.is_empty()) {
        return Err(Failure::usage("every listener is off: the server would answer nobody")
            .hint("turn one on with listeners.vplus.enabled = true"));
    }
    // Certificates lie in the data directory: try the addresses without them first.
    drop(bind_all(config, &Identities::new()).await?);
    let data = match there {
        Some(data) => data,
        None => DataDir::take(&config.data_dir)?,
    };
    let (clock, ids) = system();
    let mut identities = Identities::new();
    for (name, listening) in config.listeners() {
        if listening.tls && !listening.addresses.is_empty() {
            let tls = identity(data.path(), name, listening, Arc::clone(&clock));
            let unusable = || Failure::new(format!("the certificate of the listener '{name}' cannot be used"));
            identities.push((name, tls.map_err(|e| unusable().because(e))?));
        }
    }
    let bound = bind_all(config, &identities).await?;
    Ok((data, ids, Listeners { bound, identities }))
}

/// A listener's certificate: the operator's own, else a self-signed one, made where there is none yet.
fn identity(
    data: &Path,
    name: &str,
    listening: &Listening,
    clock: Arc<dyn Clock>,
) -> Result<TlsIdentityHandle, HttpError> {
    match &listening.certificate {
        Some((cert, key)) => TlsIdentityHandle::from_files(cert, key, clock),
        None => TlsIdentityHandle::self_signed(&self_signed_dir(data, name), &listening.names, clock),
    }
}

/// The directory of a listener's self-signed certificate.
pub(crate) fn self_signed_dir(data: &Path, name: &str) -> PathBuf {
    let tls = data.join("tls");
    if name == "vplus" { tls } else { tls.join(name) }
}

async fn bind_all(config: &Config, identities: &Identities) -> Result<Vec<(&'static str, BoundListener)>, Failure> {
    let mut all = Vec::new();
    for (name, listening) in config.listeners() {
        if listening.addresses.is_empty() {
            continue;
        }
        let tls = identities.iter().find(|(n, _)| *n == name).map(|(_, tls)| tls.clone());
        let addresses = listening.addresses.clone();
        let listener = ListenerConfig { name: name.to_owned(), addresses, tls, limits: Limits::default() };
        let bound = bind(&listener).await.map_err(|e| match e {
            HttpError::Bind { address, reason, advice, source, .. } => {
                let failure = Failure::new(format!("the listener '{name}' cannot listen on {address}: {reason}"));
                failure.because(source).hint(format!("{advice}; the key is listeners.{name}.addresses"))
            }
            other => Failure::new(format!("the listener '{name}' cannot be used")).because(other),
        })?;
        all.push((name, bound));
    }
    Ok(all)
}
