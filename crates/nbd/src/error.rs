//! The one error of this crate.

use portolan_block::BlockError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why something on NBD failed. It can be cloned, because all requests on a connection that breaks fail for the
/// same reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NbdError {
    /// The address cannot be understood.
    #[error("not an NBD address: {0}")]
    Address(String),
    /// The operating system or the network said no. The connection is dead.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What it said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The peer did not answer in time. The connection is dead.
    #[error("no answer within {after:?}: {action}")]
    Timeout {
        /// What was waited for.
        action: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The peer broke the protocol. The connection is dead.
    #[error("the peer broke the NBD protocol: {0}")]
    Protocol(String),
    /// The connection was closed, by the peer or by this side.
    #[error("the connection is closed")]
    Closed,
    /// The server has no export of this name.
    #[error("no such export: {0:?}")]
    UnknownExport(String),
    /// TLS is required by one side and not to be had from the other, or failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server refused an option of the negotiation.
    #[error("the server refused {option} with code {code:#x}: {message}")]
    Refused {
        /// Which option.
        option: &'static str,
        /// The reply's type, see `NBD_REP_ERR_*`.
        code: u32,
        /// What the server says about it; may be empty.
        message: String,
    },
    /// The server did not offer what the request needs.
    #[error("the server does not offer {0}")]
    Unsupported(&'static str),
    /// The export, or the name asked for, is not acceptable.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The export is read-only.
    #[error("the export is read-only")]
    ReadOnly,
    /// The request reaches past the export's end.
    #[error("bytes {offset}+{len} reach past the export's end at {size}")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The export's size in bytes.
        size: u64,
    },
    /// The request does not lie on the server's blocks.
    #[error("bytes {offset}+{len} do not lie on blocks of {block}")]
    Unaligned {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The minimum block in bytes.
        block: u32,
    },
    /// The server could not do what was asked. The connection goes on.
    #[error("the server cannot {action} at byte {offset}: error {errno} {message}")]
    Remote {
        /// `read`, `write`, `zero`, `trim`, `cache`, `flush` or `map`.
        action: &'static str,
        /// Where on the disk, in bytes.
        offset: u64,
        /// The error number on the wire, which is Linux's.
        errno: u32,
        /// What the server says about it; may be empty.
        message: String,
    },
}

impl NbdError {
    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io { action, source: Arc::new(source) },
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }

    /// The error as a block source or sink tells it: `action` and `offset` say what was tried where, in bytes.
    pub fn into_block(self, action: &'static str, offset: u64) -> BlockError {
        let kind = match &self {
            Self::OutOfRange { offset, len, size } => {
                return BlockError::OutOfRange { start: *offset, end: offset.saturating_add(*len), size: *size };
            }
            Self::Remote { errno: crate::wire::ENOSPC, .. } => return BlockError::NoSpace,
            Self::Unsupported(_) | Self::Unaligned { .. } | Self::ReadOnly => {
                return BlockError::Unsupported(self.to_string());
            }
            Self::Remote { offset, .. } => {
                return BlockError::Io { action, offset: *offset, source: io::Error::other(self) };
            }
            Self::Timeout { .. } => io::ErrorKind::TimedOut,
            Self::Protocol(_) => io::ErrorKind::InvalidData,
            Self::Closed => io::ErrorKind::ConnectionAborted,
            Self::UnknownExport(_) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        BlockError::Io { action, offset, source: io::Error::new(kind, self) }
    }
}

impl From<NbdError> for BlockError {
    fn from(error: NbdError) -> Self {
        let action = match &error {
            NbdError::Remote { action, .. } => action,
            _ => "read",
        };
        error.into_block(action, 0)
    }
}
