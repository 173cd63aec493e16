//! Letting clients in.

use super::{Inner, Phase};
use crate::stream::BoxStream;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Where clients come in.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<BoxStream> {
        match self {
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// Lets clients in until the server stops.
pub(super) async fn accept(inner: Arc<Inner>, tasks: Arc<Mutex<JoinSet<()>>>, listener: Listener) {
    let mut phase = inner.phase.subscribe();
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            _ = phase.wait_for(|phase| *phase != Phase::Run) => return,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others must close theirs first.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept an NBD client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = inner.connections.clone().try_acquire_owned() else {
            tracing::warn!("an NBD client was hung up on: there are too many");
            continue;
        };
        let inner = inner.clone();
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            inner.serve(stream).await;
            drop(permit);
        });
    }
}

/// Removes a socket that nobody listens on.
pub(super) async fn clear_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else")),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
    }
}
