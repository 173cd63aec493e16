//! From addresses to accepted connections, and back to a quiet stop.

use crate::connection::{Shared, handle};
use crate::error::HttpError;
use crate::limits::Limits;
use crate::tls::TlsIdentityHandle;
use axum::Router;
use futures_util::future::join_all;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One listener as configured.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Its name in configuration, logs and metrics, for instance `vplus`.
    pub name: String,
    /// Where it listens, IPv4 and IPv6. Port 0 lets the system choose: see [`BoundListener::local_addrs`].
    pub addresses: Vec<SocketAddr>,
    /// Its certificate; none means plain HTTP.
    pub tls: Option<TlsIdentityHandle>,
    /// What clients may take.
    pub limits: Limits,
}

/// A listener that holds its addresses; connections wait in the backlog until it serves.
#[derive(Debug)]
pub struct BoundListener {
    config: ListenerConfig,
    sockets: Vec<(TcpListener, SocketAddr)>,
}

/// How a listener stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they were not done when the grace ended.
    pub cut: usize,
}

/// Takes every address of a listener, or none. Bind all listeners before starting anything else: an address in use is
/// the most likely failure of a start, and the cheapest one to undo.
///
/// # Errors
/// [`HttpError::Bind`] names listener, address and remedy; [`HttpError::NoAddress`] and [`HttpError::Limits`] are
/// faults of the configuration.
pub async fn bind(config: &ListenerConfig) -> Result<BoundListener, HttpError> {
    config.limits.check(&config.name)?;
    if config.addresses.is_empty() {
        return Err(HttpError::NoAddress { listener: config.name.clone() });
    }
    let mut sockets = Vec::with_capacity(config.addresses.len());
    for &address in &config.addresses {
        let socket = TcpListener::bind(address).await.map_err(|source| explain(config, address, source))?;
        let local = socket.local_addr().map_err(|source| explain(config, address, source))?;
        sockets.push((socket, local));
    }
    Ok(BoundListener { config: config.clone(), sockets })
}

impl BoundListener {
    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Where it really listens, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(_, local)| *local).collect()
    }

    /// `https://127.0.0.1:8443` for the first address, with the loopback in place of a wildcard.
    pub fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        let mut address = self.sockets[0].1;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("{scheme}://{address}")
    }

    /// Serves until `shutdown`, then stops listening at once, closes idle connections, lets requests in flight
    /// finish, and cuts what is left after `grace`. Dropping the future cuts everything.
    ///
    /// Give it a router that went through [`Edge::wrap`](crate::Edge::wrap).
    pub async fn serve(self, router: Router, shutdown: CancellationToken, grace: Duration) -> Drained {
        let Self { config, sockets } = self;
        let tracker = TaskTracker::new();
        let kill = CancellationToken::new();
        let _cut_on_drop = kill.clone().drop_guard();
        let shared = Arc::new(Shared {
            name: config.name,
            tls: config.tls,
            limits: config.limits,
            router,
            shutdown: shutdown.clone(),
            kill: kill.clone(),
        });
        let slots = Arc::new(Semaphore::new(shared.limits.connections));
        join_all(sockets.into_iter().map(|(socket, local)| accept(socket, local, &shared, &slots, &tracker))).await;

        tracker.close();
        let mut drained = Drained::default();
        if tokio::time::timeout(grace, tracker.wait()).await.is_err() {
            drained.cut = tracker.len();
            tracing::warn!(listener = %shared.name, connections = drained.cut, "cutting connections after the grace");
            kill.cancel();
            // A handler that never yields cannot be cut; it must not hold up the stop of the others.
            let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
        }
        tracing::debug!(listener = %shared.name, "listener stopped");
        drained
    }
}

/// Accepts until the shutdown. Ends for no other reason: an error is waited out.
async fn accept(
    socket: TcpListener,
    local: SocketAddr,
    shared: &Arc<Shared>,
    slots: &Arc<Semaphore>,
    tracker: &TaskTracker,
) {
    let mut backoff = Backoff::default();
    loop {
        // The slot comes first: a client beyond the cap waits in the backlog and costs no descriptor.
        let next = async {
            let slot = Arc::clone(slots).acquire_owned().await.ok()?;
            Some((slot, socket.accept().await))
        };
        let next = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            next = next => next,
        };
        match next {
            Some((slot, Ok((stream, peer)))) => {
                backoff = Backoff::default();
                tracker.spawn(serve_one(stream, peer, local, Arc::clone(shared), slot));
            }
            Some((_, Err(error))) if is_clients_fault(&error) => {}
            Some((_, Err(error))) => {
                let pause = backoff.next();
                tracing::warn!(listener = %shared.name, %local, %error, ?pause, "cannot accept connections, waiting");
                tokio::select! {
                    () = shared.shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
            None => return,
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
    slot: tokio::sync::OwnedSemaphorePermit,
) {
    let kill = shared.kill.clone();
    tokio::select! {
        biased;
        () = kill.cancelled() => {}
        () = handle(stream, peer, local, shared) => {}
    }
    drop(slot);
}

/// Growing pauses after errors such as "too many open files".
#[derive(Debug, Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = Duration::from_millis(50 << self.0);
        self.0 = (self.0 + 1).min(5);
        pause
    }
}

/// Errors of one connection that went away between the backlog and us.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Puts a failed bind into an operator's words.
fn explain(config: &ListenerConfig, address: SocketAddr, source: io::Error) -> HttpError {
    let doubled = config.addresses.iter().any(|other| {
        *other != address
            && other.port() == address.port()
            && other.port() != 0
            && (other.ip().is_unspecified() || address.ip().is_unspecified())
    });
    let (reason, advice) = match source.kind() {
        io::ErrorKind::AddrInUse if doubled => (
            "the address is already in use",
            "the listener's own addresses overlap: [::] covers IPv4 too, so keep one of them".to_owned(),
        ),
        io::ErrorKind::AddrInUse => (
            "the address is already in use",
            format!(
                "stop the program that holds it (`ss -ltnp 'sport = :{}'` shows it) or give the listener another address",
                address.port()
            ),
        ),
        io::ErrorKind::PermissionDenied => (
            "permission denied",
            "ports below 1024 need CAP_NET_BIND_SERVICE; grant it or choose a higher port".to_owned(),
        ),
        io::ErrorKind::AddrNotAvailable => (
            "this machine does not have that address",
            "name an address of one of its interfaces, or 0.0.0.0 or [::] for all".to_owned(),
        ),
        _ => ("the system refused", "see the cause".to_owned()),
    };
    HttpError::Bind { listener: config.name.clone(), address, reason, advice, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 1600, 1600]);
    }
}
