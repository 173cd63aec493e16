//! The server's side: listeners, exports and who uses them.

mod cow;
mod devices;
mod export;
mod handshake;
mod listen;
mod reply;
mod session;

pub use cow::CowDevice;
pub use devices::{FileDevice, MemoryDevice};
pub use export::{Export, ExportDevice, SourceDevice};

use crate::error::NbdError;
use crate::stream::{BoxStream, Stream};
use listen::Listener;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The block that clients are advised to use, in bytes.
const PREFERRED_BLOCK: u32 = 64 << 10;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How many clients may be connected at once. Others are hung up on.
    pub max_connections: usize,
    /// How long a client may negotiate.
    pub handshake_timeout: Duration,
    /// How long a client may take for the rest of a request that it began, and for each mebibyte of a reply.
    pub io_timeout: Duration,
    /// How many requests of a connection are worked on at once.
    pub in_flight: usize,
    /// How many bytes of data a connection may have under way, at least 32 MiB.
    pub in_flight_bytes: usize,
    /// With this, nothing is told or served without TLS. Whether clients need certificates is up to it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for ServerOptions {
    /// 64 connections, 10 seconds to negotiate, 30 for input and output, 16 requests and 64 MiB in flight, no TLS.
    fn default() -> Self {
        Self {
            max_connections: 64,
            handshake_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            in_flight: 16,
            in_flight_bytes: 64 << 20,
            tls: None,
        }
    }
}

/// How far a server or an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Finish what was begun.
    Finish,
    /// Drop everything.
    Kill,
}

/// An export that is being served.
struct Served {
    export: Export,
    phase: watch::Sender<Phase>,
    users: watch::Sender<usize>,
}

/// What connections know of the server.
struct Inner {
    options: ServerOptions,
    exports: Mutex<BTreeMap<String, Arc<Served>>>,
    phase: watch::Sender<Phase>,
    connections: Arc<Semaphore>,
}

impl Inner {
    fn exports(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Served>>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Served>> {
        self.exports().values().cloned().collect()
    }

    fn find(&self, name: &str) -> Option<Arc<Served>> {
        let exports = self.exports();
        let only = || exports.values().next().filter(|_| name.is_empty() && exports.len() == 1);
        exports.get(name).or_else(only).cloned()
    }

    /// Serves one client to its end.
    async fn serve(self: Arc<Self>, stream: BoxStream) {
        let mut phase = self.phase.subscribe();
        let ended = tokio::select! {
            ended = self.converse(stream) => ended,
            _ = phase.wait_for(|phase| *phase == Phase::Kill) => return,
        };
        match ended {
            Ok(()) | Err(NbdError::Closed) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "an NBD client was dropped"),
        }
    }

    async fn converse(&self, stream: BoxStream) -> Result<(), NbdError> {
        let after = self.options.handshake_timeout;
        let mut phase = self.phase.subscribe();
        let agreed = tokio::select! {
            agreed = tokio::time::timeout(after, handshake::negotiate(self, stream)) => {
                agreed.unwrap_or(Err(NbdError::Timeout { action: "negotiate", after }))?
            }
            // Nothing was begun yet.
            _ = phase.wait_for(|phase| *phase != Phase::Run) => return Ok(()),
        };
        let Some(agreed) = agreed else { return Ok(()) };
        let mut killed = agreed.user.0.phase.subscribe();
        tokio::select! {
            ended = session::run(agreed, &self.options, phase) => ended,
            _ = killed.wait_for(|phase| *phase == Phase::Kill) => Ok(()),
        }
    }
}

/// A connection of an export, which is counted from before the client knows that it is in.
struct User(Arc<Served>);

impl User {
    fn new(served: Arc<Served>) -> Self {
        served.users.send_modify(|users| *users += 1);
        Self(served)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.send_modify(|users| *users -= 1);
    }
}

/// Serves exports to NBD clients. Dropping it hangs up on everybody.
pub struct Server {
    inner: Arc<Inner>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    sockets: Mutex<Vec<PathBuf>>,
}

