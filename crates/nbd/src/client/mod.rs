//! The client's side: options, and what can be asked before an export is opened.

mod assembly;
mod connection;
mod driver;
mod handshake;
mod status;

pub use connection::{Connection, ZeroOptions};
pub(crate) use connection::{join, pieces};
pub use status::{ContextStatus, StatusExtent};

use crate::address::{Address, Endpoint};
use crate::error::NbdError;
use crate::stream::{self, BoxStream, Stream};
use crate::wire;
use handshake::{Handshake, TlsPeer};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;

/// The context that tells holes and zeros from data.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Metadata contexts to ask for, such as [`BASE_ALLOCATION`] or `qemu:dirty-bitmap:NAME`. The server may have
    /// none of them: see [`ExportInfo::contexts`]. At most 64.
    pub contexts: Vec<String>,
    /// Whether the server is believed when it says that something reads as zeros: in its maps, and in replies to reads
    /// that leave zeros out. Without, maps say that everything is data, and all of it is sent.
    pub believe_zeros: bool,
    /// How many requests a connection has under way at most, 1 to 256. QEMU works on 16 at a time.
    pub in_flight: usize,
    /// How long a request may take from when it is queued to its last byte.
    pub request_timeout: Duration,
    /// How long connecting and negotiating may take together.
    pub connect_timeout: Duration,
    /// Whom to trust, and as whom to appear. With this, TLS is spoken or nothing is, whatever the address says.
    pub tls: Option<ClientTls>,
}

/// TLS on the client's side.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Roots, and the client's own certificate where the server wants one.
    pub config: Arc<rustls::ClientConfig>,
    /// The name in the server's certificate; when `None`, the address's host, or `localhost` where it has none.
    pub server_name: Option<String>,
}

impl Default for ClientOptions {
    /// [`BASE_ALLOCATION`], which is believed, 16 in flight, 30 seconds for a request, 10 to connect, no TLS.
    fn default() -> Self {
        Self {
            contexts: vec![BASE_ALLOCATION.into()],
            believe_zeros: true,
            in_flight: 16,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// What the server said about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes, never 0.
    pub size: u64,
    /// What can be done with it.
    pub features: Features,
    /// How requests must lie.
    pub blocks: BlockSizes,
    /// The metadata contexts that the server has, of those asked for, in the order asked for.
    pub contexts: Vec<String>,
    /// Whether replies are structured: holes are told apart and errors have places.
    pub structured: bool,
}

/// What can be done with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Nothing can be changed.
    pub read_only: bool,
    /// Flush works.
    pub flush: bool,
    /// Writes can be made durable one by one.
    pub fua: bool,
    /// Trim works.
    pub trim: bool,
    /// Write-zeroes works.
    pub write_zeroes: bool,
    /// Write-zeroes can be asked to fail rather than be slow.
    pub fast_zero: bool,
    /// Cache works.
    pub cache: bool,
    /// Several connections see each other's writes, and a flush on one is a flush on all.
    pub multi_conn: bool,
}

impl Features {
    pub(crate) fn of(flags: u16) -> Self {
        let has = |flag| flags & wire::HAS_FLAGS != 0 && flags & flag != 0;
        Self {
            read_only: has(wire::READ_ONLY),
            flush: has(wire::SEND_FLUSH),
            fua: has(wire::SEND_FUA),
            trim: has(wire::SEND_TRIM),
            write_zeroes: has(wire::SEND_WRITE_ZEROES),
            fast_zero: has(wire::SEND_FAST_ZERO),
            cache: has(wire::SEND_CACHE),
            multi_conn: has(wire::CAN_MULTI_CONN),
        }
    }
}

/// How requests must lie, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Requests begin and end on multiples of this, a power of two.
    pub minimum: u32,
    /// Multiples of this are fastest.
    pub preferred: u32,
    /// No read or write is longer.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// What holds where a server says nothing.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: wire::MAX_PAYLOAD }
    }
}

/// An export in a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// What the server says about it; may be empty.
    pub description: String,
}

