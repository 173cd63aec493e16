//! NBD, the network block device protocol: a client and a server over block sources and sinks.
//!
//! # The client
//!
//! A [`Connection`] is an open export. It speaks the fixed newstyle negotiation, with `GO` or with the export's name
//! alone for old servers, TLS (`STARTTLS`, never optional: see [`Address::tls`]), structured replies and several
//! metadata contexts at once. Requests are pipelined. [`NbdSource`] reads an export that stands still, with its holes
//! and dirty bitmaps; [`NbdSink`] writes one.
//!
//! * **Nothing a server says is trusted.** What contradicts itself, or what was asked, is [`NbdError::Protocol`];
//!   memory is taken for what was asked for, never for what a server promises.
//! * **A server that stalls is given up.** Each request has a time-out, and so has the negotiation.
//! * **A connection that broke stays broken**, and so does the source over it: behind the same name may be another
//!   image by then.
//!
//! # The server
//!
//! A [`Server`] serves [`Export`]s on Unix sockets and on TCP. Devices are block sources ([`SourceDevice`]), those
//! with an overlay that takes what is written ([`CowDevice`]), files and memory, or any other [`ExportDevice`]. It
//! has structured replies, `base:allocation`, dirty bitmaps made of ranges, and TLS.
//!
//! * **Nothing a client says is trusted.** Connections, requests and bytes under way are bounded, see
//!   [`ServerOptions`]; who does not negotiate, or does not take replies, in time is hung up on.
//! * **An error is told as an error.** Reads that fail end in an error chunk, and the client learns nothing but its
//!   number.
//! * **An idle client may stay** as long as it likes: a guest may leave its disk alone for days.
//!
//! # Limits
//!
//! * No oldstyle negotiation, no extended headers (requests beyond 32 bits), no `RESIZE`.
//! * A read or write is at most 32 MiB on the wire; longer ones are split by the client.
//! * The server takes write-zeroes with `NO_HOLE` but promises no allocation; it has no `CACHE` and no `FAST_ZERO`.
//! * A [`CowDevice`] keeps two bits for each 64 KiB in memory: 4 MiB for 1 TiB.
//! * Only read-only exports say that several connections are safe.

mod address;
mod client;
mod error;
mod server;
mod sink;
mod source;
mod stream;
mod wire;

pub use address::{Address, Endpoint};
pub use client::{
    BASE_ALLOCATION, BlockSizes, ClientOptions, ClientTls, Connection, ContextStatus, ExportInfo, Features,
    ListedExport, StatusExtent, ZeroOptions, export_info, list_contexts, list_exports,
};
pub use error::NbdError;
pub use server::{CowDevice, Export, ExportDevice, FileDevice, MemoryDevice, Server, ServerOptions, SourceDevice};
pub use sink::NbdSink;
pub use source::NbdSource;
pub use stream::Stream;
