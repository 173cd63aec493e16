//! Byte streams that NBD is spoken over.

use crate::address::Endpoint;
use crate::error::NbdError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Anything that NBD can be spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of any kind: what is underneath changes when TLS begins.
pub(crate) type BoxStream = Box<dyn Stream>;

/// Connects to where a server listens.
pub(crate) async fn dial(endpoint: &Endpoint) -> Result<BoxStream, NbdError> {
    let failed = |error| NbdError::io("connect", error);
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            // Requests are small and waited for.
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream))
        }
    }
}

/// Reads exactly `N` bytes. The peer's end is [`NbdError::Closed`].
pub(crate) async fn read_array<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], NbdError> {
    let mut raw = [0; N];
    stream.read_exact(&mut raw).await.map_err(|error| NbdError::io("receive", error))?;
    Ok(raw)
}

/// Reads exactly `len` bytes, which the caller has found to be few.
pub(crate) async fn read_vec(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Vec<u8>, NbdError> {
    let mut raw = vec![0; len];
    stream.read_exact(&mut raw).await.map_err(|error| NbdError::io("receive", error))?;
    Ok(raw)
}

/// Writes everything and pushes it out.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), NbdError> {
    let failed = |error| NbdError::io("send", error);
    stream.write_all(bytes).await.map_err(failed)?;
    stream.flush().await.map_err(failed)
}