/// Lists a server's exports. Fails with [`NbdError::Refused`] where the server does not tell.
pub async fn list_exports(address: &Address, options: &ClientOptions) -> Result<Vec<ListedExport>, NbdError> {
    in_time(options, async {
        let mut handshake = begin(address, options).await?;
        let exports = handshake.list().await?;
        handshake.abort().await;
        Ok(exports)
    })
    .await
}

/// Lists the metadata contexts of an export that match any of `queries`, such as `qemu:dirty-bitmap:`; all that the
/// server tells of when there are none.
pub async fn list_contexts(
    address: &Address,
    options: &ClientOptions,
    queries: &[String],
) -> Result<Vec<String>, NbdError> {
    in_time(options, async {
        let mut handshake = begin(address, options).await?;
        if !handshake.structured_replies().await? {
            return Err(NbdError::Unsupported("metadata contexts"));
        }
        let contexts = handshake.list_contexts(&address.export, queries).await?;
        handshake.abort().await;
        Ok(contexts)
    })
    .await
}

/// Asks about an export without opening it.
pub async fn export_info(address: &Address, options: &ClientOptions) -> Result<ExportInfo, NbdError> {
    in_time(options, async {
        let mut handshake = begin(address, options).await?;
        let negotiated = handshake.open(&address.export, &options.contexts, wire::OPT_INFO).await?;
        handshake.abort().await;
        Ok(negotiated.info)
    })
    .await
}

async fn begin(address: &Address, options: &ClientOptions) -> Result<Handshake, NbdError> {
    let tls = match (&options.tls, address.tls) {
        (Some(tls), _) => Some(TlsPeer::new(tls, Some(&address.endpoint))?),
        (None, false) => None,
        (None, true) => return Err(NbdError::Tls("the address wants it, the options lack it".into())),
    };
    let stream = stream::dial(&address.endpoint).await?;
    Handshake::begin(stream, tls).await
}

async fn in_time<T>(options: &ClientOptions, work: impl Future<Output = Result<T, NbdError>>) -> Result<T, NbdError> {
    if options.contexts.len() > 64 || options.contexts.iter().any(|name| name.len() > wire::MAX_STRING) {
        return Err(NbdError::Invalid("too many or too long metadata contexts".into()));
    }
    let after = options.connect_timeout;
    tokio::time::timeout(after, work).await.unwrap_or(Err(NbdError::Timeout { action: "connect", after }))
}

impl TlsPeer {
    fn new(tls: &ClientTls, endpoint: Option<&Endpoint>) -> Result<Self, NbdError> {
        let name = match (&tls.server_name, endpoint) {
            (Some(name), _) => name,
            (None, Some(Endpoint::Tcp { host, .. })) => host,
            (None, _) => "localhost",
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|error| NbdError::Tls(error.to_string()))?;
        Ok(Self { config: tls.config.clone(), name })
    }
}

impl Connection {
    /// Connects to an export. Fails with [`NbdError::UnknownExport`], [`NbdError::Tls`], [`NbdError::Timeout`] and
    /// others.
    pub async fn connect(address: &Address, options: &ClientOptions) -> Result<Self, NbdError> {
        in_time(options, async {
            let handshake = begin(address, options).await?;
            Self::finish(handshake, &address.export, options).await
        })
        .await
    }

    /// Speaks NBD over a stream that is connected already.
    pub async fn over(stream: impl Stream + 'static, export: &str, options: &ClientOptions) -> Result<Self, NbdError> {
        let stream: BoxStream = Box::new(stream);
        in_time(options, async {
            let tls = options.tls.as_ref().map(|tls| TlsPeer::new(tls, None)).transpose()?;
            let handshake = Handshake::begin(stream, tls).await?;
            Self::finish(handshake, export, options).await
        })
        .await
    }

    async fn finish(mut handshake: Handshake, export: &str, options: &ClientOptions) -> Result<Self, NbdError> {
        let negotiated = handshake.open(export, &options.contexts, wire::OPT_GO).await?;
        Ok(Self::start(handshake.into_stream(), negotiated, options))
    }
}