impl Server {
    /// A server without exports and listeners.
    pub fn new(options: ServerOptions) -> Self {
        let connections = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
        let (phase, exports) = (watch::Sender::new(Phase::Run), Mutex::default());
        Self {
            inner: Arc::new(Inner { options, exports, phase, connections }),
            tasks: Arc::default(),
            sockets: Mutex::default(),
        }
    }

    /// Begins to serve an export. Fails with [`NbdError::Invalid`] when its name is taken, or is no good.
    pub fn add(&self, export: Export) -> Result<(), NbdError> {
        export.check()?;
        let mut exports = self.inner.exports();
        if exports.contains_key(&export.name) {
            return Err(NbdError::Invalid(format!("there is an export named {:?} already", export.name)));
        }
        let (phase, users) = (watch::Sender::new(Phase::Run), watch::Sender::new(0));
        exports.insert(export.name.clone(), Arc::new(Served { export, phase, users }));
        Ok(())
    }

    /// Serves an export no longer. Its clients get what they have asked for and are hung up on, at the latest when
    /// `deadline` has passed. Whether there was such an export.
    pub async fn remove(&self, name: &str, deadline: Duration) -> bool {
        let Some(served) = self.inner.exports().remove(name) else { return false };
        served.phase.send_replace(Phase::Finish);
        let mut users = served.users.subscribe();
        if tokio::time::timeout(deadline, users.wait_for(|users| *users == 0)).await.is_err() {
            served.phase.send_replace(Phase::Kill);
            let _ = users.wait_for(|users| *users == 0).await;
        }
        true
    }

    /// How many connections use an export; nothing when there is none of this name.
    pub fn users(&self, name: &str) -> Option<usize> {
        self.inner.exports().get(name).map(|served| *served.users.borrow())
    }

    /// Waits until no connection uses an export. At once when none ever did, or there is no such export.
    pub async fn idle(&self, name: &str) {
        let users = self.inner.exports().get(name).map(|served| served.users.subscribe());
        if let Some(mut users) = users {
            let _ = users.wait_for(|users| *users == 0).await;
        }
    }

    /// Listens on a Unix socket that only the owner may connect to. A socket that nobody listens on is replaced; the
    /// directory should be the caller's own. The socket is removed at the end.
    pub async fn listen_unix(&self, path: &Path) -> Result<(), NbdError> {
        let failed = |error| NbdError::io("listen", error);
        listen::clear_stale(path).await.map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        self.accept(Listener::Unix(listener));
        Ok(())
    }

    /// Listens on TCP; the address that was bound. Without [`ServerOptions::tls`], everybody who can reach it is
    /// served.
    pub async fn listen_tcp(&self, address: SocketAddr) -> Result<SocketAddr, NbdError> {
        let failed = |error| NbdError::io("listen", error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.accept(Listener::Tcp(listener));
        Ok(bound)
    }

    /// Serves a client that is connected already, until it leaves or the server stops.
    pub async fn serve(&self, stream: impl Stream + 'static) {
        self.inner.clone().serve(Box::new(stream)).await;
    }

    /// Stops: nobody new is let in, who negotiates is hung up on, requests that were begun are finished. What is left
    /// when `deadline` has passed is dropped. Can be called again, and then only waits.
    pub async fn stop(&self, deadline: Duration) {
        self.inner.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Run;
            if running {
                *phase = Phase::Finish;
            }
            running
        });
        self.remove_sockets();
        let take = || std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tasks = take();
        if tokio::time::timeout(deadline, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            self.inner.phase.send_replace(Phase::Kill);
            tasks.shutdown().await;
        }
        // Who was let in at the last moment has nothing under way.
        take().shutdown().await;
    }

    fn accept(&self, listener: Listener) {
        let task = listen::accept(self.inner.clone(), self.tasks.clone(), listener);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    fn remove_sockets(&self) {
        for path in self.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inner.phase.send_replace(Phase::Kill);
        self.remove_sockets();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}
